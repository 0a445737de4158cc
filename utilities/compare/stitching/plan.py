"""Which layers are stitched to which: pairs at the same relative depth, all pairs, or those that are named."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from utilities.compare.stitching.cuts import check_cut, cuts_among
from utilities.compare.stitching.shapes import Part, Shape, describe, parts_of, read
from utilities.compare.stitching.sums import Key
from utilities.hooks.recorder import Layers, select_layers
from utilities.zoo.layers import known_blocks

MATCHED, ALL = "matched", "all"
Pair = tuple[str, str]


@dataclass(frozen=True)
class Stitch:
    """A pair of layers, and the affine maps that lead from one to the other.

    Attributes:
        layer1: Layer of the first model.
        layer2: Layer of the second model.
        shape1: How the first one's output is arranged.
        shape2: The same of the second one.
        parts: The maps.
    """

    layer1: str
    layer2: str
    shape1: Shape
    shape2: Shape
    parts: tuple[Part, ...]

    def __str__(self) -> str:
        return f"{self.layer1} -> {self.layer2}"

    def keys(self, part: Part) -> tuple[Key, Key]:
        """Name the features that a map takes and makes, in sums that several pairs share."""
        return (self.layer1, *part.source), (self.layer2, part.name)

    def read(self, features: torch.Tensor, part: Part) -> torch.Tensor:
        """Read what a map takes, (batch, positions, width1)."""
        return read(features, self.shape1, part.source)

    def target(self, features: torch.Tensor, part: Part) -> torch.Tensor:
        """Cut out what a map should make, (batch, positions, width2)."""
        return part.target(features, self.shape2)

    def join(self, made: dict[str, torch.Tensor]) -> torch.Tensor:
        """Put what the maps have made together: an output of the second layer, (batch, ...)."""
        tokens = [made[part.name] for part in self.parts if part.place >= 0]
        positions = [made[part.name] for part in self.parts if part.place < 0]
        return self.shape2.restore(torch.cat([*tokens, *positions], 1))


def choose_layers(model: nn.Module, layers: Layers | None) -> list[str]:
    """List the layers of one model: those that are named, or the outputs of its blocks.

    Raises:
        ValueError: If the blocks of the model are not known, or a name matches no layer.
    """
    if layers is not None:
        return select_layers(model, layers)
    try:
        return known_blocks(model)
    except ValueError as error:
        raise ValueError(f"{error}: layers1= and layers2= name the layers to stitch") from error


def cutting(model: nn.Module, layers: Sequence[str], images: torch.Tensor, named: bool) -> list[str]:
    """Return the layers that cut a model in two.

    Args:
        model: The second model, in eval mode, on the images' device.
        layers: Its layers.
        images: A few images.
        named: Whether the user asked for these layers. If so, one that does not cut is an error, else it is left out.

    Raises:
        ValueError: If a named layer does not cut the model in two, or none of the others does.
    """
    if len(images) < 2:
        raise ValueError("two images or more are needed in the first batch, to see whether a layer cuts the model")
    if named:
        for layer in layers:
            check_cut(model, layer, images)
        return list(layers)
    kept = cuts_among(model, layers, images)
    gone = [layer for layer in layers if layer not in kept]
    if not kept:
        check_cut(model, layers[-1], images)
    if gone:
        warnings.warn(f"left out, for a shortcut leads around their outputs: {', '.join(gone)}", stacklevel=4)
    return kept


def matched_places(count1: int, count2: int, most: int) -> list[tuple[int, int]]:
    """Pair layers at the same relative depth, evenly spread from the first to the last.

    Example:
        >>> matched_places(8, 6, 3), matched_places(2, 2, 6)
        ([(0, 0), (4, 3), (7, 5)], [(0, 0), (1, 1)])
    """
    count = min(count1, count2, most)
    depths = np.linspace(0, 1, count) if count > 1 else np.ones(1)
    return [(int((count1 - 1) * d + 0.5), int((count2 - 1) * d + 0.5)) for d in depths.tolist()]


def choose_pairs(layers1: Sequence[str], layers2: Sequence[str], pairs: Any, depths: int) -> list[Pair]:
    """List the pairs of layers.

    Args:
        layers1: Layers of the first model.
        layers2: Layers of the second model.
        pairs: ``"matched"``, ``"all"`` or pairs of names.
        depths: Largest number of matched pairs.
    """
    if pairs == MATCHED:
        return [(layers1[i], layers2[j]) for i, j in matched_places(len(layers1), len(layers2), depths)]
    return [(one, two) for one in layers1 for two in layers2] if pairs == ALL else list(pairs)


def check_pairs(pairs: Any) -> None:
    """Refuse what is neither a word for pairs nor pairs of names.

    Raises:
        ValueError: If it is refused.

    Example:
        >>> check_pairs("diagonal")
        Traceback (most recent call last):
        ValueError: pairs='diagonal': choose 'matched', 'all' or pairs of names such as [('layer3.1', 'blocks.5')]
    """
    words = isinstance(pairs, str)
    fine = pairs in (MATCHED, ALL) if words else len(pairs) > 0
    if not fine or (not words and any(isinstance(one, str) or len(one) != 2 for one in pairs)):
        raise ValueError(
            f"pairs={pairs!r}: choose {MATCHED!r}, {ALL!r} or pairs of names such as [('layer3.1', 'blocks.5')]"
        )


def plan(
    pairs: Iterable[Pair], shapes1: dict[str, Shape], shapes2: dict[str, Shape], named: bool
) -> tuple[list[Stitch], dict[str, str], dict[str, str]]:
    """Bring the shapes of all pairs together.

    Args:
        pairs: Pairs of layers.
        shapes1: How the first model's layers are arranged.
        shapes2: How the second one's are.
        named: Whether the user asked for these very pairs. If so, one that does not fit is an error.

    Returns:
        The stitches, how each brings its shapes together, and why the other pairs have none.

    Raises:
        ValueError: If a named pair does not fit together, or no pair does.
    """
    stitches, adapted, refused = [], {}, {}
    for one, two in pairs:
        shape1, shape2 = shapes1[one], shapes2[two]
        try:
            stitch = Stitch(one, two, shape1, shape2, tuple(parts_of(shape1, shape2)))
        except ValueError as reason:
            refused[f"{one} -> {two}"] = str(reason)
            continue
        stitches.append(stitch)
        adapted[str(stitch)] = describe(shape1, shape2)
    if refused and (named or not stitches):
        pair, reason = next(iter(refused.items()))
        raise ValueError(f"{pair} cannot be stitched: {reason}; choose another layer")
    if refused:
        warnings.warn(
            f"{len(refused)} pairs cannot be stitched: {'; '.join(map(': '.join, refused.items()))}", stacklevel=4
        )
    return stitches, adapted, refused
