"""Tell what a model classifies: its class token, or the mean over positions."""

from __future__ import annotations

from typing import Any

from torch import nn

from utilities.hooks.vit_parts import vit_parts

READOUTS = {
    "token": "CLS", "avg": "GAP", "token and avg": "CLS and GAP", "avgmax": "GAP", "max": "max",
    "map": "attention pooling",
}  # fmt: skip


def readout_of(model: nn.Module) -> str | None:
    """Name what a classifier reads: ``"CLS"``, ``"GAP"``, another pooling, or None where it is not known.

    A Vision Transformer of timm says it (``global_pool``); of others it is known, see
    `utilities.hooks.vit_parts`. A convolutional network averages over positions where it has
    a global pooling layer.

    Example:
        >>> from utilities.resnet import resnet18
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> readout_of(vit_tiny_patch2_16(depth=1)), readout_of(resnet18()), readout_of(nn.Flatten())
        ('CLS', 'GAP', None)
    """
    parts = vit_parts(model)
    said = getattr(model, "global_pool", None) if parts is None else parts.pool or ""
    if isinstance(said, str):
        return READOUTS.get(said, said or None)
    pools = any("Adaptive" in type(part).__name__ and "AvgPool" in type(part).__name__ for part in model.modules())
    pooled = str(getattr(said, "pool_type", "")) or ("avg" if pools else "")
    return READOUTS.get(pooled, pooled or None)


def readout_facts(model: nn.Module) -> dict[str, Any]:
    """Return ``{"readout": ...}`` for a result's provenance, or nothing where it is not known.

    Example:
        >>> readout_facts(nn.Flatten())
        {}
    """
    found = readout_of(model)
    return {} if found is None else {"readout": found}
