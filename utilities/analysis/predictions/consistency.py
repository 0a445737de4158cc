"""Consistency under perturbation: how often a classifier changes its answer along a sequence of small perturbations.

Hendrycks and Dietterich 2019 (https://arxiv.org/abs/1903.12261): frames of noise are compared with the first one, those
of all other kinds with the one before. Labels play no part. A flip rate is the share of comparisons in which the answer
differs; divided by those of AlexNet and averaged over ten kinds, flip rates give mFP, and top-5 distances give mT5D.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from utilities.analysis.predictions.flips import compare_frames
from utilities.analysis.stream import stream
from utilities.datasets.corruptions.parameters import choose_table
from utilities.datasets.naming import known_facts
from utilities.datasets.perturbations import PERTURBATIONS, check_kinds, is_noise, perturb
from utilities.datasets.perturbed import NORMALISATIONS, check_sequences, read_sequences
from utilities.datasets.pixels import normalisation, per_channel, to_images, to_pixels
from utilities.hooks.calls.batch_parts import check_loader
from utilities.hooks.calls.labels import refuse_no_classifier
from utilities.hooks.calls.options import check_whole
from utilities.hooks.calls.sharing import sharing_processes
from utilities.hooks.calls.weights import check_weights
from utilities.results.result import Result
from utilities.results.statistics import stderr_of_mean
from utilities.utils import evaluating, versions


@dataclasses.dataclass(frozen=True)
class Consistency(Result):
    """Flip rates and top-5 distances of a classifier, for each image and kind of perturbation. Errors are over images.

    Attributes:
        flips: Share of comparisons of frames in which the answer differs, (images, kinds).
        distances: Mean top-5 distance between compared frames, from 0 to 15, (images, kinds).
        kinds: Names of the perturbations.
        provenance: What this was made from, including where the sequences come from.
    """

    flips: np.ndarray
    distances: np.ndarray
    kinds: list[str]
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.flips)

    @property
    def flip_rate(self) -> np.ndarray:
        """Flip rate of each kind, (kinds,)."""
        return self.flips.mean(0)

    @property
    def flip_stderr(self) -> np.ndarray:
        """Standard error of each flip rate, (kinds,)."""
        return np.asarray(stderr_of_mean(self.flips))

    @property
    def distance(self) -> np.ndarray:
        """Top-5 distance of each kind, (kinds,)."""
        return self.distances.mean(0)

    def mean_flip_rate(self) -> tuple[float, float]:
        """Return the mean flip rate over kinds, each counting alike, and its standard error."""
        return _mean(self.flips)

    def mean_distance(self) -> tuple[float, float]:
        """Return the mean top-5 distance over kinds, each counting alike, and its standard error."""
        return _mean(self.distances)

    def mfp(self, reference: Consistency | Mapping[str, float]) -> tuple[float, float]:
        """Return the mean over kinds of flip rates, in percent of a reference's, and its standard error.

        Args:
            reference: Result on the same kinds, or a mapping from kind to flip rate. With AlexNet's on ImageNet-P it is
                the mFP of Hendrycks and Dietterich 2019. The error takes the reference as exact.

        Raises:
            ValueError: If the reference lacks a kind.
        """
        rates = dict(zip(reference.kinds, reference.flip_rate, strict=True)) if _is_result(reference) else reference
        return self._in_percent(self.flips, rates)

    def mt5d(self, reference: Consistency | Mapping[str, float]) -> tuple[float, float]:
        """Return the mean over kinds of top-5 distances, in percent of a reference's, and its error; see `mfp`."""
        rates = dict(zip(reference.kinds, reference.distance, strict=True)) if _is_result(reference) else reference
        return self._in_percent(self.distances, rates)

    def _in_percent(self, values: np.ndarray, reference: Mapping[str, float]) -> tuple[float, float]:
        missing = [kind for kind in self.kinds if kind not in reference]
        if missing:
            raise ValueError(f"the reference has no {', '.join(missing)}; evaluate both alike")
        rates = np.array([reference[kind] for kind in self.kinds], np.float64)
        if (rates <= 0).any():
            never = ", ".join(kind for kind, rate in zip(self.kinds, rates, strict=True) if rate <= 0)
            warnings.warn(f"the reference never changes under {never}: there is nothing to divide by", stacklevel=3)
            rates = np.where(rates > 0, rates, np.nan)
        return _mean(100 * values / rates)

    def to_frame(self) -> pd.DataFrame:
        """Tabulate one row per kind: flip_rate, flip_stderr, top5_distance, top5_stderr."""
        columns = {"kind": self.kinds, "flip_rate": self.flip_rate, "flip_stderr": self.flip_stderr}
        columns |= {"top5_distance": self.distance, "top5_stderr": np.asarray(stderr_of_mean(self.distances))}
        return pd.DataFrame(columns)


def _mean(values: np.ndarray) -> tuple[float, float]:
    each = values.mean(1)
    return float(each.mean()), float(stderr_of_mean(each))


def _is_result(reference: Any) -> bool:
    return isinstance(reference, Consistency)


