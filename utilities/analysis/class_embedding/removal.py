"""Accuracy while image tokens are removed in the order of their importance.

If a map of importance is right, accuracy stays high while the least important tokens are removed first (negative
curve), and falls at once when the most important ones are (positive curve). See Chefer et al. 2021
(https://arxiv.org/abs/2103.15679) and Vilas et al. 2023 (https://arxiv.org/abs/2310.18969). Tokens are removed from the
sequence after position embeddings are added. The sequence gets shorter, so one curve over all N tokens costs about as
much as N / 2 passes of the intact model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import RandomSampler

from utilities.analysis.class_embedding.importance import Importance, random_maps
from utilities.analysis.class_embedding.masking import deleting, with_prefix
from utilities.analysis.class_embedding.passes import Target, check_labels, check_size, check_target, targets_of
from utilities.analysis.class_embedding.relevance import read_rows
from utilities.analysis.class_embedding.removal_result import RemovalCurves
from utilities.analysis.class_embedding.space import TransformerSpace, transformer_space
from utilities.analysis.stream import stream
from utilities.compare.batches import length
from utilities.hooks.calls.batch_parts import check_loader
from utilities.hooks.calls.labels import hits
from utilities.results.moments import Moments
from utilities.utils import split_batch, versions

Maps = Mapping[str, "np.ndarray | Importance"]


def removal_curves(
    model: nn.Module,
    loader: Iterable[Any],
    maps: Maps,
    *,
    random: int = 10,
    steps: int | None = None,
    target: Target = "label",
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> RemovalCurves:
    """Remove image tokens by importance and at random, and measure how accuracy falls.

    At each point, every image loses the same number of tokens, chosen for that image. Ties are broken at random, by the
    seed. The positive order is the negative one reversed.

    Args:
        model: timm's VisionTransformer.
        loader: Yields (images, labels), for the images of the maps in the same order.
        maps: Name -> importance of the image tokens, (images, tokens), or the result of
            `utilities.analysis.class_embedding.importance.importance`. A larger value is more important; negate ranks
            first, where a smaller one is.
        random: Number of random orders; each order differs between images.
        steps: Number of evenly spaced points of a curve; None measures after each token.
        target: What counts as right: ``"label"``, ``"prediction"`` (the intact model's own) or one class for all.
        seed: Seed of the random orders and of the order of ties.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts to keep with the result.

    Returns:
        The curves. Average pooling needs a token, so its curves end when one is left. With a class token, the last
        point is the class token alone, which is the same for all curves.

    Raises:
        ValueError: If maps belong to other images or another grid, are not finite, or an option is out of range.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> batches = [(torch.rand(4, 3, 16, 16), torch.tensor([1, 2, 3, 1]))]
        >>> maps = {"top left": np.tile(-np.arange(64.0), (4, 1))}
        >>> model = vit_tiny_patch2_16(num_classes=10, depth=1)
        >>> curves = removal_curves(model, batches, maps, random=2, steps=5, device="cpu")
        >>> curves.removed.tolist(), curves.negative.shape, curves.random.shape
        ([0, 16, 32, 48, 64], (1, 5), (2, 5))
    """
    space = transformer_space(model, what="removal")
    check_target(target, space.num_classes)
    removed, tokens = removal_points(space, steps), space.model.patch_embed.num_patches
    _check_maps(space, loader, maps, random, seed)
    draws = [np.random.default_rng([seed, i]) for i in range(random + 1)]
    counts, areas, targets, mean_of_random, n = 0, [], [], Moments(), 0
    options = {"labelled": target == "label", "device": device, "progress": progress}
    with stream(model, loader, description="token removal", **options) as batches:
        for images, labels in batches:
            labels = check_labels(labels, space.num_classes)
            check_size(space, images, own=True)
            rows, n = slice(n, n + len(images)), n + len(images)
            orders = _orders(_values_of(maps, rows, labels), (len(images), tokens), draws)
            asked = targets_of(space, images, labels, target)
            right = _sweep(space, images, asked, orders, removed)
            counts = counts + right.sum(2)
            areas.append(curve_area(right.swapaxes(1, 2), removed / tokens))
            targets.append(asked.cpu().numpy())
            if random:
                mean_of_random.add(right[-random:].mean(0).T)
    _check_number(maps, n)
    parts = np.split(np.arange(2 * len(maps) + random), [len(maps), 2 * len(maps)])
    facts = {"n": n, "target": target, "random": random, "steps": steps, "seed": seed, "versions": versions()}
    return RemovalCurves(
        list(maps),
        removed,
        tokens,
        *(counts[part] / n for part in parts),
        mean_of_random.stderr if random else np.full(len(removed), np.nan),
        *(np.concatenate(areas, 1)[part] for part in parts),
        np.concatenate(targets),
        {**(provenance or {}), **facts},
    )


def removal_points(space: TransformerSpace, steps: int | None = None) -> np.ndarray:
    """List the numbers of removed tokens at which accuracy is measured.

    Args:
        space: Space of the model.
        steps: Number of points; None measures after every token.

    Returns:
        Numbers from 0 to all image tokens, or to all but one if the classifier reads only image tokens.

    Raises:
        ValueError: If there are fewer than two points.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> removal_points(transformer_space(vit_tiny_patch2_16(depth=1)), 5)
        array([ 0, 16, 32, 48, 64])
    """
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 2):
        raise ValueError(f"steps={steps!r} should be a whole number of points, 2 or more, or None for every token")
    some_left = read_rows(space).start < space.prefix
    last = space.model.patch_embed.num_patches - (0 if some_left else 1)
    return np.arange(last + 1) if steps is None else np.unique(np.linspace(0, last, steps).round().astype(int))


def curve_area(values: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    """Integrate curves by the trapezoid rule: (..., points), (points,) -> (...).

    Example:
        >>> float(curve_area(np.array([1.0, 1.0, 0.0]), np.array([0.0, 0.5, 1.0])))
        0.75
    """
    values = np.asarray(values, np.float64)
    return (values[..., 1:] + values[..., :-1]) @ np.diff(fraction) / 2


def removal_orders(values: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Order the tokens of each image from the least important to the most.

    Args:
        values: Importance, (images, tokens).
        ties: Second key, which decides between equal values, (images, tokens).

    Returns:
        Indices of tokens, (images, tokens).

    Example:
        >>> removal_orders(np.array([[1.0, 0.0, 1.0]]), np.array([[1, 2, 0]]))
        array([[1, 2, 0]])
    """
    return np.lexsort((ties, values))


def _orders(values: Sequence[np.ndarray], shape: tuple[int, int], draws: Sequence[np.random.Generator]) -> np.ndarray:
    """Order the tokens of each image by their removal, for each curve: (curves, batch, tokens)."""
    ties = random_maps(draws[0], *shape)
    negative = [removal_orders(one, ties) for one in values]
    positive = [order[:, ::-1] for order in negative]
    return np.stack([*negative, *positive, *(random_maps(rng, *shape).astype(np.int64) for rng in draws[1:])])


def _sweep(
    space: TransformerSpace, images: torch.Tensor, target: torch.Tensor, orders: np.ndarray, removed: np.ndarray
) -> np.ndarray:
    """Tell whether the answer is right for each curve, number of removed tokens and image: (curves, points, batch)."""
    right = np.empty((len(orders), len(removed), len(images)))
    sequences = torch.from_numpy(orders).to(images.device)
    for place, count in enumerate(removed):
        # The order does not matter before the first token is removed, nor after the last one.
        same = count in (0, orders.shape[2])
        for curve, order in enumerate(sequences[:1] if same else sequences):
            with (
                deleting(space, with_prefix(order[:, count:].sort(1).values, space.prefix)) if count else nullcontext()
            ):
                found = hits(space.model(images), target)
            right[slice(None) if same else curve, place] = found.cpu().numpy()
    return right


def _check_maps(space: TransformerSpace, loader: Iterable[Any], maps: Maps, random: int, seed: int) -> None:
    """Refuse bad options and maps as far as possible before any image is read."""
    for name, value in (("random", random), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"{name}={value!r} should be a whole number, 0 or more")
    if not maps and not random:
        raise ValueError("there is neither a map of importance nor a random order")
    if maps and "random" in maps and random:
        raise ValueError("'random' is the name of the random orders; give the map another name, or set random=0")
    tokens, n = space.model.patch_embed.num_patches, _images_in(loader)
    for name, one in maps.items():
        values = _array(one)
        if values.ndim != 2 or values.shape[1] != tokens:
            raise ValueError(
                f"map {name!r} has shape {values.shape}; the model has {tokens} image tokens, and a map should be "
                f"(images, {tokens})"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"map {name!r} holds NaN or infinity, and so no order of the tokens")
    if n is not None:
        _check_number(maps, n)
    sampler = getattr(loader, "sampler", None)
    if maps and (isinstance(sampler, RandomSampler) or getattr(sampler, "shuffle", None) == "every_epoch"):
        raise ValueError(
            "the loader shuffles anew each time it is read, so that maps would meet other images than their own; use "
            "make_loader of utilities.datasets.loaders with shuffle='once' or 'never'"
        )


def _check_number(maps: Maps, n: int) -> None:
    """Refuse maps with more or fewer images than the loader has."""
    for name, one in maps.items():
        if len(_array(one)) != n:
            raise ValueError(
                f"map {name!r} is of {len(_array(one))} images, but the loader has {n}; they should be the same ones"
            )


def _values_of(maps: Maps, rows: slice, labels: torch.Tensor | None) -> list[np.ndarray]:
    """Select the maps of some images, and check by the labels that they belong to these images."""
    values = []
    for name, one in maps.items():
        values.append(_array(one)[rows])
        if len(values[-1]) < rows.stop - rows.start:
            raise ValueError(f"map {name!r} is of {len(_array(one))} images, but the loader has {rows.stop} or more")
        known = getattr(one, "labels", None)
        if known is not None and labels is not None and not np.array_equal(known[rows], labels.cpu().numpy()):
            raise ValueError(
                f"map {name!r} was made of images with other labels than the loader's from image {rows.start} on; the "
                "loader should serve the same images in the same order each time"
            )
    return values


def _images_in(loader: Iterable[Any]) -> int | None:
    """Count a loader's images before it is read; None if that is not possible."""
    check_loader(loader)
    if isinstance(loader, (list, tuple)):
        return sum(len(split_batch(batch)[0]) for batch in loader)
    return None if getattr(loader, "drop_last", False) else length(getattr(loader, "dataset", None))


def _array(one: np.ndarray | Importance) -> np.ndarray:
    return one.maps if isinstance(one, Importance) else np.asarray(one)
