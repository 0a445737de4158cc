"""Run the second model with its layers replaced, and count what it still gets right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from utilities.compare.stitching.cuts import replacing
from utilities.compare.stitching.fitting import Maps, made_by
from utilities.compare.stitching.plan import Stitch
from utilities.compare.stitching.sides import Batch, Seen, Sides
from utilities.hooks.calls.labels import BatchCheck, hits
from utilities.results.statistics import mean_and_stderr

HIT, SAME, LOSS = range(3)  # what is kept of each image


class Testing:
    """Test all stitches on images that no map was fitted to.

    Args:
        sides: Both models.
        stitches: The stitches.
        fits: Way of fitting -> maps; the first ones are those in closed form.
        check: Checks labels and logits.

    Attributes:
        own: Hits and cross entropy of each model by itself, (images, 2, 2); NaN where it tells other classes.
        labels: Class of each image.
    """

    def __init__(self, sides: Sides, stitches: Sequence[Stitch], fits: Mapping[str, Maps], check: BatchCheck) -> None:
        self.sides, self.stitches, self.fits, self.check = sides, stitches, fits, check
        self.rows: dict[tuple[str, str], list[np.ndarray]] = {(fit, str(one)): [] for fit in fits for one in stitches}
        self.own: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        self.classes = 0
        self._left: dict[tuple[str, str], float] = {}  # (stitch, part) -> squared error
        self._spread: dict[tuple[str, str], tuple[int, torch.Tensor, torch.Tensor]] = {}

    def run(self, batches: Iterable[Batch]) -> None:
        """Run all images."""
        with torch.no_grad():
            for batch in batches:
                seen = self.sides.see(batch)
                labels = self.check(seen.logits2, batch.labels)
                self.classes = seen.logits2.shape[1]
                self.labels.append(labels.cpu().numpy())
                self.own.append(np.stack([_own(seen.output1, labels, self.classes), _own(seen.logits2, labels)], 1))
                for stitch in self.stitches:
                    self._test(stitch, batch, seen, labels)
        self.check.finish(stacklevel=4)

    def _test(self, stitch: Stitch, batch: Batch, seen: Seen, labels: torch.Tensor) -> None:
        features = seen.features1[stitch.layer1].to(self.sides.devices[1])
        for number, (fit, maps) in enumerate(self.fits.items()):
            made = made_by(stitch, maps[str(stitch)], features)
            if number == 0:
                self._compare(stitch, made, seen.features2[stitch.layer2])
            whole = stitch.join(made)
            with replacing(self.sides.models[1], stitch.layer2, lambda output, whole=whole: whole):
                logits = self.sides.models[1](batch.images2)
            self.rows[fit, str(stitch)].append(_outcome(logits, seen.logits2, labels))

    def _compare(self, stitch: Stitch, made: dict[str, torch.Tensor], features: torch.Tensor) -> None:
        """Sum the squared error of the closed form, and what the variance of its targets takes."""
        for part in stitch.parts:
            target = stitch.target(features, part).to(made[part.name])
            key, flat = (str(stitch), part.name), target.flatten(0, 1).cpu().double()
            self._left[key] = self._left.get(key, 0.0) + float((made[part.name] - target).square().sum())
            n, total, square = self._spread.get(key, (0, torch.zeros(()), torch.zeros(())))
            self._spread[key] = n + len(flat), total + flat.sum(0), square + flat.square().sum()

    def r2(self, stitch: Stitch, part: str) -> float:
        """Return the share of variance about their own mean that a closed-form map explains on the test images."""
        n, total, square = self._spread[str(stitch), part]
        spread = float(square - total.square().sum() / n)
        return 1 - self._left[str(stitch), part] / spread if spread > 1e-12 * float(square) else float("nan")

    def numbers(self, fit: str, stitch: Stitch) -> dict[str, float]:
        """Return the means over images of one stitch, with their errors."""
        rows = np.concatenate(self.rows[fit, str(stitch)])
        mean, error = mean_and_stderr(rows)
        drop = mean_and_stderr(np.concatenate(self.own)[:, 1, 0] - rows[:, HIT])[1]
        return {
            "accuracy": mean[HIT], "accuracy_stderr": error[HIT], "drop_stderr": float(drop), "agreement": mean[SAME],
            "cross_entropy": mean[LOSS], "cross_entropy_stderr": error[LOSS],
        }  # fmt: skip

    def own_numbers(self) -> dict[str, np.ndarray]:
        """Return accuracy with error, and cross entropy, of both models by themselves."""
        mean, error = mean_and_stderr(np.concatenate(self.own))
        return {"own": mean[:, 0], "own_stderr": error[:, 0], "own_cross_entropy": mean[:, 1]}

    def chance(self) -> float:
        """Return the accuracy of always naming the most frequent class, or of guessing if that is higher."""
        labels = np.concatenate(self.labels)
        return max(1 / self.classes, float(np.bincount(labels).max() / len(labels)))


def _losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.cpu().double(), labels.cpu(), reduction="none")


def _outcome(logits: torch.Tensor, own: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """Return hits, agreement with the model's own prediction, and cross entropy of each image, (images, 3)."""
    agree = (logits.argmax(1) == own.argmax(1)).double()
    parts = hits(logits, labels), agree, _losses(logits, labels)
    return torch.stack([part.cpu().double() for part in parts], 1).numpy()


def _own(output: Any, labels: torch.Tensor, classes: int | None = None) -> np.ndarray:
    """Return hits and cross entropy of each image, (images, 2); NaN for outputs that are no logits of these classes."""
    logits = isinstance(output, torch.Tensor) and output.ndim == 2
    if not logits or (classes is not None and output.shape[1] != classes):
        return np.full((len(labels), 2), np.nan)
    labels = labels.to(output.device)
    return torch.stack([hits(output, labels).cpu().double(), _losses(output, labels)], 1).numpy()
