"""Build vision transformers that attend to a neighbourhood only, to see what the reach of attention does.

The idea is that of Yang et al. 2019, *Convolutional Self-Attention Networks*, https://aclanthology.org/N19-1407. Park &
Kim 2022 (https://arxiv.org/abs/2202.06709) call such a model ConViT, which is another model's name (d'Ascoli et al.
2021), and compare neighbourhoods of 3x3, 5x5 and 8x8 tokens. Their statements on long-range dependency rest on that
comparison on CIFAR-100, and do not cover large convolution kernels or other data. There is no class token: predictions
come from the mean over positions.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer

from utilities.zoo.vit import vit_tiny_patch2_16, vit_tiny_patch2_32

SHAPES = ("square", "row", "column")


def neighbours(grid: tuple[int, int], reach: int, shape: str = "square") -> torch.Tensor:
    """Tell which tokens of a grid each token attends to.

    Args:
        grid: Rows and columns.
        reach: Tokens along a side; an even number reaches one further to the right and down.
        shape: ``"square"``; or in one dimension, ``"row"`` or ``"column"``.

    Returns:
        Booleans of shape (tokens, tokens), queries first: True where the key is in reach.

    Raises:
        ValueError: For another shape, or a reach below 1.

    Example:
        >>> neighbours((1, 4), 3).int().tolist()
        [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
    """
    if shape not in SHAPES:
        raise ValueError(f"shape {shape!r} is not known; choose from {', '.join(SHAPES)}")
    if reach < 1:
        raise ValueError(f"reach={reach} must be at least 1, the token itself")
    sides = {"square": (reach, reach), "row": (1, reach), "column": (reach, 1)}[shape]
    near = []
    for size, side in zip(grid, sides, strict=True):
        offset = torch.arange(size) - torch.arange(size)[:, None]
        near.append((offset >= -((side - 1) // 2)) & (offset <= side // 2))
    both = rearrange(near[0], "y key_y -> y 1 key_y 1") & rearrange(near[1], "x key_x -> 1 x 1 key_x")
    return rearrange(both, "y x key_y key_x -> (y x) (key_y key_x)")


class NeighbourhoodAttention(Attention):
    """Limit the keys of timm's attention to a neighbourhood of the query, which all heads share.

    Arguments are those of timm's ``Attention``; `limit` sets the neighbourhood.

    Example:
        >>> NeighbourhoodAttention(8, 2).limit((3, 3), 3)(torch.zeros(1, 9, 8)).shape
        torch.Size([1, 9, 8])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("near", None, persistent=False)

    def limit(self, grid: tuple[int, int], reach: int, shape: str = "square") -> NeighbourhoodAttention:
        """Limit the keys, see `neighbours`; return the layer itself."""
        self.near = neighbours(grid, reach, shape)
        return self

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor | None = None, is_causal: bool = False) -> torch.Tensor:
        """Map tokens (batch, rows * columns, dim) to tokens."""
        if attn_mask is not None or is_causal:
            raise ValueError("this attention has a mask of its own; pass no attn_mask and no is_causal")
        return super().forward(x, attn_mask=self.near)


def local_vit(
    size: str, num_classes: int = 100, in_channels: int = 3, *, reach: int, **kwargs: Any
) -> VisionTransformer:
    """Build the small ViT for 16 or 32 pixels, without class token, with attention to a neighbourhood.

    Args:
        size: ``"16"`` (8x8 tokens) or ``"32"`` (16x16 tokens).
        num_classes: Number of logits.
        in_channels: Channels of the images.
        reach: See `neighbours`.
        **kwargs: ``shape``, see `neighbours`; other options go to timm's ``VisionTransformer``.

    Example:
        >>> local_vit("16", 10, reach=3)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 10])
    """
    builder = {"16": vit_tiny_patch2_16, "32": vit_tiny_patch2_32}[size]
    shape = kwargs.pop("shape", "square")
    options = {"class_token": False, "global_pool": "avg", "attn_layer": NeighbourhoodAttention}
    model = builder(num_classes, in_channels, **options, **kwargs)
    for block in model.blocks:
        block.attn.limit(model.patch_embed.grid_size, reach, shape)
    return model
