"""Class-value agreement: how close the value vectors of each layer come to each class.

Introduced by Vilas et al. 2023, https://arxiv.org/abs/2310.18969. It needs only the weights, no images.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from torch import nn
from tqdm.auto import tqdm

from utilities.analysis.class_embedding.spaces import transformer_space
from utilities.analysis.class_embedding.transformer_space import TransformerSpace
from utilities.analysis.class_embedding.values import (
    MEMORY_PARTS,
    chance_of_best_cosine,
    check_memories,
    memory_cosines,
)
from utilities.hooks.calls.weights import check_weights
from utilities.results.result import Result
from utilities.results.statistics import mean_and_stderr
from utilities.utils import versions


@dataclass(frozen=True)
class ClassValueAgreement(Result):
    """The largest cosine between each class and the value vectors of each layer.

    Attributes:
        scores: Largest cosine, (parts, blocks, classes); NaN where all value vectors of a layer are zero.
        chance: Expected largest cosine for random directions, (parts, blocks).
        random_scores: Scores of an untrained twin, or the mean of several, (parts, blocks, classes); NaN without twins.
        p: One-sided Wilcoxon signed-rank test over classes of ``scores`` above ``random_scores``, (parts, blocks). It
            describes these trained weights, not what another training run would give. With several twins, it compares
            with their mean, which varies less among classes than a single twin does.
        parts: ``attn`` and ``mlp``, or one of them.
        names: Names of the blocks.
        provenance: What the result was made from.
    """

    scores: np.ndarray
    chance: np.ndarray
    random_scores: np.ndarray
    p: np.ndarray
    parts: list[str]
    names: list[str]
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def mean(self) -> np.ndarray:
        """Mean score over classes, (parts, blocks)."""
        return _over_classes(self.scores)[0]

    @property
    def stderr(self) -> np.ndarray:
        """Standard error over classes of the mean score, (parts, blocks)."""
        return _over_classes(self.scores)[1]

    @property
    def random_mean(self) -> np.ndarray:
        """Mean score of the untrained twin over classes, (parts, blocks)."""
        return _over_classes(self.random_scores)[0]

    def to_frame(self) -> pd.DataFrame:
        """Tabulate a summary over classes: a row for each part and block, with blocks counted from 1."""
        parts, blocks = np.indices(self.chance.shape).reshape(2, -1)
        labels = {"part": np.array(self.parts)[parts], "block": blocks + 1, "name": np.array(self.names)[blocks]}
        quartiles = np.quantile(self.scores, [0.25, 0.5, 0.75], axis=2)
        values = {"mean": self.mean, "stderr": self.stderr}
        values |= dict(zip(("quartile1", "median", "quartile3"), quartiles, strict=True))
        values |= {"chance": self.chance, "random": self.random_mean, "p": self.p}
        return pd.DataFrame(labels | {name: value.reshape(-1) for name, value in values.items()})


def class_value_agreement(
    model: nn.Module,
    *,
    random: nn.Module | Sequence[nn.Module] | None = None,
    fold: str = "none",
    parts: Sequence[str] = MEMORY_PARTS,
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> ClassValueAgreement:
    """Score each layer for each class by the largest cosine between the class's row and the layer's value vectors.

    Chance is high: the best of 3072 random directions in 768 dimensions has a cosine of 0.128. The result reports it as
    a number (see `chance_of_best_cosine`), which untrained twins should reach.

    In models that average tokens, and above all in residual-post-norm blocks, a norm stands between a value vector and
    the classifier and may rotate it. With ``fold="none"``, the paper's choice, such a model can be at chance although
    its memories encode classes. Read such models with ``fold="scale+norm"`` too.

    Args:
        model: timm's VisionTransformer.
        random: The same architecture with untrained weights, or several such models.
        fold: ``"none"``, ``"scale"`` or ``"scale+norm"``, see `value_vectors`.
        parts: One or both of ``attn`` and ``mlp``.
        progress: Whether to show a bar, after two seconds.
        provenance: Facts to add to the result's provenance.

    Returns:
        The scores.

    Raises:
        ValueError: If the model is of another kind, ``random`` has another architecture, weights are not finite, or an
            option is unknown.

    Example:
        >>> import torch
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> _ = torch.manual_seed(0)
        >>> one, two = (vit_tiny_patch2_16(num_classes=10, depth=2) for _ in range(2))
        >>> result = class_value_agreement(one, random=two)
        >>> result.scores.shape, result.chance.round(2).tolist(), bool((abs(result.mean - result.chance) < 0.05).all())
        ((2, 2, 10), [[0.25, 0.25], [0.3, 0.3]], True)
    """
    parts = [parts] if isinstance(parts, str) else list(parts)
    twins = [random] if isinstance(random, nn.Module) else list(random or [])
    spaces = [transformer_space(each, what="class-value agreement") for each in (model, *twins)]
    for each in (model, *twins):
        check_weights(each)
    if not parts or len(set(parts)) < len(parts):
        raise ValueError(f"parts should be one or both of {', '.join(MEMORY_PARTS)}, got {parts}")
    for part in parts:
        check_memories(spaces[0], 0, part, fold)
    for twin in spaces[1:]:
        _check_twin(spaces[0], twin)
    total = len(spaces) * len(parts) * len(spaces[0].blocks)
    with tqdm(total=total, desc="class-value agreement", delay=2, leave=False, disable=not progress) as bar:
        (scores, chance), *others = [_scores(space, parts, fold, bar) for space in spaces]
    random_scores = np.mean([s for s, _ in others], axis=0) if others else np.full_like(scores, np.nan)
    options = {"num_classes": spaces[0].num_classes, "fold": fold, "random_models": len(twins)}
    return ClassValueAgreement(
        scores=scores,
        chance=chance,
        random_scores=random_scores,
        p=_p_over_classes(scores - random_scores),
        parts=parts,
        names=spaces[0].names,
        provenance={**(provenance or {}), **options, "versions": versions()},
    )


def _scores(space: TransformerSpace, parts: Sequence[str], fold: str, bar: tqdm) -> tuple[np.ndarray, np.ndarray]:
    """Compute the largest cosines, (parts, blocks, classes), and their chance level, (parts, blocks)."""
    shape = (len(parts), len(space.blocks))
    scores, chance = np.full((*shape, space.num_classes), np.nan), np.full(shape, np.nan)
    for i, index in np.ndindex(shape):
        cosines = memory_cosines(space, index, parts[i], fold)
        alive = ~cosines.isnan().any(0)
        if not alive.all():
            warnings.warn(
                f"{int((~alive).sum())} of {len(alive)} value vectors of {space.names[index]}'s {parts[i]} are zero; "
                "they have no direction and are left out",
                stacklevel=3,
            )
        if alive.any():
            scores[i, index] = cosines[:, alive].amax(1).cpu().numpy()
            chance[i, index] = chance_of_best_cosine(space.width, int(alive.sum()))
        bar.update()
    return scores, chance


def _p_over_classes(differences: np.ndarray) -> np.ndarray:
    """Test one-sided whether differences lie above 0, over classes: (..., classes) -> (...)."""
    p = np.full(differences.shape[:-1], np.nan)
    for place in np.ndindex(p.shape):
        values = differences[place]
        if not np.isnan(values).any():
            # Without any difference there is nothing to rank, and no class lies above.
            p[place] = stats.wilcoxon(values, alternative="greater").pvalue if values.any() else 1.0
    return p


def _over_classes(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return mean_and_stderr(np.moveaxis(scores, -1, 0))


def _check_twin(space: TransformerSpace, twin: TransformerSpace) -> None:
    """Refuse an untrained model whose architecture differs."""
    own, other = _sizes(space), _sizes(twin)
    if own != other:
        different = next(name for name in own if own[name] != other[name])
        raise ValueError(
            f"the untrained model is another architecture: {different} {other[different]}, not {own[different]}; make "
            "it as the trained one was made, without its weights"
        )


def _sizes(space: TransformerSpace) -> dict[str, Any]:
    return {
        "width": space.width,
        "classes": space.num_classes,
        "blocks": len(space.blocks),
        "memories of the MLPs": [parts.memories.in_features for parts in space.block_parts],
        "memories of attention": [parts.projection.in_features for parts in space.block_parts],
    }
