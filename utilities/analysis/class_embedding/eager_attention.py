"""Compute attention step by step, and hand over its matrix; reading blocks does not need it, and stays fused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from utilities.analysis.class_embedding.transformer_space import TransformerSpace


@contextmanager
def eager_attention(
    space: TransformerSpace, edits: Mapping[int, Callable[[torch.Tensor], torch.Tensor | None]]
) -> Iterator[None]:
    """Compute the attention of some blocks step by step, and hand over its matrix; restore fused attention on exit.

    Args:
        space: Space of the model.
        edits: Index of a block -> function of the weights after softmax, (batch, heads, queries, keys). It may return
            other weights to replace them.

    Raises:
        ValueError: If there is no such block.
        RuntimeError: If the model ran and a block handed over no matrix.

    Example:
        >>> from utilities.analysis.class_embedding.spaces import transformer_space
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> model, seen = vit_tiny_patch2_16(depth=2).eval(), []
        >>> with eager_attention(transformer_space(model), {1: lambda weights: seen.append(weights.shape)}):
        ...     _ = model(torch.rand(1, 3, 16, 16))
        >>> seen, model.blocks[1].attn.fused_attn
        ([torch.Size([1, 3, 65, 65])], True)
    """
    for index in edits:
        if not 0 <= index < len(space.blocks):
            raise ValueError(f"there is no block {index}; the model has 0 to {len(space.blocks) - 1}")
    layers = {index: space.blocks[index].attn for index in edits}
    before = {index: layer.fused_attn for index, layer in layers.items()}
    calls = dict.fromkeys(edits, 0)

    def hook_of(index: int) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor | None:
            calls[index] += 1
            return edits[index](output)

        return hook

    handles = []
    try:
        for index, layer in layers.items():
            layer.fused_attn = False
            handles.append(layer.attn_drop.register_forward_hook(hook_of(index)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for index, layer in layers.items():
            layer.fused_attn = before[index]
    missing = [f"blocks.{index}" for index, count in calls.items() if count == 0]
    if missing:
        raise RuntimeError(f"no attention matrix came out of {', '.join(missing)}; did the model run?")
