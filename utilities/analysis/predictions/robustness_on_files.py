"""Robustness on images that were corrupted beforehand: any sets, and those of `utilities.datasets.corrupted`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from utilities.analysis.predictions.paired_accuracy import right_in_both
from utilities.analysis.predictions.robustness import Robustness, score_logits
from utilities.analysis.stream import stream
from utilities.datasets.corrupted import CLEAN, load_corrupted, locate
from utilities.datasets.corruptions import CORRUPTIONS, SEVERITIES
from utilities.datasets.corruptions.parameters import check_sets
from utilities.datasets.factory import load_dataset
from utilities.datasets.images import ImageDataset
from utilities.datasets.loaders import Loader, make_loader
from utilities.datasets.naming import known_facts
from utilities.hooks.calls.labels import BatchCheck
from utilities.hooks.calls.merging import Total
from utilities.results.moments import Moments
from utilities.utils import versions


def robustness_on_sets(
    model: nn.Module,
    clean: Iterable[Any],
    load: Callable[[str, int], Iterable[Any]],
    *,
    kinds: Sequence[str] = CORRUPTIONS,
    severities: Sequence[int] = SEVERITIES,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> Robustness:
    """Classify images that were corrupted beforehand, one set after the other.

    Args:
        model: Maps images to logits.
        clean: Loader of the images before corruption.
        load: Called with kind and severity; returns a loader of the same images in the same order. For the published
            sets see `utilities.analysis.predictions.robustness_on_files.robustness_on_files`.
        kinds: Names of the corruptions.
        severities: Severities from 1 to 5.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar for each set.
        provenance: Facts about model and data, for captions.

    Raises:
        ValueError: If an option is out of range, or the labels of a set differ from those of the clean one.

    Example:
        >>> batch = [(torch.eye(3), torch.tensor([0, 1, 0]))]
        >>> one = {"kinds": ["fog"], "severities": [1], "device": "cpu", "progress": False}
        >>> robustness_on_sets(nn.Flatten(), batch, lambda kind, severity: batch, **one).drop()
        (0.0, 0.0)
    """
    kinds, severities = check_sets(kinds, severities)
    sets = [("clean", 0), *((kind, severity) for kind in kinds for severity in severities)]
    rows, expected = [], None
    for kind, severity in sets:
        name = f"{kind} {severity}".removesuffix(" 0")
        labels, *row = _classify(model, load(kind, severity) if severity else clean, name, device, progress)
        expected = labels if expected is None else expected
        if not np.array_equal(labels, expected):
            raise ValueError(f"{name}: {len(labels)} labels are not the {len(expected)} of the clean images in order")
        rows.append(row)
    right, *measures = (np.stack(values) for values in zip(*rows, strict=True))
    facts = {"n": len(expected), "corruptions": "read from files", "versions": versions()}
    facts = known_facts(provenance, clean) | facts
    return Robustness(right_in_both(right), *measures, kinds, severities, len(expected), facts)


def _classify(
    model: nn.Module, loader: Iterable[Any], name: str, device: str | torch.device, progress: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Classify the images of a loader.

    Returns:
        Each image's label and whether it is right, then mean loss, its standard error, and calibration error.
    """
    rights, targets, nll, gaps = [], [], Moments(), Total(0.0)
    check = BatchCheck(loader if name == "clean" else [], model)
    run = {"device": device, "description": name, "labelled": True, "progress": progress}
    with stream(model, loader, sums=(rights, targets, nll, gaps, check), **run) as batches:
        for images, labels in batches:
            logits = model(images)
            labels = check(logits, labels)
            right, losses, new = score_logits(logits, labels)
            nll.add(losses)
            gaps.add(new)
            rights.append(right)
            targets.append(labels.cpu().numpy())
    if name == "clean":
        check.finish()
    return np.concatenate(targets), np.concatenate(rights), nll.mean, nll.stderr, np.abs(gaps.value).sum() / nll.n


def robustness_on_files(
    model: nn.Module,
    name: str,
    *,
    clean: ImageDataset | None = None,
    kinds: Sequence[str] = CORRUPTIONS,
    severities: Sequence[int] = SEVERITIES,
    root: str | Path | None = None,
    n_images: int | None = None,
    seed: int = 0,
    batch_size: int = 256,
    workers: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
    **options: Any,
) -> Robustness:
    """Classify a published corrupted set and the clean test images it was made from.

    Args:
        model: Maps images to logits.
        name: ``cifar10-c``, ``cifar100-c`` or ``imagenet-c``.
        clean: The clean images in the same order; None loads the test set.
        kinds: Names of the corruptions.
        severities: Severities from 1 to 5.
        root: Folder that holds the sets' folders; None is ``data`` in the project.
        n_images: Number of images to keep from each set, the same ones in all; None keeps all.
        seed: Seed of that choice.
        batch_size: Images in a batch.
        workers: Number of processes that read images. They pay off for ImageNet-C.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar for each set.
        provenance: Facts about the model, for captions.
        **options: ``image_size``, ``mean`` and ``std`` of `load_corrupted`.

    Raises:
        ValueError: If an option is out of range, or a set does not fit the clean one.
        FileNotFoundError: If a file is missing, before anything is classified.

    Example:
        >>> robustness_on_files(nn.Flatten(), "cifar10-c", root="no such folder")
        Traceback (most recent call last):
        FileNotFoundError: ...gaussian_noise.npy is missing: fetch CIFAR-10-C.tar ...
    """
    kinds, severities = check_sets(kinds, severities)
    for kind in kinds:
        for severity in severities:
            locate(name, kind, severity, root)
    choice = {"root": root, "n_images": n_images, "seed": seed, **options}
    load_corrupted(name, kinds[0], severities[0], **choice)  # fails on bad arguments before the long work
    clean = load_dataset(CLEAN[name], "test", **choice) if clean is None else clean

    def loader_of(data: ImageDataset) -> Loader:
        return make_loader(data, batch_size, shuffle="never", workers=workers)

    facts = {"dataset": f"{name} and {clean.name} (test)", "seed": seed, **(provenance or {})}
    sets = {"kinds": kinds, "severities": severities}
    run = {"device": device, "progress": progress, "provenance": facts}
    return robustness_on_sets(
        model, loader_of(clean), lambda *which: loader_of(load_corrupted(name, *which, **choice)), **sets, **run
    )
