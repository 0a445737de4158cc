"""The attention layers of a model whose queries and keys have known places in the image, and why others have not."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm.layers
import torch
from timm.models import (
    beit,
    eva,
    pit,
    swin_transformer,
    swin_transformer_v2,
    vision_transformer,
    vision_transformer_relpos,
)
from torch import nn

from utilities.analysis.attention.places import Places, Size
from utilities.hooks.vit_parts import ViTParts, vit_parts
from utilities.lambda_layer import LambdaLayer
from utilities.zoo.local_attention import LocalAttention, padding_mask
from utilities.zoo.local_vit import NeighbourhoodAttention
from utilities.zoo.preact_resnet import HALVINGS, PreActResNet

# Layers whose ``attn_drop`` is given the weights that meet the values. In others it is not: differential attention
# subtracts two of them afterwards.
READABLE = tuple(
    getattr(module, name)
    for module, names in {
        timm.layers: "Attention AttentionRope",
        beit: "Attention",
        eva: "EvaAttention",
        vision_transformer_relpos: "RelPosAttention",
        vision_transformer: "ParallelScalingBlock",
        swin_transformer: "WindowAttention",
        swin_transformer_v2: "WindowAttention",
    }.items()
    for name in names.split()
    if hasattr(module, name)  # AttentionRope came late
)
PLAIN = (vision_transformer.VisionTransformer, vision_transformer_relpos.VisionTransformerRelPos, beit.Beit, eva.Eva)
SWIN = (swin_transformer.SwinTransformer, swin_transformer_v2.SwinTransformerV2)
POOLED = "its keys are pooled or summed over places, so that they have no place of their own"
CHANNELS = "it attends from channel to channel, which have no places"
MIXED = "its weights are changed after the softmax, or come from several mechanisms"
WINDOWS = "its windows or scales are not among those whose places are known here"
REASONS = {  # by the module of timm that defines the model
    **dict.fromkeys(("pvt_v2", "mvitv2", "twins", "nextvit", "edgenext", "efficientformer_v2"), POOLED),
    **dict.fromkeys(("xcit", "davit", "coat"), CHANNELS),
    **dict.fromkeys(("cait", "convit", "volo", "tnt", "crossvit"), MIXED),
    **dict.fromkeys(("maxxvit", "vision_transformer_sam", "nest", "gcvit", "hiera", "levit", "tiny_vit"), WINDOWS),
    **dict.fromkeys(("swin_transformer_v2_cr", "naflexvit", "hieradet_sam2", "efficientvit_msra"), WINDOWS),
}


KNOWN = (
    "timm's VisionTransformer, DeiT, BEiT, EVA, PiT, Swin and SwinV2, torchvision's VisionTransformer, Hugging Face's "
    "ViT, DeiT, DINOv2, CLIP and SigLIP, and this package's AlterNets and local ViTs"
)
WITHOUT = (
    "it has no self-attention; receptive_field, among the analyses of blocks, measures how far any model looks, and "
    f"read here are {KNOWN}"
)
NAMED = re.compile("attention|attn", re.IGNORECASE)  # classes that attend, by their names


@dataclass(frozen=True)
class AttentionLayer:
    """An attention layer, and where its tokens lie.

    Attributes:
        name: Its name in the model.
        module: The layer.
        places: Function from the height and width of the images to the places of the tokens.
    """

    name: str
    module: nn.Module
    places: Callable[[Size], Places]


def attention_layers(model: nn.Module, what: str = "attention distance") -> list[AttentionLayer]:
    """List a model's attention layers in the order of depth, with the places of their tokens.

    Args:
        model: timm's VisionTransformer and its kin (DeiT, BEiT, EVA, relative positions), PiT, Swin, SwinV2;
            torchvision's VisionTransformer; Hugging Face's ViT, DeiT, DINOv2, CLIP and SigLIP; this package's AlterNets
            and local ViTs.
        what: What needs them, for messages.

    Raises:
        ValueError: If the model has no attention, or its weights or the places of its tokens are not known; the message
            says which, and what else there is.

    Example:
        >>> from utilities.zoo import create_model
        >>> layers = attention_layers(create_model("swin_tiny_patch2_16", 10))
        >>> layers[0].name, layers[0].places((16, 16)).step, layers[-1].places((16, 16)).step
        ('layers.0.blocks.0.attn', (2.0, 2.0), (4.0, 4.0))
    """
    if (parts := vit_parts(model)) is not None:
        found = list(_of_parts(model, parts))
    elif isinstance(model, PLAIN):
        found = list(_of_plain(model))
    elif isinstance(model, pit.PoolingVisionTransformer):
        found = list(_of_pit(model))
    elif isinstance(model, SWIN):
        found = list(_of_swin(model))
    elif isinstance(model, PreActResNet):
        found = list(_of_alternet(model))
    else:
        raise ValueError(f"{type(model).__name__} has no {what}: {_reason(model)}")
    if not found:
        raise ValueError(f"{type(model).__name__} has no {what}: {WITHOUT}")
    return found


def _reason(model: nn.Module) -> str:
    """Explain why a model's attention has no distance."""
    if any(isinstance(module, LambdaLayer) for module in model.modules()):
        return "lambda layers make no attention weights; lambda_reach, beside this analysis, measures theirs"
    if any(isinstance(module, nn.MultiheadAttention) for module in model.modules()):
        return "torch's MultiheadAttention hands no weights over; take the same network of timm, 'timm/NAME'"
    home = type(model).__module__.rpartition(".")[2]
    attention = [name for name, m in model.named_modules() if name and NAMED.search(type(m).__name__)]
    if not attention and home not in REASONS:
        return WITHOUT
    reason = REASONS.get(home, f"where the tokens of {', '.join(attention[:1])} lie in the image is not known here")
    return f"{reason}; read are {KNOWN}"


