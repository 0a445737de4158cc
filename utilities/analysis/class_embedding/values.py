"""Value vectors: the memories that attention and MLP write from, and what they say about the classes.

The last linear layer of a branch is a key-value memory (Geva et al. 2021, https://arxiv.org/abs/2012.14913; for Vision
Transformers Vilas et al. 2023, https://arxiv.org/abs/2310.18969): its input holds one coefficient k_j for each memory,
its columns are their value vectors v_j, and the branch puts out sum_j k_j v_j + bias. All here is of weights alone.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from scipy import integrate, stats
from torch import nn

from utilities.analysis.class_embedding.space import TransformerSpace, transformer_space
from utilities.analysis.stream import precise

MEMORY_PARTS = ("attn", "mlp")
FOLDS = ("none", "scale", "scale+norm")


def value_vectors(space: TransformerSpace, index: int, part: str, fold: str = "none") -> torch.Tensor:
    """Give the value vectors of a block's attention or MLP, the columns of its last linear layer.

    Args:
        space: Of the model.
        index: Of the block, from 0; negative counts from the last.
        part: ``"attn"`` (width memories) or ``"mlp"`` (as many as the MLP is wide inside).
        fold: ``"none"`` takes them as they are (the paper). ``"scale"`` multiplies their features as those of the
            branch are before they are added to the residual stream: by LayerScale, or by the weight of the norm that
            follows the branch in residual-post-norm blocks. ``"scale+norm"`` multiplies by the weight of the final
            norm too, which is then all between a memory and the classifier that differs among features. What norms
            subtract, and the deviation that they divide by, hang on the token and are not folded in.

    Returns:
        float64 (width, memories), on the weights' device.

    Raises:
        ValueError: If there is no such block, part or fold.

    Example:
        >>> from utilities.vit import vit_tiny_patch2_16
        >>> space = transformer_space(vit_tiny_patch2_16(depth=2))
        >>> [tuple(value_vectors(space, 0, part).shape) for part in ("attn", "mlp")]
        [(96, 96), (96, 384)]
    """
    check_memories(space, index, part, fold)
    block = space.blocks[index]
    layer = block.attn.proj if part == "attn" else block.mlp.fc2
    values = precise(layer.weight.detach())
    if fold != "none":
        outputs = transformer_space(space.model).branch_outputs(index % len(space.blocks))
        values = values * _gain(outputs[MEMORY_PARTS.index(part)], values)
    if fold == "scale+norm":
        values = values * _gain(space.model.norm, values) * _gain(space.model.fc_norm, values)
    return values


def class_rows(space: TransformerSpace) -> torch.Tensor:
    """Give the classifier's row of each class, float64 (classes, width); of a distilled model, those of ``head``.

    Example:
        >>> from utilities.vit import vit_tiny_patch2_16
        >>> class_rows(transformer_space(vit_tiny_patch2_16(num_classes=10, depth=1))).shape
        torch.Size([10, 96])
    """
    return precise(space.model.head.weight.detach())


def memory_logits(space: TransformerSpace, index: int, part: str, fold: str = "none") -> torch.Tensor:
    """Give what each memory adds to each class for a coefficient of 1: rows @ values, (classes, memories).

    Args and errors are those of `value_vectors`. The classifier's bias is left out.

    Example:
        >>> from utilities.vit import vit_tiny_patch2_16
        >>> memory_logits(transformer_space(vit_tiny_patch2_16(num_classes=10, depth=1)), 0, "mlp").shape
        torch.Size([10, 384])
    """
    return class_rows(space) @ value_vectors(space, index, part, fold)


def memory_cosines(space: TransformerSpace, index: int, part: str, fold: str = "none") -> torch.Tensor:
    """Give the cosine between each class's row and each value vector, (classes, memories).

    Both are divided by their length over features. (Over classes instead, rows would stay of unequal length, and
    cosines would exceed 1.) A value vector of zeros has no direction: NaN.

    Args and further errors are those of `value_vectors`.

    Raises:
        ValueError: If a class's row is zero, as before training with a classifier that starts at zero, or weights are
            not finite.

    Example:
        >>> from utilities.vit import vit_tiny_patch2_16
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
    """Give the mean of the largest of several cosines between one direction and random ones.

    (1 + cosine) / 2 of random directions in d dimensions follows Beta((d - 1) / 2, (d - 1) / 2); the largest of M
    independent ones is its quantile u^(1/M), with u uniform, whose mean is integrated.

    Args:
        width: d, 2 or more.
        memories: M.

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
    """Give the probability that k random memories share one with k others: 1 - C(M - k, k) / C(M, k).

    Args:
        memories: M.
        k: From 1 to M.

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
    """Refuse a block, part or fold that is not there.

    Raises:
        ValueError: Naming it, and what there is.

    Example:
        >>> from utilities.vit import vit_tiny_patch2_16
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
    """Give what LayerScale or a norm multiplies features by, (width, 1); 1 for an identity or a norm without weight."""
    gain = getattr(module, "gamma", None)
    gain = getattr(module, "weight", None) if gain is None else gain
    return 1.0 if gain is None else gain.detach().to(values)[:, None]
