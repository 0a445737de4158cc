"""Choose the class-embedding space of a model by its kind, and refuse models that cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from utilities.analysis.class_embedding.conv_space import ConvolutionalSpace, is_resnet
from utilities.analysis.class_embedding.named_space import NamedSpace, check_names
from utilities.analysis.class_embedding.parts_space import PartsSpace
from utilities.analysis.class_embedding.space import ClassSpace, LensOptions
from utilities.analysis.class_embedding.transformer_space import TransformerSpace
from utilities.hooks.vit_parts import vit_parts

MOST_CLASSES = 2**15 - 1  # ranks and classes are kept as int16


def class_space(
    model: nn.Module, options: LensOptions | None = None, names: Mapping[str, Any] | None = None
) -> ClassSpace:
    """Build the class-embedding space of a model.

    Args:
        model: timm's VisionTransformer with token or average pooling; torchvision's, or a ViT, DeiT, CLIP or SigLIP
            classifier of Hugging Face; a ResNet (of this package, torchvision or timm),
            whose tokens are the positions of the final stage; or, with ``names``, any other model.
        options: How tokens are read; None is the paper's way.
        names: Names of another model's parts, such as ``{"blocks": "encoder.layers", "norm": "encoder.ln",
            "classifier": "heads.head"}``, and other arguments of
            `utilities.analysis.class_embedding.named_space.NamedSpace`.

    Raises:
        ValueError: If the model has no class-embedding space; the message says why.

    Example:
        >>> import torch
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> space = class_space(vit_tiny_patch2_16(num_classes=10, depth=2))
        >>> space.names, space.prefix, space.project(torch.zeros(1, 65, 96)).shape
        (['blocks.0', 'blocks.1'], 1, torch.Size([1, 65, 10]))
    """
    options = options or LensOptions()
    if names is not None:
        check_names(names)
        return _checked(NamedSpace(model, options, **names))
    if isinstance(model, VisionTransformer) or vit_parts(model) is not None:
        return transformer_space(model, options)
    if is_resnet(model):
        return _checked(ConvolutionalSpace(model, options))
    raise ValueError(
        f"{type(model).__name__} has no class-embedding space that is known; it takes timm's VisionTransformer (ViT, "
        "DeiT, ...), torchvision's, Hugging Face's ViT and DeiT, a ResNet with an average pool and one linear "
        "classifier, or names of parts: names={'blocks': 'NAME', 'norm': 'NAME', 'classifier': 'NAME'}"
    )


def transformer_space(
    model: nn.Module, options: LensOptions | None = None, what: str = "this", alone: bool = True
) -> TransformerSpace:
    """Build the space of a Vision Transformer, for analyses that need attention.

    Args:
        model: The model.
        options: How tokens are read.
        what: Name of the analysis, for messages.
        alone: Whether a token alone has to give logits, see `PartsSpace`.

    Raises:
        ValueError: If the model is of another kind; the message names it.

    Example:
        >>> transformer_space(nn.Linear(1, 1), what="importance")
        Traceback (most recent call last):
        ValueError: importance needs timm's VisionTransformer, not a Linear: it looks into attention and MLP, ...
    """
    if (parts := vit_parts(model)) is not None:
        return _checked(PartsSpace(model, options or LensOptions(), parts, alone))
    if not isinstance(model, VisionTransformer):
        raise ValueError(
            f"{what} needs timm's VisionTransformer, not a {type(model).__name__}: it looks into attention and MLP, "
            "whose parts are not known there, but in torchvision's and in Hugging Face's ViT and DeiT too; lens, "
            "identifiability, linear_probes and tuned lenses read blocks alone, of any model with names="
        )
    return _checked(TransformerSpace(model, options or LensOptions()))


def space_of(
    model: nn.Module | ClassSpace, lens: LensOptions | None = None, names: Mapping[str, Any] | None = None
) -> ClassSpace:
    """Build a model's class-embedding space, or return a space unchanged.

    Raises:
        ValueError: If the model has no such space, or options are passed with a space, which has its own.

    Example:
        >>> from utilities.analysis.class_embedding.conv_space import ConvolutionalSpace
        >>> from utilities.resnet import resnet18
        >>> len(space_of(resnet18()).names), len(space_of(ConvolutionalSpace.every_stage(resnet18())).names)
        (2, 8)
    """
    if not isinstance(model, ClassSpace):
        return class_space(model, lens, names)
    if lens is not None or names is not None:
        raise ValueError("a space has options of its own; pass lens= and names= with a model, or when it is made")
    return model


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
