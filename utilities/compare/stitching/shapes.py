"""Arrange a layer's output by positions, put such features back, and bring the shapes of two layers together.

Positions of a grid share one affine map, as a 1 x 1 convolution does. Class and register tokens, and features without
positions, have one each. Grids of two sizes are brought together on the second one: by averaging over areas along a
side that is longer, by bilinear interpolation along one that is shorter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from utilities.hooks.layout import Layout
from utilities.hooks.positions import positions_of

POSITIONS = "positions"
Grid = tuple[int, int]
Source = tuple[str, int, int]  # what is read: ("grid", rows, columns), ("token", number, 0) or ("mean", 0, 0)


@dataclass(frozen=True)
class Shape:
    """How a layer's output is arranged.

    Attributes:
        sizes: Its sizes, without that of the batch.
        axis: The axis of the channels; the batch is axis 0.
        prefix: Number of class and register tokens; features without positions count as one.
        grid: Rows and columns of its positions; (0, 0) without any.

    Example:
        >>> maps = torch.arange(8.0).view(1, 2, 2, 2)
        >>> shape = Shape((2, 2, 2), 1, 0, (2, 2))
        >>> shape.arrange(maps)[0].tolist()
        [[0.0, 4.0], [1.0, 5.0], [2.0, 6.0], [3.0, 7.0]]
        >>> bool((shape.restore(shape.arrange(maps)) == maps).all())
        True
    """

    sizes: tuple[int, ...]
    axis: int
    prefix: int
    grid: Grid

    @property
    def width(self) -> int:
        """Number of channels."""
        return self.sizes[self.axis - 1]

    @property
    def positions(self) -> int:
        """Number of positions, prefix tokens left out."""
        return self.grid[0] * self.grid[1]

    def arrange(self, output: torch.Tensor) -> torch.Tensor:
        """Arrange an output (batch, ...) as (batch, prefix + positions, width), prefix tokens first."""
        if output.ndim == 2:
            return output[:, None]
        return output.movedim(self.axis, -1).flatten(1, -2)

    def restore(self, values: torch.Tensor) -> torch.Tensor:
        """Undo `arrange`."""
        if len(self.sizes) == 1:
            return values[:, 0]
        others = [size for place, size in enumerate(self.sizes, 1) if place != self.axis]
        return values.unflatten(1, others).movedim(-1, self.axis).contiguous()

    def split(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Split arranged features into prefix tokens and positions."""
        return values[:, : self.prefix], values[:, self.prefix :]

    def __str__(self) -> str:
        if not self.positions:
            return f"{self.width} features without positions"
        tokens = {0: "", 1: " and a class token"}.get(self.prefix, f" and {self.prefix} class and register tokens")
        return f"{self.grid[0]}x{self.grid[1]} positions{tokens}, {self.width} channels"


def shape_of(
    output: torch.Tensor, module: nn.Module, layout: Layout, size: torch.Size, own: Grid | None = None
) -> Shape:
    """Tell how a layer's output is arranged.

    Args:
        output: The output, (batch, ...).
        module: The layer.
        layout: See `utilities.hooks.layout.Layout`.
        size: Height and width of the images.
        own: Grid of the model's tokens at its own image size, if known.

    Raises:
        ValueError: If it cannot be told, or the output is neither features, tokens nor maps.

    Example:
        >>> shape_of(torch.zeros(1, 2, 4, 4), nn.Conv2d(3, 2, 1), Layout(nn.Conv2d(3, 2, 1)), torch.Size([4, 4])).grid
        (4, 4)
    """
    sizes = tuple(output.shape[1:])
    if output.ndim == 2:
        return Shape(sizes, 1, 1, (0, 0))
    tokens = output.ndim in (3, 4) and layout.holds_tokens(output.shape, module)
    if tokens and output.ndim == 4:
        raise ValueError(f"its output of shape {tuple(output.shape)} holds queries or keys by head; leave it out")
    found = positions_of(output, module, layout, size, own)
    axis = 2 if tokens else layout.channel_axis(output.shape, module)
    return Shape(sizes, axis, found.prefix, found.grid)


@dataclass(frozen=True)
class Part:
    """One affine map of a stitch: what it reads of the first layer, and what it makes of the second.

    Attributes:
        name: ``positions``, ``class token``, ``token K``, or ``features`` of a vector.
        source: What is read, see `read`.
        place: Number of the prefix token that is made; -1 for the positions.
    """

    name: str
    source: Source
    place: int

    def target(self, values: torch.Tensor, shape: Shape) -> torch.Tensor:
        """Cut this part out of the second layer's arranged features, (batch, positions, width)."""
        tokens, positions = shape.split(values)
        return positions if self.place < 0 else tokens[:, self.place : self.place + 1]


