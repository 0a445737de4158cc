"""Accuracy over the number of removed image tokens: curves, and the areas under them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from utilities.results.result import Result
from utilities.results.statistics import bootstrap_interval, mean_and_stderr

DIRECTIONS = ("negative", "positive")


@dataclass(frozen=True)
class RemovalCurves(Result):
    """Accuracy over the number of removed image tokens; the first point is the intact model.

    Attributes:
        names: Names of the maps of importance.
        removed: Numbers of removed tokens, (points,), from 0 to all, or to all but one if only image tokens are read.
        tokens: Number of image tokens of the intact model.
        negative: Accuracy when the least important tokens are removed first, (maps, points).
        positive: Accuracy when the most important tokens are removed first, (maps, points).
        random: Accuracy when tokens are removed in random orders, (orders, points).
        random_stderr: Standard error over images of the mean over random orders, (points,).
        negative_auc: Area under each image's own negative curve (1 where the answer is right, 0 where not), (maps,
            images).
        positive_auc: Area under each image's own positive curve, (maps, images).
        random_auc: Area under each image's own random curve, (orders, images).
        targets: The class that counts as right, (images,).
        provenance: What the result was made from.
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
        """Share of image tokens removed, (points,)."""
        return self.removed / self.tokens

    @property
    def intact(self) -> float:
        """Accuracy of the model with all its tokens."""
        return float(np.concatenate([self.negative, self.random])[0, 0])

    def stderr(self, direction: str) -> np.ndarray:
        """Compute standard errors over images of the ``"negative"`` or ``"positive"`` curves, (maps, points)."""
        accuracy = getattr(self, direction)
        return np.sqrt(accuracy * (1 - accuracy) / (self.n - 1)) if self.n > 1 else np.full_like(accuracy, np.nan)

    def auc(self) -> pd.DataFrame:
        """Tabulate the mean area under the images' curves: columns ``method, direction, auc, stderr, low, high``.

        The area is over the share of removed tokens, so it is 1 for a model that is always right. Errors are over
        images, as are the 95 % bootstrap intervals from ``low`` to ``high``. Random orders are averaged for each image
        first.
        """
        labels, areas = self._curves("_auc")
        mean, stderr = mean_and_stderr(areas.T)
        low, high = bootstrap_interval(areas.T)
        return pd.DataFrame({**labels, "auc": mean, "stderr": stderr, "low": low, "high": high})

    def published_auc(self) -> pd.DataFrame:
        """Summarise each curve as the paper's code does: sum(accuracy) / (max(accuracy) * points).

        Unlike `auc`, this divides by the best accuracy of the curve itself. It includes all measured points. The
        columns are ``method, direction, auc``. Random orders are summarised one by one, and then averaged.
        """

        def summary(curves: np.ndarray) -> np.ndarray:
            highest = curves.max(1) * curves.shape[1]
            return np.divide(curves.sum(1), highest, out=np.full(len(curves), np.nan), where=highest > 0)

        labels, _ = self._curves("")
        values = [*summary(self.negative), *summary(self.positive)]
        return pd.DataFrame({**labels, "auc": [*values, summary(self.random).mean()] if len(self.random) else values})

    def to_frame(self) -> pd.DataFrame:
        """Tabulate all curves: columns ``method, direction, removed, fraction, accuracy, stderr, spread``.

        ``spread`` is the standard deviation over random orders; NaN for other curves, and if there is only one order.
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
        """Label and stack the values of negative and positive curves, and the mean of those of random curves."""
        count, random = len(self.names), getattr(self, f"random{suffix}")
        method = [*self.names, *self.names] + ["random"] * (len(random) > 0)
        direction = ["negative"] * count + ["positive"] * count + ["random"] * (len(random) > 0)
        parts = [getattr(self, f"{direction}{suffix}") for direction in DIRECTIONS]
        parts += [random.mean(0, keepdims=True)] if len(random) else []
        return {"method": method, "direction": direction}, np.concatenate(parts)
