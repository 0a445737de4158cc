"""Class-embedding space: the logits that a model's final norm and classifier give to any hidden token.

Vilas et al. 2023, https://arxiv.org/abs/2310.18969. With the classifier's rows E (classes x width), its bias e and the
final norm, a token x of any layer is read as E norm(x) + e. For models with a class token this is what the model itself
does to that token after its last block; for models that average tokens it is done to each token alone.
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
        scale: Whether outputs of attention and MLP are read as they are added to the residual stream, with LayerScale
            or the norm after the branch; if not, as the projection or second linear layer gives them.
        tuned: A learned map of each block's tokens to those of the last, see `utilities.analysis.class_embedding.tuned`
            and called as ``tuned(index, tokens)``; it reads block outputs alone.
    """

    norm: bool = True
    bias: bool = True
    scale: bool = True
    tuned: Tuned | None = None


class ClassSpace(ABC):
    """The class-embedding space of one model.

    Attributes:
        model: As it was given; nothing in it is changed.
        options: How tokens are read.
        names: Of the blocks.
        blocks: Modules whose outputs are read.
        parts: What can be read of each block, of `PARTS`.
        prefix: Number of tokens before those of the image.
        class_token: Whether the first of them is a class token.
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
            tokens: Of a block, or of a part of it.
            index: Of the block whose output this is, for a learned lens; None for parts.
            tuned: The learned lens; None is that of the options, if there is one.
        """

    @abstractmethod
    def classify(self, tokens: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Classify as the model does from the tokens after its last block: (batch, tokens, width) -> (batch, classes).

        Args:
            tokens: After the last block.
            keep: Which of them to average over, booleans (batch, tokens), where tokens are averaged; None is all.
        """

    @abstractmethod
    def tokens(self, output: torch.Tensor) -> torch.Tensor:
        """Bring what a block gives to (batch, tokens, width)."""

    @abstractmethod
    def grid(self, output: torch.Tensor, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Give rows and columns of the image tokens in what a block gives.

        Args:
            output: Of a block.
            size: Height and width of the images, for models that take any; None is what the model was made for.
        """

    def logits(self, images: torch.Tensor, **forward: Any) -> torch.Tensor:
        """Run the model: the answer that `classify` has to give, (batch, classes)."""
        return self.model(images, **forward)

    def depth(self) -> list[float]:
        """Give the share of all the model's blocks that have run after each block that is read: 1 for the last."""
        return [(index + 1) / len(self.blocks) for index in range(len(self.blocks))]

    def groups(self) -> dict[str, slice]:
        """Give the tokens that are looked at apart: ``CLS``, where there is one, and ``image``; no registers."""
        image = {"image": slice(self.prefix, None)}
        return {"CLS": slice(0, 1)} | image if self.class_token else image


class TransformerSpace(ClassSpace):
    """That of timm's VisionTransformer: pre-norm or residual-post-norm blocks, class token, average, registers.

    A distilled model's second token is read with its own classifier, ``head_dist``; all others with ``head``.
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
        """Norm, pool and classify, averaging over kept tokens alone."""
        if keep is None or self.model.global_pool == "token":
            return self.model.forward_head(self.model.norm(tokens.clone()))
        first = 0 if self.model.pool_include_prefix else self.prefix
        weight = keep[:, first:, None].to(tokens.dtype)
        mean = (self.model.norm(tokens.clone())[:, first:] * weight).sum(1) / weight.sum(1)
        return self.model.head(self.model.fc_norm(mean))

    def tokens(self, output: torch.Tensor) -> torch.Tensor:
        """Give them as they are."""
        return output

    def grid(self, output: torch.Tensor, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Give the patches' grid."""
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
        """Give the modules that put out what attention and MLP add to the residual stream, or what they give raw."""
        block = self.blocks[index]
        if not self.options.scale:
            return block.attn, block.mlp
        return (block.norm1, block.norm2) if isinstance(block, ResPostBlock) else (block.ls1, block.ls2)


def class_space(
    model: nn.Module, options: LensOptions | None = None, names: Mapping[str, Any] | None = None
) -> ClassSpace:
    """Give the class-embedding space of a model.

    Args:
        model: timm's VisionTransformer with token or average pooling, or a ResNet (of this package, torchvision or
            timm), where the final stage's positions are the tokens; any other with ``names``.
        options: How tokens are read; None is the paper's way.
        names: Where the parts of another model are: ``{"blocks": "encoder.layers", "norm": "encoder.ln", "classifier":
            "heads.head"}``, and other arguments of `utilities.analysis.class_embedding.named_space.NamedSpace`.

    Raises:
        ValueError: If the model has no such space; the message says why.

    Example:
        >>> from utilities.vit import vit_tiny_patch2_16
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
    """Give the space of a Vision Transformer, for what needs attention.

    Raises:
        ValueError: Naming the model, if it is another kind.

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
    """Refuse more classes than ranks can be told apart, and a learned lens of another number of blocks."""
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
    """Refuse what a lens through the final norm and one linear classifier cannot read."""
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
