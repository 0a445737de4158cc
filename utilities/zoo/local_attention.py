"""Apply self-attention within windows of a feature map, the attention of AlterNet.

A map is cut into windows of p x p pixels that neither overlap nor shift. The pixels of a window attend to each other
(Park & Kim 2022, https://arxiv.org/abs/2202.06709). The use of attention within a neighbourhood in place of a
convolution goes back to Yang et al. 2019, *Convolutional Self-Attention Networks*, https://arxiv.org/abs/1904.03107.
It is not the ConViT of d'Ascoli et al. 2021, whose attention is global. Park & Kim's findings on the size of the
neighbourhood come from CIFAR-100, with kernels of 3, 5 and 8 pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

Cut = tuple[int, int, int, int]  # rows and columns of windows, rows and columns of pixels in each window


def relative_position_index(window: int) -> torch.Tensor:
    """Number the offsets between pixels of a window, as rows and columns of a table of biases.

    Args:
        window: Pixels along a side, p.

    Returns:
        Shape (p, p, p, p, 2). For query row, query column, key row and key column, it holds the offset (dy, dx) from
        query to key plus p - 1, which counts from 0 to 2 p - 2.

    Example:
        >>> relative_position_index(2)[0, 0].tolist()  # from the first pixel to each of the four
        [[[1, 1], [1, 2]], [[2, 1], [2, 2]]]
    """
    pixels = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    offsets = pixels[None, :] - pixels[:, None] + window - 1
    return rearrange(offsets, "(y x) (key_y key_x) offset -> y x key_y key_x offset", y=window, key_y=window)


def cut_windows(x: torch.Tensor, window: int) -> tuple[torch.Tensor, Cut]:
    """Cut maps into windows; where windows do not divide a map, pad its end with zeros.

    Args:
        x: Shape (batch, channels, H, W).
        window: Pixels along a side, p; along a shorter axis, the window is as long as the axis.

    Returns:
        Pixels of shape (batch * windows, pixels, channels), with images varying slowest, and windows and pixels in
        reading order; and the sizes of the cut, for `join_windows`.

    Example:
        >>> pixels, cut = cut_windows(torch.zeros(2, 8, 10, 3), 4)
        >>> pixels.shape, cut
        (torch.Size([6, 12, 8]), (3, 1, 4, 3))
    """
    height, width = x.shape[-2:]
    rows, columns = min(window, height), min(window, width)
    down, across = -(-height // rows), -(-width // columns)
    if (down * rows, across * columns) != (height, width):
        x = F.pad(x, (0, across * columns - width, 0, down * rows - height))
    # Channels last first: torch does that fast, and the pieces cut afterwards have contiguous channels.
    x = rearrange(x, "b c y x -> b y x c").contiguous()
    pixels = rearrange(x, "b (down y) (across x) c -> (b down across) (y x) c", y=rows, x=columns)
    return pixels, (down, across, rows, columns)


def join_windows(pixels: torch.Tensor, cut: Cut, like: torch.Tensor) -> torch.Tensor:
    """Join windows into maps of the size and memory format of ``like``: undo `cut_windows`.

    Args:
        pixels: Shape (batch * windows, pixels, channels).
        cut: From `cut_windows`.
        like: The maps that were cut, of any number of channels.

    Returns:
        Shape (batch, channels, H, W).

    Example:
        >>> x = torch.randn(2, 8, 10, 3)
        >>> bool((join_windows(*cut_windows(x, 4), like=x) == x).all())
        True
    """
    (height, width), (down, across, rows, _) = like.shape[-2:], cut
    sizes = {"down": down, "across": across, "y": rows}
    x = rearrange(pixels, "(b down across) (y x) c -> b (down y) (across x) c", **sizes)
    x = rearrange(x, "b y x c -> b c y x")[..., :height, :width]
    return x.contiguous() if like.is_contiguous() else x


def padding_mask(cut: Cut, height: int, width: int, device: torch.device | None = None) -> torch.Tensor | None:
    """Tell which pixels of each window are padding.

    Args:
        cut: From `cut_windows`.
        height: Rows of the map.
        width: Columns of the map.
        device: Where to put the mask.

    Returns:
        Booleans of shape (windows, pixels), or None where nothing was padded.

    Example:
        >>> padding_mask((1, 2, 2, 2), 2, 3)
        tensor([[False, False, False, False],
                [False,  True, False,  True]])
    """
    down, across, rows, columns = cut
    if (down * rows, across * columns) == (height, width):
        return None
    padded = torch.ones(down * rows, across * columns, dtype=torch.bool, device=device)
    padded[:height, :width] = False
    return rearrange(padded, "(down y) (across x) -> (down across) (y x)", y=rows, x=columns)


class LocalAttention(nn.Module):
    """Apply multi-head self-attention within p x p windows of a map, with relative positions.

    In each window and head::

        out = softmax(q k' / sqrt(head_dim) + bias[dy, dx]) v

    In the paper, queries, keys and values are 1x1 convolutions of the map without bias, and the heads' output goes
    through a 1x1 convolution with bias. Here both are linear layers, ``qkv`` and ``proj``, which compute the same,
    faster. One table of (2 p - 1) x (2 p - 1) biases for the offsets from query to key serves all heads.

    Maps may have any size, and the parameters' shapes do not depend on it. Along an axis shorter than p, windows are
    as long as the axis, and use the central part of the table. Where windows do not divide a map, it is padded at its
    end, and no pixel attends to padding.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; None keeps those of the input.
        heads: Number of heads.
        window: Pixels along a side of a window, p.
        head_dim: Channels of a head.

    Raises:
        ValueError: If one of them is below 1.

    Example:
        >>> LocalAttention(32, 64, heads=2, window=4)(torch.zeros(2, 32, 10, 3)).shape
        torch.Size([2, 64, 10, 3])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        heads: int,
        window: int,
        head_dim: int = 64,
    ) -> None:
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "heads": heads, "window": window}
        for name, value in {**sizes, "head_dim": head_dim}.items():
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        self.in_channels, self.heads, self.window, self.head_dim = in_channels, heads, window, head_dim
        self.qkv = nn.Linear(in_channels, 3 * heads * head_dim, bias=False)
        self.proj = nn.Linear(heads * head_dim, out_channels)
        span = 2 * window - 1
        self.relative_position_bias_table = nn.Parameter(0.02 * torch.randn(span, span))
        rows, columns = relative_position_index(window).unbind(-1)
        self.register_buffer("relative_position_index", rows * span + columns, persistent=False)

    def extra_repr(self) -> str:
        """Return the options as text."""
        return f"heads={self.heads}, window={self.window}, head_dim={self.head_dim}"

    def bias(self, rows: int, columns: int) -> torch.Tensor:
        """Spread the table over the pairs of pixels of a window.

        Args:
            rows: Rows of the window, at most p.
            columns: Columns of the window, at most p.

        Returns:
            Shape (rows * columns, rows * columns), for query and key.

        Example:
            >>> layer = LocalAttention(8, heads=1, window=4)
            >>> bool(layer.bias(2, 3)[0, 5] == layer.relative_position_bias_table[3 + 1, 3 + 2])
            True
        """
        index = self.relative_position_index[:rows, :columns, :rows, :columns].flatten()
        biases = self.relative_position_bias_table.flatten().index_select(0, index)
        return rearrange(biases, "(query key) -> query key", query=rows * columns)

    def attention_weights(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the attention maps of a batch, for analysis.

        Args:
            x: Shape (batch, in_channels, H, W).

        Returns:
            Shape (batch * windows, heads, pixels, pixels), float32 at least, with images varying slowest and windows
            in reading order. Each row belongs to a query and sums to 1. Padded pixels have rows; their columns are 0.

        Example:
            >>> LocalAttention(8, heads=3, window=4).attention_weights(torch.zeros(2, 8, 8, 8)).shape
            torch.Size([8, 3, 16, 16])
        """
        q, k, _, bias, _ = self._heads(x)
        return self._weights(q, k, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, in_channels, H, W) to (batch, out_channels, H, W)."""
        q, k, v, bias, cut = self._heads(x)
        out = self._weights(q, k, bias).to(v.dtype) @ v
        out = self.proj(rearrange(out, "window head pixel c -> window pixel (head c)"))
        return join_windows(out, cut, like=x)

    def _weights(self, q: torch.Tensor, k: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Compute the attention maps, by plain products.

        torch's fused attention kernels save nothing for so few keys and are slower on a CPU. They cannot be
        differentiated twice, as Hessians need.
        """
        logits = (q * self.head_dim**-0.5) @ k.transpose(-2, -1) + bias
        return logits.softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))

    def _heads(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, Cut]:
        """Return q, k, v (batch * windows, heads, pixels, head_dim), the term to add to the logits, and the cut."""
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"LocalAttention got {tuple(x.shape)}, not (batch, in_channels={self.in_channels}, H, W)")
        pixels, cut = cut_windows(x, self.window)
        qkv = self.qkv(pixels)
        q, k, v = rearrange(qkv, "window pixel (qkv head c) -> qkv window head pixel c", qkv=3, head=self.heads)
        bias = self.bias(*cut[2:])
        padded = padding_mask(cut, *x.shape[2:], device=x.device)
        if padded is not None:
            bias = bias.masked_fill(padded[:, None], float("-inf"))
            bias = repeat(bias, "window query key -> (image window) 1 query key", image=len(x))
        return q, k, v, bias, cut
