"""Compare the representations of two models, layer by layer, in one pass of each over the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utilities.compare.batch_loop import run_batches
from utilities.compare.common_weights import common_facts
from utilities.compare.engine import Comparison
from utilities.compare.features.sides import facts_of_kept, opened, with_rows
from utilities.compare.options import TOLERANCE, ComparisonOptions
from utilities.compare.paired_batches import PairedBatches
from utilities.compare.summary import mean_of, to_similarity
from utilities.datasets.naming import known_facts
from utilities.hooks.calls.memory import keeping_freed_memory
from utilities.hooks.recorder import BatchAxis, Forward, Layers, select_layers
from utilities.hooks.views import View
from utilities.metrics import Estimator, Kernel
from utilities.results.similarity import Similarity
from utilities.utils import evaluating


def compare(
    model1: nn.Module | str | Path | Sequence[nn.Module],
    model2: nn.Module | str | Path | Sequence[nn.Module],
    loader: Iterable[Any] | None = None,
    loader2: Iterable[Any] | None = None,
    *,
    layers1: Layers | None = None,
    layers2: Layers | None = None,
    measure: str = "cka",
    kernel: Kernel = "linear",
    estimator: Estimator = "debiased",
    bandwidth: float = 1.0,
    sigma: float | None = None,
    view: View = "flatten",
    view2: View | None = None,
    forward: Forward | None = None,
    forward2: Forward | None = None,
    batch_axis: BatchAxis | None = None,
    strict: bool | None = None,
    precision: str = "auto",
    tolerance: float = TOLERANCE,
    repeats: int = 1,
    permutations: int = 0,
    confounder: str | Callable[[torch.Tensor], torch.Tensor] | None = None,
    remove_top_pc: int = 0,
    per_batch: bool = False,
    seed: int = 0,
    device: str | torch.device = "auto",
    sharded: bool = False,
    resume: str | Path | None = None,
    provenance: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Similarity:
    """Compute the similarity of all pairs of layers of two models over all images of a loader.

    Each model runs once over the data (once in all if both are the same object). It is left as it was, except for what
    its own forward pass stores in it. Memory does not grow with the number of images, unless ``per_batch`` asks for a
    matrix of each batch.

    Args:
        model1: Model of the rows; a module, or several of one architecture (from several seeds). A folder that
            `utilities.compare.save_features` wrote stands for a model, and gives what the model would have given.
        model2: Model of the columns; may be ``model1``. Several models are compared pair by pair, the first of one side
            with the first of the other, and the result is the mean over the pairs.
        loader: Loader of batches that `utilities.utils.split_batch` understands. Batches should be random draws (a
            loader sorted by class yields another number) of the same size, 64 or more where memory allows. Two folders
            of kept features need none: their own batches are taken. With one, its rows follow the loader's images.
        loader2: Data for ``model2``, paired image by image with ``loader``; by default the same batches. Pairs are
            cut to the shorter loader. Unrelated images have a similarity of 0.
        layers1: Layers of ``model1``, see `utilities.hooks.select_layers`. The default is every layer that runs, has a
            row for each image, changes something (dropout does not here) and contains no other such layer. A warning
            names other layers that are left out; a layer that you name and that cannot be compared is an error.
            Exclusions alone, such as ``"!*.attn.*"``, are applied to the default.
        layers2: Layers of ``model2``; default: ``layers1`` if both models are one object, else as for ``layers1``.
        measure: ``"cka"`` or a name in `utilities.compare.measures.SIMILARITY_MEASURES`, computed within each batch and
            averaged.
        kernel: ``"linear"`` or ``"rbf"``, see `utilities.metrics.gram`.
        estimator: ``"debiased"``, or ``"biased"``, which depends on the size of the batch. Batches are weighted by
            the divisor of their HSIC, n(n-3) or (n-1)²: each pair of images counts the same.
        bandwidth: For ``"rbf"``: σ as a fraction of the median distance in each batch.
        sigma: For ``"rbf"``: σ itself.
        view: Which part of a layer's output represents an image: ``"flatten"``, ``"gap"``, ``"cls"``, ``"spatial"``,
            ``"token:i"``, perhaps with the axes as in ``"gap:NCL"``, or a function, see
            `utilities.hooks.views.make_view`.
        view2: The same for ``model2``; default: ``view``.
        forward: How to run the models where that is not ``model(images)``: a method's name
            (``"forward_features"``, ``"encode_image"``), or a function ``(model, batch)`` of the loader's whole batch,
            for models with several inputs: ``lambda model, batch: model(**batch)``.
        forward2: The same for ``model2``; default: ``forward``.
        batch_axis: Dimension of a layer's output that counts images, for all layers or by name, ``{"encoder.*": 1}``;
            by default it is found out, see `utilities.hooks.placement`.
        strict: Whether a layer that does not run, or has no row for each image, is an error or left out with a warning;
            by default it is an error where you name the layers.
        precision: ``"exact"``, ``"fast"``, ``"centred"`` or ``"half"``, see
            `utilities.hooks.precision.choose_precision`; or ``"auto"``: the similarity of the first 32 images is
            computed exactly and in ``half``; where that is too far off, in ``centred``, then in ``fast``. The first
            whose largest difference is under ``tolerance`` is taken for all images, else ``exact``. Fewer images than
            `utilities.compare.measured_precision.FEWEST` are not worth a look, and are compared exactly.
            ``provenance["auto_precision"]`` and `Similarity.report` tell the differences.
        tolerance: Largest difference from the exact similarity that ``"auto"`` accepts; 0 is always exact.
        repeats: Number of passes over the data, each shuffled anew; the result is their mean, with the passes as
            ``replicates``.
        permutations: Number of orders of the images of one side from which to compute a null distribution; 100 is
            usual, and costs little beside the forward passes.
        confounder: ``"input"`` or a function from a batch of images to features; what they explain of each layer is
            regressed out (Cui et al. 2022, https://arxiv.org/abs/2202.00095).
        remove_top_pc: Number of leading principal components of each layer to take out, within each batch.
        per_batch: Whether to keep the value within each batch as well.
        seed: Seed of shuffles and permutations.
        device: Device to run on, see `utilities.utils.resolve_device`.
        sharded: Whether each process of an initialised ``torch.distributed`` group takes its share of the batches;
            all of them get the whole result.
        resume: Path, without its ending, where unfinished sums are saved every minute. A call with the same arguments
            continues from there; the files are deleted at the end.
        provenance: Facts to keep with the result; facts that are known here are added.
        progress: Whether to show a progress bar once the work takes more than two seconds.

    Returns:
        The similarity of ``layers1`` x ``layers2``; a layer without variance is NaN, with a warning that names it.
        ``stderr`` comes from a jackknife over batches, as a mean over ``repeats``. For several models, it is the
        standard error over pairs.

    Raises:
        ValueError: Before the long work: for an unknown layer or option, a layer that does not run or has no row for
            each image, a measure that is meaningless for a layer, a loader without any large enough batch, or kept
            features of other images. As soon as it occurs: for features that are not finite.
        TypeError: If a model is no torch module, or there is no loader for it.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> result = compare(model, model, [torch.randn(64, 8) for _ in range(4)])
        >>> result.layers1, result.n, result.matrix.diagonal().round(6)
        (['0', '1', '2'], 256, array([1., 1., 1.]))
    """
    options = ComparisonOptions(
        measure, kernel, estimator, bandwidth, sigma, view, view if view2 is None else view2, precision, confounder,
        remove_top_pc, permutations, per_batch, seed, forward, forward if forward2 is None else forward2, batch_axis,
        tolerance,
    )  # fmt: skip
    if repeats < 1:
        raise ValueError(f"repeats should be 1 or more, not {repeats}")
    pairs = _pairs(*opened(model1, model2))
    loader, loader2 = with_rows(pairs, loader, loader2, options)
    provenance = facts_of_kept(pairs) | known_facts(provenance, loader, loader2)
    for side, layers in zip(zip(*pairs, strict=True), (layers1, layers2), strict=True):
        _refuse_other_layers(side, layers)
    batches = PairedBatches(loader, loader2, min_images=options.min_images, whole=options.whole_batches)
    orders = [batches] if repeats == 1 else [batches.reshuffled(seed + k) for k in range(repeats)]
    passes = list(product(pairs, orders))
    results, unfinished, decisions = [], [], {}
    for number, ((one, two), order) in enumerate(passes):
        path = f"{resume}.{number}" if resume is not None and len(passes) > 1 else resume
        with keeping_freed_memory(), evaluating(one, device) as device1, evaluating(two, device) as device2:
            devices = (device1, device2)
            comparison = Comparison(one, two, layers1, layers2, options, devices, order.two_loaders, strict)
            comparison.sums.decision = decisions.get((one, two))  # one for all passes over the data
            unfinished.append(run_batches(comparison, order, sharded, path, progress))
        decisions[one, two] = comparison.sums.decision
        results.append(to_similarity(comparison, common_facts(one, two) | provenance))
    for files in unfinished:
        if files is not None and files.number == 0:
            files.remove()
    if repeats > 1:
        results = [mean_of(results[k : k + repeats], "repeats") for k in range(0, len(results), repeats)]
    return results[0] if len(pairs) == 1 else mean_of(results, "models")


def _pairs(model1: Any, model2: Any) -> list[tuple[nn.Module, nn.Module]]:
    sides = [[m] if isinstance(m, nn.Module) else m for m in (model1, model2)]
    for side in sides:
        wrong = [m for m in side if not isinstance(m, nn.Module)] if isinstance(side, (list, tuple)) else [side]
        if wrong or not side:
            raise TypeError(
                f"a model should be a torch module, not {wrong[0] if wrong else side!r}; utilities.zoo.create_model "
                "makes one"
            )
    if len(sides[0]) != len(sides[1]):
        raise ValueError(f"several models are compared pair by pair, but there are {len(sides[0])} and {len(sides[1])}")
    return list(zip(*sides, strict=True))


def _refuse_other_layers(models: Sequence[nn.Module], layers: Layers | None) -> None:
    names = [select_layers(model, "*" if layers is None else layers) for model in models]
    for number, other in enumerate(names):
        if other != names[0]:
            raise ValueError(f"models of one side should have the same layers, but number {number} and 0 differ")
