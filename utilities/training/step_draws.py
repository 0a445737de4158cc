"""Draw what a training step drops by chance for the whole batch, so that processes that share it drop the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from utilities.datasets.loaders import seeded_generator


def drops_at_random(model: nn.Module) -> bool:
    """Tell whether layers of a model drop units or paths, by their classes' names (Dropout, DropPath) and rates.

    Example:
        >>> drops_at_random(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))), drops_at_random(nn.Dropout(0.0))
        (True, False)
    """
    named = {"drop", "stochasticdepth"}
    layers = [m for m in model.modules() if any(part in type(m).__name__.lower() for part in named)]
    return any(getattr(layer, "p", getattr(layer, "drop_prob", 1)) for layer in layers)


class StepDraws(TorchFunctionMode):
    """Inside, let masks be those of the whole batch: one for each call in turn, of which each process takes its rows.

    Dropout and stochastic depth of timm, torchvision and Hugging Face draw by what is replaced here: ``dropout``,
    ``Tensor.bernoulli_`` and ``rand``. Draws within fused attention are not seen.

    Args:
        keys: Whole numbers that tell the step from all others, such as (seed, epoch, step).
        rows: The rows of the whole batch that the pass computes.
        whole: Number of images in the whole batch.

    Example:
        >>> ones = torch.ones(4, 3)
        >>> with StepDraws((0, 1, 2), [0, 1, 2, 3], 4):
        ...     together = F.dropout(ones, 0.5)
        >>> with StepDraws((0, 1, 2), [1, 3], 4):
        ...     torch.equal(F.dropout(ones[:2], 0.5), together[[1, 3]])
        True
    """

    def __init__(self, keys: Sequence[int], rows: Sequence[int], whole: int) -> None:
        super().__init__()
        self.keys, self.rows, self.whole, self.number = tuple(keys), list(rows), whole, 0

    def __torch_function__(
        self, func: Callable, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (F.dropout, torch.dropout):
            return self._dropout(func, *args, **kwargs)
        if func is torch.Tensor.bernoulli_ and "generator" not in kwargs:
            shape, given = args[0].shape, args[1] if len(args) > 1 else kwargs.get("p", 0.5)
            return args[0].copy_(self._drawn(shape) < given)
        if func is torch.rand and args and kwargs.keys() <= {"device", "dtype"}:
            shape = args if isinstance(args[0], int) else args[0]
            return self._drawn(shape).to(**kwargs)
        return func(*args, **kwargs)

    def _dropout(
        self, func: Callable, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> torch.Tensor:
        if not training or p in (0, 1):
            return func(input, p, training)
        kept = (self._drawn(input.shape) >= p).to(input.device, input.dtype) / (1 - p)
        return input.mul_(kept) if inplace else input * kept

    def _drawn(self, shape: Sequence[int]) -> torch.Tensor:
        """Draw numbers from 0 to 1, for the whole batch where the first axis counts its rows, and take these."""
        generator, self.number = seeded_generator(*self.keys, self.number), self.number + 1
        if not shape or shape[0] != len(self.rows):
            return torch.rand(tuple(shape), generator=generator)
        return torch.rand((self.whole, *shape[1:]), generator=generator)[self.rows]