def _readable(root: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the attention layers of a block by name.

    Raises:
        ValueError: If it has none whose weights can be read.
    """
    found = [(f"{name}.{own}" if own else name, m) for own, m in root.named_modules() if isinstance(m, READABLE)]
    if not found:
        kinds = sorted({type(m).__name__ for m in root.modules() if NAMED.search(type(m).__name__)})
        inside = f" with {', '.join(kinds)}" if kinds else ""
        raise ValueError(
            f"{name} is a {type(root).__name__}{inside}, whose attention weights cannot be read: only "
            f"{', '.join(sorted({kind.__name__ for kind in READABLE}))} hand over the weights that meet the values"
        )
    yield from found


def _of_parts(model: nn.Module, parts: ViTParts) -> Iterator[AttentionLayer]:
    """Yield the layers of torchvision's and Hugging Face's transformers."""
    names = {module: name for name, module in model.named_modules()}
    step = tuple(float(side) for side in parts.step)

    def places(size: Size) -> Places:
        return Places(parts.grid(size), step, parts.prefix)

    for block in parts.blocks:
        yield AttentionLayer(names[block.attention], block.attention, places)


def _of_plain(model: Any) -> Iterator[AttentionLayer]:
    """Yield the layers of transformers whose tokens are a prefix and one grid."""
    patches = model.patch_embed
    if not (hasattr(patches, "dynamic_feat_size") and hasattr(patches, "feat_ratio")):
        raise ValueError(
            f"patch_embed of {type(model).__name__} is a {type(patches).__name__}, whose grid is not known"
        )
    step = tuple(float(side) for side in patches.feat_ratio(as_scalar=False))

    def places(size: Size, near: torch.Tensor | None) -> Places:
        grid = tuple(int(side) for side in patches.dynamic_feat_size(size))
        return Places(grid, step, model.num_prefix_tokens, None if near is None else near[None])

    for i, block in enumerate(model.blocks):
        for name, module in _readable(block, f"blocks.{i}"):
            near = module.near if isinstance(module, NeighbourhoodAttention) else None
            yield AttentionLayer(name, module, partial(places, near=near))


def _of_pit(model: Any) -> Iterator[AttentionLayer]:
    """Yield the layers of PiT, whose patches may overlap, and whose grid is halved from stage to stage."""
    conv = model.patch_embed.conv

    def places(size: Size, stage: int) -> Places:
        sides = zip(size, conv.kernel_size, conv.stride, conv.padding, strict=True)
        grid = [(side + 2 * padding - kernel) // stride + 1 for side, kernel, stride, padding in sides]
        for _ in range(stage):
            grid = [-(-side // 2) for side in grid]  # a kernel of 3, stride 2, padding 1
        step = tuple(float(side * 2**stage) for side in conv.stride)
        return Places(tuple(grid), step, model.cls_token.shape[1])

    for stage, transformer in enumerate(model.transformers):
        for i, block in enumerate(transformer.blocks):
            for name, module in _readable(block, f"transformers.{stage}.blocks.{i}"):
                yield AttentionLayer(name, module, partial(places, stage=stage))


def _of_swin(model: Any) -> Iterator[AttentionLayer]:
    """Yield the layers of Swin, whose windows shift; what a cyclic shift brings together does not attend."""
    patch = model.patch_embed.patch_size

    def places(size: Size, stage: int, block: Any, name: str) -> Places:
        rows, columns = (math.ceil(side // own / 2**stage) for side, own in zip(size, patch, strict=True))
        window = tuple(block.window_size)
        if rows % window[0] or columns % window[1]:
            raise ValueError(
                f"windows of {window[0]}x{window[1]} do not divide the {rows}x{columns} tokens of {name}: padding "
                "takes part in its attention, and has no place in the image; give images whose sides the windows divide"
            )
        mask = block.attn_mask
        if mask is None and any(block.shift_size):  # made anew for each image
            mask = block.get_attn_mask(torch.zeros(1, rows, columns, 1))
        step = tuple(float(own * 2**stage) for own in patch)
        return Places(window, step, allowed=None if mask is None else mask >= 0)

    for stage, layer in enumerate(model.layers):
        for i, block in enumerate(layer.blocks):
            for name, module in _readable(block, f"layers.{stage}.blocks.{i}"):
                yield AttentionLayer(name, module, partial(places, stage=stage, block=block, name=name))


def _of_alternet(model: PreActResNet) -> Iterator[AttentionLayer]:
    """Yield the local attention of an AlterNet; pixels that fill up windows are left out."""

    def places(size: Size, stage: int, window: int) -> Places:
        step = 2 ** (HALVINGS[model.stem] - 3 + stage)
        rows, columns = (-(-side // step) for side in size)
        sides = (min(window, rows), min(window, columns))
        padded = padding_mask((-(-rows // sides[0]), -(-columns // sides[1]), *sides), rows, columns)
        steps = (float(step), float(step))
        if padded is None:
            return Places(sides, steps)
        return Places(sides, steps, 0, (~padded)[:, None].expand(-1, padded.shape[1], -1), ~padded)

    stages = {module: stage for stage, blocks in enumerate(model.stages) for module in blocks.modules()}
    for name, module in model.named_modules():
        if isinstance(module, LocalAttention):
            yield AttentionLayer(name, module, partial(places, stage=stages[module], window=module.window))
