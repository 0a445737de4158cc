"""Do tokens activate the memories of their image's class, and does a single memory decide what a layer says?

Measures the key-value agreement rate, the compositionality of memories, and how the agreement relates to accuracy, as
Vilas et al. 2023 (https://arxiv.org/abs/2310.18969) do. Attention's memories are the columns of its output projection.
The MLP's memories are the columns of its second linear layer. A token's coefficients are the input of that layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from utilities.analysis.class_embedding.key_value_result import KeyValueAgreement
from utilities.analysis.class_embedding.memory_match import (
    DEFINITIONS,
    Memories,
    look_up,
    memories,
    other_class,
    top_memories,
)
from utilities.analysis.class_embedding.passes import Batch, Target, check_target, read
from utilities.analysis.class_embedding.record import BlockTokens
from utilities.analysis.class_embedding.space import TransformerSpace, transformer_space
from utilities.analysis.class_embedding.values import MEMORY_PARTS, check_memories, memory_logits
from utilities.datasets.loaders import seeded_generator
from utilities.results.moments import Moments
from utilities.results.statistics import bootstrap_interval, mean_and_stderr, paired_p, unpaired_p
from utilities.utils import versions

KEYS = ("value", "preactivation")


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
        count = read(space, loader, [matches], target=target, **options)
    facts = {"n": count, "definition": definition, "k": k, "keys": keys, "fold": fold, "target": target, "seed": seed}
    facts |= {"confidence": confidence, "resamples": resamples, "versions": versions()}
    return matches.result({"resamples": resamples, "seed": seed}, confidence, dict(provenance or {}) | facts)


def _check(space: TransformerSpace, definition: str, k: int, keys: str, fold: str) -> None:
    """Refuse options that are out of range."""
    check_memories(space, 0, MEMORY_PARTS[0], fold)
    for name, value, known in (("definition", definition, DEFINITIONS), ("keys", keys, KEYS)):
        if value not in known:
            raise ValueError(f"{name} {value!r} is not known; choose from {', '.join(known)}")
    if space.num_classes < 2:
        raise ValueError("the model has a single class; there is no other one to compare with")
    most = min(layer.in_features for block in space.blocks for layer in (block.attn.proj, block.mlp.fc2))
    if definition == "text":  # with all classes every memory would hold the right one
        most = min(most, space.num_classes - 1)
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= most:
        raise ValueError(f"k={k!r} should be a whole number from 1 to {most} for this model and definition")
    for name, block in zip(space.names, space.blocks, strict=True):
        first = getattr(block.mlp, "fc1", None)
        if keys == "preactivation" and getattr(first, "out_features", None) != block.mlp.fc2.in_features:
            raise ValueError(
                f"{name}.mlp, a {type(block.mlp).__name__}, has no layer fc1 with one output for each memory; "
                "pass keys='value'"
            )


class MatchReader:
    """Reads tokens batch by batch, and keeps shares of tokens for each image."""

    def __init__(self, space: TransformerSpace, definition: str, k: int, keys: str, fold: str, seed: int) -> None:
        self.space, self.definition, self.k, self.keys, self.fold = space, definition, k, keys, fold
        self.generator = seeded_generator(seed)
        self.memories: dict[tuple[int, str], Memories] = {}
        self.preactivation: list[torch.Tensor] = []
        self.shares: list[np.ndarray] = []
        self.targets: list[np.ndarray] = []
        self.correct: list[np.ndarray] = []
        self.means = Moments()

    @contextmanager
    def before_activation(self) -> Iterator[None]:
        """Capture the MLPs' coefficients before the nonlinearity, if these are asked for."""
        layers = [block.mlp.fc1 for block in self.space.blocks] if self.keys == "preactivation" else []
        handles = [layer.register_forward_hook(self._keep) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _keep(self, module: nn.Module, args: Any, output: torch.Tensor) -> None:
        self.preactivation = [output.clone()]  # the nonlinearity may work in place

    def block(self, tokens: BlockTokens, batch: Batch) -> None:
        """Compare a block's coefficients with its memories."""
        if tokens.index == 0:
            self.other, self.found = other_class(batch.target, self.space.num_classes, self.generator), []
        mlp_keys = self.preactivation.pop() if self.keys == "preactivation" else tokens.mlp_keys
        for part, keys in zip(MEMORY_PARTS, (tokens.attn_keys, mlp_keys), strict=True):
            self.found.append(self._look(tokens, part, keys, batch.target))

    def _look(self, tokens: BlockTokens, part: str, keys: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compare one part's coefficients with its memories, averaged over groups of tokens: (7, batch, groups)."""
        own, top = self._memories(tokens.index, part), top_memories(keys, self.k)
        said = tokens.logits(part).argmax(2)
        values = [look_up(own.belongs, classes, top).any(2) for classes in (target, self.other)]
        values += [(own.classes[top] == said[..., None]).any(2)]
        values += [look_up(own.logits, classes, top).mean(2) for classes in (target, self.other)]
        values += [own.agreement_chance[target, None].expand_as(said), own.match_chance[said]]
        stacked = torch.stack([value.float() for value in values])
        return torch.stack([stacked[..., group].mean(2) for group in self.space.groups().values()], 2)

    def _memories(self, index: int, part: str) -> Memories:
        if (index, part) not in self.memories:
            logits = memory_logits(self.space, index, part, self.fold).float()
            self.memories[index, part] = memories(logits, self.definition, self.k)
        return self.memories[index, part]

    def finish(self, batch: Batch) -> None:
        """Store the shares of a batch, and accumulate the other values."""
        found = torch.stack(self.found).cpu()  # blocks x parts, values, batch, groups
        found = found.unflatten(0, (-1, len(MEMORY_PARTS))).permute(3, 2, 1, 4, 0).numpy()
        self.shares.append(found[:, :3].copy())
        self.means.add(found[:, 3:])
        self.targets.append(batch.target.cpu().numpy())
        if batch.labels is not None:
            self.correct.append((batch.logits.argmax(1) == batch.labels).cpu().numpy())

    def result(self, draws: Mapping[str, int], confidence: float, provenance: dict[str, Any]) -> KeyValueAgreement:
        """Average over images, and collect the result."""
        shares, targets = np.concatenate(self.shares), np.concatenate(self.targets)
        agree, control = shares[:, 0].astype(np.float64), shares[:, 1]
        (rate, other, match), errors = mean_and_stderr(shares)
        low, high = bootstrap_interval(shares[:, [0, 2]], confidence=confidence, **draws)
        excess, excess_stderr = mean_and_stderr(agree - control)
        true_logit, control_logit, chance, match_chance = self.means.mean
        return KeyValueAgreement(
            names=list(self.space.names),
            parts=list(MEMORY_PARTS),
            groups=list(self.space.groups()),
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
            **_by_correctness(agree, self.correct, draws),
            true_logit=true_logit,
            true_logit_stderr=self.means.stderr[0],
            control_logit=control_logit,
            control_logit_stderr=self.means.stderr[1],
            **_by_class(agree, targets, self.space.num_classes),
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
