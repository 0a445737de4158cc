"""Control which tokens see which: attention masks, edits of attention weights, and deleted tokens.

The model itself is not modified. Vilas et al. 2023 (https://arxiv.org/abs/2310.18969) hide image tokens from each other
(`self_only_mask`), hide the class token from them (`no_cls_mask`, `drop_cls`), or remove tokens (`key_mask`,
`deleting`). Masks are added to attention's logits: the remaining weights add up to 1 again, and fused attention stays
on. `drop_cls` zeroes weights after softmax instead, so its rows add up to less than 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from timm.layers import Attention
from torch import nn

from utilities.analysis.class_embedding.parts_space import PartsSpace
from utilities.analysis.class_embedding.transformer_space import TransformerSpace
from utilities.hooks.vit_parts import splits_qkv

Device = str | torch.device | None


def self_only_mask(tokens: int, prefix: int, device: Device = None, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Let each image token see only itself; tokens before the image's see all.

    Args:
        tokens: Length of the sequence.
        prefix: Number of tokens before those of the image (class token, registers).
        device: Device of the mask.
        dtype: Data type of the mask.

    Returns:
        0 where a query (row) sees a key (column), -inf elsewhere, (tokens, tokens).

    Example:
        >>> self_only_mask(3, prefix=1)
        tensor([[0., 0., 0.],
                [-inf, 0., -inf],
                [-inf, -inf, 0.]])
    """
    seen = torch.eye(tokens, dtype=torch.bool, device=device)
    seen[:prefix] = True
    return _additive(seen, dtype)


