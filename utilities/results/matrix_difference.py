"""Which of two models is nearer, pair of layers by pair of layers: `compare_similarities` with ``match="all"``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from utilities.results.similarity import Similarity
from utilities.results.similarity_difference import COLUMNS, TABLES, WHOLE, SimilarityDifference


@dataclass(frozen=True, repr=False)
class MatrixDifference(SimilarityDifference):
    """Difference of two whole matrices of similarities that share a model, which forms their rows.

    Row i is a layer of the shared model. Column k is the k-th layer of the first other model in one matrix, and the
    k-th of the second in the other. All else is as in `SimilarityDifference`, with arrays (layers, columns): the band
    and `p_family` are those of all cells at once, and ``whole`` is their mean.

    Attributes:
        matches1: Layers of the first other model, one for each column.
        matches2: Layers of the second, the same.

    Example:
        >>> one, two = np.array([[0.9, 0.5]]), np.array([[0.6, 0.5]])
        >>> none = np.zeros((1, 2))
        >>> result = MatrixDifference(
        ...     ["a"], ["x", "y"], ["x", "v"], one, two, one - two, *[none] * 6, np.array([[0.01, 1.0]]),
        ...     np.array([[4.0, 0.0]]), np.ones(3), 2.0, {"difference": 0.15, "p_value": 0.2}, 10,
        ... )
        >>> result.largest, result.nearer, result.columns
        ('a and x', 0, ['x', 'y / v'])
    """

    def __repr__(self) -> str:
        shape = f"{len(self.layers)} x {len(self.matches1)} pairs of layers"
        whole = self.whole.get("difference", float("nan"))
        return f"<MatrixDifference: {shape}, {whole:+.3f} as a whole, n = {self.n}>"

    @property
    def columns(self) -> list[str]:
        """Names of the columns: that of both layers, or both names where they differ."""
        pairs = zip(self.matches1, self.matches2, strict=True)
        return [one if one == two else f"{one} / {two}" for one, two in pairs]

    @property
    def largest(self) -> str:
        """The layer and the column with the largest difference in its standard errors."""
        row, column = self.place
        return f"{self.layers[row]} and {self.columns[column]}"

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each pair of a layer and a column, and a last one, ``all layers``, for their mean."""
        rows, count = len(self.layers), len(self.matches1)
        columns = {
            "match1": self.matches1 * rows,
            "match2": self.matches2 * rows,
            **{name: getattr(self, name).ravel() for name in TABLES},
        }
        names = [layer for layer in self.layers for _ in range(count)]
        table = pd.DataFrame(columns, index=pd.Index(names, name="layer"))
        whole = pd.DataFrame({name: [self.whole.get(name, np.nan)] for name in COLUMNS}, index=[WHOLE])
        return pd.concat([table, whole]).rename_axis("layer")

    def to_similarity(self) -> Similarity:
        """Return the differences as a matrix with names, and its standard errors."""
        model, one, two = self.names
        measure = f"difference of {self.provenance.get('measure', 'similarity')}"
        facts = self.provenance | {"model1": model, "model2": f"{one} \N{MINUS SIGN} {two}", "measure": measure}
        return Similarity(self.difference, self.layers, self.columns, self.n, stderr=self.stderr, provenance=facts)
