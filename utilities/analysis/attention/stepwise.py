"""Compute attention step by step where a layer hands its weights over to nothing that a hook could read.

These are the layers of Hugging Face's Vision Transformers (linear layers for queries, keys, values and output) and
torch's ``MultiheadAttention`` as torchvision calls it: one sequence that attends to itself, without dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from utilities.hooks.vit_parts import splits_qkv

Visit = Callable[[torch.Tensor], "torch.Tensor | None"]


def is_stepwise(layer: nn.Module) -> bool:
    """Tell whether a layer is of a kind that `stepwise` can compute.

    Example:
        >>> is_stepwise(nn.MultiheadAttention(8, 2, batch_first=True)), is_stepwise(nn.Linear(1, 1))
        (True, False)
    """
    plain = isinstance(layer, nn.MultiheadAttention) and layer.batch_first and layer.in_proj_weight is not None
    return plain or splits_qkv(layer)


@contextmanager
def stepwise(layer: nn.Module, visit: Visit) -> Iterator[None]:
    """Replace a layer's forward pass by one that computes the weights, and hands them to ``visit``.

    Args:
        layer: The layer.
        visit: Function of the weights after softmax, (batch, heads, queries, keys); it may return others.

    Example:
        >>> layer, x, seen = nn.MultiheadAttention(8, 2, batch_first=True).eval(), torch.rand(1, 5, 8), []
        >>> expected = layer(x, x, x)[0]
        >>> with stepwise(layer, lambda weights: seen.append(weights.shape)):
        ...     bool(torch.allclose(layer(x, x, x)[0], expected, atol=1e-6)), seen
        (True, [torch.Size([1, 2, 5, 5])])
    """

    def forward(
        hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        weights, values = weights_and_values(layer, hidden_states, attention_mask)
        changed = visit(weights)
        weights = weights if changed is None else changed
        found = (weights @ values).transpose(1, 2).flatten(2)
        return projection_of(layer)(found), weights

    def of_query(
        query: torch.Tensor, *_: Any, attn_mask: torch.Tensor | None = None, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return forward(query, attn_mask)

    layer.forward = of_query if isinstance(layer, nn.MultiheadAttention) else forward
    try:
        yield
    finally:
        del layer.forward


def weights_and_values(
    layer: nn.Module, x: torch.Tensor, mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute a layer's weights after softmax (batch, heads, queries, keys), and its values (batch, heads, keys, d).

    Args:
        layer: See `is_stepwise`.
        x: What it takes, (batch, tokens, width).
        mask: Mask to add to the logits, or None.

    Example:
        >>> weights, values = weights_and_values(nn.MultiheadAttention(8, 2, batch_first=True), torch.rand(1, 5, 8))
        >>> bool(torch.allclose(weights.sum(3), torch.ones(1, 2, 5))), values.shape
        (True, torch.Size([1, 2, 5, 4]))
    """
    if isinstance(layer, nn.MultiheadAttention):
        parts = F.linear(x, layer.in_proj_weight, layer.in_proj_bias).chunk(3, -1)
    else:
        parts = [project(x) for project in (layer.q_proj, layer.k_proj, layer.v_proj)]
    queries, keys, values = (part.unflatten(2, (-1, layer.head_dim)).transpose(1, 2) for part in parts)
    logits = queries @ keys.transpose(2, 3) * layer.head_dim**-0.5
    return (logits if mask is None else logits + mask).softmax(-1), values


def projection_of(layer: nn.Module) -> nn.Linear:
    """Return the output projection of a layer of either kind.

    Example:
        >>> projection_of(nn.MultiheadAttention(8, 2)).out_features
        8
    """
    return layer.o_proj if hasattr(layer, "o_proj") else layer.out_proj


def context_of(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Compute what goes into a layer's output projection: the heads' weighted values, (batch, tokens, width).

    Example:
        >>> context_of(nn.MultiheadAttention(8, 2, batch_first=True), torch.rand(1, 5, 8)).shape
        torch.Size([1, 5, 8])
    """
    weights, values = weights_and_values(layer, x)
    return (weights @ values).transpose(1, 2).flatten(2)