def no_cls_mask(tokens: int, prefix: int, device: Device = None, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Hide the class token, which comes first, from the image tokens; registers still see it and are seen.

    Args:
        tokens: Length of the sequence.
        prefix: Number of tokens before those of the image.
        device: Device of the mask.
        dtype: Data type of the mask.

    Returns:
        0 where a query (row) sees a key (column), -inf elsewhere, (tokens, tokens).

    Raises:
        ValueError: If there is no token before those of the image.

    Example:
        >>> no_cls_mask(3, prefix=1)
        tensor([[0., 0., 0.],
                [-inf, 0., 0.],
                [-inf, 0., 0.]])
    """
    if prefix < 1:
        raise ValueError(f"prefix={prefix}: without a class token there is nothing to hide from the image tokens")
    seen = torch.ones(tokens, tokens, dtype=torch.bool, device=device)
    seen[prefix:, 0] = False
    return _additive(seen, dtype)


def key_mask(keep: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Hide tokens from all others; if done in every block, the kept tokens come out as if the rest were removed.

    A hidden token still sees itself and the kept tokens, because a token that sees nothing would be NaN. Nothing of it
    reaches a kept token. Leave it out where tokens are averaged.

    Args:
        keep: Whether to keep each token, booleans (batch, tokens), with the tokens before the image's included.
        dtype: Data type of the mask.

    Returns:
        0 where a query (row) sees a key (column), -inf elsewhere, (batch, 1, tokens, tokens).

    Raises:
        TypeError: If ``keep`` is not boolean.
        ValueError: If it is not (batch, tokens).

    Example:
        >>> key_mask(torch.tensor([[True, True, False]]))
        tensor([[[[0., 0., -inf],
                  [0., 0., -inf],
                  [0., 0., 0.]]]])
    """
    if keep.dtype != torch.bool:
        raise TypeError(f"keep should be boolean, got {str(keep.dtype).removeprefix('torch.')}; compare first")
    if keep.ndim != 2:
        raise ValueError(f"keep should be (batch, tokens), got {tuple(keep.shape)}")
    itself = torch.eye(keep.shape[1], dtype=torch.bool, device=keep.device)
    return _additive(keep[:, None, None, :] | itself, dtype)


def _additive(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)


def drop_cls(weights: torch.Tensor, prefix: int = 1) -> torch.Tensor:
    """Zero the weight of the class token in the rows of image tokens, which then add up to less than 1.

    This is what the published code of Vilas et al. does. Pass it as an edit to the ``eager_attention`` of
    `utilities.analysis.class_embedding.eager_attention`.

    Args:
        weights: Attention weights after softmax, (batch, heads, queries, keys).
        prefix: Number of tokens before those of the image.

    Returns:
        New weights of the same shape.

    Example:
        >>> drop_cls(torch.full((1, 1, 2, 2), 0.5))
        tensor([[[[0.5000, 0.5000],
                  [0.0000, 0.5000]]]])
    """
    weights = weights.clone()
    weights[:, :, prefix:, 0] = 0
    return weights


@contextmanager
def masking(space: TransformerSpace, mask: torch.Tensor, blocks: Sequence[int] | None = None) -> Iterator[None]:
    """Pass a mask to the attention of some blocks, in place of any other; hooks are removed on exit.

    Args:
        space: Space of the model; the model itself need not accept a mask.
        mask: Mask to add to attention's logits, (tokens, tokens) or (batch, 1, tokens, tokens). It is moved to the
            device and precision of the tokens.
        blocks: Indices of the blocks, from 0; None is all.

    Raises:
        ValueError: If there is no such block, or its attention would ignore the mask.

    Example:
        >>> from utilities.analysis.class_embedding.spaces import transformer_space
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> model = vit_tiny_patch2_16(depth=2).eval()
        >>> with torch.no_grad(), masking(transformer_space(model), self_only_mask(65, prefix=1)):
        ...     model(torch.rand(1, 3, 16, 16)).shape
        torch.Size([1, 100])
    """
    chosen = chosen_blocks(space, blocks)
    check_maskable(space)

    def give(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        tokens = args[0] if args else kwargs["hidden_states"]
        own = mask.to(tokens)
        if isinstance(module, nn.MultiheadAttention):  # it has a mask for each image and head, one after the other
            own = own if own.ndim == 2 else own.expand(len(tokens), module.num_heads, -1, -1).flatten(0, 1)
            return args, {**kwargs, "attn_mask": own}
        if splits_qkv(module):
            return args[:1], {**kwargs, "attention_mask": own.expand(len(tokens), 1, *own.shape[-2:])}
        return args[:1], {**kwargs, "attn_mask": own}

    handles = []
    try:
        for index in chosen:
            attention = space.block_parts[index].attention
            handles.append(attention.register_forward_pre_hook(give, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def chosen_blocks(space: TransformerSpace, blocks: Sequence[int] | None) -> list[int]:
    """List the indices of the chosen blocks, sorted and without repeats; None chooses all.

    Raises:
        ValueError: If the list is empty, or the model has no such block.

    Example:
        >>> from utilities.analysis.class_embedding.spaces import transformer_space
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> chosen_blocks(transformer_space(vit_tiny_patch2_16(depth=3)), [2, 0])
        [0, 2]
    """
    count = len(space.blocks)
    if blocks is None:
        return list(range(count))
    known = set(range(count))
    if len(blocks) == 0 or not known.issuperset(blocks) or any(isinstance(index, bool) for index in blocks):
        raise ValueError(f"blocks={list(blocks)} should be one or more indices from 0 to {count - 1}; None is all")
    return sorted({int(index) for index in blocks})


def check_maskable(space: TransformerSpace) -> None:
    """Refuse a model whose attention would ignore a mask, or has one of its own.

    Raises:
        ValueError: If it is refused; the message names the block and the remedy.

    Example:
        >>> from utilities.analysis.class_embedding.spaces import transformer_space
        >>> from utilities.zoo.local_vit import local_vit
        >>> check_maskable(transformer_space(local_vit("16", reach=3)))
        Traceback (most recent call last):
        ValueError: blocks.0.attn is a NeighbourhoodAttention with a forward pass of its own, ...
    """
    _check_plain(space)
    if "attn_mask" not in signature(Attention.forward).parameters:
        raise ValueError("the attention of the timm that is installed takes no mask; update timm")


def _check_plain(space: TransformerSpace) -> None:
    """Refuse attention whose forward pass is not timm's own, whether its class or the layer itself overrides it."""
    for name, parts in zip(space.names, space.block_parts, strict=True):
        own = getattr(parts.attention.forward, "__func__", None)
        known = type(parts.attention).forward if isinstance(space, PartsSpace) else Attention.forward
        if own is not known:
            raise ValueError(
                f"{name}.attn is a {type(parts.attention).__name__} with a forward pass of its own, which may not "
                "heed a mask or a missing token; only timm's own Attention can be perturbed"
            )


def with_prefix(order: torch.Tensor, prefix: int) -> torch.Tensor:
    """Turn indices of image tokens into indices of the sequence, preceded by the tokens before the image's.

    Args:
        order: Indices of image tokens, from 0, (batch, k).
        prefix: Number of tokens before those of the image.

    Returns:
        Indices for `deleting`, (batch, prefix + k).

    Example:
        >>> with_prefix(torch.tensor([[2, 0]]), prefix=1)
        tensor([[0, 3, 1]])
    """
    first = torch.arange(prefix, device=order.device).expand(len(order), -1)
    return torch.cat([first, order + prefix], dim=1)


@contextmanager
def deleting(space: TransformerSpace, keep_indices: torch.Tensor) -> Iterator[None]:
    """Remove tokens from the sequence after position embeddings are added and before the first block.

    All images of a batch keep the same number of tokens; use `key_mask` where the numbers differ. Do not read blocks in
    the meantime, because the remaining tokens fill no grid. Hooks are removed on exit.

    Args:
        space: Space of the model.
        keep_indices: Indices of the tokens to keep, in their new order, (batch, k). The tokens before the image's come
            first, see `with_prefix`.

    Raises:
        TypeError: If the indices are not int64.
        ValueError: If the indices are not (batch, k), do not start with the tokens before the image's or name a token
            of an image twice, or if the batch or the sequence does not fit.

    Example:
        >>> from utilities.analysis.class_embedding.spaces import transformer_space
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> model, lengths = vit_tiny_patch2_16(depth=1).eval(), []
        >>> with deleting(transformer_space(model), with_prefix(torch.tensor([[5, 9]]), prefix=1)):
        ...     hook = model.blocks[0].register_forward_hook(lambda block, args, out: lengths.append(out.shape[1]))
        ...     logits = model(torch.rand(1, 3, 16, 16))
        >>> lengths
        [3]
    """
    _check_plain(space)
    _check_kept(keep_indices, space.prefix)

    def gather(module: nn.Module, args: Any, tokens: torch.Tensor) -> torch.Tensor:
        if len(tokens) != len(keep_indices) or int(keep_indices.max()) >= tokens.shape[1]:
            raise ValueError(
                f"tokens kept of {len(keep_indices)} images, with indices up to {int(keep_indices.max())}, do not fit "
                f"a batch of {len(tokens)} images with {tokens.shape[1]} tokens"
            )
        index = keep_indices.to(tokens.device)[..., None].expand(-1, -1, tokens.shape[2])
        return tokens.gather(1, index)

    handle = space.entry.register_forward_hook(gather)
    try:
        yield
    finally:
        handle.remove()


def _check_kept(indices: torch.Tensor, prefix: int) -> None:
    """Refuse indices that are not int64 (batch, k), lack the tokens before the image's, or name a token twice."""
    if indices.dtype != torch.int64:
        raise TypeError(f"keep_indices should be int64, got {str(indices.dtype).removeprefix('torch.')}")
    if indices.ndim != 2 or indices.shape[1] == 0:
        raise ValueError(f"keep_indices should be (batch, k) with a token or more, got {tuple(indices.shape)}")
    if not (indices[:, :prefix].cpu() == torch.arange(prefix)).all() or indices.shape[1] < prefix:
        raise ValueError(f"keep_indices should start with the {prefix} tokens before the image's; see with_prefix")
    ordered = indices.sort(dim=1).values
    if (ordered[:, 0] < 0).any() or (ordered.diff(dim=1) == 0).any():
        raise ValueError("keep_indices should be 0 or more, and name each token of an image once")
