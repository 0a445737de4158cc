"""Attention maps of Vision Transformers, and how diverse they are from query to query.

In deep plain ViTs the maps of late blocks collapse: all queries attend to the same keys, and the block adds the same
vector to every position. This is how Park & Kim 2022 (https://arxiv.org/abs/2202.06709) explain why late attention
matters little.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from timm.layers import Attention
from torch import nn

from utilities.analysis.attention.eager import attention_matrices
from utilities.analysis.stream import stream
from utilities.datasets.naming import known_facts
from utilities.hooks.calls.weights import check_module
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
        model: A model whose attention layers are timm's ``Attention``. They compute step by step meanwhile.
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
    check_module(model)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Attention)}
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no attention layer of timm's kind, so no attention maps; take a transformer "
            "of timm, such as 'timm/vit_small_patch16_224', or one of this package, such as 'vit_tiny_patch2_16'"
        )
    sums = {name: Moments() for name in layers}

    def look(weights: torch.Tensor, name: str) -> None:
        sums[name].add(diversity(weights).mean(1))

    visits = {name: partial(look, name=name) for name in layers}
    with (
        stream(model, loader, device=device, description="attention maps", progress=progress, sums=sums) as batches,
        attention_matrices(layers, visits),
    ):
        for images, _ in batches:
            model(images)
    facts = {"n": next(iter(sums.values())).n, "versions": versions()}
    values = [np.array([float(getattr(moments, part)) for moments in sums.values()]) for part in ("mean", "stderr")]
    return Diversity(list(sums), *values, provenance=known_facts(provenance, loader) | facts)


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
