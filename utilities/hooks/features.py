"""Bring features into a form that a Gram matrix can be made of: real numbers whose squares can be added up.

Scales are powers of two, so they change no digit. They are returned as exponents, so that they can be undone in
float64 where float32 would overflow.
"""

from __future__ import annotations

import torch


def as_real(x: torch.Tensor) -> torch.Tensor:
    """Split complex features (n, ...) into real and imaginary parts (n, p); return real features as they are.

    Linear kernels are then the real part of x·ȳ, and distances those of the complex numbers.

    Example:
        >>> as_real(torch.tensor([[1 + 2j, 3j]]))
        tensor([[1., 2., 0., 3.]])
    """
    return torch.view_as_real(x.resolve_conj()).flatten(1) if x.is_complex() else x


def exponent(size: torch.Tensor) -> torch.Tensor:
    """Return the exponent of the power of two that scales a size to near 1; 0 for 0, NaN and infinity.

    Args:
        size: A floating-point tensor, 0 or more.

    Returns:
        Whole numbers, in the same type. Two to their power can be inverted in that type.

    Example:
        >>> exponent(torch.tensor([2.0, 1000.0, 0.0]))
        tensor([ 1., 10.,  0.])
    """
    most = 1022 if size.dtype == torch.float64 else 126
    return size.log2().ceil().nan_to_num(0, 0, 0).clamp(-most, most)


def unit_scale(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Divide features by a power of two so that the largest is near 1.

    Args:
        x: Floating-point features, of any shape.

    Returns:
        The scaled features and the exponent.

    Example:
        >>> unit_scale(torch.tensor([3.0, 1e20]))[0].max() <= 1
        tensor(True)
    """
    power = exponent(largest(x))
    return x * torch.exp2(-power), power


def largest(x: torch.Tensor) -> torch.Tensor:
    """Return the largest magnitude in a floating-point tensor, NaN if there is one, and 0 for an empty tensor.

    Example:
        >>> largest(torch.tensor([1.0, -3.0]))
        tensor(3.)
    """
    if not x.numel():
        return x.new_zeros(())
    low, high = x.aminmax()
    return torch.maximum(-low, high)