def read(values: torch.Tensor, shape: Shape, source: Source) -> torch.Tensor:
    """Read what a map takes of the first layer's features: a grid of some size, one token, or the mean over positions.

    Args:
        values: Arranged features, (batch, prefix + positions, width).
        shape: How they are arranged.
        source: What is asked for.

    Returns:
        Features, (batch, positions, width).

    Example:
        >>> shape = Shape((1, 2, 2), 1, 0, (2, 2))
        >>> read(torch.tensor([[[1.0], [2.0], [3.0], [6.0]]]), shape, ("grid", 1, 2)).flatten().tolist()
        [2.0, 4.0]
    """
    kind, *numbers = source
    tokens, positions = shape.split(values)
    if kind == "token":
        return tokens[:, numbers[0] : numbers[0] + 1]
    if kind == "mean":
        return positions.mean(1, keepdim=True)
    if tuple(numbers) == shape.grid:
        return positions
    maps = resized(positions.mT.unflatten(2, shape.grid), tuple(numbers))
    return maps.flatten(2).mT


def resized(maps: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Bring maps (batch, channels, rows, columns) to another grid: average where it is coarser, else interpolate.

    Both make weighted means, so that they can be exchanged with an affine map that positions share.

    Example:
        >>> resized(torch.tensor([[[[0.0, 4.0]]]]), (1, 4)).tolist()
        [[[[0.0, 1.0, 3.0, 4.0]]]]
    """
    smaller = tuple(min(pair) for pair in zip(maps.shape[2:], grid, strict=True))
    if smaller != tuple(maps.shape[2:]):
        maps = F.adaptive_avg_pool2d(maps, smaller)
    return maps if smaller == grid else F.interpolate(maps, grid, mode="bilinear", align_corners=False)


def parts_of(one: Shape, two: Shape) -> list[Part]:
    """List the affine maps that make the second layer's output of the first one's.

    Raises:
        ValueError: If the second layer has positions and the first has none, or lacks what a token could be made of.

    Example:
        >>> cnn, vit = Shape((8, 4, 4), 1, 0, (4, 4)), Shape((5, 6), 2, 1, (2, 2))
        >>> [(part.name, part.source) for part in parts_of(cnn, vit)]
        [('positions', ('grid', 2, 2)), ('class token', ('mean', 0, 0))]
    """
    if two.positions and not one.positions:
        raise ValueError(f"{one} tell nothing of where, which {two} need")
    parts = [Part(POSITIONS, ("grid", *two.grid), -1)] if two.positions else []
    for number in range(two.prefix):
        name = "class token" if number == 0 else f"token {number}"
        name = "features" if (two.positions, two.prefix) == (0, 1) else name  # a vector, which has no tokens
        if number < one.prefix:
            parts.append(Part(name, ("token", number, 0), number))
        elif one.positions:
            parts.append(Part(name, ("mean", 0, 0), number))
        else:
            raise ValueError(f"{one} hold nothing that token {number} of {two} could be made of")
    return parts


def describe(one: Shape, two: Shape) -> str:
    """Describe how the shapes of two layers are brought together.

    Example:
        >>> describe(Shape((8, 4, 4), 1, 0, (4, 4)), Shape((5, 6), 2, 1, (2, 2)))
        '4x4 averaged to 2x2; class token from the mean over positions'
    """
    said = []
    for part in parts_of(one, two):
        if part.place < 0:
            said.append(_grids(one.grid, two.grid))
        else:
            name = part.name if two.positions else "features"
            theirs = "the mean over positions" if part.source[0] == "mean" else "the same token"
            theirs = "features" if part.source[0] == "token" and not one.positions else theirs
            theirs = "the class token" if theirs == "the same token" and part.place == 0 else theirs
            said.append(f"{name} from {theirs}")
    left = one.prefix - two.prefix if one.positions else 0
    return "; ".join(said + ([f"{left} of the first layer's prefix tokens unused"] if left > 0 else []))


def _grids(one: Grid, two: Grid) -> str:
    names = ["x".join(map(str, grid)) for grid in (one, two)]
    if one == two:
        return f"{names[0]} as they are"
    ways = ["averaged"] * any(a > b for a, b in zip(one, two, strict=True))
    ways += ["interpolated"] * any(a < b for a, b in zip(one, two, strict=True))
    return f"{names[0]} {' and '.join(ways)} to {names[1]}"
