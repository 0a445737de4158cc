"""Class-embedding space of torchvision's and Hugging Face's Vision Transformers, whose parts are known."""

from __future__ import annotations

import torch
from torch import nn

from utilities.analysis.class_embedding.space import LensOptions
from utilities.analysis.class_embedding.transformer_space import BlockParts, TransformerSpace
from utilities.hooks.trial import first_tensor
from utilities.hooks.vit_parts import ViTBlock, ViTParts


class PartsSpace(TransformerSpace):
    """Class-embedding space of a model whose parts `utilities.hooks.vit_parts.vit_parts` finds.

    Args:
        model: The model.
        options: How tokens are read.
        found: Its parts.
        alone: Whether a token alone has to give logits; else a classifier of the class token beside a mean will do.

    Raises:
        ValueError: If it has no classifier, or one that does not read single tokens.

    Example:
        >>> from torchvision.models import VisionTransformer
        >>> from utilities.hooks.vit_parts import vit_parts
        >>> model = VisionTransformer(16, 8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=5)
        >>> PartsSpace(model, LensOptions(), vit_parts(model)).project(torch.zeros(1, 5, 8)).shape
        torch.Size([1, 5, 5])
    """

    def __init__(self, model: nn.Module, options: LensOptions, found: ViTParts, alone: bool = True) -> None:
        _check_readout(model, found, alone)
        self.model, self.options, self.found = model, options, found
        self.blocks, self.names = [block.module for block in found.blocks], [block.name for block in found.blocks]
        self.block_parts = [
            BlockParts(one.attention, one.projection, one.mlp, one.hidden, one.memories, _scale(one))
            for one in found.blocks
        ]
        self.prefix, self.class_token = found.prefix, found.class_token
        self.head, self.head_dist = found.heads[0], (*found.heads, None)[1]
        self.num_classes, self.width = self.head.out_features, found.blocks[0].projection.out_features
        self.norms, self.entry = () if found.norm is None else (found.norm,), found.before
        self.pool, self.first_pooled = found.pool, found.prefix
        self.image_size, self.any_size = found.image_size, found.any_size
        rows, columns = found.grid()
        self.image_tokens = rows * columns

    @property
    def own_grid(self) -> tuple[int, int]:
        """Rows and columns of the patches at the model's own size."""
        return self.found.grid()

    def classify(self, tokens: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Norm, pool and classify; the average is over kept tokens only."""
        if keep is None or self.pool == "token":
            return self.found.finish(tokens.clone())
        weight = keep[:, self.first_pooled :, None].to(tokens.dtype)
        tokens = tokens.clone()
        for norm in self.norms:
            tokens = norm(tokens)
        return self.head((tokens[:, self.first_pooled :] * weight).sum(1) / weight.sum(1))

    def tokens(self, output: torch.Tensor) -> torch.Tensor:
        """Return the output, or its first tensor."""
        return first_tensor(output)

    def grid(self, output: torch.Tensor, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Return rows and columns of the patches."""
        rows, columns = self.found.grid(size)
        count = first_tensor(output).shape[1] - self.prefix
        if rows * columns != count:
            raise ValueError(
                f"{count} image tokens are not the {rows}x{columns} patches that {type(self.model).__name__} makes of "
                "such images; give images of its own size"
            )
        return rows, columns

    def branch_outputs(self, index: int) -> tuple[nn.Module, nn.Module]:
        """Return the modules that output what attention and MLP add to the residual stream, or their raw output."""
        one: ViTBlock = self.found.blocks[index]
        if self.options.scale or isinstance(one.attention, nn.MultiheadAttention):  # which has no layer for its output
            return one.attention_added, one.mlp_added
        return one.projection, one.mlp


def _scale(block: ViTBlock) -> nn.Module:
    return nn.Identity() if block.attention_added is block.projection else block.attention_added


def _check_readout(model: nn.Module, found: ViTParts, alone: bool) -> None:
    kind = type(getattr(model, "source", model)).__name__
    if not found.heads:
        raise ValueError(
            f"{kind} has no linear classifier: it gives an embedding, and no logits to read tokens by or to split; "
            "take a model that was trained on classes, or num_classes=N with a classifier to be trained"
        )
    if alone and found.pool not in ("token", "avg"):
        raise ValueError(
            f"{kind} classifies the class token beside the mean over patches: no token alone gives logits, and none "
            "can be read in class-embedding space"
        )
