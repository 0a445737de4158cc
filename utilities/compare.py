"""Compare the representations of two models, layer by layer, in one pass of each over the data.

The minibatch estimator of Nguyen, Raghu & Kornblith, ICLR 2021, https://arxiv.org/abs/2010.15327: HSIC is summed
over batches and divided at the end, a ratio of sums. With the debiased HSIC it estimates the same number at any
size of batch, provided that the batches are random draws: shuffle the data once, with a seed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from utilities.hooks import Layers, Recorder, select_layers
from utilities.metrics import (
    MIN_IMAGES,
    Estimator,
    Kernel,
    center,
    centered_gram,
    check_choices,
    rbf_from_gram,
)
from utilities.results import Result
from utilities.utils import evaluating, split_batch, versions

# A prime: a dimension that is not the batch (tokens, time) is no multiple of it, and so is not taken for images.
PROBE_IMAGES = 7


@dataclass(frozen=True)
class Similarity(Result):
    """Similarity of every layer of one model to every layer of another.

    Attributes:
        matrix: (layers1, layers2), float64; NaN where a layer has no variance. Debiased values may lie slightly
            below 0: they are not clamped.
        layers1: Names of the rows, in the order of execution.
        layers2: Names of the columns, in the order of execution.
        n: Number of images compared.
        stderr: Standard error of each entry, or None where there is nothing to estimate it from.
        replicates: (k, layers1, layers2), the matrices that ``matrix`` is the mean of, or None.
        provenance: What it was made from: models, weights, accuracy, data set, estimator, seed, versions.

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
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (len(self.layers1), len(self.layers2))
        if self.matrix.shape != shape:
            raise ValueError(f"matrix is {self.matrix.shape}, but there are {shape[0]} and {shape[1]} layer names")

    def to_frame(self) -> pd.DataFrame:
        """Give the matrix as a table with the layers' names on both axes."""
        return pd.DataFrame(self.matrix, index=self.layers1, columns=self.layers2)


