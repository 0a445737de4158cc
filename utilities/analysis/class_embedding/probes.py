"""Linear probes beside the lens: what a trained reader finds in a token, and what the model's own classifier finds.

The lens of Vilas et al. 2023 (https://arxiv.org/abs/2310.18969) reads hidden tokens in the basis of the classes. What
it does not find may exist in another basis. A linear probe trained on other images can tell. As in the paper, there is
one probe for each layer and token position. It is a ridge regression on raw tokens, without norm, with targets +1 for
the image's class and -1 for the others. Its answer is the class with the largest score.
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

from utilities.analysis.class_embedding.lens import lens_facts
from utilities.analysis.class_embedding.masking import chosen_blocks
from utilities.analysis.class_embedding.probe_passes import ProbedLayers, ProbeTest, ProbeTraining
from utilities.analysis.class_embedding.readers import run_readers
from utilities.analysis.class_embedding.space import ClassSpace, LensOptions
from utilities.analysis.class_embedding.spaces import space_of
from utilities.analysis.probing import check_memory_limit, check_splits
from utilities.analysis.ridge import check_alpha
from utilities.datasets.naming import known_facts
from utilities.results.result import Result
from utilities.results.statistics import bootstrap_interval, mean_and_stderr, paired_p, stderr_of_share
from utilities.utils import versions

TOKENS = ("each", "shared")


@dataclass(frozen=True)
class LinearProbes(Result):
    """How often probe and lens name the class of an image that neither was fitted to.

    Attributes:
        names: Names of the blocks read.
        blocks: Indices of these blocks, from 0 to ``num_blocks`` - 1.
        num_blocks: Number of blocks of the model.
        parts: Parts read of each block.
        groups: ``CLS``, if there is a class token, and ``image``.
        readings: ``probe``, ``lens`` and, if one was given, the ``tuned`` lens, which only reads block outputs.
        accuracy: Top-1 accuracy of each token position, 0 to 1, (readings, parts, blocks, positions), CLS first. NaN
            where a block has fewer positions than another, or a reading cannot read it. Each of m tied scores counts
            1/m.
        correct: Share of a group's tokens read correctly in each image, (images, readings, parts, blocks, groups).
        interval: Lower and upper end of the bootstrap interval of the mean of ``correct`` over images, (2, readings,
            parts, blocks, groups).
        rank_sum: Rank of the true class, from 0, in the probes of block outputs, summed over blocks for each image
            token, (images, image tokens). It has no columns without block outputs or if grids differ.
        labels: True class of each image, (images,).
        num_classes: Number of classes of model and probes.
        provenance: What the result was made from.
    """

    names: list[str]
    blocks: list[int]
    num_blocks: int
    parts: list[str]
    groups: list[str]
    readings: list[str]
    accuracy: np.ndarray
    correct: np.ndarray
    interval: np.ndarray
    rank_sum: np.ndarray
    labels: np.ndarray
    num_classes: int
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def accuracy_stderr(self) -> np.ndarray:
        """Standard error of ``accuracy`` over images; NaN for a single image."""
        return stderr_of_share(self.accuracy, len(self.labels))

    @property
    def probe_importance(self) -> np.ndarray:
        """Importance of each image token according to its probes, ``-rank_sum``; a larger value is more important.

        Raises:
            ValueError: If there are no ranks.
        """
        if not self.rank_sum.shape[1]:
            raise ValueError("no importance of tokens: it needs probes of part 'block' in blocks that share one grid")
        return -self.rank_sum

    def of(self, reading: str, part: str, group: str = "image") -> np.ndarray:
        """Return ``correct`` of one reading, part and group of tokens: (images, blocks).

        Raises:
            ValueError: If the reading, part or group was not read.
        """
        places = []
        for value, known in ((reading, self.readings), (part, self.parts), (group, self.groups)):
            if value not in known:
                raise ValueError(f"{value!r} was not read; there are {', '.join(known)}")
            places.append(known.index(value))
        return self.correct[:, places[0], places[1], :, places[2]].astype(np.float64)

    def difference(self, one: str = "probe", two: str = "lens") -> pd.DataFrame:
        """Compare two readings of the same tokens, image by image.

        Args:
            one: Name of a reading.
            two: Name of the reading to subtract.

        Returns:
            Columns part, group, block (from 1), name, difference (one minus two), stderr and p. The p-value is the
            probability of a mean difference as large or larger if the signs of images were random.
        """
        options = {name: self.provenance[name] for name in ("resamples", "seed") if name in self.provenance}
        tables = []
        for part, group in product(self.parts, self.groups):
            gaps = self.of(one, part, group) - self.of(two, part, group)
            difference, stderr = mean_and_stderr(gaps)
            columns = {"difference": difference, "stderr": stderr, "p": paired_p(gaps, **options)}
            tables.append(self._table({"part": part, "group": group}, columns))
        return pd.concat(tables, ignore_index=True)

    def to_frame(self) -> pd.DataFrame:
        """Tabulate accuracies: columns reading, part, group, block (from 1), name, accuracy, stderr, low, high."""
        values = dict(zip(("accuracy", "stderr"), mean_and_stderr(self.correct), strict=True))
        values |= dict(zip(("low", "high"), self.interval, strict=True))
        tables = []
        for (r, reading), (p, part), (g, group) in product(*map(enumerate, (self.readings, self.parts, self.groups))):
            columns = {name: array[r, p, :, g] for name, array in values.items()}
            tables.append(self._table({"reading": reading, "part": part, "group": group}, columns))
        return pd.concat(tables, ignore_index=True)

    def _table(self, labels: Mapping[str, str], columns: Mapping[str, np.ndarray]) -> pd.DataFrame:
        return pd.DataFrame({**labels, "block": np.array(self.blocks) + 1, "name": self.names, **columns})


def linear_probes(
    model: nn.Module | ClassSpace,
    train_loader: Iterable[Any],
    test_loader: Iterable[Any],
    *,
    parts: Sequence[str] | None = None,
    tokens: str = "each",
    alpha: float = 1.0,
    blocks: Sequence[int] | None = None,
    lens: LensOptions | None = None,
    names: Mapping[str, Any] | None = None,
    memory_limit: float = 4e9,
    device: str | torch.device = "auto",
    progress: bool = True,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
) -> LinearProbes:
    """Train linear probes on every token of every layer in one pass, and test them beside the lens in another.

    The sums of one probe take 8 width (width + classes) bytes. For ViT-B/32 on ImageNet, with a probe for each of 50
    tokens in 36 layers, these are 20 GB in total; with ``tokens="shared"``, they are 0.8 GB.

    Args:
        model: See `utilities.analysis.class_embedding.spaces.class_space`, or a space with its own options, such as
            ``ConvolutionalSpace.every_stage(model)``.
        train_loader: Yields images and labels to fit the probes to.
        test_loader: Yields other images and labels.
        parts: Parts to read, some of ``"block"``, ``"attn"``, ``"mlp"``; None is all that the model has.
        tokens: ``"each"``, one probe for each token position, as published, or ``"shared"``, one for CLS and one for
            all image tokens together.
        alpha: Strength of the ridge penalty.
        blocks: Indices of the blocks to read, from 0; None is all.
        lens: How the lens reads; with ``tuned``, the tuned lens is read beside the raw one.
        names: Names of the parts of an unknown model, see `utilities.analysis.class_embedding.spaces.class_space`.
        memory_limit: Largest size of the sums, in bytes, on the device that the model runs on.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show bars.
        confidence: Confidence level of the intervals.
        resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.
        provenance: Facts to keep with the result.

    Returns:
        Accuracies of probes and lens on the test images.

    Raises:
        ValueError: If an option is out of range, both loaders serve the same set, a label is not a class of the model,
            or the sums would take more memory than ``memory_limit``.
        TypeError: If the training images can be read only once.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> images = torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> train, test = ([(part, torch.arange(10))] for part in images.split(10))
        >>> result = linear_probes(vit_tiny_patch2_16(10, depth=2), train, test, tokens="shared", device="cpu")
        >>> result.accuracy.shape, result.probe_importance.shape
        ((2, 3, 2, 65), (10, 64))
    """
    space = space_of(model, lens, names)
    layers = ProbedLayers(space, chosen_blocks(space, blocks), _chosen_parts(space, parts), tokens == "shared")
    _check_options(tokens, alpha, memory_limit)
    intervals = {"confidence": confidence, "resamples": resamples, "seed": seed}
    bootstrap_interval(np.zeros(1), **intervals)  # refuses options before the passes
    check_splits(train_loader, test_loader)
    options = {"device": device, "progress": progress}
    layers.check_memory(train_loader, memory_limit, **options)

    train = ProbeTraining(layers)
    n_train = run_readers(space, train_loader, [train], description="training probes", **options)
    test = ProbeTest(layers, train.solve(alpha))
    n = run_readers(space, test_loader, [test], description="testing probes", **options)

    values = test.values.arrays()
    facts = {"n": n, "n_train": n_train, "tokens": tokens, "alpha": float(alpha), **intervals}
    facts |= {"lens": lens_facts(space.options), "versions": versions()}
    return LinearProbes(
        names=[space.names[index] for index in layers.blocks],
        blocks=layers.blocks,
        num_blocks=len(space.blocks),
        parts=list(layers.parts),
        groups=list(space.groups()),
        readings=test.readings,
        accuracy=test.accuracy(n),
        **values,
        interval=np.stack(bootstrap_interval(values["correct"], **intervals)),
        num_classes=space.num_classes,
        provenance=known_facts(provenance, test_loader) | facts,
    )


def _chosen_parts(space: ClassSpace, parts: Sequence[str] | None) -> list[str]:
    """List the parts to read, in their usual order."""
    if parts is None:
        return list(space.parts)
    if isinstance(parts, str) or not parts or not set(parts) <= set(space.parts):
        raise ValueError(f"parts={parts!r} should be a list of some of {', '.join(space.parts)}; None is all")
    return [part for part in space.parts if part in parts]


def _check_options(tokens: str, alpha: float, memory_limit: float) -> None:
    if tokens not in TOKENS:
        raise ValueError(f"tokens {tokens!r} is not known; choose from {', '.join(TOKENS)}")
    check_memory_limit(memory_limit)
    check_alpha(alpha)
