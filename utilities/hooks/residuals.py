"""Find the residual branches of a model, z + f(z): where its skip z and its branch f(z) can be read.

A branch holds all that is added to the skip: norms, LayerScale and stochastic depth count as part of it. In a
post-activation ResNet the skip is the block's input, or what ``downsample`` makes of it, and the branch is what is
added to it before the block's last activation.

Blocks are told by the names of their parts, as torchvision, timm and this package give them. That alone would be a
guess, so `check_residuals` of `utilities.hooks.residual_reading` runs the model once, and compares each z + f(z) with
what the model goes on with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from timm.models.vision_transformer import ResPostBlock
from torch import nn
from torchvision.models.swin_transformer import SwinTransformerBlockV2

from utilities.hooks.calls.weights import check_module
from utilities.hooks.layer_kind import attends
from utilities.hooks.vit_parts import hf_block

POST_NORM = (ResPostBlock, SwinTransformerV2Block, SwinTransformerBlockV2)
KNOWN = (
    "timm's and torchvision's transformers, ResNets, ConvNeXts, EfficientNets and MobileNets, Hugging Face's ViT, "
    "DeiT, DINOv2, CLIP and SigLIP, and this package's own"
)
REMEDY = (
    "take one of these, such as 'resnet18' or 'timm/vit_small_patch16_224'. Analyses that need no skips, such as "
    "feature_variance and receptive_field, take other models by their layers"
)


@dataclass(frozen=True)
class Read:
    """A place where a tensor is read: what a module takes or gives.

    Attributes:
        module: The module.
        side: ``"input"`` or ``"output"``.
        call: Which of its calls in one run of the block, from 0.
        of: How often it runs in one run of the block.
    """

    module: nn.Module
    side: str
    call: int = 0
    of: int = 1


@dataclass(frozen=True)
class ResidualBranch:
    """A residual branch f of z + f(z).

    Attributes:
        name: Name of the block, with ``.attn`` or ``.mlp`` where it has two branches.
        kind: ``msa`` (attention, lambda layers included), ``mlp`` or ``conv``.
        skip: Where z is read.
        branch: Where f(z) is read.
        totals: Places of which one holds z + f(z).
        layout: ``NCHW``, ``NHWC``, or ``auto`` where shape and model have to tell it.
    """

    name: str
    kind: str
    skip: Read
    branch: Read
    totals: tuple[Read, ...]
    layout: str = "auto"


def find_residuals(model: nn.Module) -> list[ResidualBranch]:
    """List the residual branches of a model, in the order in which their blocks are registered.

    Args:
        model: Any module.

    Raises:
        ValueError: If none is known.

    Example:
        >>> from utilities.resnet import resnet18
        >>> [branch.name for branch in find_residuals(resnet18())][:2]
        ['layer1.0', 'layer1.1']
        >>> find_residuals(nn.Sequential(nn.Linear(2, 2)))
        Traceback (most recent call last):
        ValueError: Sequential has no residual branches that are known: its layers are not added to a shortcut, or ...
    """
    check_module(model)
    found = []
    for name, module in model.named_modules():
        rule = next((rule for rule in RULES if (branches := rule(name or type(module).__name__, module))), None)
        found += branches if rule else []
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no residual branches that are known: its layers are not added to a shortcut, "
            f"or its blocks have other parts than those of {KNOWN}; {REMEDY}"
        )
    return found


def _has(module: nn.Module, *names: str) -> bool:
    return all(isinstance(getattr(module, name, None), nn.Module) for name in names)


def _transformer(name: str, m: nn.Module) -> list[ResidualBranch]:
    """Read timm's blocks of attention and MLP, with the norm before or after each."""
    if not _has(m, "norm1", "attn", "drop_path1", "norm2", "mlp", "drop_path2"):
        return []
    post = isinstance(m, POST_NORM)
    start, between = (m, m.mlp) if post else (m.norm1, m.norm2)
    return _pair(name, start, Read(m.drop_path1, "output"), between, Read(m.drop_path2, "output"), m)


def _torchvision_vit(name: str, m: nn.Module) -> list[ResidualBranch]:
    if not _has(m, "ln_1", "self_attention", "dropout", "ln_2", "mlp"):
        return []
    return _pair(name, m.ln_1, Read(m.dropout, "output"), m.ln_2, Read(m.mlp, "output"), m)


def _torchvision_swin(name: str, m: nn.Module) -> list[ResidualBranch]:
    if not _has(m, "norm1", "attn", "stochastic_depth", "norm2", "mlp"):
        return []
    post, (one, two) = isinstance(m, POST_NORM), (Read(m.stochastic_depth, "output", i, 2) for i in (0, 1))
    start, between = (m.attn, m.mlp) if post else (m.norm1, m.norm2)
    return _pair(name, start, one, between, two, m, "NHWC")


