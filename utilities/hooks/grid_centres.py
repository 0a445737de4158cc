"""Find where the positions of a model's grids lie on the image: convolutions and pooling shift them.

Position i of a layer with stride s and padding p lies at s * i + (k - 1) / 2 - p positions of the grid before it. With
five such layers of stride 2, the middle of a 7 x 7 grid on 224 pixels may lie 15 pixels from the middle of its cell.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


class GridCentres:
    """Know the pixel in which each position of each grid is centred, as far as convolutions and pooling tell it.

    The first layer that makes a grid of some size counts. The positions of a grid that no such layer has made are
    taken to be the centres of equal cells.

    Args:
        size: Height and width of the images in pixels.

    Example:
        >>> model, centres = nn.Conv2d(3, 4, 3, stride=2, padding=1), GridCentres((8, 8))
        >>> with centres.watching(model):
        ...     _ = model(torch.zeros(1, 3, 8, 8))
        >>> centres.along(0, 4).tolist(), centres.along(0, 2).tolist()
        ([0.0, 2.0, 4.0, 6.0], [1.5, 5.5])
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = tuple(size)
        # For each axis: number of positions -> (pixels from one position to the next, pixel of the first).
        self._known: tuple[dict[int, tuple[float, float]], ...] = tuple({length: (1.0, 0.0)} for length in self.size)

    def along(self, axis: int, count: int) -> torch.Tensor:
        """Return the pixel coordinates of ``count`` positions along rows (axis 0) or columns (axis 1)."""
        cell = self.size[axis] / count
        step, first = self._known[axis].get(count, (cell, (cell - 1) / 2))
        return first + step * torch.arange(count, dtype=torch.float64)

    def middle(self, grid: tuple[int, int]) -> tuple[tuple[int, int], tuple[float, float]]:
        """Return the position of a grid that is centred closest to the middle of the image, and its pixel coordinates.

        Where positions are equally close, as on an even grid, the one further down and right is taken.

        Example:
            >>> GridCentres((8, 9)).middle((4, 3))
            ((2, 1), (4.5, 4.0))
        """
        places, pixels = [], []
        for axis, count in enumerate(grid):
            centres = self.along(axis, count)
            distance = (centres - (self.size[axis] - 1) / 2).abs()
            places.append(int((distance <= distance.min() + 1e-9).nonzero().max()))
            pixels.append(float(centres[places[-1]]))
        return (places[0], places[1]), (pixels[0], pixels[1])

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Learn from all convolutions and pooling layers that run inside the context."""
        with ExitStack() as stack:
            for module in model.modules():
                if hasattr(module, "kernel_size") and hasattr(module, "stride"):
                    stack.callback(module.register_forward_hook(self._see).remove)
            yield

    def _see(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        if args[0].ndim != 4 or output.ndim != 4 or getattr(module, "transposed", False):
            return
        for axis, known in enumerate(self._known):
            before, after = args[0].shape[2 + axis], output.shape[2 + axis]
            if before in known and after not in known:
                kernel, stride = _entry(module.kernel_size, axis), _entry(module.stride, axis)
                reach = _entry(getattr(module, "dilation", 1), axis) * (kernel - 1)
                step, first = known[before]
                known[after] = step * stride, first + step * (reach / 2 - _padding(module, axis, before, stride, reach))


def _entry(value: int | tuple[int, ...], axis: int) -> int:
    return value if isinstance(value, int) else value[axis % len(value)]


def _padding(module: nn.Module, axis: int, length: int, stride: int, reach: int) -> int:
    """Return the padding before the first position; layers of TensorFlow's kind choose it by the length."""
    padding = getattr(module, "padding", 0)
    if isinstance(padding, str) or "Same" in type(module).__name__:
        needed = 0 if padding == "valid" else (math.ceil(length / stride) - 1) * stride + reach + 1 - length
        return max(needed, 0) // 2
    return _entry(padding, axis)
