"""Build small Vision Transformers in which one block has no skip connections, to train them from the start.

Raghu et al. 2021, section 5 and figure 8 (https://arxiv.org/abs/2108.08810), train a ViT without the skip connections
of block i: both of them, around attention and around the MLP. Its representations before and after that block then
have little in common. Nothing can be removed from a trained model in this way, for its weights expect the skips.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from utilities.zoo.vit import vit_tiny_patch2_16, vit_tiny_patch2_32, vit_tiny_patch4_16, vit_tiny_patch4_32

BUILDERS = {
    "patch2_16": vit_tiny_patch2_16,
    "patch4_16": vit_tiny_patch4_16,
    "patch2_32": vit_tiny_patch2_32,
    "patch4_32": vit_tiny_patch4_32,
}
# Numbers of the blocks, from 1, that have models of their own: all of six, and of twelve those in the paper's figure.
OF_SIX, OF_TWELVE = (1, 2, 3, 4, 5, 6), (1, 7, 10)
WITHOUT = {"patch2_16": OF_SIX, "patch4_16": OF_SIX, "patch2_32": OF_TWELVE, "patch4_32": OF_TWELVE}
REMEDY = "give one of timm's Vision Transformers with pre-norm blocks, such as vit_tiny_patch2_16()"


class NoSkipBlock(nn.Module):
    """Run the attention and the MLP of a pre-norm block one after the other, without their skip connections.

    The parts keep their names, so that weights and layers have the names of the ordinary block. Stochastic depth is
    left out: without a skip, dropping a branch would drop the image.

    Args:
        block: Block whose parts are used, not copied.

    Raises:
        TypeError: If it is not timm's pre-norm block.

    Example:
        >>> block = NoSkipBlock(Block(8, 2))
        >>> x = torch.ones(1, 3, 8)
        >>> bool((block(x) == block.mix(block.attend(x))).all())
        True
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        if type(block) is not Block:
            raise TypeError(f"only timm's pre-norm Block can lose its skips, not a {type(block).__name__}; {REMEDY}")
        for name in ("norm1", "attn", "ls1", "norm2", "mlp", "ls2"):
            setattr(self, name, getattr(block, name))

    def attend(self, x: torch.Tensor, **options: Any) -> torch.Tensor:
        """Return what attention gives for tokens (batch, tokens, dim)."""
        return self.ls1(self.attn(self.norm1(x), **options))

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the MLP gives for tokens (batch, tokens, dim)."""
        return self.ls2(self.mlp(self.norm2(x)))

    def forward(self, x: torch.Tensor, **options: Any) -> torch.Tensor:
        """Map tokens to tokens; options, such as a mask, go to attention."""
        return self.mix(self.attend(x, **options))


def without_skips(model: VisionTransformer, block: int) -> VisionTransformer:
    """Remove both skip connections of one block, in place.

    Args:
        model: One of timm's Vision Transformers with pre-norm blocks.
        block: Number of the block, from 1.

    Returns:
        The model.

    Raises:
        ValueError: If there is no such block.
        TypeError: If the model has no blocks, or the block is of another kind or has lost its skips already.

    Example:
        >>> type(without_skips(vit_tiny_patch2_16(), 3).blocks[2]).__name__
        'NoSkipBlock'
    """
    if not isinstance(getattr(model, "blocks", None), (nn.Sequential, nn.ModuleList)):
        raise TypeError(f"a {type(model).__name__} has no row of blocks; {REMEDY}")
    if not 1 <= block <= len(model.blocks):
        raise ValueError(f"block={block} should be from 1 to {len(model.blocks)}, the model's number of blocks")
    model.blocks[block - 1] = NoSkipBlock(model.blocks[block - 1])
    return model


def vit_without_skips(
    size: str, num_classes: int = 100, in_channels: int = 3, *, block: int, **kwargs: Any
) -> VisionTransformer:
    """Build a small ViT for 16 or 32 pixels with one block that has no skip connections.

    Its initial weights are those of the ordinary ViT of the same seed.

    Args:
        size: Patch and image: ``"patch2_16"`` or ``"patch4_16"`` (6 blocks), ``"patch2_32"`` or ``"patch4_32"`` (12).
        num_classes: Number of logits.
        in_channels: Channels of the images.
        block: Number of the block, from 1.
        **kwargs: Options of timm's ``VisionTransformer``.

    Example:
        >>> vit_without_skips("patch2_16", 10, block=3)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 10])
    """
    return without_skips(BUILDERS[size](num_classes, in_channels, **kwargs), block)
