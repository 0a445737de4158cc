"""A small Swin transformer, built on timm (Liu et al. 2021, https://arxiv.org/abs/2103.14030).

Attention within windows that shift from block to block, and neighbouring tokens merged between stages: attention
that is local at first, with the pyramid of a CNN.
"""

from __future__ import annotations

from typing import Any

from timm.models.swin_transformer import SwinTransformer
from torch import nn


def swin_tiny_patch2_16(num_classes: int = 100, in_channels: int = 3, **kwargs: Any) -> SwinTransformer:
    """Small Swin for 16-pixel images: 8x8 patches of 2x2 in 2 blocks of width 64, then 4x4 in 4 of width 128.

    Windows have 4x4 tokens: the first stage has four, shifted by two in its second block, and the second stage
    is one window. There is no stochastic depth. Linear layers start xavier-uniform, for timm's weights of standard
    deviation 0.02 are meant for larger widths; the classifier keeps timm's start, and ``weight_init`` overrides it
    all.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the images.
        **kwargs: Passed on to timm's ``SwinTransformer``.

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