def average(results: Sequence[Similarity]) -> Similarity:
    """Average comparisons of the same layers, of models from several seeds, say.

    Args:
        results: Two or more, with equal layers.

    Returns:
        The mean, with ``replicates`` and the standard error over them: standard deviation (n-1) over √k. A pair
        of layers missing in one of them is missing in the mean.

    Raises:
        ValueError: If there are fewer than two, or their layers differ.

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
    stack = np.stack([r.matrix for r in results])
    return Similarity(
        matrix=stack.mean(0),
        layers1=first.layers1,
        layers2=first.layers2,
        n=first.n,
        stderr=stack.std(0, ddof=1) / len(stack) ** 0.5,
        replicates=stack,
        provenance=first.provenance | {"replicates": len(stack)},
    )


def compare(
    model1: nn.Module,
    model2: nn.Module,
    loader: Iterable[Any],
    loader2: Iterable[Any] | None = None,
    *,
    layers1: Layers | None = None,
    layers2: Layers | None = None,
    kernel: Kernel = "linear",
    estimator: Estimator = "debiased",
    bandwidth: float = 1.0,
    sigma: float | None = None,
    device: str | torch.device = "auto",
    provenance: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Similarity:
    """Compute the CKA of all pairs of layers of two models over all images of a loader.

    Each model runs once over the data (once in all if both are the same object), and is left as it was found.

    Args:
        model1: Gives the rows.
        model2: Gives the columns; may be ``model1``.
        loader: Yields batches that `utilities.utils.split_batch` understands. Batches should be random draws (a
            loader sorted by class gives another number) of the same size, 64 or more where memory allows.
        loader2: Data for ``model2``, paired image by image with ``loader``; by default the same batches.
        layers1: Layers of ``model1``, see `utilities.hooks.select_layers`; default: every layer without
            children that runs.
        layers2: Layers of ``model2``; default: ``layers1`` if both models are one object, else as for ``layers1``.
        kernel: ``"linear"`` or ``"rbf"``, see `utilities.metrics.gram`.
        estimator: ``"debiased"``, or ``"biased"``, which depends on the size of the batch. Batches are weighted by
            the divisor of their HSIC, n(n-3) or (n-1)²: each pair of images counts the same.
        bandwidth: For ``"rbf"``: σ as a fraction of the median distance in each batch.
        sigma: For ``"rbf"``: σ itself.
        device: Where to run, see `utilities.utils.resolve_device`.
        provenance: Facts to keep with the result; what is known here is added.
        progress: Show a progress bar once it takes more than two seconds.

    Returns:
        The similarity of ``layers1`` x ``layers2``; a layer without variance is NaN, with a warning that names it.

    Raises:
        ValueError: Before the long work: for an unknown layer, kernel or estimator, a layer that does not run or
            has no row for each image, a loader without any batch that is large enough. As soon as it occurs: for
            features that are not finite.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> result = compare(model, model, [torch.randn(64, 8) for _ in range(4)])
        >>> result.layers1, result.n, result.matrix.diagonal().round(6)
        (['0', '1', '2'], 256, array([1., 1., 1.]))
    """
    check_choices(kernel, estimator, bandwidth, sigma)
    for model in (model1, model2):
        if not isinstance(model, nn.Module):
            raise TypeError(f"a model should be a torch module, not {model!r}; utilities.zoo.create_model makes one")
    one_pass = model1 is model2 and loader2 is None
    layers2 = layers1 if layers2 is None and model1 is model2 else layers2
    strict1, strict2 = layers1 is not None, layers2 is not None
    layers1 = select_layers(model1, layers1 if strict1 else is_leaf)
    layers2 = select_layers(model2, layers2 if strict2 else is_leaf)
    _check_loaders(loader, loader2, estimator)

    def to_gram(value: torch.Tensor) -> torch.Tensor:
        value = value.flatten(1)
        gram = centered_gram(value if value.dtype == torch.float64 else value.float())
        gram = (gram.cpu() if gram.device.type == "mps" else gram).double()  # mps has no float64
        return gram if kernel == "linear" else rbf_from_gram(gram, bandwidth=bandwidth, sigma=sigma)

    union = {*layers1, *layers2} if one_pass else layers1
    recorder1 = Recorder(model1, union, transform=to_gram, strict=strict1 and (strict2 or not one_pass))
    recorder2 = recorder1 if one_pass else Recorder(model2, layers2, transform=to_gram, strict=strict2)
    sums = _Sums(estimator, layers1 if one_pass else None, layers2 if one_pass else None)
    with ExitStack() as stack:
        devices = [stack.enter_context(evaluating(model, device)) for model in (model1, model2)]
        batches = _large_batches(loader, loader2, estimator)
        for images1, images2 in tqdm(batches, total=_length(loader), desc="comparing", delay=2, disable=not progress):
            if sums.n == 0:
                _run(recorder1, images1[:PROBE_IMAGES].to(devices[0]))
                if not one_pass:
                    _run(recorder2, images2[:PROBE_IMAGES].to(devices[1]))
            grams1 = _run(recorder1, images1.to(devices[0]))
            grams2 = grams1 if one_pass else _run(recorder2, images2.to(devices[1]))
            sums.add(grams1, grams2)
    return sums.result(
        {
            **({"model": type(model1).__name__} if model1 is model2 else _names(model1, model2)),
            **(provenance or {}),
            "measure": f"{kernel} CKA",
            "estimator": estimator,
            **({"bandwidth": bandwidth, "sigma": sigma} if kernel == "rbf" else {}),
            "batch_size": sums.largest,
            "versions": versions(),
        }
    )


def _names(model1: nn.Module, model2: nn.Module) -> dict[str, str]:
    return {"model1": type(model1).__name__, "model2": type(model2).__name__}


def is_leaf(name: str, module: nn.Module) -> bool:
    """Tell whether a module holds no other: the layers that `compare` takes when none are named.

    Example:
        >>> is_leaf("fc", nn.Linear(1, 1)), is_leaf("body", nn.Sequential(nn.ReLU()))
        (True, False)
    """
    return next(module.children(), None) is None


class _Sums:
    """HSIC of all pairs of layers, summed over batches in float64."""

    def __init__(self, estimator: Estimator, layers1: list[str] | None, layers2: list[str] | None) -> None:
        self.estimator: Estimator = estimator
        self.wanted = (layers1, layers2)
        self.n = self.largest = 0
        self.names: tuple[list[str], list[str]] | None = None
        self.cross: Any = 0.0
        self.own: list[Any] = [0.0, 0.0]

    def add(self, grams1: dict[str, torch.Tensor], grams2: dict[str, torch.Tensor]) -> None:
        pairs = zip((grams1, grams2), self.wanted, strict=True)
        chosen = [_choose(grams, wanted) for grams, wanted in pairs]
        names = (list(chosen[0]), list(chosen[1]))
        if self.names not in (None, names):
            raise ValueError("the model ran other layers, or in another order, than on the batch before")
        self.names = names
        rows, columns = (center(torch.stack(list(c.values())), self.estimator).flatten(1) for c in chosen)
        _refuse_non_finite(names, (rows, columns))
        size = len(next(iter(grams1.values())))
        self.cross = self.cross + (rows @ columns.T.to(rows.device)).cpu()
        self.own = [own + stack.square().sum(1).cpu() for own, stack in zip(self.own, (rows, columns), strict=True)]
        self.n, self.largest = self.n + size, max(self.largest, size)

    def result(self, provenance: dict[str, Any]) -> Similarity:
        assert self.names is not None  # a loader without a batch was refused
        flat = [
            name
            for names, own in zip(self.names, self.own, strict=True)
            for name, square in zip(names, own.tolist(), strict=True)
            if square <= 0
        ]
        if flat:
            missing = ", ".join(dict.fromkeys(flat))
            warnings.warn(f"layers without variance over the images, shown as missing: {missing}", stacklevel=3)
        scale = (self.own[0][:, None] * self.own[1][None, :]).sqrt()
        matrix = torch.where(scale > 0, self.cross / scale, float("nan")).numpy()
        return Similarity(matrix, *self.names, n=self.n, provenance=provenance)


def _choose(grams: dict[str, torch.Tensor], wanted: list[str] | None) -> dict[str, torch.Tensor]:
    if wanted is None:
        return grams
    return {name: gram for name, gram in grams.items() if name.partition("#")[0] in wanted}


def _run(recorder: Recorder, images: torch.Tensor) -> dict[str, torch.Tensor]:
    with recorder:
        recorder.model(images)
    return recorder.activations


def _refuse_non_finite(names: Sequence[list[str]], stacks: Sequence[torch.Tensor]) -> None:
    for layers, stack in zip(names, stacks, strict=True):
        bad = [name for name, finite in zip(layers, stack.isfinite().all(1).tolist(), strict=True) if not finite]
        if bad:
            raise ValueError(
                f"layer {bad[0]!r} gives NaN or infinite features, as do {len(bad) - 1} more; an untrained "
                "model with fresh batch-norm statistics overflows: first call utilities.trainer.estimate_batch_norm"
            )


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None


def _check_loaders(loader: Iterable[Any], loader2: Iterable[Any] | None, estimator: Estimator) -> None:
    needed = f"the {estimator} estimator needs {MIN_IMAGES[estimator]} or more"
    for one in (loader, loader2):
        size, images = getattr(one, "batch_size", None), _length(getattr(one, "dataset", None))
        if size is not None and size < MIN_IMAGES[estimator]:
            raise ValueError(f"the loader's batches hold {size} images; {needed}")
        if images is not None and images < MIN_IMAGES[estimator]:
            raise ValueError(f"the loader has {images} images; {needed}")
    lengths = _length(loader), _length(loader2)
    if None not in lengths and lengths[0] != lengths[1]:
        warnings.warn(
            f"the loaders have {lengths[0]} and {lengths[1]} batches: pairs are cut to the shorter", stacklevel=3
        )


def _large_batches(
    loader: Iterable[Any], loader2: Iterable[Any] | None, estimator: Estimator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield paired images, leaving out batches that are too small for the estimator, with a warning."""
    needed, left_out, used = MIN_IMAGES[estimator], 0, 0
    pairs: Iterable[tuple[Any, Any]] = (
        ((b, b) for b in loader) if loader2 is None else zip(loader, loader2, strict=False)
    )
    for batch1, batch2 in pairs:
        images1, images2 = split_batch(batch1)[0], split_batch(batch2)[0]
        if len(images1) != len(images2):
            raise ValueError(f"paired batches differ in size: {len(images1)} and {len(images2)} images")
        if len(images1) < needed:
            left_out += len(images1)
            continue
        used += 1
        yield images1, images2
    if not used:
        raise ValueError(f"the loader has no batch of {needed} images or more, as the {estimator} estimator needs")
    if left_out:
        warnings.warn(
            f"{left_out} images left out: they came in a batch of fewer than {needed}, too few for the "
            f"{estimator} estimator",
            stacklevel=4,
        )
