"""Class identifiability: from which block on does a token tell the class of its image?

Follows Vilas et al. 2023, https://arxiv.org/abs/2310.18969. Every token of every block is read in class-embedding
space. It scores 1 - rank / classes, where the rank is that of its image's class; a token that scores 1 identifies the
class. One pass over the images measures scores and rates over depth, what each block, attention and MLP change, where
a block's answer comes from, and how tokens on the object differ from tokens of the context. Tokens are averaged over
each image, so errors, intervals and tests are over images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from utilities.analysis.class_embedding.composition import OVERLAPS, REFERENCES, SOURCES, BlockReader
from utilities.analysis.class_embedding.lens import NO_LABEL, lens_facts
from utilities.analysis.class_embedding.object_and_context import PLACES
from utilities.analysis.class_embedding.ranks import chance_score
from utilities.analysis.class_embedding.readers import Target, check_target, run_readers
from utilities.analysis.class_embedding.space import ClassSpace, LensOptions
from utilities.analysis.class_embedding.spaces import class_space
from utilities.datasets.masks import class_tokens
from utilities.datasets.naming import known_facts
from utilities.results.result import Result
from utilities.results.statistics import bootstrap_interval, count, mean_and_stderr, paired_p
from utilities.utils import versions

# Quantity -> names of its axes, see `Identifiability.labels_of`.
AXES = {
    "score": ("part", "block", "group"),
    "rate": ("part", "block", "group"),
    "any_token": ("block",),
    "change": ("block", "group"),
    "layer_change": ("layer", "block", "group"),
    "composition": ("block", "group", "source"),
    "overlap": ("block", "group", "overlap"),
    "place_score": ("block", "place"),
    "place_difference": ("block",),
    "place_layer_difference": ("layer", "block"),
}


@dataclass(frozen=True)
class Identifiability(Result):
    """What the tokens of a model tell about the class, over depth.

    Each of the arrays ``score`` to ``place_layer_difference`` is a mean over images. Each has a ``..._stderr`` of the
    same shape and a bootstrap ``..._interval``, (2, ...), with its lower and upper ends. The first block has no
    predecessor, and is NaN wherever one is needed. CNNs have only blocks: no layers (an axis of length 0), no
    composition (NaN), and no change (NaN) where the grid changes.

    Attributes:
        names: Names of the blocks.
        depth: Share of the model's blocks that have run after each of them; a CNN's first stages are not read.
        parts: Parts read of each block, see `utilities.analysis.class_embedding.space.BLOCK_PARTS`.
        groups: Groups of tokens: ``CLS``, if there is a class token, and ``image``; registers are in neither.
        score: 1 - rank / classes, mean over tokens, (parts, blocks, groups). Tied classes take their mean rank.
        rate: Share of tokens where the class comes first, (parts, blocks, groups). Tied classes count with the
            probability that a random order puts them first.
        any_token: Share of images in which at least one image token has the class first, (blocks,).
        change: Share of tokens whose logit of the class is higher than after the previous block, (blocks, groups).
        layer_change: Share of tokens where the logit is higher in what attention or MLP adds, (layers, blocks, groups).
        composition: Where the first class comes from, as shares that add up to 1, (blocks, groups, sources); see
            `utilities.analysis.class_embedding.composition.SOURCES`.
        overlap: The same as published, where a token may count for several sources, (blocks, groups, overlaps).
        place_score: Score of class-labelled and of context-labelled image tokens, (blocks, 2); NaN without masks.
        place_difference: Score of class-labelled minus that of context-labelled tokens, (blocks,).
        place_layer_difference: The same difference for the change of the logit: its value in what attention or MLP
            adds, minus its value before, (layers, blocks).
        place_p: One-sided p-values of ``place_difference``, from flipping the signs of images.
        place_layer_p: One-sided p-values of ``place_layer_difference``.
        image_score: Score of the block part for each image, (images, blocks, groups).
        labels: True class of each image; -1 without labels.
        n: Number of images.
        image_tokens: Number of image tokens after the last block.
        n_masked: Number of images that have tokens of both places.
        num_classes: Number of logits.
        accuracy: Accuracy of the model's own logits; NaN without labels.
        class_token_decides: Whether the model's answer is the class token's reading after the last block. If so, the
            rate of that token is the accuracy.
        provenance: What the result was made from.
    """

    names: list[str]
    depth: np.ndarray
    parts: list[str]
    groups: list[str]
    score: np.ndarray
    score_stderr: np.ndarray
    score_interval: np.ndarray
    rate: np.ndarray
    rate_stderr: np.ndarray
    rate_interval: np.ndarray
    any_token: np.ndarray
    any_token_stderr: np.ndarray
    any_token_interval: np.ndarray
    change: np.ndarray
    change_stderr: np.ndarray
    change_interval: np.ndarray
    layer_change: np.ndarray
    layer_change_stderr: np.ndarray
    layer_change_interval: np.ndarray
    composition: np.ndarray
    composition_stderr: np.ndarray
    composition_interval: np.ndarray
    overlap: np.ndarray
    overlap_stderr: np.ndarray
    overlap_interval: np.ndarray
    place_score: np.ndarray
    place_score_stderr: np.ndarray
    place_score_interval: np.ndarray
    place_difference: np.ndarray
    place_difference_stderr: np.ndarray
    place_difference_interval: np.ndarray
    place_layer_difference: np.ndarray
    place_layer_difference_stderr: np.ndarray
    place_layer_difference_interval: np.ndarray
    place_p: np.ndarray
    place_layer_p: np.ndarray
    image_score: np.ndarray
    labels: np.ndarray
    n: int
    image_tokens: int
    n_masked: int
    num_classes: int
    accuracy: float
    class_token_decides: bool
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def chance(self) -> float:
        """Mean score of a class at a random rank."""
        return chance_score(self.num_classes)

    def labels_of(self, axis: str) -> Sequence[str]:
        """Name the entries along an axis of `AXES`."""
        fixed = {"source": SOURCES, "overlap": OVERLAPS, "place": PLACES}
        own = {"part": self.parts, "layer": self.parts[1:], "block": self.names, "group": self.groups}
        return {**fixed, **own}[axis]

    def above(self, other: Identifiability, *, resamples: int = 1000, seed: int = 0) -> np.ndarray:
        """Test whether this model's scores are above another's, such as an untrained twin's, image by image.

        Args:
            other: Result for the same images in the same order, with the same number of blocks.
            resamples: See `utilities.results.statistics.paired_p`.
            seed: Seed of the resamples.

        Returns:
            One-sided p-values, (blocks, groups).

        Raises:
            ValueError: If images, blocks or groups of tokens differ.
        """
        if not np.array_equal(self.labels, other.labels):
            raise ValueError(
                f"results of {self.n} and {other.n} images have other labels; a paired test needs the same images in "
                "the same order"
            )
        if self.image_score.shape != other.image_score.shape:
            shapes = [f"{len(result.names)} blocks of {' and '.join(result.groups)}" for result in (self, other)]
            raise ValueError(f"blocks or tokens differ, {shapes[0]} and {shapes[1]}: they make no pairs")
        return paired_p(self.image_score - other.image_score, resamples=resamples, seed=seed)

    def to_frame(self) -> pd.DataFrame:
        """Tabulate: a row for each number, with its standard error and interval."""
        rows = []
        for quantity, axes in AXES.items():
            mean, error, ends = (getattr(self, quantity + kind) for kind in ("", "_stderr", "_interval"))
            for at in product(*(range(length) for length in mean.shape)):
                where = {axis: self.labels_of(axis)[i] for axis, i in zip(axes, at, strict=True)}
                values = {"mean": mean[at], "stderr": error[at], "low": ends[0][at], "high": ends[1][at]}
                rows.append({"quantity": quantity, **where, **values})
        order = ["quantity", "part", "layer", "block", "group", "source", "overlap", "place"]
        return pd.DataFrame(rows, columns=[*order, "mean", "stderr", "low", "high"])


def identifiability(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    lens: LensOptions | None = None,
    names: Mapping[str, Any] | None = None,
    target: Target = "label",
    threshold: float = 0.5,
    reference: str = "input",
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> Identifiability:
    """Measure how well tokens tell the class over depth, and how blocks, attention and MLP change that.

    Args:
        model: See `utilities.analysis.class_embedding.spaces.class_space`; it runs in eval mode.
        loader: Yields (images, labels) or (images, labels, masks), or images alone if the target is not the label.
        lens: How tokens are read; None is the paper's way.
        names: Names of the parts of an unknown model, see `utilities.analysis.class_embedding.spaces.class_space`.
        target: The class to look at: ``"label"``, ``"prediction"`` or an index.
        threshold: Smallest fraction of a patch that the object must cover for its token to be class-labelled.
        reference: What the MLP's logit is compared with: ``"input"`` of the block, as published, or ``"own"``, the
            MLP's own input, to which attention has been added.
        confidence: Confidence level of the intervals.
        resamples: Number of resamples of images, for intervals and p-values.
        seed: Seed of the resamples.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts to keep with the result.

    Returns:
        Means over images with their errors, and the score of each image.

    Raises:
        ValueError: If an option is out of range, labels are missing or the model has no class-embedding space.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> batches = [(images, torch.arange(4))]
        >>> result = identifiability(vit_tiny_patch2_16(10, depth=2), batches, resamples=10, device="cpu")
        >>> result.score.shape, bool(result.rate[0, -1, 0] == result.accuracy)  # block part, last block, class token
        ((3, 2, 2), True)
        >>> bool(np.allclose(result.composition[1].sum(1), 1))
        True
    """
    space = class_space(model, lens, names)
    check_target(target, space.num_classes)
    _check(space, reference, threshold)
    draws = {"resamples": resamples, "seed": seed}
    bootstrap_interval(np.zeros(2), confidence=confidence, **draws)  # refuses options out of range
    reader = BlockReader(space, reference, threshold)
    name = "identifiability"
    n = run_readers(space, loader, [reader], target=target, device=device, progress=progress, description=name)
    options = {"target": target, "threshold": threshold, "reference": reference, "confidence": confidence, **draws}
    facts = {"n": n, **options, "lens": lens_facts(space.options), "versions": versions()}
    return _collect(space, reader, confidence, draws, known_facts(provenance, loader) | facts)


def _collect(
    space: ClassSpace,
    reader: BlockReader,
    confidence: float,
    draws: Mapping[str, int],
    provenance: dict[str, Any],
) -> Identifiability:
    """Average over images, and collect the result."""
    values = reader.values.arrays()
    labels, correct = values["labels"], values["correct"]
    arrays = {}
    for quantity in AXES:
        mean, error = mean_and_stderr(values[quantity])
        ends = np.stack(bootstrap_interval(values[quantity], confidence=confidence, **draws))
        arrays |= {quantity: mean, f"{quantity}_stderr": error, f"{quantity}_interval": ends}
    return Identifiability(
        names=list(space.names),
        depth=np.array(space.depth()),
        parts=list(space.parts),
        groups=list(space.groups()),
        **arrays,
        place_p=paired_p(values["place_difference"], **draws),
        place_layer_p=paired_p(values["place_layer_difference"], **draws),
        image_score=values["score"][:, 0],
        labels=labels,
        n=len(labels),
        image_tokens=reader.image_tokens,
        n_masked=int(count(values["place_difference"]).min()),
        num_classes=space.num_classes,
        accuracy=float(correct.mean()) if (labels != NO_LABEL).all() else float("nan"),
        class_token_decides=_class_token_decides(space) and provenance["target"] == "label",
        provenance=provenance,
    )


def _class_token_decides(space: ClassSpace) -> bool:
    """Tell whether a model's logits are what the lens reads from its class token after the last block."""
    plain = space.options.norm and space.options.bias and space.options.tuned is None
    alone = getattr(space, "head_dist", None) is None and getattr(space, "pool", None) == "token"
    return bool(plain and alone and space.class_token)


def _check(space: ClassSpace, reference: str, threshold: float) -> None:
    """Refuse options that are out of range."""
    class_tokens(torch.zeros(1), threshold)  # refuses a threshold out of range
    if reference not in REFERENCES:
        raise ValueError(f"reference {reference!r} is not known; choose from {', '.join(REFERENCES)}")
    if reference == "own" and not space.options.scale:
        raise ValueError(
            "reference='own' adds what attention gives to the block's input, which takes LensOptions(scale=True): raw "
            "outputs are not what is added"
        )
