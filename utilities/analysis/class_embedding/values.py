"""Value vectors: the memories that attention and MLP write from, and what they say about the classes.

The last linear layer of a branch is a key-value memory (Geva et al. 2021, https://arxiv.org/abs/2012.14913; for Vision
Transformers Vilas et al. 2023, https://arxiv.org/abs/2310.18969). Its input holds one coefficient k_j for each memory,
its columns are the value vectors v_j, and the branch outputs sum_j k_j v_j + bias. Everything in this module depends
only on weights.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from scipy import integrate, stats
from torch import nn

from utilities.analysis.class_embedding.spaces import transformer_space
from utilities.analysis.class_embedding.transformer_space import TransformerSpace
from utilities.results.moments import precise

MEMORY_PARTS = ("attn", "mlp")
FOLDS = ("none", "scale", "scale+norm")


def value_vectors(space: TransformerSpace, index: int, part: str, fold: str = "none") -> torch.Tensor:
    """Return the value vectors of a block's attention or MLP, which are the columns of its last linear layer.

    Args:
        space: Space of the model.
        index: Index of the block, from 0; negative counts from the last.
        part: ``"attn"`` (as many memories as the model is wide) or ``"mlp"`` (as many as its hidden layer is wide).
        fold: ``"none"`` leaves the vectors unchanged, as in the paper. ``"scale"`` multiplies their features as the
            model multiplies those of the branch: by LayerScale, or by the weight of the norm that follows the branch in
            residual-post-norm blocks. ``"scale+norm"`` also multiplies by the weight of the final norm. This covers
            every factor between a memory and the classifier that differs among features. The mean that a norm
            subtracts and the deviation that it divides by depend on the token, and are not folded in.

    Returns:
        Value vectors, float64 (width, memories), on the weights' device.

    Raises:
        ValueError: If there is no such block, part or fold.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> space = transformer_space(vit_tiny_patch2_16(depth=2))
        >>> [tuple(value_vectors(space, 0, part).shape) for part in ("attn", "mlp")]
        [(96, 96), (96, 384)]
    """
    check_memories(space, index, part, fold)
    parts = space.block_parts[index]
    layer = parts.projection if part == "attn" else parts.memories
    values = precise(layer.weight.detach())
    if fold != "none":
        outputs = transformer_space(space.model).branch_outputs(index % len(space.blocks))
        values = values * _gain(outputs[MEMORY_PARTS.index(part)], values)
    if fold == "scale+norm":
        for norm in space.norms:
            values = values * _gain(norm, values)
    return values


def class_rows(space: TransformerSpace) -> torch.Tensor:
    """Return the classifier's row of each class, float64 (classes, width); for a distilled model, those of ``head``.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> class_rows(transformer_space(vit_tiny_patch2_16(num_classes=10, depth=1))).shape
        torch.Size([10, 96])
    """
    return precise(space.head.weight.detach())


def memory_logits(space: TransformerSpace, index: int, part: str, fold: str = "none") -> torch.Tensor:
    """Compute what each memory adds to each class's logit at a coefficient of 1: rows @ values, (classes, memories).

    Args and errors are those of `value_vectors`. The classifier's bias is left out.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> memory_logits(transformer_space(vit_tiny_patch2_16(num_classes=10, depth=1)), 0, "mlp").shape
        torch.Size([10, 384])
    """
    return class_rows(space) @ value_vectors(space, index, part, fold)


def memory_cosines(space: TransformerSpace, index: int, part: str, fold: str = "none") -> torch.Tensor:
    """Compute the cosine between each class's row and each value vector, (classes, memories).

    Both are divided by their length over features. (If divided by their length over classes, rows would keep unequal
    lengths, and cosines would exceed 1.) A value vector of zeros has no direction, and its cosines are NaN.

    Args and further errors are those of `value_vectors`.

    Raises:
        ValueError: If a class's row is zero, as in an untrained model whose classifier starts at zero, or weights are
            not finite.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> cosines = memory_cosines(transformer_space(vit_tiny_patch2_16(num_classes=10, depth=1)), 0, "mlp")
        >>> cosines.shape, bool(cosines.abs().max() < 1)
        (torch.Size([10, 384]), True)
    """
    kind, rows, values = type(space.model).__name__, class_rows(space), value_vectors(space, index, part, fold)
    if not (rows.isfinite().all() and values.isfinite().all()):
        raise ValueError(f"the weights of {kind} are not all finite; cosines with its value vectors mean nothing")
    lengths = rows.norm(dim=1, keepdim=True)
    if not lengths.all():
        raise ValueError(
            f"{int((lengths == 0).sum())} of {len(rows)} rows of {kind}'s classifier are zero and have no direction; "
            "an untrained model should start with a random classifier (timm: weight_init='', not 'jax')"
        )
    return (rows / lengths) @ (values / values.norm(dim=0))


@cache
def chance_of_best_cosine(width: int, memories: int) -> float:
    """Compute the mean of the largest of several cosines between one direction and random ones.

    For random directions in d dimensions, (1 + cosine) / 2 follows Beta((d - 1) / 2, (d - 1) / 2). The largest of M
    independent cosines is the quantile at u^(1/M), with u uniform. Its mean is integrated numerically.

    Args:
        width: Number of dimensions d, 2 or more.
        memories: Number of random directions M, 1 or more.

    Raises:
        ValueError: If ``width`` is below 2 or ``memories`` below 1.

    Example:
        >>> sizes = [(768, 3072), (768, 768), (1024, 4096), (1024, 1024)]
        >>> [round(chance_of_best_cosine(*size), 4) for size in sizes]
        [0.1277, 0.1139, 0.113, 0.1013]
    """
    if width < 2 or memories < 1:
        raise ValueError(f"chance needs 2 dimensions and 1 memory at least, got {width} and {memories}")
    law = stats.beta((width - 1) / 2, (width - 1) / 2)

    def best(u: float) -> float:
        # 1 - u^(1/M) without the digits that subtraction would cost
        return 2 * law.isf(-math.expm1(math.log(u) / memories)) - 1

    return float(integrate.quad(best, 0, 1, limit=200)[0])


def chance_of_overlap(memories: int, k: int = 5) -> float:
    """Compute the probability that two random sets of k memories overlap: 1 - C(M - k, k) / C(M, k).

    Args:
        memories: Number of memories M.
        k: Size of each set, from 1 to M.

    Raises:
        ValueError: If ``k`` is out of range.

    Example:
        >>> [f"{chance_of_overlap(memories):.2%}" for memories in (3072, 768, 4096, 1024)]
        ['0.81%', '3.22%', '0.61%', '2.42%']
    """
    if not 1 <= k <= memories:
        raise ValueError(f"k should be from 1 to the number of memories, {memories}, got {k}")
    return 1 - math.comb(memories - k, k) / math.comb(memories, k)


def check_memories(space: TransformerSpace, index: int, part: str, fold: str) -> None:
    """Refuse a block, part or fold that does not exist.

    Raises:
        ValueError: If one is refused; the message names it and the choices.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> check_memories(transformer_space(vit_tiny_patch2_16(depth=2)), 2, "mlp", "none")
        Traceback (most recent call last):
        ValueError: block 2 is not in VisionTransformer; it has blocks 0 to 1
    """
    count = len(space.blocks)
    if not -count <= index < count:
        raise ValueError(f"block {index} is not in {type(space.model).__name__}; it has blocks 0 to {count - 1}")
    if part not in MEMORY_PARTS:
        raise ValueError(f"part {part!r} has no memories; choose from {', '.join(MEMORY_PARTS)}")
    if fold not in FOLDS:
        raise ValueError(f"fold {fold!r} is not known; choose from {', '.join(FOLDS)}")


def _gain(module: nn.Module, values: torch.Tensor) -> torch.Tensor | float:
    """Return the factor of LayerScale or a norm, (width, 1); 1 for an identity or a norm without weight."""
    gain = getattr(module, "gamma", None)
    gain = getattr(module, "weight", None) if gain is None else gain
    return 1.0 if gain is None else gain.detach().to(values)[:, None]
