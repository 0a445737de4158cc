"""Relevance of image tokens by attention and its gradient (Chefer et al. 2021, https://arxiv.org/abs/2103.15679).

Unlike gradient maps, see `utilities.analysis.class_embedding.gradient_map`, this method needs every block's attention
matrix and a backward pass through the whole model. Fused attention is off while it runs, and memory grows with the
square of the number of tokens. Use batches of a few dozen images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from utilities.analysis.class_embedding.eager_attention import eager_attention
from utilities.analysis.class_embedding.readers import check_target
from utilities.analysis.class_embedding.spaces import transformer_space
from utilities.analysis.class_embedding.transformer_space import TransformerSpace
from utilities.hooks.calls.labels import check_labels
from utilities.hooks.calls.weights import check_weights
from utilities.utils import evaluating


def relevance_maps(model: nn.Module, images: torch.Tensor, target: torch.Tensor | int) -> torch.Tensor:
    """Explain the logit of a class by the image tokens, with the rule for self-attention.

    Start with R = I. For each block, take the gradient of the model's logit y_c with respect to the attention A after
    softmax, compute A_bar = mean over heads of max(0, dy_c/dA * A), and update R <- R + A_bar R. The relevance of an
    image token is its entry in the row of the class token, or the mean over the rows that the classifier reads, see
    `read_rows`.

    Args:
        model: timm's VisionTransformer; its mode and fused attention are restored afterwards.
        images: Images on the model's device, (batch, channels, height, width).
        target: The class of each image, (batch,), or one class for all.

    Returns:
        Relevance, (batch, image tokens), row by row of the patches' grid; never negative.

    Raises:
        ValueError: If the model is of another kind, or has no such class.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> maps = relevance_maps(vit_tiny_patch2_16(num_classes=10, depth=2), torch.rand(3, 3, 16, 16), target=7)
        >>> maps.shape, bool((maps >= 0).all())
        (torch.Size([3, 64]), True)
    """
    space = transformer_space(model, what="relevance")
    target = as_targets(target, images, space.num_classes)
    check_weights(model)
    with evaluating(model):
        return relevance_of(space, images, target)


def relevance_of(space: TransformerSpace, images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Compute relevance maps in the space of a model in eval mode, with one class for each image."""
    matrices: list[torch.Tensor] = []

    def keep(weights: torch.Tensor) -> torch.Tensor:
        # If the model's weights are frozen, gradients start at the first matrix.
        matrices.append(weights if weights.requires_grad else weights.detach().requires_grad_())
        return matrices[-1]

    edits: dict[int, Callable[[torch.Tensor], torch.Tensor]] = dict.fromkeys(range(len(space.blocks)), keep)
    with torch.enable_grad(), eager_attention(space, edits):
        # An image's logit depends only on its own attention, so one backward pass of the sum serves all images.
        logits = space.model(images).gather(1, target[:, None]).sum()
        gradients = torch.autograd.grad(logits, matrices)
    relevance = propagate([matrix.detach() for matrix in matrices], gradients)
    return relevance[:, read_rows(space), space.prefix :].mean(1)


def propagate(attention: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """Carry relevance through self-attention, block by block.

    Args:
        attention: Attention of each block after softmax, in order, (batch, heads, queries, keys).
        gradients: Gradient of the explained number with respect to each of these matrices.

    Returns:
        R, (batch, tokens, tokens): how much the token of each row owes to the token of each column.

    Example:
        >>> attention, gradient = torch.full((1, 1, 2, 2), 0.5), torch.tensor([[[[2.0, -1.0], [0.0, 1.0]]]])
        >>> propagate([attention], [gradient])
        tensor([[[2.0000, 0.0000], [0.0000, 1.5000]]])
    """
    tokens = attention[0].shape[-1]
    relevance = torch.eye(tokens, dtype=attention[0].dtype, device=attention[0].device).expand(
        len(attention[0]), -1, -1
    )
    for weights, gradient in zip(attention, gradients, strict=True):
        relevance = relevance + (gradient * weights).clamp(min=0).mean(1) @ relevance
    return relevance


def read_rows(space: TransformerSpace) -> slice:
    """Select the tokens that a model's classifier reads, and so the rows of attention that count at the end.

    These are the class token, the class and distillation tokens of a distilled model, or all tokens that the model
    averages.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> read_rows(transformer_space(vit_tiny_patch2_16(depth=1)))
        slice(0, 1, None)
        >>> read_rows(transformer_space(vit_tiny_patch2_16(depth=1, class_token=False, global_pool="avg")))
        slice(0, None, None)
    """
    if space.pool == "token":
        return slice(0, 1 if space.head_dist is None else 2)
    return slice(space.first_pooled, None)


def as_targets(target: torch.Tensor | int, images: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return one class for each image, on the images' device.

    Raises:
        ValueError: If there are not as many classes as images, or the model has no such class.

    Example:
        >>> as_targets(7, torch.zeros(2, 3, 4, 4), 10)
        tensor([7, 7])
    """
    if not isinstance(target, torch.Tensor):
        check_target(target, num_classes)
        if isinstance(target, str):
            raise ValueError(f"target {target!r} is no class; pass the classes of the images as a tensor, or one index")
        return torch.full((len(images),), target, device=images.device)
    target = check_labels(target, num_classes)
    if len(target) != len(images):
        raise ValueError(f"there are {len(target)} targets for {len(images)} images; give one each, or one class")
    return target.to(images.device)
