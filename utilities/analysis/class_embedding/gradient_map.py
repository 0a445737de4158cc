"""Gradients of a class's loss with respect to attention weights, in class-embedding space and in closed form.

Vilas et al. 2023 (https://arxiv.org/abs/2310.18969) read what attention adds to the class token in class-embedding
space, and ask how the loss of a class changes with each attention weight. Within one layer, what attention adds is
linear in the weights. This needs neither the attention matrix nor a backward pass through the model, and fused
attention stays on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.layers import Attention
from torch import nn

from utilities.analysis.class_embedding.ranks import target_logit
from utilities.analysis.class_embedding.relevance import as_targets, read_rows
from utilities.analysis.class_embedding.space import LensOptions
from utilities.analysis.class_embedding.spaces import transformer_space
from utilities.analysis.class_embedding.transformer_space import TransformerSpace
from utilities.hooks.calls.weights import check_weights
from utilities.hooks.trial import first_tensor
from utilities.hooks.vit_parts import splits_qkv
from utilities.results.moments import precise
from utilities.utils import evaluating

LOSSES = ("ce", "ce_double_softmax", "logit")


def gradient_maps(
    model: nn.Module,
    images: torch.Tensor,
    target: torch.Tensor | int,
    *,
    loss: str = "ce",
    per_head: bool = False,
    lens: LensOptions | None = None,
) -> torch.Tensor:
    """Map how a class's loss, read from the output of one attention layer alone, falls with each attention weight.

    Let a_b be the class token's row of what block b's attention adds, z = E norm(a_b) + e its logits, and l the loss of
    class c. Then (Vilas et al. 2023, https://arxiv.org/abs/2310.18969)

        g_b[h, j] = -dl / dA_b[h, CLS, j] = -<v_b[h, j], W_out,h^T dl / d(output of attention)[CLS]>

    This takes only a small backward pass through the final norm and, where there is one, LayerScale or the norm after
    the branch. Models whose classifier reads several tokens (average pooling, distillation) have one such map for each
    of these tokens. The result is their mean, see `utilities.analysis.class_embedding.relevance.read_rows`.

    Args:
        model: timm's VisionTransformer; its mode is restored afterwards.
        images: Images on the model's device, (batch, channels, height, width).
        target: The class of each image, (batch,), or one class for all; any class can be asked about.
        loss: ``"ce"`` is the cross-entropy. ``"ce_double_softmax"`` is the loss of the paper's code, which applies
            softmax before a cross-entropy that takes log-softmax itself. ``"logit"`` is minus the class's logit.
        per_head: Whether to keep heads apart; otherwise they are summed.
        lens: How tokens are read; None is the paper's way.

    Returns:
        Maps, (batch, blocks, [heads,] image tokens); positive where more attention would favour the class. The sum over
        blocks and heads is the map of the whole model.

    Raises:
        ValueError: If the loss is not known, the model has no such class, or its attention is not linear in the weights
            because it has a gate or a norm before the output projection.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> model = vit_tiny_patch2_16(num_classes=10, depth=2)
        >>> gradient_maps(model, torch.rand(4, 3, 16, 16), target=7, per_head=True).shape
        torch.Size([4, 2, 3, 64])
    """
    space = gradient_space(model, loss, lens)
    target = as_targets(target, images, space.num_classes)
    check_weights(model)
    with evaluating(model), torch.no_grad():
        return gradient_maps_of(space, images, target, loss, per_head)


def gradient_maps_of(
    space: TransformerSpace, images: torch.Tensor, target: torch.Tensor, loss: str, per_head: bool
) -> torch.Tensor:
    """Run the model once and make each block's map on the way; the caller sets eval mode and disables gradients."""
    maps: list[torch.Tensor] = []

    def map_of(index: int) -> tuple[Callable[..., None], Callable[..., None]]:
        parts, kept = space.block_parts[index], []

        def at_values(module: nn.Module, args: Any, output: torch.Tensor) -> None:
            heads = output.unflatten(2, (-1, parts.attention.head_dim))
            kept.append(heads[:, :, -(heads.shape[2] // (1 if splits_qkv(parts.attention) else 3)) :].clone())

        def at_end(module: nn.Module, args: Any, output: Any) -> None:
            output = first_tensor(output)
            space.grid(output)  # refuses images whose size does not fit the grid
            slope = _slope(space, index, output[:, read_rows(space)], target, loss)
            heads = attention_gradient(kept.pop(), slope, parts.projection.weight)[..., space.prefix :]
            maps.append(heads if per_head else heads.sum(1))

        return at_values, at_end

    handles = []
    try:
        for index, parts in enumerate(space.block_parts):
            values = parts.attention.v_proj if splits_qkv(parts.attention) else parts.attention.qkv
            for module, hook in zip((values, parts.attention), map_of(index), strict=True):
                handles.append(module.register_forward_hook(hook))
        space.model(images)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(maps, 1)


def _slope(space: TransformerSpace, index: int, output: torch.Tensor, target: torch.Tensor, loss: str) -> torch.Tensor:
    """Differentiate the rows' mean loss with respect to attention's output, and sum over the rows: (batch, width)."""
    branch = space.branch_outputs(index)[0]
    with torch.enable_grad():
        output = output.detach().clone().requires_grad_()
        parts = space.block_parts[index]
        added = output if branch in (parts.attention, parts.projection) else branch(output.clone())
        total = class_loss(space.project(added), target, loss).mean(1).sum()
        return torch.autograd.grad(total, output)[0].sum(1)


def class_loss(logits: torch.Tensor, target: torch.Tensor, loss: str) -> torch.Tensor:
    """Compute the loss of each image's class in each token: (batch, tokens, classes), (batch,) -> (batch, tokens).

    Example:
        >>> class_loss(torch.zeros(1, 1, 10), torch.tensor([3]), "ce").item()
        2.302585092994046
    """
    logits = precise(logits)  # in float32, 1 - p of a very sure answer is 0, and its class has no part in the gradient
    if loss == "ce_double_softmax":
        logits = logits.softmax(2)
    return -target_logit(logits if loss == "logit" else logits.log_softmax(2), target)


def attention_gradient(values: torch.Tensor, slope: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Compute minus the gradient of a loss with respect to a row's attention weights, -<v[h, j], W_out,h^T slope>.

    Args:
        values: Values v, (batch, tokens, heads, width of a head).
        slope: Gradient of the loss with respect to the row's output, (batch, width).
        weight: Weight of the output projection, (width, heads * width of a head).

    Returns:
        Minus the gradient, (batch, heads, tokens).

    Example:
        >>> attention_gradient(torch.ones(1, 3, 2, 4), torch.ones(1, 5), torch.ones(5, 8)).unique()
        tensor([-20.])
    """
    per_head = (slope @ weight).unflatten(1, values.shape[2:])
    return -torch.einsum("bthd,bhd->bht", values, per_head)


def gradient_space(model: nn.Module, loss: str, lens: LensOptions | None) -> TransformerSpace:
    """Build the class-embedding space of a model whose attention is linear in its weights.

    Raises:
        ValueError: If the attention is not linear, or the loss is not known.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss {loss!r} is not known; choose from {', '.join(LOSSES)}")
    space = transformer_space(model, lens, what="importance")
    for name, parts in zip(space.names, space.block_parts, strict=True):
        wrong = _not_linear(parts.attention)
        if wrong:
            raise ValueError(
                f"{name}.attn has {wrong}: its output may not be linear in the attention weights, and the closed form "
                "of gradient maps does not hold; use method='relevance'"
            )
    return space


def _not_linear(attention: Attention) -> str:
    """Name what keeps the output from being a fixed linear map of the weighted values; empty if nothing does."""
    if splits_qkv(attention) and getattr(attention.forward, "__func__", None) is type(attention).forward:
        return ""
    if isinstance(attention, nn.MultiheadAttention):
        return "no layer of its own for its values (MultiheadAttention)"
    if getattr(attention.forward, "__func__", None) is not Attention.forward:
        return f"a forward pass of its own ({type(attention).__name__})"
    if getattr(attention, "gate", None) is not None:
        return "a gate"
    if not isinstance(getattr(attention, "norm", nn.Identity()), nn.Identity):
        return "a norm before its output projection (scale norm)"
    return ""
