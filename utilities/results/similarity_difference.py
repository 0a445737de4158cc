"""Is a model more like one model than like another? What `utilities.compare.compare_similarities` returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from utilities.results.result import Result
from utilities.results.statistics import LEVEL

WHOLE = "all layers"  # the row of the mean over layers


@dataclass(frozen=True, repr=False)
class SimilarityDifference(Result):
    """Difference of two similarities that share a model, layer by layer and as a whole.

    All arrays have an entry for each layer of the shared model, in the order of execution. Differences are the
    similarity to the first other model less that to the second: above zero, the first one is nearer.

    Attributes:
        layers: Layers of the shared model.
        matches1: The layer of the first other model that each is compared with.
        matches2: The same of the second.
        similarity1: Similarity to the first other model; mean over pairs of models, where there are several seeds.
        similarity2: Similarity to the second.
        difference: The first less the second.
        stderr: Standard error of the difference.
        low: Lower end of the interval of each difference by itself.
        high: Upper end.
        p_value: Two-sided p-value of each difference by itself.
        band_low: Lower end of the band that holds all differences at once.
        band_high: Upper end.
        p_family: p-value of each difference among all of them: how often the largest of all differences is as large,
            where none is real. The least of them is that of the largest difference.
        score: Difference in standard errors, turned from a t-value into the normal value that is as rare.
        null_largest: Largest absolute score of each resample under the null, (resamples,).
        critical: Value that the largest stays below under the null, with the level of confidence.
        whole: Mean over layers: ``similarity1, similarity2, difference, stderr, low, high, p_value``.
        n: Number of images.
        provenance: Facts about its origin: models, weights, accuracy, data set, confidence, resamples, seeds, versions.

    Example:
        >>> one, two = np.array([0.9, 0.5]), np.array([0.6, 0.5])
        >>> none = np.zeros(2)
        >>> result = SimilarityDifference(
        ...     ["a", "b"], ["x", "y"], ["u", "v"], one, two, one - two, none, none, none, none, none, none,
        ...     np.array([0.01, 1.0]), np.array([4.0, 0.0]), np.ones(3), 2.0, {"difference": 0.15, "p_value": 0.2}, 10,
        ... )
        >>> result.largest, result.nearer, result.to_frame()["difference"].round(2).to_dict()
        ('a', 0, {'a': 0.3, 'b': 0.0, 'all layers': 0.15})
    """

    layers: list[str]
    matches1: list[str]
    matches2: list[str]
    similarity1: np.ndarray
    similarity2: np.ndarray
    difference: np.ndarray
    stderr: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_value: np.ndarray
    band_low: np.ndarray
    band_high: np.ndarray
    p_family: np.ndarray
    score: np.ndarray
    null_largest: np.ndarray
    critical: float
    whole: dict[str, float]
    n: int
    provenance: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        whole = self.whole.get("difference", float("nan"))
        return f"<SimilarityDifference: {len(self.layers)} layers, {whole:+.3f} as a whole, n = {self.n}>"

    @property
    def names(self) -> list[str]:
        """Names of the shared model, the first and the second other one, as far as they are known."""
        said = ("the model", "the first", "the second")
        names = [str(self.provenance.get(f"model{k}") or text) for k, text in zip("123", said, strict=True)]
        if names[1] == names[2]:  # two trainings of one architecture
            names[1:] = [f"{name} ({self.provenance.get(f'weights{k}') or text})"
                         for k, name, text in zip("23", names[1:], said[1:], strict=True)]  # fmt: skip
        return names

    @property
    def place(self) -> tuple[int, ...]:
        """Where in the arrays the largest difference in its standard errors is, that with the least `p_family`."""
        found = np.argmax(np.nan_to_num(np.abs(self.score), nan=-1.0))
        return tuple(int(index) for index in np.unravel_index(found, self.score.shape))

    @property
    def largest(self) -> str:
        """The layer at `place`."""
        return self.layers[self.place[0]]

    @property
    def nearer(self) -> int:
        """Which other model is nearer as a whole, 1 or 2; 0 if the p-value is above 0.05."""
        if not self.whole["p_value"] <= LEVEL:
            return 0
        return 1 if self.whole["difference"] > 0 else 2

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each layer, and a last one, ``all layers``, for the mean over them."""
        columns = {"match1": self.matches1, "match2": self.matches2, **{name: getattr(self, name) for name in TABLES}}
        table = pd.DataFrame(columns, index=pd.Index(self.layers, name="layer"))
        whole = pd.DataFrame({name: [self.whole.get(name, np.nan)] for name in COLUMNS}, index=[WHOLE])
        return pd.concat([table, whole]).rename_axis("layer")


COLUMNS = ("similarity1", "similarity2", "difference", "stderr", "low", "high", "p_value")
TABLES = (*COLUMNS, "band_low", "band_high", "p_family", "score")
