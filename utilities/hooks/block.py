"""Define one block of a model, and the modules that its steps are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

BLOCK_KINDS = ("stem", "conv", "msa", "mlp", "pool", "blur", "classifier")


@dataclass(frozen=True)
class Block:
    """Map features to features, as one step of a model.

    Attributes:
        name: Name of the module or branch, as in ``model.named_modules()``; stem and classifier join several.
        kind: ``stem``, ``conv``, ``msa`` (attention, lambda layers included), ``mlp``, ``pool`` (a block that lowers
            the resolution), ``blur`` (spatial smoothing) or ``classifier``.
        stage: 0 for the stem, then counted from 1.
        module: Function from the features before the block to those after it.
        layout: Layout of the features after it, where they are not logits: ``NCHW``, ``NHWC`` or ``tokens``;
            ``auto`` reads it off the shape of what a hook records.
        prefix: Number of class and register tokens in front of those of positions.
        grid: Rows and columns of the tokens at the model's own image size, or None where they are not known.
    """

    name: str
    kind: str
    stage: int
    module: nn.Module
    layout: str = "NCHW"
    prefix: int = 0
    grid: tuple[int, int] | None = None

    @property
    def is_branch(self) -> bool:
        """Tell whether the block adds a branch to its input, so that its removal leaves the shortcut alone."""
        return isinstance(self.module, Residual)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Return the features after the block; those before it are kept, whatever the module writes into."""
        return self.module(features.clone())

    def to_maps(self, features: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Arrange the features after the block as maps (batch, channels, height, width), without prefix tokens.

        Args:
            features: The block's output.
            images: The model's input. At another size than the model's own, the grid has the images' proportions.

        Raises:
            ValueError: If the features have no positions, or their grid cannot be told.

        Example:
            >>> block = Block("blocks.0", "msa", 1, nn.Identity(), "tokens", prefix=1, grid=(2, 3))
            >>> block.to_maps(torch.arange(7.0).view(1, 7, 1), torch.zeros(1, 3, 4, 6))
            tensor([[[[1., 2., 3.],
                      [4., 5., 6.]]]])
        """
        if features.ndim == 4 and self.layout == "unknown":
            raise ValueError(
                f"block {self.name!r} gives {tuple(features.shape)}, and it cannot be told where its channels are; say "
                f"it with the kind: '{self.kind}:NHWC' or '{self.kind}:NCHW'"
            )
        if features.ndim == 4:
            return features.movedim(-1, 1) if self.layout == "NHWC" else features
        if features.ndim != 3:
            raise ValueError(f"block {self.name!r} gives {tuple(features.shape)}, which has no positions; leave it out")
        tokens = features[:, self.prefix :]
        rows, columns = self._grid(tokens.shape[1], images.shape[-2:])
        return tokens.transpose(1, 2).unflatten(2, (rows, columns))

    def _grid(self, count: int, size: torch.Size) -> tuple[int, int]:
        """Find rows and columns for a number of tokens: the model's own grid, or one with the images' proportions."""
        grid = token_grid(count, size, self.grid)
        if grid is None:
            raise ValueError(
                f"block {self.name!r} gives {count} tokens for images of {size[0]}x{size[1]} pixels, which are no grid "
                f"of these proportions; it has {self.prefix} prefix tokens"
            )
        return grid


def token_grid(count: int, size: torch.Size, own: tuple[int, int] | None = None) -> tuple[int, int] | None:
    """Find rows and columns for a number of tokens, or None if they are no grid.

    Args:
        count: Number of tokens, without class and register tokens.
        size: Height and width of the images.
        own: Grid of the model at its own image size, which is taken if it has as many tokens.

    Example:
        >>> token_grid(8, torch.Size([16, 32])), token_grid(7, torch.Size([16, 16]))
        ((2, 4), None)
    """
    rows = round((count * size[0] / size[1]) ** 0.5)
    grids = (own, (rows, count // max(rows, 1)))
    return next((grid for grid in grids if grid is not None and grid[0] * grid[1] == count > 0), None)


class Step(nn.Module):
    """Wrap a function of some of the model's modules as one module.

    Args:
        function: Function from features to features.
        *parts: The modules that it runs.
    """

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the function."""
        return self.function(x)


class Residual(Step):
    """Add a branch to its input, as a shortcut does: x + branch(x).

    Example:
        >>> Residual(lambda x: 2 * x)(torch.ones(2))
        tensor([3., 3.])
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the branch to its input."""
        return x + self.function(x)
