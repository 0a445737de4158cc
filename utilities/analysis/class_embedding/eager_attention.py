"""Compute attention step by step, and hand over its matrix; reading blocks does not need it, and stays fused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from utilities.analysis.attention.eager import attention_matrices
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
    layers = {space.names[index]: space.block_parts[index].attention for index in edits}
    with attention_matrices(layers, {space.names[index]: edit for index, edit in edits.items()}):
        yield
