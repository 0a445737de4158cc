"""Tell the kind of a layer by what it holds: attention, convolutions or linear layers."""

from __future__ import annotations

import re

from torch import nn

_ATTENTION = re.compile("Attention|Attn|LambdaLayer")


def attends(module: nn.Module) -> bool:
    """Tell whether a module attends to positions by attention or a lambda layer, by the names of classes inside it.

    Example:
        >>> attends(nn.Conv2d(1, 1, 1))
        False
    """
    return any(is_attention(part) for part in module.modules())


def is_attention(module: nn.Module) -> bool:
    """Tell whether a module is attention or a lambda layer itself, by the name of its class.

    Example:
        >>> is_attention(nn.MultiheadAttention(4, 1)), is_attention(nn.TransformerEncoderLayer(4, 1))
        (True, False)
    """
    return bool(_ATTENTION.search(type(module).__name__))


def halves(module: nn.Module) -> bool:
    """Tell whether a block lowers the resolution."""
    return any(getattr(part, "stride", 1) in (2, (2, 2)) for part in module.modules())


def told_kind(model: nn.Module, name: str) -> str:
    """Tell the kind of a layer by what it holds: attention, else convolutions, else linear layers.

    A layer that holds none of them, such as a norm or an activation, has the kind of what it is a part of.

    Args:
        model: Any module.
        name: Name of one of its modules.

    Raises:
        ValueError: If it is a part of nothing that tells.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> model = vit_tiny_patch2_16()
        >>> [told_kind(model, name) for name in ("blocks.0", "blocks.0.attn", "blocks.0.mlp", "blocks.0.norm1")]
        ['msa', 'msa', 'mlp', 'msa']
    """
    whole = name
    while whole:
        module = model.get_submodule(whole)
        if attends(module):
            return "msa"
        if any(isinstance(part, nn.modules.conv._ConvNd) for part in module.modules()):
            return "pool" if whole == name and halves(module) else "conv"
        if any(isinstance(part, nn.Linear) for part in module.modules()):
            return "mlp"
        whole = whole.rpartition(".")[0]
    raise ValueError(
        f"layer {name!r} is a {type(model.get_submodule(name)).__name__}, whose kind cannot be told; say it: "
        f"layers={{{name!r}: 'conv'}}"
    )
