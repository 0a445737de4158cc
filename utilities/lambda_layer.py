"""The lambda layer (Bello 2021, *LambdaNetworks*, https://arxiv.org/abs/2102.08602).

Notation: queries q, keys k and values v at N positions, an intra-depth u, and kbar = softmax of k over positions::

    content lambda    lc[k, v]    = sum over u, m of kbar[u, k, m] v[u, v, m]
    position lambda   lp[k, v, n] = b[k] + sum over u, m of E[k, u, m - n] v[u, v, m]   (m - n in an r x r window)
    output            y[h, v, n]  = sum over k of q[h, k, n] (lc[k, v] + lp[k, v, n])

The heads share both lambdas, and no map of N x N weights is ever made. E is the kernel of a convolution.
`position_lambda` computes it in whichever of three ways trains fastest; all give the same result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from numbers import Integral

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

MAX_TOEPLITZ_POSITIONS = {"cpu": 256, "cuda": 1024}  # limits of the methods; see `choose_method`
MAX_ROWS_PER_TAP = 2
MAX_COLUMNS_PER_TAP = 3
MAX_CACHED_ENTRIES = 2**21  # of position lambdas that are computed and applied at once on a CPU

Operator = Callable[[torch.Tensor], torch.Tensor]  # from values to their position lambdas


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


def choose_method(height: int, width: int, rows: int, columns: int, device: str = "cpu") -> str:
    """Choose the method for a position lambda by the time of a forward and backward pass on CPU.

    The limit for GPUs is an estimate; the methods have not been timed there.

    - ``"toeplitz"`` up to 256 positions, or 1,024 on a GPU, and 2 map rows per tap: a matrix product with E spread to
      N x N.
    - ``"spectral"`` up to 3 map columns per tap: a Fourier transform along the columns, and at each frequency a matrix
      product with E spread along the rows.
    - ``"conv"`` otherwise: the convolution itself. Its gradients are slow, because it has du input channels.

    Args:
        height: Number of rows of the map.
        width: Number of columns of the map.
        rows: Number of taps of the cropped kernel along the rows.
        columns: Number of taps of the cropped kernel along the columns.
        device: Type of the device.

    Returns:
        The method's name, for `position_lambda`.

    Example:
        >>> [choose_method(size, size, 23, 23) for size in (16, 32, 112)]
        ['toeplitz', 'spectral', 'conv']
    """
    limit = MAX_TOEPLITZ_POSITIONS.get(device, MAX_TOEPLITZ_POSITIONS["cpu"])
    if height * width <= limit and height <= MAX_ROWS_PER_TAP * rows:
        return "toeplitz"
    return "conv" if width > MAX_COLUMNS_PER_TAP * columns else "spectral"


def _spread(weight: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """Turn an axis of taps into one of ``size`` outputs, with one of ``size`` inputs appended as the last axis."""
    missing = size - 1 - weight.shape[axis] // 2  # taps to add on each side to reach 2 size - 1
    if missing:
        widths = [0, 0] * (weight.dim() - 1 - axis) + [missing, missing]
        weight = F.pad(weight, widths)
    return weight.unfold(axis, size, 1).flip(axis)


def _toeplitz(weight: torch.Tensor, height: int, width: int) -> Operator:
    """Compute position lambdas by one matrix product: (N k, u N) times (u N, batch v)."""
    spread = _spread(_spread(weight[:, :, 0], 2, height), 3, width)
    matrix = rearrange(spread, "k u y x from_y from_x -> (y x k) (u from_y from_x)")

    def compute(v: torch.Tensor) -> torch.Tensor:
        out = F.linear(rearrange(v, "b u v y x -> (b v) (u y x)"), matrix)
        return rearrange(out, "(b v) (y x k) -> b k v y x", b=len(v), y=height, x=width)

    return compute


def _spectral(weight: torch.Tensor, height: int, width: int, dtype: torch.dtype) -> Operator:
    """Compute position lambdas by Fourier transforms of the columns, and at each frequency one matrix product.

    The correlation along the columns becomes a product at each frequency, of matrices with E spread to all pairs of
    places in a row. Zeros behind the last row keep the circular correlation from wrapping round. All products are real,
    with real and imaginary parts side by side, so that they can be computed in ``dtype``. E and v, which are small, are
    transformed in float32 or wider. The transforms are matrix products too: FFTs of so few rows take longer.
    """
    rows, exact = weight.shape[-2], torch.promote_types(weight.dtype, torch.float32)
    length = height + rows // 2
    forwards, backwards = _fourier_matrices(height, length, exact, weight.device)
    kernel = F.pad(weight[:, :, 0].to(exact), (0, 0, 0, length - rows)).roll(-(rows // 2), dims=2)
    kernel = torch.view_as_real(torch.fft.rfft(kernel, dim=2)).unbind(-1)
    real, imaginary = (_spread(part, 3, width) for part in kernel)
    # The product with the conjugate: a correlation, not a convolution. First axis of `matrix`: parts of the input.
    matrix = torch.stack([torch.stack([real, -imaginary]), torch.stack([imaginary, real])])
    matrix = rearrange(matrix, "part out k u f x from_x -> f out (part u from_x) (k x)").to(dtype)
    backwards = backwards.to(dtype)

    def compute(v: torch.Tensor) -> torch.Tensor:
        with _without_autocast(v.device.type):
            values = forwards @ rearrange(v.to(exact), "b u v y x -> y (b v u x)")
        shape = {"part": 2, "b": len(v), "v": v.shape[2], "x": width}
        values = rearrange(values, "(f part) (b v u x) -> f 1 (b v) (part u x)", **shape).to(dtype)
        spectra = (values @ matrix).flatten(0, 1).flatten(1)
        return rearrange(backwards @ spectra, "y (b v k x) -> b k v y x", b=len(v), v=v.shape[2], x=width)

    return compute


def _fourier_matrices(
    height: int, length: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the transform of a real signal, with zeros behind it up to a length, and the inverse without them.

    Frequencies have their real and their imaginary part in turn.
    """
    frequencies = torch.arange(length // 2 + 1, device=device)
    turns = frequencies[:, None] * torch.arange(height, device=device) % length
    size = torch.full((), length**-0.5, dtype=dtype, device=device)
    waves = torch.view_as_real(torch.polar(size.expand_as(turns), turns.to(dtype) * (-2 * math.pi / length)))
    # A frequency that is its own mirror image counts once: zero, and the highest of an even length.
    counts = torch.where(2 * frequencies % length == 0, 1, 2)[:, None, None]
    return rearrange(waves, "f y part -> (f part) y"), rearrange(waves * counts, "f y part -> y (f part)")


def _product_type(v: torch.Tensor) -> torch.dtype:
    """Return the type that products of a tensor are computed in: autocast's where it is on."""
    device = v.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return v.dtype


def _without_autocast(device: str) -> AbstractContextManager[object]:
    """Compute products in the type of their factors."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _operator(weight: torch.Tensor, v: torch.Tensor, method: str | None = None) -> Operator:
    """Return the function that maps values such as ``v`` to their position lambdas; see `position_lambda`."""
    if weight.ndim != 5 or v.ndim != 5 or weight.shape[1] != v.shape[1]:
        shapes = f"{tuple(weight.shape)} and {tuple(v.shape)}"
        raise ValueError(f"E and v should be (dk, du, 1, r, r) and (batch, du, dv, height, width), not {shapes}")
    if weight.shape[-2] % 2 == 0 or weight.shape[-1] % 2 == 0:
        raise ValueError(f"a kernel of {tuple(weight.shape[-2:])} taps has no centre; r should be odd")
    height, width = v.shape[-2:]
    weight = crop_kernel(weight, height, width)
    method = method or choose_method(height, width, *weight.shape[-2:], v.device.type)
    if method == "toeplitz":
        return _toeplitz(weight, height, width)
    if method == "spectral":
        return _spectral(weight, height, width, _product_type(v))
    if method != "conv":
        raise ValueError(f"method={method!r}: choose 'toeplitz', 'spectral', 'conv' or None")
    return partial(F.conv3d, weight=weight, padding=(0, weight.shape[-2] // 2, weight.shape[-1] // 2))


def position_lambda(weight: torch.Tensor, v: torch.Tensor, method: str | None = None) -> torch.Tensor:
    """Compute lp[b, k, v, n] = sum over u, m of E[k, u, m - n] v[b, u, v, m], without the bias.

    Args:
        weight: E, shape (dk, du, 1, r, r), r odd.
        v: Values, shape (batch, du, dv, height, width).
        method: ``"toeplitz"``, ``"spectral"`` or ``"conv"``; None leaves it to `choose_method`.

    Returns:
        The position lambda, (batch, dk, dv, height, width); equal for all methods up to rounding.

    Raises:
        ValueError: For an even kernel, or an unknown method.

    Example:
        >>> e, v = torch.randn(2, 1, 1, 5, 5), torch.randn(3, 1, 4, 6, 7)
        >>> a, b, c = (position_lambda(e, v, method) for method in ("toeplitz", "spectral", "conv"))
        >>> torch.allclose(a, c, atol=1e-5), torch.allclose(b, c, atol=1e-5)
        (True, True)
    """
    return _operator(weight, v, method)(v)


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
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name}={value!r} must be a whole number of at least 1")
    if d % Nh:
        raise ValueError(f"d={d} cannot be split over Nh={Nh} heads: choose Nh among the divisors of d")
    if r % 2 == 0:
        raise ValueError(f"r={r} must be odd, so that the window has a centre: take r={r - 1} or r={r + 1}")
    if stride not in (1, 2):
        raise ValueError(f"stride={stride} must be 1, or 2 for average pooling after the layer")


def _parts(q: torch.Tensor, v: torch.Tensor, content: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Split a batch into parts whose position lambdas stay in a CPU's cache, where they are rearranged faster."""
    entries = q.shape[1] * q.shape[3] * v.shape[2]  # of an image's position lambdas
    images = max(1, MAX_CACHED_ENTRIES // entries if v.device.type == "cpu" else len(v))
    return zip(*(tensor.split(images) for tensor in (q, v, content)), strict=True)


def _applied(lambdas: Operator, q: torch.Tensor, v: torch.Tensor, content: torch.Tensor) -> torch.Tensor:
    """Apply the lambdas to the queries: (batch, N, heads, dk) to (batch, N, heads, dv)."""
    position = rearrange(lambdas(v), "b k v y x -> b (y x) k v")
    q = q.to(position.dtype)
    y = q @ position
    return y + (q.flatten(1, 2) @ content.to(q.dtype)).view_as(y)


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
        layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
        q, k, v = (part.contiguous(memory_format=layout) for part in self.conv_qkv(x).split(sizes, dim=1))
        q = rearrange(self.norm_q(q), "b (h k) y x -> b h k y x", h=self.Nh)
        k = rearrange(k, "b (u k) y x -> b u k (y x)", u=self.du)
        v = rearrange(self.norm_v(v), "b (u v) y x -> b u v y x", u=self.du)
        content = self.content_lambda(k, v.flatten(3))
        content = content + self.lambda_conv.bias[:, None]  # the bias is the same for every position
        q = rearrange(q, "b h k y x -> b (y x) h k")
        lambdas = _operator(self.lambda_conv.weight, v)
        y = torch.cat([_applied(lambdas, *part) for part in _parts(q, v, content)])
        y = rearrange(y, "b (y x) h v -> b h v y x", x=x.shape[3])
        return self.pool(rearrange(y, "b h v y x -> b (h v) y x").contiguous(memory_format=layout))