def consistency(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    kinds: Sequence[str] = PERTURBATIONS,
    seed: int = 0,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> Consistency:
    """Perturb a loader's images in sequences made here, and measure how often the answer changes.

    Images are brought back to 8 bits, perturbed, and normalised again. See `utilities.datasets.perturbations` for what
    is made, and `consistency_on_files` for the published sequences.

    Args:
        model: Maps normalised images (batch, 3, height, width) to logits (batch, classes).
        loader: Yields images in a fixed order, see `utilities.datasets.make_loader`.
        kinds: Some of `utilities.datasets.perturbations.PERTURBATIONS`.
        seed: Seed of the noise.
        mean: Means subtracted from images in 0..1, one number or three; None is those of ``loader.dataset``.
        std: Deviations that images were divided by, one number or three; None is those of ``loader.dataset``.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts about model and data, for captions.

    Raises:
        ValueError: If a kind is unknown, the model has no classifier, weights or logits are not finite, or the
            normalisation is unknown or evidently not the images' own. See `utilities.datasets.pixels.check_scale`.

    Example:
        >>> from utilities.datasets import load_dataset
        >>> from utilities.datasets.factory import make_loader
        >>> loader = make_loader(load_dataset("digits", n_images=10), 10)
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
        >>> consistency(model, loader, kinds=["tilt"], device="cpu", progress=False).flips.shape
        (10, 1)
    """
    kinds = check_kinds(kinds)
    check_whole("seed", seed, 0)
    check_loader(loader)
    refuse_no_classifier(model)
    scale = normalisation(loader, mean, std)
    flips: list[np.ndarray] = []
    distances: list[np.ndarray] = []
    progress = progress and sharing_processes().rank == 0
    run = {"device": device, "description": "perturbed", "progress": progress}
    with stream(model, loader, sums=(flips, distances), **run) as batches:
        for images, _ in batches:
            pixels, found = to_pixels(images, *scale), []
            for kind in tqdm(kinds, "kinds", delay=2, leave=False, disable=not progress):
                frames = perturb(pixels, kind, seed=seed, first=batches.served.first)
                found.append(compare_frames((model(to_images(one, *scale)) for one in frames), is_noise(kind)))
            _keep(found, flips, distances)
    table = choose_table(*pixels.shape[-2:])
    made = f"made here with the parameters of {'CIFAR-10-P' if table == '32' else 'ImageNet-P'}"
    facts = {"n": sum(map(len, flips)), "seed": seed, "sequences": made, "versions": versions()}
    return Consistency(np.concatenate(flips), np.concatenate(distances), kinds, known_facts(provenance, loader) | facts)


def consistency_on_files(
    model: nn.Module,
    name: str,
    *,
    kinds: Sequence[str] | None = None,
    root: str | Path | None = None,
    n_images: int | None = None,
    batch_size: int = 8,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> Consistency:
    """Measure how often the answer changes along the published sequences.

    Args:
        model: Maps normalised images to logits.
        name: ``cifar10-p`` or ``imagenet-p``.
        kinds: Names of the perturbations; None is the ten of the set.
        root: Folder that holds the sets' folders; None is ``data`` in the project.
        n_images: Number of sequences of each kind, spread evenly over the set; None takes all.
        batch_size: Sequences in a batch.
        mean: Means subtracted from images in 0..1, one number or three; None is those of the clean set.
        std: Deviations that images are divided by, one number or three; None is those of the clean set.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar for each kind.
        provenance: Facts about the model, for captions.

    Raises:
        ValueError: If an option is out of range, a kind comes twice, or kinds differ in their number of sequences.
        FileNotFoundError: If a file is missing, before anything is classified.
        ImportError: If videos are to be read and av is not installed.

    Example:
        >>> consistency_on_files(nn.Flatten(), "cifar10-p", root="no such folder")
        Traceback (most recent call last):
        FileNotFoundError: ...gaussian_noise.npy is missing: fetch CIFAR-10-P.tar ...
    """
    kinds = check_sequences(name, kinds, root)
    given = zip(("mean", "std"), (mean, std), NORMALISATIONS[name], strict=True)
    scale = tuple(per_channel(what, own if value is None else value) for what, value, own in given)
    check_weights(model)
    refuse_no_classifier(model)
    columns = []
    with evaluating(model, device) as target, torch.no_grad():
        for kind in kinds:
            flips: list[np.ndarray] = []
            distances: list[np.ndarray] = []
            batches = read_sequences(name, kind, root=root, n_images=n_images, batch_size=batch_size)
            for videos in tqdm(batches, kind, delay=2, leave=False, disable=not progress):
                frames = (model(to_images(one.to(target), *scale)) for one in videos.unbind(1))
                _keep([compare_frames(frames, is_noise(kind))], flips, distances)
            columns.append((np.concatenate(flips), np.concatenate(distances)))
    counts = {len(flips) for flips, _ in columns}
    if len(counts) > 1:
        raise ValueError(f"kinds of {name} have {' and '.join(map(str, sorted(counts)))} sequences; pass n_images=")
    flips, distances = (np.concatenate(parts, 1) for parts in zip(*columns, strict=True))
    facts = {"dataset": name, **(provenance or {}), "n": len(flips), "sequences": "read from files"}
    return Consistency(flips, distances, kinds, facts | {"versions": versions()})


def _keep(found: Sequence[tuple[torch.Tensor, ...]], flips: list[np.ndarray], distances: list[np.ndarray]) -> None:
    """Append flips and distances of a batch, (images, kinds)."""
    for part, kept in zip(zip(*found, strict=True), (flips, distances), strict=True):
        kept.append(torch.stack(part, 1).cpu().numpy())
