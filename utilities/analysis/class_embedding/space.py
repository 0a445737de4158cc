"""Class-embedding space: the logits that a model's final norm and classifier give to any hidden token.

Follows Vilas et al. 2023, https://arxiv.org/abs/2310.18969. Let E be the classifier's rows (classes x width) and e its
bias. A token x of any layer is read as E norm(x) + e, with the final norm. A model with a class token does the same to
that token after its last block. For models that average tokens, each token is read alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from torch import nn

PARTS = ("block", "attn", "mlp")
Tuned = Callable[[int, torch.Tensor], torch.Tensor]
MOST_CLASSES = 2**15 - 1  # ranks and classes are kept as int16


@dataclass(frozen=True)
class LensOptions:
    """How tokens are read.

    Attributes:
        norm: Whether the final norm is applied first.
        bias: Whether the classifier's bias is added.
        scale: Whether attention and MLP are read as they are added to the residual stream, with LayerScale or the norm
            after the branch. If not, the output of the projection or the second linear layer is read.
        tuned: Learned map from each block's tokens to those of the last, called as ``tuned(index, tokens)``; see
            `utilities.analysis.class_embedding.tuned`. It only reads block outputs.
    """

    norm: bool = True
    bias: bool = True
    scale: bool = True
    tuned: Tuned | None = None


class ClassSpace(ABC):
    """The class-embedding space of one model.

    Attributes:
        model: The model as it was passed; it is not modified.
        options: How tokens are read.
        names: Names of the blocks.
        blocks: Modules whose outputs are read.
        parts: Parts that can be read of each block, some of `PARTS`.
        prefix: Number of tokens before those of the image.
        class_token: Whether the first of these is a class token.
        num_classes: Number of logits.
    """

    model: nn.Module
    options: LensOptions
    names: list[str]
    blocks: list[nn.Module]
    parts: tuple[str, ...]
    prefix: int
    class_token: bool
    num_classes: int

    @abstractmethod
    def project(self, tokens: torch.Tensor, index: int | None = None, tuned: Tuned | None = None) -> torch.Tensor:
        """Read tokens: (batch, tokens, width) -> logits (batch, tokens, classes).

        Args:
            tokens: Tokens of a block, or of a part of it.
            index: Index of the block that put out the tokens, for a learned lens; None for parts.
            tuned: Learned lens; None uses that of the options, if there is one.
        """

    @abstractmethod
    def classify(self, tokens: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Classify the tokens of the last block as the model does: (batch, tokens, width) -> (batch, classes).

        Args:
            tokens: Tokens after the last block.
            keep: Whether to include each token, booleans (batch, tokens), if the model averages tokens; None is all.
        """

    @abstractmethod
    def tokens(self, output: torch.Tensor) -> torch.Tensor:
        """Convert a block's output to (batch, tokens, width)."""

    @abstractmethod
    def grid(self, output: torch.Tensor, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Return rows and columns of the image tokens in a block's output.

        Args:
            output: Output of a block.
            size: Height and width of the images, for models that take any size; None is the model's own size.
        """

    def logits(self, images: torch.Tensor, **forward: Any) -> torch.Tensor:
        """Run the model for its logits, (batch, classes); `classify` must reproduce them."""
        return self.model(images, **forward)

    def depth(self) -> list[float]:
        """Return the share of all the model's blocks that have run after each block read: 1 for the last."""
        return [(index + 1) / len(self.blocks) for index in range(len(self.blocks))]

    def groups(self) -> dict[str, slice]:
        """Group the tokens: ``CLS``, if there is a class token, and ``image``; registers are left out."""
        image = {"image": slice(self.prefix, None)}
        return {"CLS": slice(0, 1)} | image if self.class_token else image


class TransformerSpace(ClassSpace):
    """Class-embedding space of timm's VisionTransformer.

    Blocks may be pre-norm or residual-post-norm. The model may have a class token and registers, or average tokens.
    The second token of a distilled model is read with its own classifier, ``head_dist``; all others with ``head``.
    """

    parts = PARTS

    def __init__(self, model: VisionTransformer, options: LensOptions) -> None:
        _check_transformer(model)
        self.model, self.options = model, options
        self.blocks = list(model.blocks)
        self.names = [f"blocks.{i}" for i in range(len(self.blocks))]
        self.prefix, self.class_token = model.num_prefix_tokens, model.cls_token is not None
        self.num_classes = model.head.out_features
        self.head_dist = getattr(model, "head_dist", None)

    def _head(self, x: torch.Tensor, head: nn.Linear) -> torch.Tensor:
        return nn.functional.linear(x, head.weight, head.bias if self.options.bias else None)

    def project(self, tokens: torch.Tensor, index: int | None = None, tuned: Tuned | None = None) -> torch.Tensor:
        """Read tokens with the final norm and the classifier."""
        tokens, tuned = tokens.clone(), tuned or self.options.tuned
        if index is not None and tuned is not None:
            tokens = tuned(index, tokens)
        if self.options.norm:
            tokens = self.model.fc_norm(self.model.norm(tokens))
        logits = self._head(tokens, self.model.head)
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


def class_space(
    model: nn.Module, options: LensOptions | None = None, names: Mapping[str, Any] | None = None
) -> ClassSpace:
    """Build the class-embedding space of a model.

    Args:
        model: timm's VisionTransformer with token or average pooling; a ResNet (of this package, torchvision or timm),
            whose tokens are the positions of the final stage; or, with ``names``, any other model.
        options: How tokens are read; None is the paper's way.
        names: Names of another model's parts, such as ``{"blocks": "encoder.layers", "norm": "encoder.ln",
            "classifier": "heads.head"}``, and other arguments of
            `utilities.analysis.class_embedding.named_space.NamedSpace`.

    Raises:
        ValueError: If the model has no class-embedding space; the message says why.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> space = class_space(vit_tiny_patch2_16(num_classes=10, depth=2))
        >>> space.names, space.prefix, space.project(torch.zeros(1, 65, 96)).shape
        (['blocks.0', 'blocks.1'], 1, torch.Size([1, 65, 10]))
    """
    options = options or LensOptions()
    if names is not None:
        from utilities.analysis.class_embedding.named_space import NamedSpace, check_names

        check_names(names)
        return _checked(NamedSpace(model, options, **names))
    if isinstance(model, VisionTransformer):
        return _checked(TransformerSpace(model, options))
    from utilities.analysis.class_embedding.conv_space import ConvolutionalSpace, is_resnet

    if is_resnet(model):
        return _checked(ConvolutionalSpace(model, options))
    raise ValueError(
        f"{type(model).__name__} has no class-embedding space that is known; it takes timm's VisionTransformer (ViT, "
        "DeiT, ...), a ResNet with an average pool and one linear classifier, or names of parts: "
        "names={'blocks': 'NAME', 'norm': 'NAME', 'classifier': 'NAME'}"
    )


def transformer_space(model: nn.Module, options: LensOptions | None = None, what: str = "this") -> TransformerSpace:
    """Build the space of a Vision Transformer, for analyses that need attention.

    Raises:
        ValueError: If the model is of another kind; the message names it.

    Example:
        >>> transformer_space(nn.Linear(1, 1), what="importance")
        Traceback (most recent call last):
        ValueError: importance needs timm's VisionTransformer, not a Linear: it looks into attention and MLP, ...
    """
    if not isinstance(model, VisionTransformer):
        raise ValueError(
            f"{what} needs timm's VisionTransformer, not a {type(model).__name__}: it looks into attention and MLP, "
            "whose parts are not known there; lens, identifiability, linear_probes and tuned lenses read blocks alone, "
            "of any model with names="
        )
    return _checked(TransformerSpace(model, options or LensOptions()))


def _checked(space: ClassSpace) -> ClassSpace:
    """Refuse a single class, more classes than int16 ranks can hold, and a learned lens for other blocks."""
    widths = getattr(space.options.tuned, "widths", space.blocks)
    if len(widths) != len(space.blocks):
        raise ValueError(
            f"a tuned lens of {len(widths)} blocks was not fitted to these {len(space.blocks)} blocks of "
            f"{type(space.model).__name__}"
        )
    if space.num_classes < 2:
        raise ValueError(
            f"{type(space.model).__name__} has a single class, which comes first in every token; pass num_classes of 2 "
            "or more"
        )
    if space.num_classes > MOST_CLASSES:
        raise ValueError(f"{space.num_classes} classes are too many: ranks are kept as int16, up to {MOST_CLASSES}")
    return space


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
