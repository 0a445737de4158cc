"""Hooks on an unmodified model that hand over each block's tokens while it runs, so that none need to be stored.

Fused attention stays on, because reading blocks does not need the attention matrix. For analyses that do, see
`utilities.analysis.class_embedding.eager_attention`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from utilities.analysis.attention.stepwise import context_of
from utilities.analysis.class_embedding.space import ClassSpace
from utilities.analysis.class_embedding.transformer_space import TransformerSpace
from utilities.hooks.calls.copies import copied, own_inputs


@dataclass
class BlockTokens:
    """The tokens of one block, alive while the block's hook runs.

    Attributes:
        space: Space in which the tokens are read.
        index: Index of the block, from 0.
        after: Output of the block, (batch, tokens, width).
        grid: Rows and columns of its image tokens.
        before: Input of the block, (batch, tokens, width). This and the next four exist only for transformers.
        attn: What attention adds, so that before + attn + mlp = after; its raw output if the lens options ask for it.
        mlp: What the MLP adds, or its raw output.
        attn_keys: Memory coefficients of attention: the input of its output projection, (batch, tokens, width).
        mlp_keys: Memory coefficients of the MLP: the input of its second linear layer, (batch, tokens, hidden).
    """

    space: ClassSpace
    index: int
    after: torch.Tensor
    grid: tuple[int, int]
    before: torch.Tensor | None = None
    attn: torch.Tensor | None = None
    mlp: torch.Tensor | None = None
    attn_keys: torch.Tensor | None = None
    mlp_keys: torch.Tensor | None = None
    _logits: dict[str, torch.Tensor] = field(default_factory=dict)

    def logits(self, part: str) -> torch.Tensor:
        """Read ``block``, ``attn`` or ``mlp`` in class-embedding space, (batch, tokens, classes); computed once."""
        if part not in self._logits:
            tokens = self.after if part == "block" else getattr(self, part)
            self._logits[part] = self.space.project(tokens, self.index if part == "block" else None)
        return self._logits[part]


Visit = Callable[[BlockTokens], None]


def read_blocks(space: ClassSpace, images: torch.Tensor, visit: Visit, **forward: Any) -> torch.Tensor:
    """Run a model, and visit each block's tokens as they are computed.

    Args:
        space: Space of the model, which is in eval mode.
        images: Input images, (batch, channels, height, width).
        visit: Function called once per block, in order. Tokens that it keeps are not freed.
        **forward: Arguments to pass to the model, such as ``attn_mask``.

    Returns:
        The model's logits, (batch, classes).

    Raises:
        RuntimeError: If the blocks did not run once each, in order.
        ValueError: If a block returns tokens for more or fewer images than there are.

    Example:
        >>> from utilities.analysis.class_embedding.spaces import class_space
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> seen = []
        >>> def visit(tokens):
        ...     total = tokens.before + tokens.attn + tokens.mlp
        ...     seen.append(bool(torch.allclose(total, tokens.after, atol=1e-5)))
        >>> logits = read_blocks(class_space(vit_tiny_patch2_16(depth=2).eval()), torch.rand(1, 3, 16, 16), visit)
        >>> logits.shape, seen
        (torch.Size([1, 100]), [True, True])
    """
    visited: list[int] = []

    def seen(tokens: BlockTokens) -> None:
        visited.append(tokens.index)
        visit(tokens)

    with own_inputs(space.model), _hooks(space, seen, images.shape):
        logits = space.logits(images, **forward)
    if visited != list(range(len(space.blocks))):
        raise RuntimeError(f"blocks ran in the order {visited}, not each once; a compiled or checkpointed model?")
    return logits


@contextmanager
def _hooks(space: ClassSpace, visit: Visit, shape: torch.Size) -> Iterator[None]:
    """Hook all blocks, and remove the hooks on exit."""
    handles = []
    try:
        for index, block in enumerate(space.blocks):
            kept: dict[str, torch.Tensor] = {}
            if isinstance(space, TransformerSpace):
                handles += _hook_parts(space, index, kept)
            handles.append(block.register_forward_hook(_at_end(space, index, kept, visit, shape)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook_parts(space: TransformerSpace, index: int, kept: dict[str, torch.Tensor]) -> list[Any]:
    """Hook the inside of a transformer's block, and keep copies, because later modules may overwrite the tokens."""
    block, parts, (attn, mlp) = space.blocks[index], space.block_parts[index], space.branch_outputs(index)

    def keep_input(name: str) -> Callable[..., None]:
        return lambda module, args: kept.__setitem__(name, args[0].clone())

    def keep_output(name: str) -> Callable[..., None]:
        return lambda module, args, output: kept.__setitem__(name, output.clone())

    def compute_keys(module: nn.Module, args: tuple[Any, ...]) -> None:
        kept["attn_keys"] = context_of(module, args[0])

    inputs = {"before": block, "attn_keys": parts.projection, "mlp_keys": parts.memories}
    handles = [module.register_forward_pre_hook(keep_input(name)) for name, module in inputs.items()]
    if isinstance(parts.attention, nn.MultiheadAttention):  # it multiplies by the projection without running it
        handles.append(parts.attention.register_forward_pre_hook(compute_keys))
    outputs = {"attn": attn, "mlp": mlp}
    return handles + [module.register_forward_hook(keep_output(name)) for name, module in outputs.items()]


def _at_end(
    space: ClassSpace, index: int, kept: dict[str, torch.Tensor], visit: Visit, shape: torch.Size
) -> Callable[..., None]:
    """Make the hook that gathers a block's tokens, lets them be visited and drops them."""

    def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        tokens, grid = space.tokens(copied(output)), space.grid(output, tuple(shape[-2:]))
        if len(tokens) != shape[0]:
            other = not getattr(space, "batch_first", True)
            raise ValueError(
                f"{space.names[index]} gives tokens of {len(tokens)} images, and there are {shape[0]}: its axes are "
                f"in another order than the names say; try batch_first={other} with the names"
            )
        visit(BlockTokens(space, index, tokens, grid, **kept))
        kept.clear()

    return hook
