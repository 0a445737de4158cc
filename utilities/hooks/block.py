"""Define one block of a model, and the modules that its steps are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from utilities.hooks.recorder import Recorder

KINDS = ("stem", "conv", "msa", "mlp", "pool", "classifier")


@dataclass(frozen=True)
class Block:
    """Map features to features, as one step of a model.

    Attributes:
        name: Name of the module or branch, as in ``model.named_modules()``; stem and classifier join several.
        kind: ``stem``, ``conv``, ``msa`` (attention, lambda layers included), ``mlp``, ``pool`` (a block that lowers
            the resolution) or ``classifier``.
        stage: 0 for the stem, then counted from 1.
        module: Function from the features before the block to those after it.
        layout: Layout of the features after it, where they are not logits: ``NCHW``, ``NHWC`` or ``tokens``;
            ``auto`` reads it off the shape of what a hook records.
        prefix: Number of class and register tokens in front of those of positions.
        grid: Rows and columns of the tokens at the model's own image size, or None where they are not known.
        recorder: Recorder of the features of all blocks, where they cannot be passed from block to block.
    """

    name: str
    kind: str
    stage: int
    module: nn.Module
    layout: str = "NCHW"
    prefix: int = 0
    grid: tuple[int, int] | None = None
    recorder: Recorder | None = None

    @property
    def in_sequence(self) -> bool:
        """Tell whether features can be passed from block to block."""
        return self.recorder is None

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Return the features after the block; those before it are kept, whatever the module writes into."""
        return self.module(features.clone())


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
