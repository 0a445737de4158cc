"""Linear probes beside the lens: what a trained reader finds in a token, and what the model's own classifier finds.

The lens of Vilas et al. 2023 (https://arxiv.org/abs/2310.18969) reads hidden tokens in the basis of the classes. What
it does not find may exist in another basis. A linear probe trained on other images can tell. As in the paper, there is
one probe for each layer and token position. It is a ridge regression on raw tokens, without norm, with targets +1 for
the image's class and -1 for the others. Its answer is the class with the largest score.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import numpy as np
import torch
from torch import nn

from utilities.analysis.class_embedding.lens import PerImage, lens_facts
from utilities.analysis.class_embedding.masking import chosen_blocks
from utilities.analysis.class_embedding.passes import Batch, read
from utilities.analysis.class_embedding.probe_result import READINGS, LinearProbes
from utilities.analysis.class_embedding.ranks import rank
from utilities.analysis.class_embedding.record import BlockTokens, read_blocks
from utilities.analysis.class_embedding.ridge import RidgeSums, check_alpha
from utilities.analysis.class_embedding.space import ClassSpace, LensOptions
from utilities.analysis.class_embedding.tuned import space_of
from utilities.analysis.stream import readable_twice, stream
from utilities.datasets.images import ImageDataset
from utilities.hooks.calls.labels import hits
from utilities.results.statistics import bootstrap_interval
from utilities.utils import versions

TOKENS = ("each", "shared")
Key = tuple[int, str, str]  # block, part, group of tokens


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
        model: See `utilities.analysis.class_embedding.space.class_space`, or a space with its own options, such as
            ``ConvolutionalSpace.every_stage(model)``.
        train_loader: Yields images and labels to fit the probes to.
        test_loader: Yields other images and labels.
        parts: Parts to read, some of ``"block"``, ``"attn"``, ``"mlp"``; None is all that the model has.
        tokens: ``"each"``, one probe for each token position, as published, or ``"shared"``, one for CLS and one for
            all image tokens together.
        alpha: Strength of the ridge penalty.
        blocks: Indices of the blocks to read, from 0; None is all.
        lens: How the lens reads; with ``tuned``, the tuned lens is read beside the raw one.
        names: Names of the parts of an unknown model, see `utilities.analysis.class_embedding.space.class_space`.
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
    layers = _Layers(space, chosen_blocks(space, blocks), _chosen_parts(space, parts), tokens == "shared")
    _check_options(tokens, alpha, memory_limit)
    intervals = {"confidence": confidence, "resamples": resamples, "seed": seed}
    bootstrap_interval(np.zeros(1), **intervals)  # refuses options before the passes
    _check_loaders(train_loader, test_loader)
    options = {"device": device, "progress": progress}
    layers.check_memory(train_loader, memory_limit, **options)

    train = _Train(layers)
    n_train = read(space, train_loader, [train], description="training probes", **options)
    test = _Test(layers, train.solve(alpha))
    n = read(space, test_loader, [test], description="testing probes", **options)

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
        provenance={**(provenance or {}), **facts},
    )


@dataclass
class _Layers:
    """Which tokens of which layers are read.

    Attributes:
        width: Width of the last block's tokens, the only width that the raw lens can read; known after `check_memory`.
    """

    space: ClassSpace
    blocks: list[int]
    parts: list[str]
    shared: bool
    width: int = 0

    def of(self, tokens: BlockTokens) -> Iterator[tuple[str, torch.Tensor]]:
        """Iterate over the parts of a block that are read, with their tokens."""
        if tokens.index in self.blocks:
            for part in self.parts:
                yield part, tokens.after if part == "block" else getattr(tokens, part)

    def groups(self, tokens: BlockTokens) -> Iterator[tuple[Key, torch.Tensor]]:
        """Iterate over parts and groups, with the tokens of each: (batch, tokens of the group, width)."""
        for part, x in self.of(tokens):
            for group, places in self.space.groups().items():
                yield (tokens.index, part, group), x[:, places]

    def check_memory(self, loader: Iterable[Any], limit: float, **options: Any) -> None:
        """Run the model on one image to find how much memory the sums need, and refuse to start above the limit."""
        needed: dict[Key, int] = {}
        probes = 0

        def visit(tokens: BlockTokens) -> None:
            nonlocal probes
            self.width = tokens.after.shape[2]
            for key, x in self.groups(tokens):
                problems = 1 if self.shared else x.shape[1]
                needed[key] = RidgeSums.bytes_needed(problems, x.shape[2], self.space.num_classes)
                probes += problems

        with stream(self.space.model, islice(loader, 1), description="probes", **options) as batches:
            read_blocks(self.space, next(batches)[0][:1], visit)
        if sum(needed.values()) > limit:
            sharing = "" if self.shared else ", tokens='shared' for one probe for all image tokens"
            most = max(sum(size for key, size in needed.items() if key[0] == index) for index in self.blocks)
            raise ValueError(
                f"the sums of {probes:,} probes take {sum(needed.values()) / 1e9:.3g} GB, above memory_limit="
                f"{limit / 1e9:.3g} GB; choose fewer blocks= or parts= at a time (the largest block takes "
                f"{most / 1e9:.3g} GB){sharing}, or raise memory_limit"
            )


class _Train:
    """Accumulates the sums of all probes."""

    def __init__(self, layers: _Layers) -> None:
        self.layers, self.sums = layers, {}

    def block(self, tokens: BlockTokens, batch: Batch) -> None:
        """Add the tokens of a batch."""
        for key, x in self.layers.groups(tokens):
            labels = batch.labels
            if self.layers.shared:
                labels, x = labels.repeat_interleave(x.shape[1]), x.flatten(0, 1)[:, None]
            if key not in self.sums:
                device = "cpu" if x.device.type == "mps" else x.device  # Apple's GPUs have no float64
                self.sums[key] = RidgeSums(x.shape[1], x.shape[2], self.layers.space.num_classes, device)
            self.sums[key].add(x, labels)

    def finish(self, batch: Batch) -> None:
        """Do nothing; all sums are up to date."""

    def solve(self, alpha: float) -> dict[Key, tuple[torch.Tensor, torch.Tensor]]:
        """Solve for weights and intercepts of all probes, and free the sums one after the other."""
        missing = int((next(iter(self.sums.values())).counts == 0).sum())
        if missing:
            warnings.warn(
                f"{missing} of the model's {self.layers.space.num_classes} classes have no training image; probes "
                "cannot learn to name them",
                stacklevel=3,
            )
        return {key: self.sums.pop(key).solve(alpha) for key in list(self.sums)}


class _Test:
    """Reads each token with its probe and with the lens."""

    def __init__(self, layers: _Layers, probes: dict[Key, tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.layers, self.probes, self.values = layers, probes, PerImage()
        space = layers.space
        self.readings = list(READINGS if space.options.tuned is not None else READINGS[:2])
        self.groups = [slice(0, 1), slice(1, None)] if space.class_token else [slice(None)]  # CLS first, no registers
        self.hits: dict[tuple[int, str], torch.Tensor] = {}
        self.ranks: list[torch.Tensor] = []

    def block(self, tokens: BlockTokens, batch: Batch) -> None:
        """Read the parts of a block."""
        shares = []
        scores = self._scores(tokens)
        for part, x in self.layers.of(tokens):
            readings = [scores[part], *self._lenses(tokens, part, x)]
            right = torch.stack([_right(logits, batch.labels, scores[part].shape[1]) for logits in readings])
            self.hits[tokens.index, part] = self.hits.get((tokens.index, part), 0) + right.sum(1)
            shares.append(torch.stack([right[:, :, group].mean(2) for group in self.groups], 2).transpose(0, 1))
        if shares:
            self.values.add("correct", torch.stack(shares, 2), axis=3)
        if "block" in scores:
            image = scores["block"][:, self.groups[-1]]
            self.ranks.append(rank(image, batch.labels.to(image.device)))

    def finish(self, batch: Batch) -> None:
        """Sum ranks over blocks, if all blocks have the same tokens."""
        same = len({ranks.shape[1] for ranks in self.ranks}) == 1
        total = sum(self.ranks) if same else torch.zeros(len(batch.images), 0)
        self.values.end_batch(rank_sum=total, labels=batch.labels)
        self.ranks = []

    def accuracy(self, n: int) -> np.ndarray:
        """Compute the accuracy of each token position, (readings, parts, blocks, positions)."""
        parts, blocks = self.layers.parts, self.layers.blocks
        most = max(hits.shape[1] for hits in self.hits.values())
        table = np.full((len(self.readings), len(parts), len(blocks), most), np.nan)
        for (p, part), (b, index) in product(enumerate(parts), enumerate(blocks)):
            hits = self.hits[index, part].double().cpu().numpy()
            table[:, p, b, : hits.shape[1]] = hits / n
        return table

    def _scores(self, tokens: BlockTokens) -> dict[str, torch.Tensor]:
        """Compute the probes' scores of each part: (batch, positions, classes)."""
        scores: dict[str, list[torch.Tensor]] = {}
        for key, x in self.layers.groups(tokens):
            weights, intercept = self.probes[key]
            inputs = x.to(weights)
            if self.layers.shared:
                values = inputs @ weights[0] + intercept[0]
            else:
                values = torch.baddbmm(intercept[:, None], inputs.transpose(0, 1), weights).transpose(0, 1)
            scores.setdefault(key[1], []).append(values)
        return {part: torch.cat(groups, 1) for part, groups in scores.items()}

    def _lenses(self, tokens: BlockTokens, part: str, x: torch.Tensor) -> Iterator[torch.Tensor | None]:
        """Compute the logits of the raw lens and of the tuned lens, if there is one; None where a lens cannot read."""
        places = torch.cat([torch.arange(x.shape[1])[group] for group in self.layers.space.groups().values()])
        yield self.layers.space.project(x)[:, places] if x.shape[2] == self.layers.width else None
        if "tuned" in self.readings:
            yield tokens.logits(part)[:, places] if part == "block" else None


