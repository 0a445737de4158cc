"""A lambda layer's output, written as attention: what each position gives to a query, by content and by place.

A lambda layer (`utilities.lambda_layer`) never makes a map of weights, but its output is linear in the values. With
queries q, values v, kbar = softmax of the keys over positions, and E the kernel of the position lambda::

    y[h, v, n] = sum over u, m of (c[h, u, n, m] + p[h, u, n, m]) v[u, v, m]  +  q[h, n] . b
    content weight   c[h, u, n, m] = sum over k of q[h, k, n] kbar[u, k, m]
    position weight  p[h, u, n, m] = sum over k of q[h, k, n] E[k, u, m - n]

The weights may be negative, and do not sum to 1. The bias b of the position lambda adds the same to all channels of a
head, whatever the values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import einsum, rearrange

from utilities.lambda_layer import LambdaLayer, crop_kernel


@dataclass(frozen=True)
class LambdaWeights:
    """Weights of some queries of a lambda layer over all positions.

    Attributes:
        content: Content weights, (batch, heads, du, queries, positions).
        position: Position weights, of the same shape.
        values: Values after their norm, (batch, du, dv, positions).
        bias: What the bias adds to all channels of a head, (batch, heads, queries).
    """

    content: torch.Tensor
    position: torch.Tensor
    values: torch.Tensor
    bias: torch.Tensor

    def outputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what content, position and bias add to the layer's output before pooling.

        Returns:
            Three tensors (batch, heads, dv, queries), whose sum is the output.
        """
        weights = (self.content, self.position)
        parts = [einsum(each, self.values, "b h u n m, b u v m -> b h v n") for each in weights]
        return *parts, self.bias[:, :, None].expand_as(parts[0])


def lambda_weights(layer: LambdaLayer, x: torch.Tensor, queries: torch.Tensor | None = None) -> LambdaWeights:
    """Compute the weights of a lambda layer's queries over all positions of its map.

    Args:
        layer: The layer, in eval mode.
        x: Its input, (batch, d, H, W).
        queries: Positions of the queries, in reading order; None takes all.

    Returns:
        The weights, at the layer's own resolution: a pool that follows in a layer of stride 2 is left out.

    Example:
        >>> layer, x = LambdaLayer(8, r=3).eval(), torch.randn(1, 8, 4, 4)
        >>> output = sum(lambda_weights(layer, x).outputs())
        >>> bool(output.reshape(1, 8, 4, 4).allclose(layer(x), atol=1e-5))
        True
    """
    height, width = x.shape[-2:]
    if queries is None:
        queries = torch.arange(height * width, device=x.device)
    sizes = (layer.Nh * layer.dk, layer.dk * layer.du, layer.dv * layer.du)
    q, k, v = layer.conv_qkv(x).split(sizes, dim=1)
    q = rearrange(layer.norm_q(q), "b (h k) y x -> b h k (y x)", h=layer.Nh)[..., queries]
    k = rearrange(k, "b (u k) y x -> b u k (y x)", u=layer.du)
    precise = torch.promote_types(q.dtype, torch.float32)
    q, keys, kernel = q.to(precise), k.softmax(-1, dtype=precise), layer.lambda_conv.weight.to(precise)
    values = rearrange(layer.norm_v(v), "b (u v) y x -> b u v (y x)", u=layer.du)
    return LambdaWeights(
        content=einsum(q, keys, "b h k n, b u k m -> b h u n m"),
        position=einsum(q, kernel_between(kernel, (height, width), queries), "b h k n, k u n m -> b h u n m"),
        values=values.to(precise),
        bias=einsum(q, layer.lambda_conv.bias.to(precise), "b h k n, k -> b h n"),
    )


def kernel_between(weight: torch.Tensor, size: tuple[int, int], queries: torch.Tensor) -> torch.Tensor:
    """Look up the kernel's entry for each pair of a query and a position.

    Args:
        weight: E, (dk, du, 1, r, r), r odd.
        size: Height and width of the map.
        queries: Positions of the queries, in reading order.

    Returns:
        E[k, u, m - n], shape (dk, du, queries, positions); 0 where a position is out of the window's reach.

    Example:
        >>> taps = torch.arange(9.0).reshape(1, 1, 1, 3, 3)
        >>> kernel_between(taps, (1, 3), torch.tensor([0, 1]))[0, 0]
        tensor([[4., 5., 0.],
                [3., 4., 5.]])
    """
    height, width = size
    taps = crop_kernel(weight, height, width)[:, :, 0]
    rows, columns = (side // 2 for side in taps.shape[-2:])
    taps = F.pad(taps, [width - 1 - columns] * 2 + [height - 1 - rows] * 2)  # now 2 size - 1 along each axis
    y, x = queries // width, queries % width
    key_y, key_x = torch.arange(height, device=taps.device), torch.arange(width, device=taps.device)
    down = (key_y - y[:, None] + height - 1)[:, :, None]
    across = (key_x - x[:, None] + width - 1)[:, None]
    return taps[:, :, down, across].flatten(-2)
