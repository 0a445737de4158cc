"""Arrange a layer's output by positions on the image: tokens of a transformer, or places of a convolutional map."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from utilities.hooks.block import token_grid
from utilities.hooks.layout import Layout
from utilities.hooks.recorder import Forward, Layers, Recorder
from utilities.hooks.vit_parts import vit_parts


@dataclass(frozen=True)
class Positions:
    """Features at each position.

    Attributes:
        values: Features, (batch, prefix + positions, width), positions in raster order.
        prefix: Number of class and register tokens, which come first.
        grid: Rows and columns of the layer's map.
        places: Row and column in the map of each position, (positions, 2): all, unless some were chosen.
    """

    values: torch.Tensor
    prefix: int
    grid: tuple[int, int]
    places: torch.Tensor

    def at_most(self, side: int | None) -> Positions:
        """Keep at most so many rows and columns, evenly spread over the map; the features there are not averaged.

        Example:
            >>> places = torch.cartesian_prod(torch.arange(6), torch.arange(2))
            >>> Positions(torch.zeros(1, 12, 5), 0, (6, 2), places).at_most(2).places.tolist()
            [[1, 0], [1, 1], [4, 0], [4, 1]]
        """
        if side is None or max(self.grid) <= side:
            return self
        rows, columns = (torch.tensor(spread(count, side)) for count in self.grid)
        chosen = (rows[:, None] * self.grid[1] + columns).flatten()
        kept = torch.cat([torch.arange(self.prefix), self.prefix + chosen]).to(self.values.device)
        return replace(self, values=self.values[:, kept], places=self.places[chosen])


def spread(count: int, most: int) -> list[int]:
    """Choose places among ``count``, at most ``most``: the centres of equal parts.

    Example:
        >>> spread(9, 3), spread(2, 3)
        ([1, 4, 7], [0, 1])
    """
    return list(range(count)) if count <= most else [int((i + 0.5) * count / most) for i in range(most)]


def positions_of(
    tensor: torch.Tensor, module: nn.Module | None, layout: Layout, size: torch.Size, own: tuple[int, int] | None = None
) -> Positions:
    """Arrange a layer's output by positions.

    Args:
        tensor: The output, (batch, ...).
        module: The layer.
        layout: Tells which axes are positions.
        size: Height and width of the images.
        own: Grid of the model's tokens at its own image size, if known.

    Raises:
        ValueError: If the output has no positions on the image, or their grid cannot be told.

    Example:
        >>> maps = torch.arange(8.0).view(1, 2, 2, 2)
        >>> positions_of(maps, None, Layout(nn.Conv2d(3, 2, 1)), torch.Size([4, 4])).values[0, 1]
        tensor([1., 5.])
    """
    shape = tuple(tensor.shape)
    tokens = tensor.ndim in (3, 4) and layout.holds_tokens(tensor.shape, module)
    if tensor.ndim not in (3, 4) or (tensor.ndim == 3 and not tokens):
        raise ValueError(f"its output of shape {shape} has no positions on the image; leave it out")
    found = layout.positions(tensor, module)
    if found is None:
        raise ValueError(f"it cannot be told which axis of its output {shape} holds the channels; leave it out")
    values, prefix = found
    if tokens:
        grid = token_grid(values.shape[1] - prefix, size, own)
    else:
        axis = layout.channel_axis(tensor.shape, module)
        grid = tuple(count for i, count in enumerate(shape) if i not in (0, axis))
    if grid is None:
        raise ValueError(
            f"its output of shape {shape} holds {values.shape[1]} tokens, of which {prefix} are class and register "
            f"tokens; the rest are no grid on images of {size[0]}x{size[1]} pixels; leave it out"
        )
    places = torch.cartesian_prod(*(torch.arange(count) for count in grid))
    return Positions(values.flatten(2), prefix, grid, places)


class PositionRecorder(Recorder):
    """Record layers arranged by positions: `activations` maps each name to `Positions`.

    Args:
        model: Any module.
        layers: See `utilities.hooks.Recorder`.
        most: Most rows and columns to keep of a map; None keeps all.
        forward: See `utilities.hooks.Recorder`.
        strict: See `utilities.hooks.Recorder`.

    Attributes:
        size: Height and width of the images, to be set before the model runs.

    Example:
        >>> recorder = PositionRecorder(nn.Sequential(nn.Conv2d(3, 2, 1)), "0")
        >>> recorder.size = torch.Size([4, 4])
        >>> with recorder:
        ...     _ = recorder.run(torch.zeros(5, 3, 4, 4))
        >>> recorder.activations["0"].values.shape
        torch.Size([5, 16, 2])
    """

    size = torch.Size([1, 1])

    def __init__(
        self,
        model: nn.Module,
        layers: Layers,
        *,
        most: int | None = None,
        forward: Forward | None = None,
        strict: bool = True,
    ) -> None:
        super().__init__(model, layers, strict=strict, forward=forward)
        parts = vit_parts(model)
        grid = getattr(getattr(model, "patch_embed", None), "grid_size", None) if parts is None else parts.grid()
        self.most, self.layout = most, Layout(model)
        self.own = tuple(grid) if isinstance(grid, (tuple, list)) and len(grid) == 2 else None

    def keep(self, value: torch.Tensor, module: nn.Module) -> Any:
        """Arrange a layer's output by positions, in memory of its own."""
        found = positions_of(value, module, self.layout, self.size, self.own).at_most(self.most)
        return replace(found, values=found.values.clone())
