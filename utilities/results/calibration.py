"""Similarity against its permutation null: `utilities.compare.calibration` returns it.

The scheme is that of Gröger, Wen & Brbić 2026 (https://arxiv.org/abs/2602.14486). Among the K + 1 values of which one
is the observed s and K come from permutations, the threshold q is the one of rank ⌈(1 - level)(K + 1)⌉ from below. The
calibrated value is max(0, (s - q) / (1 - q)), and p is (1 + number of permuted values ≥ s) / (K + 1). So the calibrated
value is above 0 where p ≤ level. A maximum over layers is a statistic of its own: it is taken again in each
permutation, in which all layers of one model see the images in the same other order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from utilities.results.result import Result
from utilities.results.similarity import Similarity


def threshold_of(observed: np.ndarray, null: np.ndarray, level: float = 0.05) -> np.ndarray:
    """Return the value that chance exceeds at a level: of rank ⌈(1 - level)(K + 1)⌉ among null and observed ones.

    Args:
        observed: Values, (...).
        null: Values under permutations, (K, ...).
        level: Level, above 0 and below 1.

    Returns:
        Thresholds, (...); NaN where a value is missing.

    Raises:
        ValueError: If the level is out of range, or there are too few permutations for it.

    Example:
        >>> threshold_of(np.array(0.9), np.arange(19) / 100)
        array(0.18)
    """
    if not isinstance(level, Real) or not 0 < level < 1:
        raise ValueError(f"level={level!r} should be a number above 0 and below 1")
    count = len(null) + 1
    if count * level < 1 - 1e-9:
        raise ValueError(
            f"{len(null)} permutations cannot show anything at a level of {level:g}: {math.ceil(1 / level) - 1} or "
            "more are needed"
        )
    rank = math.ceil((1 - level) * count - 1e-9)
    everything = np.concatenate([np.asarray(null), np.asarray(observed)[None]])
    return np.asarray(np.sort(everything, axis=0)[rank - 1] + 0 * everything.sum(0))


def calibrated_of(observed: np.ndarray, null: np.ndarray, level: float = 0.05) -> np.ndarray:
    """Rescale values so that what chance reaches is 0: max(0, (s - q) / (1 - q)), with q of `threshold_of`.

    Args:
        observed: Values, (...), of a measure that is 1 at most.
        null: Values under permutations, (K, ...).
        level: See `threshold_of`.

    Returns:
        Calibrated values, (...); 0 also where chance alone reaches 1, and NaN where a value is missing.

    Example:
        >>> calibrated_of(np.array([0.6, 0.1]), np.full((19, 2), 0.2))
        array([0.5, 0. ])
    """
    threshold, observed = threshold_of(observed, null, level), np.asarray(observed)
    room = 1 - threshold
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(room > 0, np.maximum((observed - threshold) / room, 0.0), 0 * threshold)


def p_value_of(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Return the share of orders whose value reaches the observed one, which counts as one of them.

    Args:
        observed: Values, (...).
        null: Values under permutations, (K, ...).

    Example:
        >>> p_value_of(np.array([0.6, 0.1]), np.full((19, 2), 0.2))
        array([0.05, 1.  ])
    """
    observed = np.asarray(observed)
    reached = (1 + (null >= observed).sum(0)) / (1 + len(null))
    return np.where(np.isnan(observed) | np.isnan(null).any(0), np.nan, reached)


