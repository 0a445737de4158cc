"""Do tokens activate the memories of their image's class, and does a single memory decide what a layer says?

Measures the key-value agreement rate, the compositionality of memories, and how the agreement relates to accuracy, as
Vilas et al. 2023 (https://arxiv.org/abs/2310.18969) do. Attention's memories are the columns of its output projection.
The MLP's memories are the columns of its second linear layer. A token's coefficients are the input of that layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from utilities.analysis.class_embedding.memory_match import DEFINITIONS, MatchReader
from utilities.analysis.class_embedding.readers import Target, check_target, run_readers
from utilities.analysis.class_embedding.spaces import transformer_space
from utilities.analysis.class_embedding.transformer_space import TransformerSpace
from utilities.analysis.class_embedding.values import MEMORY_PARTS, check_memories
from utilities.datasets.naming import known_facts
from utilities.results.result import Result
from utilities.results.statistics import bootstrap_interval, mean_and_stderr, paired_p, unpaired_p
from utilities.utils import versions

KEYS = ("value", "preactivation")


@dataclass(frozen=True)
class KeyValueAgreement(Result):
    """Key-value agreement and compositionality; arrays are (parts, groups of tokens, blocks) unless stated otherwise.

    All arrays except the class rates are means over images of a share of each image's tokens. Their errors are over
    images, with the weights held fixed. Tokens that activate much the same memories in all images deviate from chance
    by what these memories happen to be, whether the model is trained or not. The control uses the same memories, and so
    separates this effect from agreement.

    Attributes:
        names: Names of the blocks.
        parts: ``attn`` and ``mlp``.
        groups: ``CLS``, if there is a class token, and ``image``.
        rate: Share of tokens with a memory of the image's class among the k that they activate most.
        rate_stderr: Standard error of the rate over images.
        rate_low: Lower end of the rate's bootstrap interval over images.
        rate_high: Upper end of that interval.
        control: The same share for one other class per image, drawn at random.
        control_stderr: Standard error of the control over images.
        excess: Rate minus control.
        excess_stderr: Standard error of the excess over images, paired.
        excess_p: One-sided p-value that the excess is above 0, paired by image.
        chance: Rate expected of k memories drawn at random, for the classes of the images.
        match: Share of tokens where the part's own strongest class is that of one of the k memories. It is high where
            single memories decide, and low where many are composed.
        match_stderr: Standard error of the match over images.
        match_low: Lower end of the match's bootstrap interval over images.
        match_high: Upper end of that interval.
        match_chance: Match expected of k memories drawn at random, for the strongest classes of the part.
        gap: Rate on images that the model classifies correctly minus the rate on the others; NaN if either is missing.
            It does not separate hard classes from classes whose memories are rarely activated.
        gap_stderr: Standard error of the gap over images; NaN with fewer than two images of either kind.
        gap_p: One-sided p-value that the gap is above 0, unpaired.
        true_logit: What the k memories add to the logit of the image's class, mean over memories and tokens.
        true_logit_stderr: Standard error of the true logit over images.
        control_logit: What the k memories add to the logit of the control class.
        control_logit_stderr: Standard error of the control logit over images.
        class_rate: Rate over the images of each class, (parts, groups, blocks, classes); NaN without images.
        class_count: Number of images of each class, (classes,).
        n_correct: Number of images that the model classifies correctly; 0 without labels.
        n_wrong: Number of images that it classifies wrongly; 0 without labels.
        provenance: What the result was made from.
    """

    names: list[str]
    parts: list[str]
    groups: list[str]
    rate: np.ndarray
    rate_stderr: np.ndarray
    rate_low: np.ndarray
    rate_high: np.ndarray
    control: np.ndarray
    control_stderr: np.ndarray
    excess: np.ndarray
    excess_stderr: np.ndarray
    excess_p: np.ndarray
    chance: np.ndarray
    match: np.ndarray
    match_stderr: np.ndarray
    match_low: np.ndarray
    match_high: np.ndarray
    match_chance: np.ndarray
    gap: np.ndarray
    gap_stderr: np.ndarray
    gap_p: np.ndarray
    true_logit: np.ndarray
    true_logit_stderr: np.ndarray
    control_logit: np.ndarray
    control_logit_stderr: np.ndarray
    class_rate: np.ndarray
    class_count: np.ndarray
    n_correct: int
    n_wrong: int
    provenance: dict[str, Any] = field(default_factory=dict)

    def of(self, value: str, part: str, group: str = "image") -> np.ndarray:
        """Return a value over all blocks.

        Args:
            value: Name of an attribute.
            part: ``"attn"`` or ``"mlp"``.
            group: ``"CLS"`` or ``"image"``.

        Raises:
            ValueError: If the model has no such part or tokens.
        """
        if part not in self.parts or group not in self.groups:
            raise ValueError(
                f"{part!r} of {group!r} tokens is not there; choose from {', '.join(self.parts)} and "
                f"{', '.join(self.groups)}"
            )
        return getattr(self, value)[self.parts.index(part), self.groups.index(group)]

    def to_frame(self) -> pd.DataFrame:
        """Tabulate: a row for each part, group of tokens and block; classes are left out."""
        index = pd.MultiIndex.from_product([self.parts, self.groups, self.names], names=["part", "tokens", "block"])
        columns = {name: value.ravel() for name, value in vars(self).items() if np.shape(value) == self.rate.shape}
        return pd.DataFrame(columns, index).reset_index()


def key_value_agreement(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    definition: str = "code",
    k: int = 5,
    keys: str = "value",
    fold: str = "none",
    target: Target = "label",
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> KeyValueAgreement:
    """Measure in one pass how often tokens activate the memories of a class.

    Args:
        model: timm's VisionTransformer; it runs in eval mode.
        loader: Yields (images, labels).
        definition: Which memories belong to a class, see `utilities.analysis.class_embedding.memory_match.belonging`:
            ``"code"``, as in the paper's published code, or ``"text"``, as in its text. With few classes, ``"text"``
            with the same k is almost always met, so compare with the chance level.
        k: How many memories with the largest coefficients to look at; also how many the definition selects.
        keys: Coefficients of an MLP: ``"value"``, those that multiply its value vectors, or ``"preactivation"``, those
            before the nonlinearity, as in the paper's published code. Both select the same memories as long as k
            coefficients are positive. Attention only has the former.
        fold: What is folded into the value vectors, see `utilities.analysis.class_embedding.values.value_vectors`.
        target: The class to look at: ``"label"``, ``"prediction"`` or an index.
        confidence: Confidence level of the bootstrap intervals.
        resamples: Number of resamples for intervals and tests.
        seed: Seed of the control classes, the intervals and the tests.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts to keep with the result.

    Returns:
        Rates, their control and chance, compositionality, and the difference between right and wrong answers.

    Raises:
        ValueError: If an option is out of range, or the model is not a Vision Transformer that can be read.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> model, loader = vit_tiny_patch2_16(num_classes=10, depth=2), [(images, torch.tensor([0, 1, 2, 3]))]
        >>> result = key_value_agreement(model, loader, resamples=10, device="cpu")
        >>> result.rate.shape, result.chance[:, 0, 0].round(3)
        ((2, 2, 2), array([0.239, 0.064]))
    """
    space = transformer_space(model, what="key-value agreement")
    _check(space, definition, k, keys, fold)
    check_target(target, space.num_classes)
    bootstrap_interval([0.0], confidence=confidence, resamples=resamples, seed=seed)  # refuses options out of range
    matches = MatchReader(space, definition, k, keys, fold, seed)
    with matches.before_activation():
        options = {"device": device, "progress": progress, "description": "key-value agreement"}
        count = run_readers(space, loader, [matches], target=target, **options)
    facts = {"n": count, "definition": definition, "k": k, "keys": keys, "fold": fold, "target": target, "seed": seed}
    facts |= {"confidence": confidence, "resamples": resamples, "versions": versions()}
    facts = known_facts(provenance, loader) | facts
    return _collect(matches, {"resamples": resamples, "seed": seed}, confidence, facts)


def _check(space: TransformerSpace, definition: str, k: int, keys: str, fold: str) -> None:
    """Refuse options that are out of range."""
    check_memories(space, 0, MEMORY_PARTS[0], fold)
    for name, value, known in (("definition", definition, DEFINITIONS), ("keys", keys, KEYS)):
        if value not in known:
            raise ValueError(f"{name} {value!r} is not known; choose from {', '.join(known)}")
    if space.num_classes < 2:
        raise ValueError("the model has a single class; there is no other one to compare with")
    most = min(layer.in_features for parts in space.block_parts for layer in (parts.projection, parts.memories))
    if definition == "text":  # with all classes every memory would hold the right one
        most = min(most, space.num_classes - 1)
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= most:
        raise ValueError(f"k={k!r} should be a whole number from 1 to {most} for this model and definition")
    for name, parts in zip(space.names, space.block_parts, strict=True):
        if keys == "preactivation" and getattr(parts.hidden, "out_features", None) != parts.memories.in_features:
            raise ValueError(
                f"{name}.mlp, a {type(parts.mlp).__name__}, has no layer fc1 with one output for each memory; "
                "pass keys='value'"
            )


def _collect(
    reader: MatchReader, draws: Mapping[str, int], confidence: float, provenance: dict[str, Any]
) -> KeyValueAgreement:
    """Average over images, and collect the result."""
    shares, targets = np.concatenate(reader.shares), np.concatenate(reader.targets)
    agree, control = shares[:, 0].astype(np.float64), shares[:, 1]
    (rate, other, match), errors = mean_and_stderr(shares)
    low, high = bootstrap_interval(shares[:, [0, 2]], confidence=confidence, **draws)
    excess, excess_stderr = mean_and_stderr(agree - control)
    true_logit, control_logit, chance, match_chance = reader.means.mean
    return KeyValueAgreement(
        names=list(reader.space.names),
        parts=list(MEMORY_PARTS),
        groups=list(reader.space.groups()),
        rate=rate,
        rate_stderr=errors[0],
        rate_low=low[0],
        rate_high=high[0],
        control=other,
        control_stderr=errors[1],
        excess=excess,
        excess_stderr=excess_stderr,
        excess_p=paired_p(agree - control, **draws),
        chance=chance,
        match=match,
        match_stderr=errors[2],
        match_low=low[1],
        match_high=high[1],
        match_chance=match_chance,
        **_by_correctness(agree, reader.correct, draws),
        true_logit=true_logit,
        true_logit_stderr=reader.means.stderr[0],
        control_logit=control_logit,
        control_logit_stderr=reader.means.stderr[1],
        **_by_class(agree, targets, reader.space.num_classes),
        provenance=provenance,
    )


def _by_correctness(agree: np.ndarray, correct: list[np.ndarray], draws: Mapping[str, int]) -> dict[str, Any]:
    """Compare images with right and with wrong answers; both groups are empty without labels."""
    right = np.concatenate(correct) if correct else None
    one, two = (agree[:0], agree[:0]) if right is None else (agree[right], agree[~right])
    (mean, error), (other, other_error) = mean_and_stderr(one), mean_and_stderr(two)
    values = {"gap": mean - other, "gap_stderr": np.hypot(error, other_error), "gap_p": unpaired_p(one, two, **draws)}
    return values | {"n_correct": len(one), "n_wrong": len(two)}


def _by_class(agree: np.ndarray, targets: np.ndarray, num_classes: int) -> dict[str, np.ndarray]:
    """Average the rate over the images of each class."""
    rates = np.full((*agree.shape[1:], num_classes), np.nan)
    for c in np.unique(targets):
        rates[..., c] = agree[targets == c].mean(0)
    return {"class_rate": rates, "class_count": np.bincount(targets, minlength=num_classes)}
