"""Class-embedding space of timm's Vision Transformers, which have a class token or average their tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from torch import nn

from utilities.analysis.class_embedding.space import BLOCK_PARTS, ClassSpace, LensOptions, Tuned


@dataclass(frozen=True)
class BlockParts:
    """The parts of a block that analyses look into.

    Attributes:
        attention: What attends; its output, or the first part of it, is what it adds before any scale.
        projection: Its output projection, whose columns are its memories.
        mlp: The MLP.
        hidden: Its first linear layer, with one output for each memory; None where there is none.
        memories: Its last linear layer, whose columns are its memories.
        attention_scale: Module whose parameter, if it has one, scales what attention adds (LayerScale).
    """

    attention: nn.Module
    projection: nn.Linear
    mlp: nn.Module
    hidden: nn.Linear | None
    memories: nn.Linear
    attention_scale: nn.Module


class TransformerSpace(ClassSpace):
    """Class-embedding space of timm's VisionTransformer; `PartsSpace` is that of others.

    Blocks may be pre-norm or residual-post-norm. The model may have a class token and registers, or average tokens.
    The second token of a distilled model is read with its own classifier, ``head_dist``; all others with ``head``.

    Attributes:
        block_parts: Parts of each block.
        head: Classifier.
        head_dist: That of the second token, or None.
        norms: Final norms, in the order in which they are applied.
        pool: ``"token"``, ``"avg"``, or, for sums over tokens alone, ``"token and avg"``.
        first_pooled: First of the tokens that are averaged.
        entry: Module whose output enters the first block.
        width: Width of the tokens.
        image_tokens: Number of tokens of the image at the model's own size.
        image_size: This size, height and width.
        any_size: Whether the model takes others.
    """

    parts = BLOCK_PARTS
    block_parts: list[BlockParts]
    head: nn.Linear
    head_dist: nn.Linear | None
    norms: tuple[nn.Module, ...]
    pool: str
    first_pooled: int
    entry: nn.Module
    width: int
    image_tokens: int
    image_size: tuple[int, int]
    any_size: bool

    def __init__(self, model: VisionTransformer, options: LensOptions) -> None:
        _check_transformer(model)
        self.model, self.options = model, options
        self.blocks = list(model.blocks)
        self.names = [f"blocks.{i}" for i in range(len(self.blocks))]
        self.prefix, self.class_token = model.num_prefix_tokens, model.cls_token is not None
        self.block_parts = [
            BlockParts(b.attn, b.attn.proj, b.mlp, getattr(b.mlp, "fc1", None), b.mlp.fc2, _scale(b))
            for b in self.blocks
        ]
        self.num_classes, self.width = model.head.out_features, model.embed_dim
        self.head, self.head_dist = model.head, getattr(model, "head_dist", None)
        self.norms, self.entry = (model.norm, model.fc_norm), model.norm_pre
        self.pool, self.first_pooled = model.global_pool, 0 if model.pool_include_prefix else self.prefix
        self.image_tokens, self.any_size = model.patch_embed.num_patches, model.dynamic_img_size
        self.image_size = tuple(model.patch_embed.img_size)

    @property
    def own_grid(self) -> tuple[int, int]:
        """Rows and columns of the patches at the model's own size."""
        return tuple(self.model.patch_embed.grid_size)

    def _head(self, x: torch.Tensor, head: nn.Linear) -> torch.Tensor:
        return nn.functional.linear(x, head.weight, head.bias if self.options.bias else None)

    def project(self, tokens: torch.Tensor, index: int | None = None, tuned: Tuned | None = None) -> torch.Tensor:
        """Read tokens with the final norm and the classifier."""
        tokens, tuned = tokens.clone(), tuned or self.options.tuned
        if index is not None and tuned is not None:
            tokens = tuned(index, tokens)
        if self.options.norm:
            for norm in self.norms:
                tokens = norm(tokens)
        logits = self._head(tokens, self.head)
        if self.head_dist is not None:
            logits[:, 1] = self._head(tokens[:, 1], self.head_dist)
        return logits

    def classify(self, tokens: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Norm, pool and classify; the average is over kept tokens only."""
        if keep is None or self.model.global_pool == "token":
            return self.model.forward_head(self.model.norm(tokens.clone()))
        first = 0 if self.model.pool_include_prefix else self.prefix
        weight = keep[:, first:, None].to(tokens.dtype)
        mean = (self.model.norm(tokens.clone())[:, first:] * weight).sum(1) / weight.sum(1)
        return self.model.head(self.model.fc_norm(mean))

    def tokens(self, output: torch.Tensor) -> torch.Tensor:
        """Return the output, which is the tokens already."""
        return output

    def grid(self, output: torch.Tensor, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Return rows and columns of the patches."""
        patches = self.model.patch_embed
        dynamic = size is not None and self.model.dynamic_img_size
        rows, columns = patches.dynamic_feat_size(size) if dynamic else patches.grid_size
        count = output.shape[1] - self.prefix
        if rows * columns != count:
            raise ValueError(
                f"{count} image tokens are not the {rows}x{columns} patches that {type(self.model).__name__} was made "
                "for; give images of its own size"
            )
        return rows, columns

    def branch_outputs(self, index: int) -> tuple[nn.Module, nn.Module]:
        """Return the modules that output what attention and MLP add to the residual stream, or their raw output."""
        block = self.blocks[index]
        if not self.options.scale:
            return block.attn, block.mlp
        return (block.norm1, block.norm2) if isinstance(block, ResPostBlock) else (block.ls1, block.ls2)


def _scale(block: nn.Module) -> nn.Module:
    return nn.Identity() if isinstance(block, ResPostBlock) else block.ls1


def _check_transformer(model: VisionTransformer) -> None:
    """Refuse a model that a lens through the final norm and one linear classifier cannot read."""
    kind = type(model).__name__
    if model.global_pool not in ("token", "avg"):
        raise ValueError(
            f"{kind} pools by {model.global_pool!r}: no token alone gives logits; only 'token' and 'avg' are read"
        )
    if not isinstance(model.head, nn.Linear):
        raise ValueError(f"{kind} has no linear classifier (its head is {type(model.head).__name__}); pass num_classes")
    for name, block in model.blocks.named_children():
        if not isinstance(block, (Block, ResPostBlock)) or not isinstance(block.attn, Attention):
            parts = f"{type(block).__name__} with {type(getattr(block, 'attn', None)).__name__}"
            raise ValueError(
                f"blocks.{name} of {kind} is a {parts}; only Block and ResPostBlock with Attention are read"
            )
        if not isinstance(getattr(block.mlp, "fc2", None), nn.Linear):
            raise ValueError(f"blocks.{name}.mlp of {kind} has no linear layer fc2, whose columns are its memories")