def _hugging_face(name: str, m: nn.Module) -> list[ResidualBranch]:
    """Read the blocks of ViT, DeiT, DINOv2, CLIP and SigLIP as transformers has them."""
    block = hf_block(name, m)
    if block is None:
        return []
    added = Read(block.attention_added, "output"), Read(block.mlp_added, "output")
    return _pair(name, block.norm1, added[0], block.norm2, added[1], m)


def _pair(
    name: str, start: nn.Module, one: Read, between: nn.Module, two: Read, block: nn.Module, layout: str = "auto"
) -> list[ResidualBranch]:
    """Make the branches of attention and MLP: ``start`` takes the first skip, ``between`` the second."""
    middle = Read(between, "input")
    return [
        ResidualBranch(f"{name}.attn", "msa", Read(start, "input"), one, (middle,), layout),
        ResidualBranch(f"{name}.mlp", "mlp", middle, two, (Read(block, "output"),), layout),
    ]


def _mixer(name: str, m: nn.Module) -> list[ResidualBranch]:
    if not _has(m, "norm1", "mlp_tokens", "norm2", "mlp_channels", "drop_path"):
        return []
    one, two = (Read(m.drop_path, "output", i, 2) for i in (0, 1))
    middle = Read(m.norm2, "input")
    return [
        ResidualBranch(f"{name}.mlp_tokens", "mlp", Read(m.norm1, "input"), one, (middle,)),
        ResidualBranch(f"{name}.mlp_channels", "mlp", middle, two, (Read(m, "output"),)),
    ]


def _resnet(name: str, m: nn.Module) -> list[ResidualBranch]:
    """Read blocks with ``conv1`` and ``downsample``: activation before the convolutions, or after the sum."""
    if not _has(m, "conv1") or not hasattr(m, "downsample") or not (_has(m, "bn2") or _has(m, "drop_path")):
        return []
    last = next(part for part in ("drop_path", "se", "bn3", "bn2") if _has(m, part))
    skip = Read(m, "input") if m.downsample is None else Read(m.downsample, "output")
    return [_conv(name, m, skip, Read(getattr(m, last), "output"))]


def _shortcut(name: str, m: nn.Module) -> list[ResidualBranch]:
    """Read blocks with ``shortcut`` and ``drop_path``: timm's ByobNet, ConvNeXt, MaxViT's convolutions."""
    if not _has(m, "shortcut", "drop_path"):
        return []
    return [_conv(name, m, Read(m.shortcut, "output"), Read(m.drop_path, "output"))]


def _with_flag(name: str, m: nn.Module) -> list[ResidualBranch]:
    """Read blocks that say whether they have a skip: EfficientNets and MobileNets of timm and torchvision."""
    last = next((part for part in ("stochastic_depth", "drop_path", "block", "conv") if _has(m, part)), None)
    if last is None or not (getattr(m, "has_skip", False) or getattr(m, "use_res_connect", False)):
        return []
    return [_conv(name, m, Read(m, "input"), Read(getattr(m, last), "output"))]


def _torchvision_others(name: str, m: nn.Module) -> list[ResidualBranch]:
    """Read torchvision's ConvNeXt and RegNet."""
    if _has(m, "block", "stochastic_depth") and hasattr(m, "layer_scale"):
        return [_conv(name, m, Read(m, "input"), Read(m.stochastic_depth, "output"))]
    if _has(m, "f", "activation") and hasattr(m, "proj"):
        skip = Read(m, "input") if m.proj is None else Read(m.proj, "output")
        return [_conv(name, m, skip, Read(m.f, "output"))]
    return []


def _conv(name: str, m: nn.Module, skip: Read, branch: Read) -> ResidualBranch:
    """Make the one branch of a block on maps; the sum is its output, or the input of one of its activations."""
    names = ("act", "act3", "act2", "relu3", "relu2", "relu", "activation")
    activations = [getattr(m, part) for part in names if _has(m, part)]
    totals = (Read(m, "output"), *(Read(part, "input") for part in activations))
    return ResidualBranch(name, "msa" if attends(m) else "conv", skip, branch, totals, "NCHW")


RULES: tuple[Callable[[str, nn.Module], list[ResidualBranch]], ...] = (
    _transformer, _torchvision_vit, _hugging_face, _torchvision_swin, _mixer, _with_flag, _shortcut, _resnet,
    _torchvision_others,
)  # fmt: skip
