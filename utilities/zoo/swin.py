"""Build small Swin transformers on timm (Liu et al. 2021, https://arxiv.org/abs/2103.14030).

Attention works within windows that shift from block to block, and neighbouring tokens are merged between stages. So
attention is local at first, with the pyramid of a CNN.
"""

from __future__ import annotations

from typing import Any

from timm.models.swin_transformer import SwinTransformer
from torch import nn


def swin_tiny_patch2_16(num_classes: int = 100, in_channels: int = 3, **kwargs: Any) -> SwinTransformer:
    """Build a small Swin for 16-pixel images: 8x8 patches of 2x2 in 2 blocks of width 64, then 4x4 in 4 of width 128.

    Windows have 4x4 tokens. The first stage has four windows, shifted by two in its second block; the second stage is
    one window. There is no stochastic depth. Linear layers start xavier-uniform, since timm's weights of standard
    deviation 0.02 are meant for larger widths. The classifier keeps timm's start. ``weight_init`` overrides all of
    this.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the images.
        **kwargs: Options of timm's ``SwinTransformer``.

    Example:
        >>> import torch
        >>> swin_tiny_patch2_16(num_classes=10)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 10])
    """
    size = {"img_size": 16, "patch_size": 2, "embed_dim": 64, "depths": (2, 4), "num_heads": (2, 4), "window_size": 4}
    options = {**size, "drop_path_rate": 0.0, **kwargs}
    model = SwinTransformer(num_classes=num_classes, in_chans=in_channels, **options)
    if "weight_init" not in options:
        for module in model.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
    return model


def swin_tiny_patch2_32(num_classes: int = 100, in_channels: int = 3, **kwargs: Any) -> SwinTransformer:
    """Build a Swin for 32-pixel images with as many blocks as `utilities.zoo.vit.vit_tiny_patch4_32`.

    It has 16x16 patches of 2x2 in 2 blocks of width 96, then 8x8 in 8 of width 192, then 4x4 in 2 of width 384. All
    else is as in `swin_tiny_patch2_16`.

    Example:
        >>> [stage.output_resolution for stage in swin_tiny_patch2_32(embed_dim=12).layers]
        [(16, 16), (8, 8), (4, 4)]
    """
    size = {"img_size": 32, "embed_dim": 96, "depths": (2, 8, 2), "num_heads": (3, 6, 12)}
    return swin_tiny_patch2_16(num_classes, in_channels, **{**size, **kwargs})


def swin_tiny_patch1_32(num_classes: int = 100, in_channels: int = 3, **kwargs: Any) -> SwinTransformer:
    """Build Park and Kim's Swin-Ti for CIFAR (2022, https://arxiv.org/abs/2202.06709): 27.6 million parameters.

    There is a token for each pixel: 32x32 of width 96 in 2 blocks, then 16x16 in 2, 8x8 in 6 and 4x4 of width 768 in 2.
    Windows have 4x4 tokens and shift by two in every other block of the first three stages. Queries, keys and values
    have no biases. The initialisation is timm's. There is no stochastic depth; the paper trains with
    ``drop_path_rate=0.1``.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the images.
        **kwargs: Options of timm's ``SwinTransformer``.

    Example:
        >>> [stage.output_resolution for stage in swin_tiny_patch1_32(embed_dim=12).layers]
        [(32, 32), (16, 16), (8, 8), (4, 4)]
    """
    size = {"img_size": 32, "patch_size": 1, "embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)}
    options = {**size, "window_size": 4, "qkv_bias": False, "drop_path_rate": 0.0, **kwargs}
    return SwinTransformer(num_classes=num_classes, in_chans=in_channels, **options)
