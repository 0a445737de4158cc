"""Attention maps of Vision Transformers, and how diverse they are from query to query.

In deep plain ViTs the maps of late blocks collapse: all queries attend to the same keys, and the block adds the same
vector to every position. This is how Park & Kim 2022 (https://arxiv.org/abs/2202.06709) explain why late attention
matters little.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from einops import rearrange
from timm.layers import Attention
from torch import nn

from utilities.analysis.stream import stream
from utilities.results.moments import Moments
from utilities.results.result import Result
from utilities.utils import versions


@dataclass(frozen=True)
class Diversity(Result):
    """How much the rows of each layer's attention maps differ, with one entry per layer.

    Attributes:
        names: Names of the attention layers.
        diversity: Mean over heads and images, from 0 (all queries attend alike) to 1 (no two share a key).
        stderr: Standard error of the diversity over images.
        provenance: What it was made from.
    """

    names: list[str]
    diversity: np.ndarray
    stderr: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """Tabulate the result, one row per layer."""
        return pd.DataFrame({"layer": self.names, "diversity": self.diversity, "stderr": self.stderr})


def attention_diversity(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> Diversity:
    """Measure how diverse the attention maps of a timm transformer are.

    Args:
        model: A model whose attention layers are timm's ``Attention``. It runs as it is, with fused attention.
        loader: Yields images, or (images, labels).
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts to keep with the result.

    Raises:
        ValueError: If the model has no such layer, or the loader yields no image.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> result = attention_diversity(vit_tiny_patch2_16(depth=2), [torch.rand(2, 3, 16, 16)], device="cpu")
        >>> result.names, bool((result.diversity >= 0).all())
        (['blocks.0.attn', 'blocks.1.attn'], True)
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Attention)}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no attention layer of timm's kind, so no attention maps")
    sums = {name: Moments() for name in layers}

    def look(name: str, module: Attention, x: torch.Tensor) -> None:
        sums[name].add(diversity(attention_weights(module, x)).mean(1))

    handles = [
        module.register_forward_pre_hook(lambda module, args, name=name: look(name, module, args[0]))
        for name, module in layers.items()
    ]
    try:
        with stream(model, loader, device=device, description="attention maps", progress=progress) as batches:
            for images, _ in batches:
                model(images)
    finally:
        for handle in handles:
            handle.remove()
    facts = {"n": next(iter(sums.values())).n, "versions": versions()}
    values = [np.array([float(getattr(moments, part)) for moments in sums.values()]) for part in ("mean", "stderr")]
    return Diversity(list(sums), *values, provenance=dict(provenance or {}) | facts)


def attention_weights(module: Attention, x: torch.Tensor) -> torch.Tensor:
    """Compute the weights that a timm attention layer gives to its keys.

    Args:
        module: The attention layer, in eval mode.
        x: The layer's input, (batch, tokens, width).

    Returns:
        softmax(q k' scale), shape (batch, heads, queries, keys). Each row sums to 1.

    Example:
        >>> weights = attention_weights(Attention(8, num_heads=2), torch.rand(1, 5, 8))
        >>> weights.shape, bool(weights.sum(-1).allclose(torch.ones(1, 2, 5)))
        (torch.Size([1, 2, 5, 5]), True)
    """
    qkv = module.qkv(x.clone())
    q, k, _ = rearrange(qkv, "b token (qkv head c) -> qkv b head token c", qkv=3, head=module.num_heads)
    logits = module.q_norm(q) * module.scale @ module.k_norm(k).mT
    near = getattr(module, "near", None)  # set by layers that attend to a neighbourhood only
    return (logits if near is None else logits.masked_fill(~near, -torch.inf)).softmax(-1)


def diversity(attention: torch.Tensor) -> torch.Tensor:
    """Measure how different the rows of attention maps are.

    The diversity is 1 minus the mean cosine similarity over pairs of rows.

    Args:
        attention: Attention weights, (..., queries, keys).

    Returns:
        Diversity, shape (...). It is 0 where all queries attend alike (a collapsed map), and 1 where no two share a
        key.

    Example:
        >>> diversity(torch.eye(3)), diversity(torch.ones(3, 3))
        (tensor(1.), tensor(0.))
    """
    rows = nn.functional.normalize(attention, dim=-1)
    n = rows.shape[-2]
    total = rows.sum(-2).square().sum(-1)  # sum of the cosines of all pairs, including each row with itself
    return 1 - (total - n) / (n * (n - 1))
