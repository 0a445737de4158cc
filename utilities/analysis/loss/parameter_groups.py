"""Group the parameters of a model by layer, so that each layer has a block on the Hessian's diagonal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from utilities.hooks.block_families import block_modules
from utilities.hooks.calls.weights import check_module
from utilities.hooks.layer_kind import is_attention

WAYS = ("module", "block", "parameter")
KINDS = ("convolution", "attention", "MLP", "norm", "linear", "block", "other")
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True)
class ParameterGroup:
    """The trained parameters of one layer.

    Attributes:
        name: Name of the module, block or parameter.
        kind: One of `KINDS`.
        parameters: Names of the parameters, in the order in which they are registered.
        count: How many numbers these are.
    """

    name: str
    kind: str
    parameters: tuple[str, ...]
    count: int


def parameter_groups(model: nn.Module, names: Sequence[str], by: str = "module") -> list[ParameterGroup]:
    """Group parameters by the module that owns them, by block, or each by itself, in the order of registration.

    Args:
        model: The model.
        names: Names of the parameters that count, such as those that are trained.
        by: ``"module"``; ``"block"``, for the families whose blocks are known, where all else is grouped by the
            model's own children; or ``"parameter"``.

    Raises:
        ValueError: If ``by`` is not known, or the model's blocks are not.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> model = vit_tiny_patch2_16(depth=1)
        >>> names = [name for name, _ in model.named_parameters()]
        >>> [group.name for group in parameter_groups(model, names, "block")]
        ['cls_token', 'pos_embed', 'patch_embed', 'blocks.0', 'norm', 'head']
        >>> parameter_groups(model, names)[4]
        ParameterGroup(name='blocks.0.attn.qkv', kind='attention', parameters=('blocks.0.attn.qkv.weight',
            'blocks.0.attn.qkv.bias'), count=27936)
    """
    if by not in WAYS:
        raise ValueError(f"by={by!r} is not known; choose from {', '.join(WAYS)}")
    check_module(model)
    blocks = _known_blocks(model) if by == "block" else {}
    # Steps of a plain network are named after their last module.
    steps = {name: module for name, module in blocks.items() if isinstance(module, nn.Sequential)}
    step_of = {parameter: name for name, module in steps.items() for parameter in module.parameters()}
    parameters = dict(model.named_parameters())
    grouped: dict[str, list[str]] = {}
    for name in names:
        grouped.setdefault(step_of.get(parameters[name]) or _group(name, by, blocks), []).append(name)
    sizes = {name: parameter.numel() for name, parameter in parameters.items()}
    return [
        ParameterGroup(group, _kind(model, group, group in blocks), tuple(own), sum(sizes[name] for name in own))
        for group, own in grouped.items()
    ]


def _known_blocks(model: nn.Module) -> dict[str, nn.Module]:
    try:
        return block_modules(model)
    except ValueError as error:  # whose remedy, to name layers, is none here
        others = " or ".join(repr(way) for way in WAYS if way != "block")
        raise ValueError(f"the blocks of a {type(model).__name__} are not known; take by={others}") from error


def _group(name: str, by: str, blocks: Iterable[str]) -> str:
    if by == "parameter":
        return name
    if by == "block":
        inside = [block for block in blocks if name.startswith(f"{block}.")]
        return max(inside, key=len) if inside else name.partition(".")[0]
    return name.rpartition(".")[0] or name


def _kind(model: nn.Module, group: str, block: bool) -> str:
    """Tell the kind of a layer by its class, and of a linear one by where it is."""
    if block:
        return "block"
    modules = dict(model.named_modules())
    owner = group if group in modules else group.rpartition(".")[0]
    module, parent = modules[owner], modules[owner.rpartition(".")[0]]
    if isinstance(module, _NORMS) or "norm" in type(module).__name__.lower():
        return "norm"
    if is_attention(module) or is_attention(parent):
        return "attention"
    if isinstance(module, _ConvNd) or any(isinstance(one, _ConvNd) for one in module.children()):
        return "convolution"
    if isinstance(module, nn.Linear):
        return "MLP" if ".mlp." in f".{owner}" else "linear"
    return "other"
