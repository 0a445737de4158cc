"""The similarity of the layers of two models: what `utilities.compare.compare` returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from utilities.results.result import Result
from utilities.results.statistics import stderr_of_mean
from utilities.results.writing import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLES = ("matrix", "stderr", "null_mean", "p_value")
# Facts that results must share to be averaged, and further facts they must share to be parts of one matrix.
OPTIONS = ("measure", "estimator", "batch_size", "dataset", "bandwidth", "sigma", "view1", "view2", "confounder",
           "remove_top_pc")  # fmt: skip
MODELS = tuple(f"{what}{k}" for what in ("model", "weights", "accuracy") for k in ("", "1", "2"))


@dataclass(frozen=True, repr=False)
class Similarity(Result):
    """Similarity of every layer of one model to every layer of another.

    Attributes:
        matrix: Similarities, (layers1, layers2), float64; NaN where a layer has no variance. Debiased values are not
            clamped and may lie slightly below 0 or above 1.
        layers1: Names of the rows, in the order of execution.
        layers2: Names of the columns, in the order of execution.
        n: Number of images compared.
        stderr: Standard error of each entry, or None if it cannot be estimated.
        replicates: Matrices of several seeds or shuffles, (k, layers1, layers2); ``matrix`` is their mean.
        per_batch: Values of each batch by itself, (batches, layers1, layers2), if asked for.
        null_mean: Mean of each entry over permutations of the images of one side, if asked for.
        p_value: Share of permutations whose value reaches the entry; the observed order counts as one of them.
        details1: For each row: ``width`` (number of features that were compared), ``shape`` (of the layer's output for
            one image, as a list; None where images differ in it, absent in results of earlier versions),
            ``first_component`` (its share of the layer's variance within a batch), ``dominant_image`` (its place in
            the loader) and ``dominant_share`` (of its batch's variance).
        details2: The same for each column.
        provenance: Facts about its origin: models, weights, accuracy, data set, estimator, seed, versions.

    Example:
        >>> result = Similarity(np.eye(2), ["a", "b"], ["a", "b"], 10)
        >>> result.to_frame().loc["a", "b"]
        np.float64(0.0)
    """

    matrix: np.ndarray
    layers1: list[str]
    layers2: list[str]
    n: int
    stderr: np.ndarray | None = None
    replicates: np.ndarray | None = None
    per_batch: np.ndarray | None = None
    null_mean: np.ndarray | None = None
    p_value: np.ndarray | None = None
    details1: dict[str, list[Any]] | None = None
    details2: dict[str, list[Any]] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (len(self.layers1), len(self.layers2))
        for name in (*TABLES, "replicates", "per_batch"):
            array = getattr(self, name)
            if array is not None and array.shape[-2:] != shape:
                raise ValueError(f"{name} is {array.shape}, but there are {shape[0]} and {shape[1]} layer names")

    def __repr__(self) -> str:
        what = self.provenance.get("measure", "similarity")
        return f"<Similarity: {what} of {len(self.layers1)} x {len(self.layers2)} layers, n = {self.n}>"

    def to_frame(self, table: str = "matrix") -> pd.DataFrame:
        """Return a table with the layers' names on both axes.

        Args:
            table: ``"matrix"``, ``"stderr"``, ``"null_mean"`` or ``"p_value"``.

        Raises:
            ValueError: If there is no such table in this result.
        """
        values = getattr(self, table) if table in TABLES else None
        if values is None:
            there = [name for name in TABLES if getattr(self, name) is not None]
            raise ValueError(f"this result has no table {table!r}; it has {', '.join(there)}")
        return pd.DataFrame(values, index=self.layers1, columns=self.layers2)

    def to_csv(self, path: str | Path, table: str = "matrix") -> Path:
        """Write a table of `to_frame` as CSV, completely or not at all, and return its path."""
        return write_whole(path, lambda p: self.to_frame(table).to_csv(p))

    def report(self) -> pd.DataFrame:
        """Report for each layer what can make its similarity misleading.

        Returns:
            One row for each layer of both models, with these columns: its width; whether that exceeds the number of
            images in a batch, in which case the biased estimate is near 1 whatever the features; the shape of its
            output for one image; the first component's share of variance; and the most dominant image with its
            share. Where a precision was measured (``precision="auto"``), ``half_difference`` and others tell by how
            much the layer's similarities differed at most from the exact ones; ``attrs["auto_precision"]`` holds the
            decision with the largest difference and the tolerance.

        Raises:
            ValueError: If the result was made without these details.
        """
        if self.details1 is None or self.details2 is None:
            raise ValueError("this result holds no details of its layers; `utilities.compare.compare` adds them")
        sides = ((self.layers1, self.details1), (self.layers2, self.details2))
        table = pd.concat([pd.DataFrame(d, index=names) for names, d in sides], keys=[1, 2], names=["model", "layer"])
        table.insert(1, "wider_than_batch", table["width"] > self.provenance.get("batch_size", self.n))
        if "auto_precision" in self.provenance:
            table.attrs["auto_precision"] = self.provenance["auto_precision"]
        return table

    def best_match(self, axis: int = 1) -> pd.DataFrame:
        """Find the most similar layer of the other model for each layer, as Raghu et al. 2021 do in figure 2.

        Args:
            axis: 1 matches each row with a column, 0 each column with a row.

        Returns:
            One row for each layer: ``match`` (a name), ``depth`` and ``match_depth`` (0 for the first layer, 1 for the
            last) and ``similarity``. Layers without variance are left out.

        Example:
            >>> matrix = np.array([[0.9, 0.1, 0.2], [0.3, 0.2, 0.8]])
            >>> Similarity(matrix, ["a", "b"], ["x", "y", "z"], 10).best_match()["match"].to_dict()
            {'a': 'x', 'b': 'z'}
        """
        table = self.to_frame() if axis == 1 else self.to_frame().T
        present = ~table.isna().all(axis=1)
        best = table[present].to_numpy()
        place = np.nanargmax(best, axis=1) if len(best) else np.array([], int)
        depth = np.linspace(0, 1, len(table)) if len(table) > 1 else np.zeros(1)
        return pd.DataFrame(
            {
                "match": table.columns[place],
                "depth": depth[present.to_numpy()],
                "match_depth": place / max(1, table.shape[1] - 1),
                "similarity": best[np.arange(len(best)), place],
            },
            index=table.index[present],
        )

    def plot(self, **options: Any) -> Figure:
        """Draw the heatmap; see `utilities.plots.similarity.heatmap.plot_similarity`."""
        from utilities.plots.similarity.heatmap import plot_similarity

        return plot_similarity(self, **options)


def average(results: Sequence[Similarity]) -> Similarity:
    """Average comparisons of the same layers, for example of models from several seeds.

    Args:
        results: Two or more comparisons with equal layers.

    Returns:
        The mean, with ``replicates`` and the standard error over them: standard deviation (n-1) over √k. A pair of
        layers missing in one comparison is missing in the mean. The details of the layers are those of the first.

    Raises:
        ValueError: If there are fewer than two, or their layers, images or options differ.

    Example:
        >>> one, two = (Similarity(np.array([[value]]), ["a"], ["a"], 10) for value in (0.2, 0.4))
        >>> average([one, two]).matrix.round(6), average([one, two]).stderr.round(6)
        (array([[0.3]]), array([[0.1]]))
    """
    if len(results) < 2:
        raise ValueError(f"an average with its error needs two results or more, not {len(results)}")
    first = results[0]
    if any((r.layers1, r.layers2) != (first.layers1, first.layers2) for r in results):
        raise ValueError("only results with the same layers can be averaged")
    _refuse_differing(results, OPTIONS)
    stack = np.stack([r.matrix for r in results])
    return Similarity(
        matrix=stack.mean(0),
        layers1=first.layers1,
        layers2=first.layers2,
        n=first.n,
        stderr=stderr_of_mean(stack),
        replicates=stack,
        details1=first.details1,
        details2=first.details2,
        provenance=first.provenance | _precisions(results) | {"replicates": len(stack), "error_samples": len(stack)},
    )


def join(parts: Sequence[Similarity]) -> Similarity:
    """Join comparisons of parts of the layers, made in runs that had no room for all layers at once.

    Args:
        parts: Results on the same images, made with the same options. Their layers must tile a whole matrix, with every
            pair of layers in exactly one part. Rows and columns keep the order in which the parts first name them.

    Returns:
        The whole matrix, with the tables that all parts have.

    Raises:
        ValueError: If a pair is missing or given twice, or the parts come from different images or options.

    Example:
        >>> whole = Similarity(np.arange(4.0).reshape(2, 2), ["a", "b"], ["x", "y"], 10)
        >>> left, right = (Similarity(whole.matrix[:, [i]], ["a", "b"], [name], 10) for i, name in enumerate("xy"))
        >>> join([left, right]).to_frame().equals(whole.to_frame())
        True
    """
    if not parts:
        raise ValueError("there are no parts to join")
    first = parts[0]
    measured = all("auto_precision" in part.provenance for part in parts)  # each is within the tolerance
    _refuse_differing(parts, (*OPTIONS, "permutations", *(() if measured else ("precision",)), *MODELS))
    rows = list(dict.fromkeys(name for part in parts for name in part.layers1))
    columns = list(dict.fromkeys(name for part in parts for name in part.layers2))
    count = np.zeros((len(rows), len(columns)), int)
    places = [np.ix_([rows.index(a) for a in p.layers1], [columns.index(b) for b in p.layers2]) for p in parts]
    for place in places:
        count[place] += 1
    if (count != 1).any():
        row, column = np.argwhere(count != 1)[0]
        fault = "missing" if count[row, column] == 0 else "given more than once"
        raise ValueError(f"{int((count != 1).sum())} pairs are {fault}, {rows[row]!r} x {columns[column]!r} the first")
    tables = {name: np.empty(count.shape) for name in TABLES if all(getattr(p, name) is not None for p in parts)}
    for name, whole in tables.items():
        for part, place in zip(parts, places, strict=True):
            whole[place] = getattr(part, name)
    details = [_joined_details(parts, side, names) for side, names in ((1, rows), (2, columns))]
    return Similarity(**tables, layers1=rows, layers2=columns, n=first.n, details1=details[0], details2=details[1],
                      provenance=first.provenance | _precisions(parts))  # fmt: skip


def _precisions(results: Sequence[Similarity]) -> dict[str, Any]:
    """State the precision of several results, and how it was decided: once, or of each where they differ."""
    facts = {}
    for key in ("precision", "auto_precision"):
        values = [result.provenance[key] for result in results if key in result.provenance]
        if values:
            facts[key] = values[0] if all(value == values[0] for value in values) else values
    return facts


def _refuse_differing(results: Sequence[Similarity], keys: Sequence[str]) -> None:
    first = results[0]
    for other in results[1:]:
        differing = [key for key in keys if other.provenance.get(key) != first.provenance.get(key)]
        differing += ["n"] if other.n != first.n else []
        if differing:
            raise ValueError(f"the results were made with different {', '.join(differing)}: they do not go together")


def _joined_details(parts: Sequence[Similarity], side: int, names: list[str]) -> dict[str, list[Any]] | None:
    if any(getattr(part, f"details{side}") is None for part in parts):
        return None
    frames = [pd.DataFrame(getattr(part, f"details{side}"), index=getattr(part, f"layers{side}")) for part in parts]
    table = pd.concat(frames)
    return table[~table.index.duplicated()].loc[names].to_dict("list")