@dataclass(frozen=True, repr=False)
class Calibration(Result):
    """Similarity of every layer of one model to every layer of another, against permutations of the images.

    Attributes:
        matrix: Raw similarities, (layers1, layers2); NaN where a layer has no variance.
        layers1: Names of the rows.
        layers2: Names of the columns.
        n: Number of images.
        level: Level of the thresholds.
        null_mean: Mean over permutations, (layers1, layers2).
        threshold: See `threshold_of`, (layers1, layers2).
        calibrated: See `calibrated_of`, (layers1, layers2).
        p_value: See `p_value_of`, (layers1, layers2).
        null_best: Largest value of each row in each permutation, (K, layers1).
        provenance: Facts about its origin: models, weights, accuracy, data set, estimator, seed, versions.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> result = calibration_of(np.array([[0.9, 0.1]]), 0.1 * rng.random((99, 1, 2)), ["a"], ["x", "y"], 10)
        >>> result.best_match()[["match", "p_value"]].values.tolist()
        [['x', 0.01]]
    """

    matrix: np.ndarray
    layers1: list[str]
    layers2: list[str]
    n: int
    level: float
    null_mean: np.ndarray
    threshold: np.ndarray
    calibrated: np.ndarray
    p_value: np.ndarray
    null_best: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        what = self.provenance.get("measure", "similarity")
        shape = f"{len(self.layers1)} x {len(self.layers2)} layers"
        return f"<Calibration: {what} of {shape}, n = {self.n}, {self.permutations} permutations>"

    @property
    def permutations(self) -> int:
        """Number of permutations."""
        return len(self.null_best)

    def maximum(self) -> dict[str, Any]:
        """Calibrate the largest similarity of all pairs of layers.

        Returns:
            ``layer1``, ``layer2``, and ``similarity``, ``null_mean``, ``threshold``, ``calibrated``, ``p_value`` of the
            maximum.

        Raises:
            ValueError: If no pair of layers has a value.
        """
        if np.isnan(self.matrix).all():
            raise ValueError("no pair of layers has a value: layers without variance have no maximum")
        row, column = np.unravel_index(np.nanargmax(self.matrix), self.matrix.shape)
        null = np.nanmax(self.null_best, axis=1)
        facts = {"layer1": self.layers1[row], "layer2": self.layers2[column]}
        return facts | {name: float(x) for name, x in self._against(self.matrix[row, column], null).items()}

    def best_match(self) -> pd.DataFrame:
        """Calibrate the largest similarity of each row.

        Returns:
            One row for each layer of the first model that has a value: ``match``, ``similarity``, ``null_mean``,
            ``threshold``, ``calibrated`` and ``p_value`` of the maximum over the second model's layers.
        """
        there = ~np.isnan(self.matrix).all(1)
        values = self.matrix[there]
        place = np.nanargmax(values, axis=1) if len(values) else np.array([], int)
        numbers = self._against(values[np.arange(len(values)), place], self.null_best[:, there])
        index = [name for name, present in zip(self.layers1, there, strict=True) if present]
        return pd.DataFrame({"match": [self.layers2[k] for k in place], **numbers}, index=index)

    def _against(self, observed: np.ndarray, null: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "similarity": observed,
            "null_mean": null.mean(0),
            "threshold": threshold_of(observed, null, self.level),
            "calibrated": calibrated_of(observed, null, self.level),
            "p_value": p_value_of(observed, null),
        }

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each pair of layers."""
        tables = ("matrix", "null_mean", "threshold", "calibrated", "p_value")
        pairs = pd.MultiIndex.from_product([self.layers1, self.layers2], names=["layer1", "layer2"])
        columns = {name.replace("matrix", "similarity"): getattr(self, name).ravel() for name in tables}
        return pd.DataFrame(columns, index=pairs).reset_index()

    def to_similarity(self) -> Similarity:
        """Return the calibrated values as a `Similarity`, for its heatmaps."""
        measure = f"calibrated {self.provenance.get('measure', 'similarity')}"
        facts = {key: value for key, value in self.provenance.items() if key != "permutations"} | {"measure": measure}
        return Similarity(self.calibrated, self.layers1, self.layers2, self.n, p_value=self.p_value, provenance=facts)


def calibration_of(
    matrix: np.ndarray,
    null: np.ndarray,
    layers1: list[str],
    layers2: list[str],
    n: int,
    level: float = 0.05,
    provenance: dict[str, Any] | None = None,
) -> Calibration:
    """Put similarities and their null together.

    Args:
        matrix: Similarities, (layers1, layers2).
        null: Similarities under permutations, (K, layers1, layers2), of which each orders the images of one model anew
            for all of its layers.
        layers1: Names of the rows.
        layers2: Names of the columns.
        n: Number of images.
        level: See `threshold_of`.
        provenance: Facts to keep.
    """
    lowest = np.where(np.isnan(null), -np.inf, null).max(2)
    return Calibration(
        matrix=matrix,
        layers1=layers1,
        layers2=layers2,
        n=n,
        level=level,
        null_mean=null.mean(0),
        threshold=threshold_of(matrix, null, level),
        calibrated=calibrated_of(matrix, null, level),
        p_value=p_value_of(matrix, null),
        null_best=np.where(np.isinf(lowest), np.nan, lowest),
        provenance=dict(provenance or {}),
    )