def _right(logits: torch.Tensor | None, labels: torch.Tensor, positions: int) -> torch.Tensor:
    """Tell whether the label's logit is the largest, float32 (batch, positions); 1/m in a tie; NaN without logits."""
    if logits is None:
        return torch.full((len(labels), positions), torch.nan, device=labels.device)
    return hits(logits, labels.to(logits.device)[:, None].expand(logits.shape[:2])).to(labels.device).float()


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
    if not memory_limit > 0:
        raise ValueError(f"memory_limit={memory_limit!r} should be a number of bytes above 0, such as 4e9")
    check_alpha(alpha)


def _check_loaders(train: Iterable[Any], test: Iterable[Any]) -> None:
    """Refuse to test probes on the images that they were fitted to."""
    readable_twice(train, "the training of probes")
    if train is test or getattr(train, "dataset", train) is getattr(test, "dataset", test):
        raise ValueError(
            "train_loader and test_loader serve the same images, on which probes look better than they are; pass "
            "loaders of two splits, such as load_dataset(..., split='train') and split='test'"
        )
    one, two = (getattr(loader, "dataset", None) for loader in (train, test))
    if isinstance(one, ImageDataset) and isinstance(two, ImageDataset):
        same = (one.name, one.split) == (two.name, two.split)
        shared = len(np.intersect1d(one.indices, two.indices)) if same else 0
        if shared:
            raise ValueError(f"{shared:,} of the images to test probes on ({two}) are among those to fit them ({one})")
