"""Build vision transformers on timm (Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929).

ViT-L/32 is the study's pure-attention model; the small ones train from scratch on images of 16 to 32 pixels.
All are timm ``VisionTransformer``s: a class token, learned position embeddings, pre-norm blocks.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

VIT_LARGE_TAG = "vit_large_patch32_224.orig_in21k"  # the one set of weights timm has for 224 pixels


def vit_large_patch32_224(num_classes: int = 100, pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """Build ViT-L/32 at 224 pixels: 24 blocks, width 1024, 16 heads, 49 patches.

    Args:
        num_classes: Number of logits; 0 leaves the classifier out.
        pretrained: Whether to load the weights trained on ImageNet-21k (timm's ``orig_in21k``, 1.2 GB). They come
            without a classifier: ``head`` is newly initialised and has to be trained.
        **kwargs: Options of timm's builder, e.g. ``drop_path_rate=0.1``; ``in_channels`` becomes timm's ``in_chans``.

    Returns:
        The model; images have shape (batch, 3, 224, 224).

    Example:
        >>> vit_large_patch32_224(num_classes=5, depth=1).head
        Linear(in_features=1024, out_features=5, bias=True)
    """
    if "in_channels" in kwargs:
        kwargs["in_chans"] = kwargs.pop("in_channels")
    return timm.create_model(VIT_LARGE_TAG, pretrained=pretrained, num_classes=num_classes, **kwargs)


def _sincos(rows: int, columns: int, width: int) -> torch.Tensor:
    """Return 2-D sine-cosine codes (rows * columns, width): the row in one half, the column in the other."""
    frequencies = 10_000 ** -(torch.arange(width // 4) / (width // 4))

    def codes(size: int) -> torch.Tensor:
        angles = torch.arange(size)[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    by_row, by_column = codes(rows)[:, None].expand(-1, columns, -1), codes(columns).expand(rows, -1, -1)
    return torch.cat([by_row, by_column], dim=-1).flatten(0, 1)


def _small_vit(num_classes: int, in_channels: int, **options: Any) -> VisionTransformer:
    """Build a ViT whose initialisation suits small widths and short trainings.

    timm's weights of standard deviation 0.02 are meant for widths near 1000. Here linear layers start
    xavier-uniform, and the learned position embeddings start at 2-D sine-cosine codes. The classifier
    keeps timm's start, not zero, so that untrained logits differ. ``weight_init`` overrides all of this.
    """
    model = VisionTransformer(num_classes=num_classes, in_chans=in_channels, **options)
    if "weight_init" in options:
        return model
    for module in model.blocks.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    with torch.no_grad():
        codes = _sincos(*model.patch_embed.grid_size, model.embed_dim)
        model.pos_embed[:, model.num_prefix_tokens :, : codes.shape[1]] = codes
    return model


def vit_tiny_patch2_16(num_classes: int = 100, in_channels: int = 3, **kwargs: Any) -> VisionTransformer:
    """Build a small ViT for 16-pixel images: 64 patches of 2x2, 6 blocks, width 96, 3 heads.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the images.
        **kwargs: Options of timm's ``VisionTransformer``.

    Example:
        >>> import torch
        >>> vit_tiny_patch2_16(num_classes=10)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 10])
    """
    size = {"img_size": 16, "patch_size": 2, "embed_dim": 96, "depth": 6, "num_heads": 3}
    return _small_vit(num_classes, in_channels, **{**size, **kwargs})


def vit_tiny_patch4_16(num_classes: int = 100, in_channels: int = 3, **kwargs: Any) -> VisionTransformer:
    """Build `vit_tiny_patch2_16` with 16 patches of 4x4, which trains in a third of the time; arguments as above.

    Example:
        >>> vit_tiny_patch4_16().patch_embed.num_patches
        16
    """
    return vit_tiny_patch2_16(num_classes, in_channels, **{"patch_size": 4, **kwargs})


def vit_tiny_patch4_24(num_classes: int = 100, in_channels: int = 3, **kwargs: Any) -> VisionTransformer:
    """Build a small ViT for 24-pixel images: 36 patches of 4x4, 6 blocks, width 96, 4 heads; arguments as above.

    Example:
        >>> vit_tiny_patch4_24().patch_embed.num_patches
        36
    """
    size = {"img_size": 24, "patch_size": 4, "embed_dim": 96, "depth": 6, "num_heads": 4}
    return _small_vit(num_classes, in_channels, **{**size, **kwargs})


def vit_tiny_patch4_32(num_classes: int = 100, in_channels: int = 3, **kwargs: Any) -> VisionTransformer:
    """Build ViT-Ti for 32-pixel images: 64 patches of 4x4, 12 blocks, width 192, 3 heads; arguments as above.

    Example:
        >>> vit_tiny_patch4_32().patch_embed.num_patches
        64
    """
    size = {"img_size": 32, "patch_size": 4, "embed_dim": 192, "depth": 12, "num_heads": 3}
    return _small_vit(num_classes, in_channels, **{**size, **kwargs})


def vit_tiny_patch2_32(num_classes: int = 100, in_channels: int = 3, **kwargs: Any) -> VisionTransformer:
    """Build ViT-Ti for CIFAR: 256 patches of 2x2, 12 blocks, width 192, 3 heads; arguments as above.

    Example:
        >>> vit_tiny_patch2_32().patch_embed.num_patches
        256
    """
    size = {"img_size": 32, "patch_size": 2, "embed_dim": 192, "depth": 12, "num_heads": 3}
    return _small_vit(num_classes, in_channels, **{**size, **kwargs})


def vit_ti_patch2_32(num_classes: int = 100, in_channels: int = 3, **kwargs: Any) -> VisionTransformer:
    """Build Park and Kim's ViT-Ti for CIFAR (2022, https://arxiv.org/abs/2202.06709): 5.4 million parameters.

    It is `vit_tiny_patch2_32` without biases of queries, keys and values, and with timm's initialisation. There is no
    stochastic depth; the paper trains with ``drop_path_rate=0.1``.

    Example:
        >>> sum(p.numel() for p in vit_ti_patch2_32().parameters())
        5403172
    """
    return vit_tiny_patch2_32(num_classes, in_channels, **{"qkv_bias": False, "weight_init": "", **kwargs})
