"""Accuracy over the number of image tokens removed: curves, and the area under them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from utilities.analysis.class_embedding.statistics import bootstrap_interval, mean_and_stderr
from utilities.results import Result

DIRECTIONS = ("negative", "positive")


@dataclass(frozen=True)
class RemovalCurves(Result):
    """Accuracy over the number of image tokens removed; the first point is the intact model.

    Attributes:
        names: Of the maps of importance.
        removed: Numbers of tokens removed, (points,), from 0 to all, or to all but one where tokens are averaged.
        tokens: Image tokens of the intact model.
        negative: Accuracy while the least important tokens are removed first, (maps, points).
        positive: The same while the most important ones are, (maps, points).
        random: The same in random orders, (orders, points).
        random_stderr: Standard error over images of the mean over random orders, (points,).
        negative_auc: Area under each image's own curve (1 where it is right, 0 where not), (maps, images).
        positive_auc: The same, (maps, images).
        random_auc: The same, (orders, images).
        targets: The class that counts as right, (images,).
        provenance: Where this came from.
    """

    names: list[str]
    removed: np.ndarray
    tokens: int
    negative: np.ndarray
    positive: np.ndarray
    random: np.ndarray
    random_stderr: np.ndarray
    negative_auc: np.ndarray
    positive_auc: np.ndarray
    random_auc: np.ndarray
    targets: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.targets)

    @property
    def fraction(self) -> np.ndarray:
        """Share of the image tokens that is removed, (points,)."""
        return self.removed / self.tokens

    @property
    def intact(self) -> float:
        """Accuracy of the model with all its tokens."""
        return float(np.concatenate([self.negative, self.random])[0, 0])

    def stderr(self, direction: str) -> np.ndarray:
        """Give the standard errors over images of the ``"negative"`` or ``"positive"`` curves, (maps, points)."""
        accuracy = getattr(self, direction)
        return np.sqrt(accuracy * (1 - accuracy) / (self.n - 1)) if self.n > 1 else np.full_like(accuracy, np.nan)

    def auc(self) -> pd.DataFrame:
        """Give the mean area under the images' curves: columns ``method, direction, auc, stderr, low, high``.

        The area is over the share of tokens removed, so that it is 1 for a model that is always right. Errors, and the
        bootstrap intervals of 95 % from ``low`` to ``high``, are over images; random orders are averaged for each image
        first.
        """
        labels, areas = self._curves("_auc")
        mean, stderr = mean_and_stderr(areas.T)
        low, high = bootstrap_interval(areas.T)
        return pd.DataFrame({**labels, "auc": mean, "stderr": stderr, "low": low, "high": high})

    def published_auc(self) -> pd.DataFrame:
        """Give the summary of the paper's code, sum(accuracy) / (max(accuracy) * points), of each curve.

        It divides by the best accuracy of the curve itself, which `auc` does not, and includes all points measured.
        Columns ``method, direction, auc``; of random orders the mean of theirs.
        """

        def summary(curves: np.ndarray) -> np.ndarray:
            highest = curves.max(1) * curves.shape[1]
            return np.divide(curves.sum(1), highest, out=np.full(len(curves), np.nan), where=highest > 0)

        labels, _ = self._curves("")
        values = [*summary(self.negative), *summary(self.positive)]
        return pd.DataFrame({**labels, "auc": [*values, summary(self.random).mean()] if len(self.random) else values})

    def to_frame(self) -> pd.DataFrame:
        """Give all curves: columns ``method, direction, removed, fraction, accuracy, stderr, spread``.

        ``spread`` is the standard deviation over random orders; NaN where there are none, or one.
        """
        labels, accuracy = self._curves("")
        stderr = np.concatenate([self.stderr("negative"), self.stderr("positive")])
        spread = np.full_like(accuracy, np.nan)
        if len(self.random):
            stderr = np.concatenate([stderr, self.random_stderr[None]])
        if len(self.random) > 1:
            spread[-1] = self.random.std(0, ddof=1)
        frame = pd.DataFrame(labels).loc[np.repeat(np.arange(len(accuracy)), len(self.removed))].reset_index(drop=True)
        frame["removed"], frame["fraction"] = (np.tile(x, len(accuracy)) for x in (self.removed, self.fraction))
        return frame.assign(accuracy=accuracy.ravel(), stderr=stderr.ravel(), spread=spread.ravel())

    def _curves(self, suffix: str) -> tuple[dict[str, list[str]], np.ndarray]:
        """Stack what belongs to negative, positive and random curves, the mean over orders of the last, and names."""
        count, random = len(self.names), getattr(self, f"random{suffix}")
        method = [*self.names, *self.names] + ["random"] * (len(random) > 0)
        direction = ["negative"] * count + ["positive"] * count + ["random"] * (len(random) > 0)
        parts = [getattr(self, f"{direction}{suffix}") for direction in DIRECTIONS]
        parts += [random.mean(0, keepdims=True)] if len(random) else []
        return {"method": method, "direction": direction}, np.concatenate(parts)
