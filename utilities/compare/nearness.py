"""Is a model more like one model than like another? The difference of two similarities, with its uncertainty.

The two similarities share a model and the images, so their errors go together, and an interval of the difference has to
come from resampling both at once. Many layers give many differences, and some are large by chance: the largest is put
beside what the largest of as many would be if none was real.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import nn

from utilities.compare.common_weights import common_weights
from utilities.compare.gram_differences import difference_of_grams
from utilities.compare.matched_layers import Match, compared_layers, refuse_unpaired
from utilities.compare.three_sides import Side, grams_of_sides, side_of
from utilities.datasets.naming import known_facts
from utilities.hooks.calls.options import check_whole
from utilities.hooks.recorder import BatchAxis, Layers
from utilities.hooks.views import View
from utilities.metrics import Kernel
from utilities.results.similarity_difference import SimilarityDifference
from utilities.utils import resolve_device, versions

Models = nn.Module | Sequence[nn.Module]
LEAST_RESAMPLES = 100


def compare_similarities(
    model: Models,
    first: Models,
    second: Models,
    loader: Iterable[Any],
    loader1: Iterable[Any] | None = None,
    loader2: Iterable[Any] | None = None,
    *,
    layers: Layers | None = None,
    layers1: Layers | None = None,
    layers2: Layers | None = None,
    match: Match = "depth",
    kernel: Kernel = "linear",
    bandwidth: float = 1.0,
    sigma: float | None = None,
    view: View = "flatten",
    view1: View | None = None,
    view2: View | None = None,
    batch_axis: BatchAxis | None = None,
    precision: str = "exact",
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    device: str | torch.device = "auto",
    provenance: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> SimilarityDifference:
    """Tell whether a model is more like one model than like another, layer by layer and as a whole.

    Each layer is compared with one of the first other model and one of the second, by debiased CKA as in
    `utilities.compare.compare`. Images are resampled together for both similarities, within batches, and pairs of an
    image with its own copy count nowhere (see `utilities.compare.resampled_grams`). The standard error is the
    bootstrap's, corrected by the jackknife (see `utilities.results.resampling.corrected_variance`); intervals and
    p-values are those of t. The p-value among all layers and the band are those of the largest difference in the
    centred bootstrap (see `utilities.results.resampling.largest_of`).

    Where a side has models of several seeds, its similarity is the mean over pairs of models. Seeds are then resampled
    together with the images (see `utilities.results.resampling.dual_variance`), and the finding is about models
    trained in this way; with one model it is about that model.

    The Gram matrices of all layers are kept: each takes 8 bytes times the number of images times the size of a batch.
    Each pair of layers, and each layer, takes two products of (resamples x batch) by (batch x batch) for each batch,
    and some 55 bytes for each resample and each image. With ``match="all"``, a layers of the model and b of each other
    one make 2ab pairs.

    Args:
        model: The shared model, or several of one architecture, from several seeds.
        first: The model, or models, that it may be nearer to.
        second: The model, or models, to set against.
        loader: Images of ``model``, see `utilities.compare.compare`. Batches need 20 images or more.
        loader1: Images of ``first``, paired with these; default: the same batches.
        loader2: Images of ``second``, the same.
        layers: Layers of ``model``, see `utilities.hooks.select_layers`; default:
            `utilities.zoo.comparison_layers`.
        layers1: Layers of ``first``.
        layers2: Layers of ``second``.
        match: Which layer of another model a layer is compared with: ``"depth"``, the one at the same relative depth,
            or ``"best"``, the most similar one; for its errors see `utilities.compare.compared_grams`. The best of more
            layers is higher by chance alone, and each takes time, so depth is the default. ``"all"`` takes the
            difference of whole matrices, cell by cell: the k-th layer of ``first`` stands against the k-th of
            ``second``, so both need equally many, such as two trainings of one architecture have.
        kernel: See `utilities.compare.compare`; of ``"rbf"``, the width stays that of all images.
        bandwidth: See `utilities.compare.compare`.
        sigma: See `utilities.compare.compare`.
        view: See `utilities.compare.compare`.
        view1: The same for ``first``; default: ``view``.
        view2: The same for ``second``; default: ``view``.
        batch_axis: See `utilities.compare.compare`.
        precision: ``"exact"``, ``"fast"``, ``"centred"`` or ``"half"``, see `utilities.compare.compare`.
        resamples: Number of resamples, 100 or more.
        confidence: Level of intervals and of the band.
        seed: Seed of the resamples.
        device: See `utilities.compare.compare`.
        provenance: Facts to keep with the result; ``model1`` is the shared one, ``model2`` and ``model3`` the others.
        progress: Whether to show progress bars once the work takes more than two seconds.

    Returns:
        The differences; with ``match="all"`` a `utilities.results.matrix_difference.MatrixDifference`. A layer without
        variance, or matched with one, is NaN, with a warning that names it.

    Raises:
        ValueError: As in `utilities.compare.compare`, for an option out of range, or if with ``match="all"`` the other
            models have different numbers of layers.
        TypeError: If a model is no torch module.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model, other = (nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)) for _ in range(2))
        >>> images = list(torch.randn(2, 60, 8))
        >>> result = compare_similarities(model, model, other, images, resamples=200, device="cpu")
        >>> result.similarity1.round(6), bool((result.difference > 0).all()), result.nearer
        (array([1., 1., 1.]), True, 1)
        >>> whole = compare_similarities(model, model, other, images, match="all", resamples=200, device="cpu")
        >>> whole.difference.shape, bool((whole.difference.diagonal() == result.difference).all())
        ((3, 3), True)
    """
    _check(resamples, confidence, precision, seed)
    given = ((model, layers, loader, view, "model"), (first, layers1, loader1, view1, "first"),
             (second, layers2, loader2, view2, "second"))  # fmt: skip
    sides = [side_of(m, names, images, view if v is None else v, what) for m, names, images, v, what in given]
    _check_sides(sides, match)
    _warn_of_common_weights(sides)
    options = {
        "kernel": kernel,
        "bandwidth": bandwidth,
        "sigma": sigma,
        "batch_axis": batch_axis,
        "precision": precision,
    }
    grams, seen = grams_of_sides(sides, options, device, progress)
    own = resolve_device(device)
    grams = {key: [K.to("cpu" if own.type == "mps" else own) for K in several] for key, several in grams.items()}
    facts = {f"model{k}": type(side.models[0]).__name__ for k, side in enumerate(sides, 1)}
    facts |= known_facts(provenance, loader, loader1, loader2)
    facts |= seen.options.facts(seen.sums.largest) | {"precision": seen.precisions[0].facts(), "versions": versions()}
    return difference_of_grams(
        grams, match=match, resamples=resamples, confidence=confidence, seed=seed, provenance=facts, progress=progress
    )


def _check(resamples: int, confidence: float, precision: str, seed: int) -> None:
    check_whole("resamples", resamples, LEAST_RESAMPLES)
    check_whole("seed", seed, 0)
    if not isinstance(confidence, Real) or not 0 < confidence < 1:
        raise ValueError(f"confidence should be between 0 and 1, such as 0.95, not {confidence!r}")
    if precision == "auto":
        raise ValueError("precision='auto' looks at similarities; choose 'exact', 'fast', 'centred' or 'half' here")


def _check_sides(sides: list[Side], match: Match) -> None:
    """Refuse, before the models run, layers that do not pair, and a model that would be drawn on two sides at once."""
    names = [side.names for side in sides]
    compared_layers(names[0], names[1], match)
    if match == "all":
        refuse_unpaired(*names[1:])
    owners = [{id(model) for model in side.models} for side in sides]
    if max(map(len, owners)) > 1 and len(set().union(*owners)) < sum(map(len, owners)):
        raise ValueError(
            "a model is on two sides, but each side's seeds are resampled by themselves: where there are several, give "
            "each side models of its own"
        )


def _warn_of_common_weights(sides: list[Side]) -> None:
    """Warn of models that began from the same weights as the shared one: they are alike whatever they have learnt."""
    for side, what in zip(sides[1:], ("first", "second"), strict=True):
        pairs = ((one, two) for one in sides[0].models for two in side.models if one is not two)
        names = next((names for names in (common_weights(*pair) for pair in pairs) if names), [])
        if names:
            more = f" and {len(names) - 1} more are" if len(names) > 1 else " is"
            warnings.warn(
                f"model and {what} have weights in common ({names[0]}{more} nearly equal), as models that begin from "
                "one seed do. That makes them alike, whatever they have learnt: give each model a seed of its own "
                "(--model-seeds)",
                stacklevel=3,
            )
