"""Robustness to common corruptions: how much of its accuracy a classifier keeps on corrupted images.

Hendrycks and Dietterich 2019 (https://arxiv.org/abs/1903.12261) corrupt test images in 15 ways at 5 severities. Park
and Kim 2022 (https://arxiv.org/abs/2202.06709) report the plain mean accuracy over these 75 sets. Their AlexNet
reaches 76.14 % on CIFAR-10-C, 41.01 % on CIFAR-100-C and 19.46 % on ImageNet-C.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from utilities.analysis.predictions.calibration import bin_index, score
from utilities.analysis.predictions.paired_accuracy import contrast, right_in_both
from utilities.analysis.stream import stream
from utilities.datasets.corruptions import CORRUPTIONS, SEVERITIES, choose_table, corrupt
from utilities.datasets.corruptions.parameters import check_sets
from utilities.datasets.naming import known_facts
from utilities.datasets.pixels import normalisation, to_images, to_pixels
from utilities.hooks.calls.batch_parts import check_loader
from utilities.hooks.calls.labels import BatchCheck
from utilities.hooks.calls.merging import Total
from utilities.hooks.calls.sharing import sharing_processes
from utilities.results.moments import Moments
from utilities.results.result import Result
from utilities.utils import versions

BINS = 10  # bins of the expected calibration error
# Errors of the AlexNet that ImageNet-C's authors divide by, averaged over the five severities. See
# https://github.com/hendrycks/robustness. Use them with `Robustness.mce` for results on the published ImageNet-C.
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640,
    "defocus_blur": 0.819880, "glass_blur": 0.826268, "motion_blur": 0.785948, "zoom_blur": 0.798360,
    "snow": 0.866816, "frost": 0.826572, "fog": 0.819324, "brightness": 0.564592,
    "contrast": 0.853204, "elastic_transform": 0.646056, "pixelate": 0.717840, "jpeg_compression": 0.606500,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Robustness(Result):
    """Results of a classifier on clean images and all their corrupted versions. Errors are over images.

    Set 0 is the clean one. Set ``1 + k * len(severities) + s`` is kind k at severity s.

    Attributes:
        both_right: Number of images classified correctly in both of two sets, (sets, sets). int64, unless answers were
            tied.
        nll: Mean cross-entropy of each set in nats, (sets,).
        nll_stderr: Standard error of ``nll``, (sets,).
        ece: Expected calibration error of each set, with ten bins, (sets,).
        kinds: Names of the corruptions.
        severities: Severities of each corruption.
        n: Number of images.
        provenance: What this was made from.
    """

    both_right: np.ndarray
    nll: np.ndarray
    nll_stderr: np.ndarray
    ece: np.ndarray
    kinds: list[str]
    severities: list[int]
    n: int
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def clean_accuracy(self) -> float:
        """Accuracy on the same images without corruption."""
        return float(self._accuracies[0])

    @property
    def clean_stderr(self) -> float:
        """Standard error of the clean accuracy."""
        return self._pair(np.eye(len(self.both_right))[0])[1]

    @property
    def _accuracies(self) -> np.ndarray:
        return np.diagonal(self.both_right) / self.n

    @property
    def accuracy(self) -> np.ndarray:
        """Accuracy on each corrupted set, (kind, severity)."""
        return self.grid(self._accuracies)

    @property
    def stderr(self) -> np.ndarray:
        """Standard error of each accuracy, (kind, severity)."""
        return self.grid(contrast(self.both_right, self.n, np.eye(len(self.both_right)))[1])

    def grid(self, values: np.ndarray) -> np.ndarray:
        """Arrange values of all sets (sets, ...) as (kind, severity, ...), without the clean set."""
        return values[1:].reshape(len(self.kinds), len(self.severities), *values.shape[1:])

    def mean_accuracy(self) -> tuple[float, float]:
        """Return the mean accuracy over all corrupted sets, the robustness of Park and Kim 2022, and its error."""
        return self._pair(self._mean_weights())

    def drop(self) -> tuple[float, float]:
        """Return clean accuracy minus mean accuracy over all corrupted sets, and its error.

        Each image is its own control.
        """
        return self._pair(np.eye(len(self.both_right))[0] - self._mean_weights())

    def by_kind(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean accuracy over severities of each kind, and its error."""
        return contrast(self.both_right, self.n, self.grid(np.eye(len(self.both_right))).mean(1))

    def by_severity(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean accuracy over kinds at each severity, and its error."""
        return contrast(self.both_right, self.n, self.grid(np.eye(len(self.both_right))).mean(0))

    def _mean_weights(self) -> np.ndarray:
        return self.grid(np.eye(len(self.both_right))).mean((0, 1))

    def _pair(self, weights: np.ndarray) -> tuple[float, float]:
        value, error = contrast(self.both_right, self.n, weights)
        return float(value), float(error)

    def corruption_errors(
        self, reference: Robustness | Mapping[str, float], relative: bool = False, mean: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        r"""Divide the errors of each kind by those of a reference.

        The result is :math:`CE_c = 100 \sum_s E_{s,c} / \sum_s E^{ref}_{s,c}`. With AlexNet as the reference, these are
        the corruption errors of Hendrycks and Dietterich 2019. Relative ones subtract the clean error from every E.

        Args:
            reference: A result with the same kinds and severities, or a mapping from kind to mean error over the five
                severities, such as `ALEXNET_ERRORS`.
            relative: Whether to subtract the clean errors.
            mean: Whether to average over kinds.

        Returns:
            Corruption errors in percent, one per kind or their mean, and their standard errors. A corruption error is
            NaN, with a warning, where the reference has no error to divide by. The standard errors are to first order,
            and treat the reference as evaluated on other images.

        Raises:
            ValueError: If the reference was evaluated on other kinds or severities.
            TypeError: If clean errors are needed and the reference is a mapping, which has none.
        """
        weights = self.grid(np.eye(len(self.both_right))).mean(1)
        weights[:, 0] -= relative
        own = 1 - relative - weights @ self._accuracies
        theirs = self._reference_errors(reference, weights, relative)
        named = ", ".join(kind for kind, error in zip(self.kinds, theirs, strict=True) if error <= 0)
        if named:
            warnings.warn(f"the reference has no error to divide by for {named}: shown as missing", stacklevel=2)
        theirs = np.where(theirs > 0, theirs, np.nan)
        ratio = own / theirs
        # Derivatives of the ratio by our own and by their accuracies.
        slopes = weights / theirs[:, None], weights / theirs[:, None] * ratio[:, None]
        if mean:
            ratio, slopes = ratio.mean(), [slope.mean(0) for slope in slopes]
        if reference is self:
            error = contrast(self.both_right, self.n, slopes[1] - slopes[0])[1]
        else:
            error = contrast(self.both_right, self.n, slopes[0])[1]
            if isinstance(reference, Robustness):
                error = np.hypot(error, contrast(reference.both_right, reference.n, slopes[1])[1])
        return 100 * ratio, 100 * error

    def _reference_errors(
        self, reference: Robustness | Mapping[str, float], weights: np.ndarray, relative: bool
    ) -> np.ndarray:
        if isinstance(reference, Robustness):
            if (reference.kinds, reference.severities) != (self.kinds, self.severities):
                raise ValueError("the reference was evaluated on other kinds or severities; evaluate both alike")
            return 1 - relative - weights @ reference._accuracies
        if relative:
            raise TypeError("relative errors need the clean error of the reference: pass a Robustness")
        missing = sorted(set(self.kinds) - set(reference))
        if missing or self.severities != list(SEVERITIES):
            raise ValueError(f"the reference has mean errors over severities 1 to 5, none for {missing or 'others'}")
        return np.array([reference[kind] for kind in self.kinds])

    def mce(self, reference: Robustness | Mapping[str, float]) -> tuple[float, float]:
        """Return the mean corruption error in percent of a reference's, and its error; see `corruption_errors`."""
        value, error = self.corruption_errors(reference, mean=True)
        return float(value), float(error)

    def relative_mce(self, reference: Robustness) -> tuple[float, float]:
        """Return the mean relative corruption error in percent of a reference's, and its standard error.

        It counts only the errors that corruption adds; see `corruption_errors`.
        """
        value, error = self.corruption_errors(reference, relative=True, mean=True)
        return float(value), float(error)

    def to_frame(self) -> pd.DataFrame:
        """Tabulate one row per set: kind, severity (0: clean), accuracy, stderr, nll, nll_stderr, ece."""
        accuracy, stderr = contrast(self.both_right, self.n, np.eye(len(self.both_right)))
        kinds = ["clean", *np.repeat(self.kinds, len(self.severities))]
        columns = {"kind": kinds, "severity": [0, *self.severities * len(self.kinds)]}
        columns |= {"accuracy": accuracy, "stderr": stderr, "nll": self.nll, "nll_stderr": self.nll_stderr}
        return pd.DataFrame(columns | {"ece": self.ece})


def robustness(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    kinds: Sequence[str] = CORRUPTIONS,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
    **options: Any,
) -> Robustness:
    """Corrupt a loader's images in all ways and classify them, each version of each image once.

    Images are brought back to 8 bits, corrupted, and normalised again. Image i of the loader gets the same corruption
    whatever the batches and the model.

    Args:
        model: Maps normalised images (batch, 3, height, width) to logits (batch, classes).
        loader: Yields (images, labels) in a fixed order, see `utilities.datasets.make_loader`.
        kinds: Any of `utilities.datasets.corruptions.CORRUPTIONS` (the 15 of the benchmark) and ``EXTRA_CORRUPTIONS``.
        severities: Severities from 1 to 5.
        seed: Seed of the random corruptions.
        mean: Means subtracted from images in 0..1, one number or three; None is those of ``loader.dataset``.
        std: Deviations that images were divided by, one number or three; None is those of ``loader.dataset``.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts about model and data, for captions.
        **options: Options of `utilities.datasets.corruptions.corrupt`: ``parameters`` and ``frost_images``.

    Raises:
        ValueError: If an option is out of range, weights are not finite, labels are missing or invalid, or the
            normalisation is unknown or evidently not the images' own. See `utilities.datasets.pixels.check_scale`.

    Example:
        >>> from utilities.datasets import load_dataset
        >>> from utilities.datasets.factory import make_loader
        >>> loader = make_loader(load_dataset("digits", n_images=20), 20)
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
        >>> result = robustness(model, loader, kinds=["contrast"], severities=[1, 5], device="cpu", progress=False)
        >>> result.accuracy.shape, result.mce(result)
        ((1, 2), (100.0, 0.0))
    """
    kinds, severities = check_sets(kinds, severities)
    check_loader(loader)
    scale = normalisation(loader, mean, std)
    check = BatchCheck(loader, model)
    both_right, nll, gaps = Total(np.zeros((), np.int64)), Moments(), Total(np.zeros(()))
    sums = both_right, nll, gaps, check
    progress = progress and sharing_processes().rank == 0
    run = {"device": device, "description": "corrupted", "labelled": True, "progress": progress}
    with stream(model, loader, sums=sums, **run) as batches:
        for images, labels in batches:
            pixels = to_pixels(images, *scale)
            logits = model(images)
            labels = check(logits, labels)
            scores = [score_logits(logits, labels)]
            for kind, severity in tqdm(
                list(product(kinds, severities)), "sets", delay=2, leave=False, disable=not progress
            ):
                changed = corrupt(pixels, kind, severity, seed=seed, first=batches.served.first, **options)
                scores.append(score_logits(model(to_images(changed, *scale)), labels))
            right, losses, new = (np.stack(values) for values in zip(*scores, strict=True))
            both_right.add(right_in_both(right))
            gaps.add(new)
            nll.add(losses.T)
    check.finish()
    table = options.get("parameters") or choose_table(*pixels.shape[-2:])
    made = f"made here with the parameters of {'CIFAR-10-C' if table == '32' else 'ImageNet-C'}"
    facts = {"n": nll.n, "seed": seed, "corruptions": made, "versions": versions(), "num_classes": check.outputs}
    measures = both_right.value, nll.mean, nll.stderr, np.abs(gaps.value).sum(1) / nll.n
    return Robustness(*measures, kinds, severities, nll.n, known_facts(provenance, loader) | facts)


def score_logits(logits: torch.Tensor, labels: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score the answers to a batch.

    Returns:
        Three arrays. The first tells whether each image is right: 0, 1, or its chance among tied answers, (batch,). The
        second is each image's cross-entropy, (batch,). The third is the sum of right minus confidence in each bin of
        confidence, (bins,); see `utilities.analysis.predictions.calibration.bin_index`.

    Example:
        >>> right, losses, gaps = score_logits(torch.eye(3), torch.tensor([0, 1, 0]))
        >>> right.tolist(), losses.round(2).tolist(), round(float(gaps.sum()), 2)
        ([1.0, 1.0, 0.0], [0.55, 0.55, 1.55], 0.27)
    """
    scores = score(logits, labels)
    bins = bin_index(scores["confidences"], BINS)
    return scores["hits"], scores["losses"], np.bincount(bins, scores["hits"] - scores["confidences"], BINS)
