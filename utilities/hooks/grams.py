"""Compute Gram matrices of centred features of any size, some features at a time, in bfloat16 where asked for."""

from __future__ import annotations

import torch

from utilities.hooks.features import as_real, exponent, largest

# Bytes of features centred and multiplied at a time: what fits a CPU's cache; on a GPU, what keeps it busy.
CHUNK_BYTES = {"cpu": 2**21, "cuda": 2**28}
# Up to this width a layer costs little. It is multiplied in its own precision, and a spread below rounding is sought
# in each feature by itself, not in all of them together.
NARROW = 4096
# A Gram matrix whose trace lies in this range has lost nothing by overflow or underflow; others are computed again.
SAFE_TRACE = (1e-20, 1e20)
LARGE = 26.0  # features up to 2 to this power, or down to its inverse, have a safe trace, or none


def centered_gram(x: torch.Tensor, *, bfloat16: bool = False, factor: torch.Tensor | None = None) -> torch.Tensor:
    """Compute X_c X_cᵀ, where X_c is X less its mean row, some features at a time.

    HSIC does not change when features are centred, but its rounding does: with means 10⁴ times the spread, an
    uncentred float32 Gram has no digit left. A spread below the rounding of the values themselves counts as none and
    yields zeros: the values can no longer tell images apart.

    Args:
        x: Features, (n, p). Half-precision ones are computed in float32; both parts of complex ones count.
        bfloat16: Whether to round centred features to bfloat16 for the product, where p > `NARROW`.
        factor: Factor applied to the features, in case their squares would overflow.

    Returns:
        The Gram matrix, (n, n), in float32 or float64, whatever autocast says.

    Example:
        >>> centered_gram(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        tensor([[ 1., -1.],
                [-1.,  1.]])
    """
    x = as_real(x)
    with torch.autocast(x.device.type, enabled=False):
        return _centered_gram(x, bfloat16 and x.shape[1] > NARROW, factor)


def _centered_gram(x: torch.Tensor, bfloat16: bool, factor: torch.Tensor | None) -> torch.Tensor:
    dtype = x.dtype if x.dtype == torch.float64 else torch.float32
    n, width = x.shape
    eps = 8 * torch.finfo(dtype).eps * n**0.5
    gram, level = x.new_zeros(n, n, dtype=dtype), x.new_zeros((), dtype=dtype)
    half = n // 2  # three of the four quarters of a symmetric matrix are multiplied, and one is copied
    left, corner = gram[:, :half], gram[half:, half:]
    # A CPU rounds the products of each chunk to bfloat16 once; a GPU can return the sums unrounded.
    options = {"out_dtype": torch.float32} if bfloat16 and x.device.type == "cuda" else {}
    step = max(1, CHUNK_BYTES.get(x.device.type, 2**26) // (n * 4))
    for part in x.split(step, dim=1):
        part = part.to(dtype)
        part = part if factor is None else part * factor
        mean = part.mean(0)
        part = part - mean
        if width <= NARROW:
            part *= part.square().sum(0).sqrt() > eps * mean.abs()
        else:
            level += mean.square().sum()
        part = part.bfloat16() if bfloat16 else part
        left += torch.mm(part, part[:half].T, **options)
        corner += torch.mm(part[half:], part[half:].T, **options)
    gram[:half, half:] = left[half:].T
    gone = gram.diagonal().sum() <= eps**2 * level  # False for NaN, which stays
    return torch.where(gone, torch.zeros_like(gram), gram)


def scaled_gram(x: torch.Tensor, *, bfloat16: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the Gram matrix of centred features of any size, scaled so that its trace is near 1.

    Features of 10⁸ have a Gram matrix in float32, but no HSIC; features of 10²⁰ or 10⁻²⁰ have neither.

    Args:
        x: Features, see `centered_gram`.
        bfloat16: See `centered_gram`.

    Returns:
        The Gram matrix divided by 4 to the power of the exponent, and that exponent, a whole number.

    Example:
        >>> gram, power = scaled_gram(torch.tensor([[1e30], [3e30]]))
        >>> gram, power
        (tensor([[ 0.1556, -0.1556],
                [-0.1556,  0.1556]]), tensor(101.))
    """
    x = as_real(x)
    x = x if x.is_floating_point() else x.float()
    power = x.new_zeros((), dtype=x.dtype if x.dtype == torch.float64 else torch.float32)
    on_cpu = x.device.type == "cpu"  # on other devices, reading a value means waiting
    gram = centered_gram(x, bfloat16=bfloat16) if on_cpu else None
    if gram is None or not SAFE_TRACE[0] < gram.trace() < SAFE_TRACE[1]:
        size = exponent(largest(x).to(power.dtype))
        if gram is None or size.abs() > LARGE:
            power = size
            gram = centered_gram(x, bfloat16=bfloat16, factor=torch.exp2(-power))
    rest = exponent(gram.trace().sqrt())
    return gram * torch.exp2(-rest).square(), power + rest
