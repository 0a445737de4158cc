"""Compute linear layers in bfloat16 around the mean of the batch, so that what images share is not rounded.

A similarity is one of the spread over images. In deep layers this may be a hundredth of the values themselves, and
bfloat16, with its 8 bits, rounds by that much. A linear map takes the mean of its inputs to the mean of its outputs:
Wx + b = (W m + b) + W(x - m), whatever m is. The first term is that of a single image, and computed in float32. Only
the second is rounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

FEWEST_WEIGHTS = 4096  # of a smaller map, float32 takes no longer
_off = ContextVar("off", default=False)


class CentredProducts(TorchFunctionMode):
    """Compute linear layers of float32 in bfloat16 around the mean over the first dimension, as a context manager.

    All else stays float32: sums, norms, activations and attention. Modules that call no ``linear`` of their own, such
    as torch's ``MultiheadAttention``, are computed as without it.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> layer, x = torch.nn.Linear(64, 64), 100 + torch.randn(8, 64)
        >>> exact = layer(x)
        >>> with CentredProducts():
        ...     found = layer(x)
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     rounded = layer(x)
        >>> found.dtype, bool((found - exact).abs().max() < 0.01), bool((rounded - exact).abs().max() < 0.1)
        (torch.float32, True, False)
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if func is functional.linear and not _off.get():
            return _linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextmanager
def without_centred_products() -> Iterator[None]:
    """Compute as without `CentredProducts` for a while: around a mean, an image's values depend on the others."""
    before = _off.set(True)
    try:
        yield
    finally:
        _off.reset(before)


def _linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    alike = input.dtype == weight.dtype == torch.float32 and input.layout == torch.strided
    if not alike or input.ndim < 2 or len(input) < 2 or weight.numel() < FEWEST_WEIGHTS:
        return functional.linear(input, weight, bias)
    mean = input.mean(0, keepdim=True)
    spread = torch.empty_like(input, dtype=torch.bfloat16)
    torch.sub(input, mean, out=spread)
    return functional.linear(mean, weight, bias) + functional.linear(spread, weight.bfloat16())
