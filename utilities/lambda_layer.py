"""The lambda layer (Bello 2021, *LambdaNetworks*, https://arxiv.org/abs/2102.08602).

Notation: queries q, keys k and values v at N positions, an intra-depth u, and kbar = softmax of k over positions::

    content lambda    lc[k, v]    = sum over u, m of kbar[u, k, m] v[u, v, m]
    position lambda   lp[k, v, n] = b[k] + sum over u, m of E[k, u, m - n] v[u, v, m]   (m - n in an r x r window)
    output            y[h, v, n]  = sum over k of q[h, k, n] (lc[k, v] + lp[k, v, n])

The heads share both lambdas, and no map of N x N weights is ever made. E is the kernel of a convolution.
`position_lambda` computes it in whichever of four ways trains fastest; all give the same result.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import nn

MAX_TOEPLITZ_POSITIONS = {"cpu": 256, "cuda": 1024}  # limits of the methods; see `choose_method`
MAX_ROWS_PER_TAP = 2
MAX_COLUMNS_PER_TAP = 3


def crop_kernel(weight: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Cut away the outer rings of a kernel that meet only padding.

    Two positions of a map of L pixels are at most L - 1 apart, so at most 2 L - 1 taps of an axis matter.

    Args:
        weight: Kernel whose last two axes are odd.
        height: Number of rows of the map.
        width: Number of columns of the map.

    Returns:
        The central part of the kernel, at most (2 height - 1) x (2 width - 1).

    Example:
        >>> crop_kernel(torch.zeros(16, 1, 1, 23, 23), 4, 16).shape
        torch.Size([16, 1, 1, 7, 23])
    """
    rows, columns = weight.shape[-2:]
    top, left = max(0, rows // 2 + 1 - height), max(0, columns // 2 + 1 - width)
    return weight[..., top : rows - top, left : columns - left]


def choose_method(height: int, width: int, rows: int, columns: int, device: str = "cpu", half: bool = False) -> str:
    """Choose the method for a position lambda by the time of a forward and backward pass on CPU.

    The limit for GPUs is an estimate; the methods have not been timed there.

    - ``"toeplitz"`` up to 256 positions, or 1,024 on a GPU, and 2 map rows per tap: a matrix product with E spread to
      N x N.
    - ``"banded"`` up to 3 map columns per tap: E is spread along the columns only. They become the channels of a
      convolution over the rows.
    - ``"windows"`` instead of that in half precision on a CPU: the same product over windows of rows, since the
      gradients of that convolution take several times as long there.
    - ``"conv"`` otherwise: the convolution itself. Its gradients are slow, because it has du input channels.

    Args:
        height: Number of rows of the map.
        width: Number of columns of the map.
        rows: Number of taps of the cropped kernel along the rows.
        columns: Number of taps of the cropped kernel along the columns.
        device: Type of the device.
        half: Whether products are computed in bfloat16 or float16.

    Returns:
        The method's name, for `position_lambda`.

    Example:
        >>> [choose_method(size, size, 23, 23) for size in (16, 32, 112)]
        ['toeplitz', 'banded', 'conv']
        >>> choose_method(32, 32, 23, 23, half=True)
        'windows'
    """
    limit = MAX_TOEPLITZ_POSITIONS.get(device, MAX_TOEPLITZ_POSITIONS["cpu"])
    if height * width <= limit and height <= MAX_ROWS_PER_TAP * rows:
        return "toeplitz"
    if width > MAX_COLUMNS_PER_TAP * columns:
        return "conv"
    return "windows" if half and device == "cpu" else "banded"


def _spread(weight: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """Turn an axis of taps into one of ``size`` outputs, with one of ``size`` inputs appended as the last axis."""
    missing = size - 1 - weight.shape[axis] // 2  # taps to add on each side to reach 2 size - 1
    if missing:
        widths = [0, 0] * (weight.dim() - 1 - axis) + [missing, missing]
        weight = F.pad(weight, widths)
    return weight.unfold(axis, size, 1).flip(axis)


def _toeplitz(weight: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Compute a position lambda by one matrix product: (N k, u N) times (u N, batch v)."""
    height, width = v.shape[-2:]
    spread = _spread(_spread(weight[:, :, 0], 2, height), 3, width)
    matrix = rearrange(spread, "k u y x from_y from_x -> (y x k) (u from_y from_x)")
    out = F.linear(rearrange(v, "b u v y x -> (b v) (u y x)"), matrix)
    return rearrange(out, "(b v) (y x k) -> b k v y x", b=len(v), y=height, x=width)


def _banded(weight: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Compute a position lambda by a convolution over the rows, with the columns as channels."""
    rows, width = weight.shape[-2], v.shape[-1]
    kernel = rearrange(_spread(weight[:, :, 0], 3, width), "k u row x from_x -> (k x) (u from_x) row 1")
    out = F.conv2d(rearrange(v, "b u v y x -> (b v) (u x) y 1"), kernel, padding=(rows // 2, 0))
    return rearrange(out, "(b v) (k x) y 1 -> b k v y x", b=len(v), x=width)


class _Windows(torch.autograd.Function):
    """Multiply windows of rows by a matrix, without keeping the windows, which hold each row many times."""

    @staticmethod
    def forward(ctx: Any, padded: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        """Map padded maps (n, rows + window - 1, columns) and a matrix (out, window * columns) to (n, rows, out)."""
        ctx.save_for_backward(padded, matrix)
        return F.linear(_windows(padded, matrix), matrix)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients of both; by differentiable steps, so that Hessians have theirs."""
        padded, matrix = ctx.saved_tensors
        columns, rows = padded.shape[2], grad.shape[1]
        of_matrix = grad.flatten(0, 1).T @ _windows(padded, matrix).flatten(0, 1)
        spread = (grad @ matrix).unflatten(2, (-1, columns))
        of_padded = torch.zeros_like(padded)
        for place in range(spread.shape[2]):
            of_padded[:, place : place + rows] += spread[:, :, place]
        return of_padded, of_matrix


def _windows(padded: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    window = matrix.shape[1] // padded.shape[2]
    return padded.unfold(1, window, 1).transpose(2, 3).flatten(2)


def _windowed(weight: torch.Tensor, v: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Compute a position lambda by a matrix product over windows of rows, in a type of its own."""
    rows, width = weight.shape[-2], v.shape[-1]
    matrix = rearrange(_spread(weight[:, :, 0], 3, width), "k u row x from_x -> (k x) (row u from_x)")
    padded = F.pad(rearrange(v, "b u v y x -> (b v) y (u x)"), (0, 0, rows // 2, rows // 2))
    out = _Windows.apply(padded.to(dtype), matrix.to(dtype))
    return rearrange(out, "(b v) y (k x) -> b k v y x", b=len(v), x=width)


def _half(v: torch.Tensor) -> torch.dtype | None:
    """Return the half precision that products of a tensor are computed in, or None."""
    device = v.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return v.dtype if v.dtype in (torch.bfloat16, torch.float16) else None


def position_lambda(weight: torch.Tensor, v: torch.Tensor, method: str | None = None) -> torch.Tensor:
    """Compute lp[b, k, v, n] = sum over u, m of E[k, u, m - n] v[b, u, v, m], without the bias.

    Args:
        weight: E, shape (dk, du, 1, r, r), r odd.
        v: Values, shape (batch, du, dv, height, width).
        method: ``"toeplitz"``, ``"banded"``, ``"windows"`` or ``"conv"``; None leaves it to `choose_method`.

    Returns:
        The position lambda, (batch, dk, dv, height, width); equal for all methods up to rounding.

    Example:
        >>> e, v = torch.randn(2, 1, 1, 5, 5), torch.randn(3, 1, 4, 6, 7)
        >>> a, b, c = (position_lambda(e, v, method) for method in ("toeplitz", "banded", "conv"))
        >>> torch.allclose(a, c, atol=1e-5), torch.allclose(b, c, atol=1e-5)
        (True, True)
    """
    height, width = v.shape[-2:]
    weight = crop_kernel(weight, height, width)
    half = _half(v)
    method = method or choose_method(height, width, *weight.shape[-2:], v.device.type, half is not None)
    if method == "toeplitz":
        return _toeplitz(weight, v)
    if method == "banded":
        return _banded(weight, v)
    if method == "windows":
        return _windowed(weight, v, half or v.dtype)
    if method != "conv":
        raise ValueError(f"method={method!r}: choose 'toeplitz', 'banded', 'windows', 'conv' or None")
    return F.conv3d(v, weight, padding=(0, weight.shape[-2] // 2, weight.shape[-1] // 2))


class _Conv3d(nn.Conv3d):
    """A Conv3d of depth 1 that survives ``model.to(memory_format=torch.channels_last)``.

    That format is for four axes, and torch refuses it for a weight with five. Here it is applied to the weight without
    its axis of length 1.
    """

    def _apply(self, fn, recurse=True):
        def convert(tensor: torch.Tensor) -> torch.Tensor:
            try:
                return fn(tensor)
            except RuntimeError:
                if tensor.dim() != 5:
                    raise
                return fn(tensor.squeeze(2)).unsqueeze(2)

        return super()._apply(convert, recurse)


def _check_options(d: int, dk: int, du: int, Nh: int, r: int, stride: int) -> None:
    """Raise ValueError for options that cannot form a lambda layer."""
    for name, value in {"d": d, "dk": dk, "du": du, "Nh": Nh, "r": r}.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    if d % Nh:
        raise ValueError(f"d={d} cannot be split over Nh={Nh} heads: choose Nh among the divisors of d")
    if r % 2 == 0:
        raise ValueError(f"r={r} must be odd, so that the window has a centre: take r={r - 1} or r={r + 1}")
    if stride not in (1, 2):
        raise ValueError(f"stride={stride} must be 1, or 2 for average pooling after the layer")


class LambdaLayer(nn.Module):
    """Lambda layer with multi-query heads and a local position lambda, used in place of a 3x3 convolution.

    Queries, keys and values come from one 1x1 convolution; queries and values pass a batch norm. All weights are
    initialised as in torch's convolutions, with a standard deviation of (3d)**-0.5. The keys are not normalised, so
    this scale matters: with d**-0.5 the softmax picks single positions, and untrained deep networks overflow on images
    a little brighter than those that their batch-norm statistics were estimated on.

    Args:
        d: Number of channels of the input and of the output.
        dk: Number of channels of a query and of a key.
        du: Intra-depth: number of keys and values per position.
        Nh: Number of heads; each has d / Nh of the output channels.
        r: Odd size of the window of the position lambda. Taps beyond 2 size - 1 are never computed.
        stride: Stride of the layer: 1, or 2 to add a 3x3 average pool of stride 2 after it.

    Raises:
        ValueError: If the options do not fit together.

    Example:
        >>> LambdaLayer(64, r=7, stride=2)(torch.zeros(2, 64, 8, 8)).shape
        torch.Size([2, 64, 4, 4])
    """

    def __init__(self, d: int, dk: int = 16, du: int = 1, Nh: int = 4, r: int = 23, stride: int = 1) -> None:
        super().__init__()
        _check_options(d, dk, du, Nh, r, stride)
        self.d, self.dk, self.du, self.Nh, self.r, self.stride = d, dk, du, Nh, r, stride
        self.dv = d // Nh
        self.conv_qkv = nn.Conv2d(d, Nh * dk + dk * du + self.dv * du, 1, bias=False)
        self.norm_q = nn.BatchNorm2d(Nh * dk)
        self.norm_v = nn.BatchNorm2d(self.dv * du)
        self.lambda_conv = _Conv3d(du, dk, (1, r, r), padding=(0, r // 2, r // 2))
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else nn.Identity()

    def extra_repr(self) -> str:
        """List the options."""
        return f"d={self.d}, dk={self.dk}, du={self.du}, Nh={self.Nh}, r={self.r}, stride={self.stride}"

    def content_lambda(self, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Sum the values weighted by the keys' softmax over positions, in float32 or wider.

        Args:
            k: Keys before the softmax, shape (batch, du, dk, N).
            v: Values, shape (batch, du, dv, N).

        Returns:
            The content lambda, (batch, dk, dv).
        """
        weights = k.softmax(dim=-1, dtype=torch.promote_types(k.dtype, torch.float32))
        weights = rearrange(weights, "b u k n -> b k (u n)")
        return weights @ rearrange(v.to(weights.dtype), "b u v n -> b (u n) v")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, d, H, W) to (batch, d, H / stride, W / stride), output channel = head * dv + v."""
        if x.dim() != 4 or x.shape[1] != self.d:
            raise ValueError(f"LambdaLayer(d={self.d}) got {tuple(x.shape)}, not (batch, {self.d}, H, W)")
        sizes = (self.Nh * self.dk, self.dk * self.du, self.dv * self.du)
        q, k, v = self.conv_qkv(x).split(sizes, dim=1)
        q = rearrange(self.norm_q(q), "b (h k) y x -> b h k y x", h=self.Nh)
        k = rearrange(k, "b (u k) y x -> b u k (y x)", u=self.du)
        v = rearrange(self.norm_v(v), "b (u v) y x -> b u v y x", u=self.du)
        content = self.content_lambda(k, v.flatten(3))
        content = content + self.lambda_conv.bias[:, None]  # the bias is the same for every position
        position = position_lambda(self.lambda_conv.weight, v)
        lambdas = position + content.to(position.dtype)[..., None, None]
        y = einsum(q, lambdas, "b h k y x, b k v y x -> b h v y x")
        return self.pool(rearrange(y, "b h v y x -> b (h v) y x"))
