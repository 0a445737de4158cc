"""Inspect single memories: the classes that a value vector favours, and the value vectors that favour a class.

Follows Vilas et al. 2023, https://arxiv.org/abs/2310.18969. It needs only the weights, no images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch import nn

from utilities.analysis.class_embedding.spaces import transformer_space
from utilities.analysis.class_embedding.transformer_space import TransformerSpace
from utilities.analysis.class_embedding.values import memory_cosines, memory_logits
from utilities.hooks.calls.weights import check_weights

SHOWN = 10  # memories shown by default


def inspect_memories(
    model: nn.Module,
    index: int,
    part: str = "mlp",
    memories: Sequence[int] | None = None,
    top: int = 5,
    classes: Sequence[str] | None = None,
    fold: str = "none",
) -> pd.DataFrame:
    """Show which classes some memories of a layer favour, by the un-normalised logits of their value vectors.

    Args:
        model: timm's VisionTransformer. For models that average tokens or have residual-post-norm blocks, see
            `utilities.analysis.class_embedding.agreement.class_value_agreement`.
        index: Index of the block, from 0; negative counts from the last.
        part: ``"attn"`` or ``"mlp"``.
        memories: Indices of the memories; None takes the 10 with the largest best logit, in that order.
        top: Number of classes shown for each memory.
        classes: Names of the classes.
        fold: See `utilities.analysis.class_embedding.values.value_vectors`.

    Returns:
        A row for each memory and class: ``memory, rank`` (from 1), ``class`` (index), ``name`` (if names are given),
        ``logit`` and ``cosine``.

    Raises:
        ValueError: If the model has no such block, part, memory or fold, or an option is out of range.

    Example:
        >>> import torch
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> model = vit_tiny_patch2_16(num_classes=3, depth=1)
        >>> with torch.no_grad():
        ...     model.blocks[0].mlp.fc2.weight[:, 7] = 9 * model.head.weight[1]
        >>> inspect_memories(model, -1, top=1, classes=["cat", "dog", "emu"])[["memory", "name", "cosine"]].head(1)
           memory name  cosine
        0       7  dog     1.0
    """
    space, logits, cosines = _opened(model, index, part, fold, classes, top)
    if memories is None:
        memories = _descending(logits.max(0))[:SHOWN]
    outside = [int(memory) for memory in memories if not 0 <= memory < logits.shape[1]]
    if outside:
        raise ValueError(
            f"memory {outside[0]} is not in the {part} of {space.names[index]}, which has 0 to {logits.shape[1] - 1}"
        )
    rows = [(c, int(m), rank) for m in memories for rank, c in enumerate(_descending(logits[:, m])[:top], 1)]
    return _table(rows, ["memory", "rank", "class"], logits, cosines, classes)


def inspect_class(
    model: nn.Module,
    index: int,
    label: int | str,
    part: str = "mlp",
    top: int = 5,
    classes: Sequence[str] | None = None,
    fold: str = "none",
) -> pd.DataFrame:
    """Show which memories of a layer favour a class most, by the un-normalised logits of their value vectors.

    Args:
        model: timm's VisionTransformer.
        index: Index of the block, from 0; negative counts from the last.
        label: Index of the class, or its name among ``classes``.
        part: ``"attn"`` or ``"mlp"``.
        top: Number of memories shown.
        classes: Names of the classes.
        fold: See `utilities.analysis.class_embedding.values.value_vectors`.

    Returns:
        A row for each memory, with the columns of `inspect_memories`; ``rank`` is the rank of the memory.

    Raises:
        ValueError: If the model has no such block, part, class or fold, or an option is out of range.

    Example:
        >>> import torch
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> model = vit_tiny_patch2_16(num_classes=3, depth=1)
        >>> with torch.no_grad():
        ...     model.blocks[0].mlp.fc2.weight[:, 7] = 9 * model.head.weight[1]
        >>> inspect_class(model, -1, "dog", top=1, classes=["cat", "dog", "emu"])[["name", "rank", "memory", "cosine"]]
          name  rank  memory  cosine
        0  dog     1       7     1.0
    """
    space, logits, cosines = _opened(model, index, part, fold, classes, top)
    c = _class_index(label, space, classes)
    rows = [(c, int(m), rank) for rank, m in enumerate(_descending(logits[c])[:top], 1)]
    return _table(rows, ["class", "rank", "memory"], logits, cosines, classes)


def _opened(
    model: nn.Module, index: int, part: str, fold: str, classes: Sequence[str] | None, top: int
) -> tuple[TransformerSpace, np.ndarray, np.ndarray]:
    """Check the request, and compute logits and cosines of a layer's memories, (classes, memories)."""
    space = transformer_space(model, what="a look at memories")
    if classes is not None and len(classes) != space.num_classes:
        raise ValueError(f"there are {len(classes)} names of classes, but the model has {space.num_classes} classes")
    if top < 1:
        raise ValueError(f"top should be 1 or more, got {top}")
    check_weights(model)
    both = (read(space, index, part, fold).cpu().numpy() for read in (memory_logits, memory_cosines))
    return space, *both


def _class_index(label: int | str, space: TransformerSpace, classes: Sequence[str] | None) -> int:
    """Find a class by its index or name."""
    if isinstance(label, str):
        found = [i for i, name in enumerate(classes or []) if name == label]
    else:
        found = [int(label)] if 0 <= label < space.num_classes else []
    if len(found) != 1:
        few = "more than one" if found else "none"
        raise ValueError(f"class {label!r} is {few} of the model's; give its index, 0 to {space.num_classes - 1}")
    return found[0]


def _descending(values: np.ndarray) -> np.ndarray:
    """Return indices in descending order of value; ties keep their order."""
    return np.argsort(-values, kind="stable")


def _table(
    rows: list[tuple[int, int, int]],
    order: list[str],
    logits: np.ndarray,
    cosines: np.ndarray,
    classes: Sequence[str] | None,
) -> pd.DataFrame:
    """Tabulate rows of (class, memory, rank) with their class names, logits and cosines."""
    frame = pd.DataFrame(rows, columns=["class", "memory", "rank"])[order]
    if classes is not None:
        frame.insert(frame.columns.get_loc("class") + 1, "name", [classes[c] for c in frame["class"]])
    places = frame["class"].to_numpy(), frame["memory"].to_numpy()
    return frame.assign(logit=logits[places], cosine=cosines[places])
