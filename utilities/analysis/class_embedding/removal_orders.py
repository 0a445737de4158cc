"""The orders in which image tokens are removed: by maps of importance, which are checked, and at random."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import RandomSampler

from utilities.analysis.class_embedding.importance import Importance, random_maps
from utilities.analysis.class_embedding.relevance import read_rows
from utilities.analysis.class_embedding.transformer_space import TransformerSpace
from utilities.hooks.calls.batch_parts import check_loader, known_length
from utilities.utils import split_batch

Maps = Mapping[str, "np.ndarray | Importance"]


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
        >>> from utilities.analysis.class_embedding.spaces import transformer_space
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> removal_points(transformer_space(vit_tiny_patch2_16(depth=1)), 5)
        array([ 0, 16, 32, 48, 64])
    """
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 2):
        raise ValueError(f"steps={steps!r} should be a whole number of points, 2 or more, or None for every token")
    some_left = read_rows(space).start < space.prefix
    last = space.image_tokens - (0 if some_left else 1)
    return np.arange(last + 1) if steps is None else np.unique(np.linspace(0, last, steps).round().astype(int))


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


def orders_of_curves(
    values: Sequence[np.ndarray], shape: tuple[int, int], draws: Sequence[np.random.Generator]
) -> np.ndarray:
    """Order the tokens of each image by their removal, for each curve: (curves, batch, tokens)."""
    ties = random_maps(draws[0], *shape)
    negative = [removal_orders(one, ties) for one in values]
    positive = [order[:, ::-1] for order in negative]
    return np.stack([*negative, *positive, *(random_maps(rng, *shape).astype(np.int64) for rng in draws[1:])])


def skip_orders(draws: Sequence[np.random.Generator], images: int, tokens: int) -> None:
    """Draw what `orders_of_curves` draws for images that another process sees."""
    for rng in draws:
        random_maps(rng, images, tokens)


def check_maps(space: TransformerSpace, loader: Iterable[Any], maps: Maps, random: int, seed: int) -> None:
    """Refuse bad options and maps as far as possible before any image is read."""
    for name, value in (("random", random), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"{name}={value!r} should be a whole number, 0 or more")
    if not maps and not random:
        raise ValueError("there is neither a map of importance nor a random order")
    if maps and "random" in maps and random:
        raise ValueError("'random' is the name of the random orders; give the map another name, or set random=0")
    tokens, n = space.image_tokens, _images_in(loader)
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
        check_number(maps, n)
    sampler = getattr(loader, "sampler", None)
    if maps and (isinstance(sampler, RandomSampler) or getattr(sampler, "shuffle", None) == "every_epoch"):
        raise ValueError(
            "the loader shuffles anew each time it is read, so that maps would meet other images than their own; use "
            "make_loader of utilities.datasets.loaders with shuffle='once' or 'never'"
        )


def check_number(maps: Maps, n: int) -> None:
    """Refuse maps with more or fewer images than the loader has."""
    for name, one in maps.items():
        if len(_array(one)) != n:
            raise ValueError(
                f"map {name!r} is of {len(_array(one))} images, but the loader has {n}; they should be the same ones"
            )


def values_of(maps: Maps, rows: slice, labels: torch.Tensor | None) -> list[np.ndarray]:
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
    return None if getattr(loader, "drop_last", False) else known_length(getattr(loader, "dataset", None))


def _array(one: np.ndarray | Importance) -> np.ndarray:
    return one.maps if isinstance(one, Importance) else np.asarray(one)
