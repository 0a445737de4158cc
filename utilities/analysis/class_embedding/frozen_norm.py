"""A norm whose scale is frozen: then it is linear, and what it makes of a sum is the sum of what it makes of the parts.

Layer norm gives w (x - mean(x)) r + b with r = 1 / sqrt(var(x) + eps); RMS norm w x r with r = 1 / sqrt(mean(x^2) +
eps). If r is kept as the whole x has it, all else is linear in x, and the bias b a part of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.layers import RmsNorm
from torch import nn

from utilities.results.moments import precise


@dataclass(frozen=True)
class FrozenNorm:
    """A norm with the scale that some vectors have.

    Attributes:
        scale: The frozen r, (..., 1).
        weight: Factor of each feature, (width,).
        bias: What is added, (width,).
        centred: Whether the mean over features is subtracted.
    """

    scale: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    centred: bool

    def linear(self, part: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        """Apply all but the bias to a part of the vectors, (..., width); ``scale`` takes the place of the frozen one.

        Example:
            >>> norm = nn.LayerNorm(3, dtype=torch.float64)
            >>> x, part = torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[0.5, 0.0, 1.0]])
            >>> frozen = freeze(norm, x)
            >>> parts = frozen.linear(part) + frozen.linear(x - part) + frozen.bias
            >>> bool(torch.allclose(parts, norm(x.double())))
            True
        """
        part = precise(part)
        part = part - part.mean(-1, keepdim=True) if self.centred else part
        return part * (self.scale if scale is None else scale) * self.weight


def freeze(norm: nn.Module, vectors: torch.Tensor) -> FrozenNorm:
    """Freeze the scale of a norm over features at the one that some vectors have, in float64.

    Args:
        norm: Layer norm, RMS norm, or an identity.
        vectors: What the norm is given, (..., width).

    Raises:
        ValueError: If the norm is of another kind; see `check_norm`.

    Example:
        >>> freeze(nn.Identity(), torch.ones(2, 3)).linear(torch.ones(2, 3)).tolist()
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    check_norm(norm)
    x = precise(vectors.detach())
    one, zero = x.new_ones(x.shape[-1]), x.new_zeros(x.shape[-1])
    if isinstance(norm, nn.Identity):
        return FrozenNorm(x.new_ones(*x.shape[:-1], 1), one, zero, centred=False)
    centred = isinstance(norm, nn.LayerNorm)
    eps = torch.finfo(vectors.dtype).eps if norm.eps is None else norm.eps  # as torch's RMS norm does
    spread = x.var(-1, correction=0, keepdim=True) if centred else x.square().mean(-1, keepdim=True)
    weight, bias = (getattr(norm, name, None) for name in ("weight", "bias"))
    return FrozenNorm(
        (spread + eps).rsqrt(),
        one if weight is None else weight.detach().to(x),
        zero if bias is None else bias.detach().to(x),
        centred,
    )


def check_norm(norm: nn.Module) -> None:
    """Refuse a norm that is not over the features of each token.

    Raises:
        ValueError: If it is of an unknown kind; the message names it.

    Example:
        >>> check_norm(nn.BatchNorm1d(3))
        Traceback (most recent call last):
        ValueError: the final norm is a BatchNorm1d: only layer norm and RMS norm have one scale for each token, ...
    """
    if not isinstance(norm, (nn.LayerNorm, nn.RMSNorm, RmsNorm, nn.Identity)):
        raise ValueError(
            f"the final norm is a {type(norm).__name__}: only layer norm and RMS norm have one scale for each token, "
            "that can be frozen"
        )
