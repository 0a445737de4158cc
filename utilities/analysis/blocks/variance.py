"""Variance of feature maps: does a block spread features out over positions, or average them?

As in Park & Kim 2022, https://arxiv.org/abs/2202.06709, Fig. 9, the unbiased variance over all positions of a map is
computed after each block, then averaged over channels and images. The residual stream grows with depth, and the
variance grows with it. The relative variance, V / mean(X^2), does not follow that growth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from utilities.analysis.stream import readable_twice, stream
from utilities.datasets.naming import known_facts
from utilities.hooks.block import Block
from utilities.hooks.block_sequence import BlockSequence, blocks
from utilities.hooks.calls.merging import Sums
from utilities.hooks.recorder import Forward
from utilities.results.moments import Moments, precise
from utilities.results.result import Result
from utilities.utils import versions

OVER = ("positions", "samples")


@dataclass(frozen=True)
class Variance(Result):
    """Variance after each block. Arrays have one entry per block.

    Attributes:
        names: Names of the blocks, without the classifier.
        kinds: Kinds of the blocks, see `utilities.hooks.block.BLOCK_KINDS`.
        stages: Stage of each block: 0 for the stem, then from 1.
        variance: Variance, mean over channels and images.
        stderr: Standard error of ``variance`` over images.
        relative: Variance divided by mean square for each image, mean over images.
        relative_stderr: Standard error of ``relative`` over images.
        branch: Variance of what the block adds to its input (output minus input); NaN where the shape changes.
        branch_stderr: Standard error of ``branch`` over images.
        change: Variance after the block minus that before it; NaN where the grid changes.
        change_stderr: Standard error of ``change`` over images, paired.
        relative_change: Relative variance after the block minus that before it; NaN where the grid changes.
        relative_change_stderr: Standard error of ``relative_change`` over images, paired.
        provenance: What it was made from.
    """

    names: list[str]
    kinds: list[str]
    stages: list[int]
    variance: np.ndarray
    stderr: np.ndarray
    relative: np.ndarray
    relative_stderr: np.ndarray
    branch: np.ndarray
    branch_stderr: np.ndarray
    change: np.ndarray
    change_stderr: np.ndarray
    relative_change: np.ndarray
    relative_change_stderr: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def depth(self) -> np.ndarray:
        """Relative position of each block, from 0 for the first to 1 for the last."""
        return np.linspace(0, 1, len(self.names))

    def to_frame(self) -> pd.DataFrame:
        """Tabulate the result, one row per block."""
        columns = [name for name, value in vars(self).items() if isinstance(value, np.ndarray)]
        table = {"block": self.names, "kind": self.kinds, "stage": self.stages}
        return pd.DataFrame(table | {name: getattr(self, name) for name in columns})


def feature_variance(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    over: str = "positions",
    layers: Mapping[str, str] | Sequence[str] | None = None,
    forward: Forward | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> Variance:
    """Measure the variance of the features after every block.

    Args:
        model: See `utilities.hooks.blocks`; it runs in eval mode.
        loader: Yields images, or (images, labels). For the variance over samples it is read twice, and has to keep its
            order.
        over: ``"positions"``, as in the paper, is the variance of each map over its positions. ``"samples"`` is the
            variance of each channel and position over the images.
        layers: Names or globs of layers in place of the model's blocks, or of a model whose blocks are not known; with
            their kinds where these cannot be told. See `utilities.hooks.blocks`.
        forward: Function that runs such a model, if not ``model(images)``. See `utilities.hooks.Recorder`.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts to keep with the result.

    Returns:
        The variances. The variance over positions is NaN where there is only one position.

    Raises:
        ValueError: If ``over`` is unknown, the model's blocks are not known, or there are too few images.

    Example:
        >>> from utilities.resnet import resnet18
        >>> images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> result = feature_variance(resnet18(), [images], device="cpu")
        >>> result.names[:2], bool((result.variance > 0).all())
        (['stem', 'layer1.0'], True)
    """
    if over not in OVER:
        raise ValueError(f"over {over!r} is not known; choose from {', '.join(OVER)}")
    if over == "samples":
        readable_twice(loader, "the variance over samples")
    sequence = blocks(model, layers, forward)
    run = {"device": device, "progress": progress}
    means = _means(sequence, loader, run) if over == "samples" else {}
    found: dict[str, _Spread] = {}
    with stream(model, loader, description="variance", sums=found, **run) as batches:
        for _, maps_of_blocks in sequence.walk(batches):
            before = None
            for block, maps in maps_of_blocks:
                spread = found.setdefault(block.name, _Spread(block, means))
                before = spread.add(precise(maps), before)
    count = next(iter(found.values())).variance.n
    if over == "samples" and count < 2:
        raise ValueError("the variance over samples needs two images or more")
    facts = {"n": count, "over": over, "versions": versions()}
    return _collect(list(found.values()), count if over == "samples" else None, known_facts(provenance, loader) | facts)


def over_positions(maps: torch.Tensor) -> torch.Tensor:
    """Compute each image's unbiased variance over positions, averaged over channels: (batch, C, H, W) -> (batch,).

    Example:
        >>> over_positions(torch.tensor([[[[1.0, 3.0]]]]))
        tensor([2.])
    """
    values = maps.flatten(2)
    if values.shape[2] < 2:
        return torch.full_like(values[:, 0, 0], torch.nan)
    return values.var(2).mean(1)


def _means(sequence: BlockSequence, loader: Iterable[Any], run: Mapping[str, Any]) -> dict:
    """Average the features and what each block adds over all images: name -> the two means."""
    sums: dict[str, tuple[Moments, Moments]] = {}
    with stream(sequence.model, loader, description="means", sums=sums, **run) as batches:
        for _, maps_of_blocks in sequence.walk(batches):
            before = None
            for block, features in maps_of_blocks:
                maps = precise(features)
                whole, added = sums.setdefault(block.name, (Moments(), Moments()))
                whole.add(maps)
                if before is not None and before.shape == maps.shape:
                    added.add(maps - before)
                before = maps
    return {name: tuple(torch.from_numpy(part.mean) for part in parts) for name, parts in sums.items()}


class _Spread(Sums):
    """Sums over images of one block's variances."""

    def __init__(self, block: Block, means: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.block, self.means = block, means.get(block.name)
        self.variance, self.relative, self.branch = Moments(), Moments(), Moments()
        self.change, self.relative_change = Moments(), Moments()

    def add(self, maps: torch.Tensor, before: tuple[torch.Tensor, ...] | None) -> tuple[torch.Tensor, ...]:
        """Add a batch, paired with the maps before the block, and return the values to pair with the next block."""
        variance = self._of(maps, 0)
        relative = variance / maps.square().flatten(1).mean(1)
        self.variance.add(variance)
        self.relative.add(relative)
        if before is not None:
            if before[0].shape == maps.shape:
                self.branch.add(self._of(maps - before[0], 1))
            if before[0].shape[2:] == maps.shape[2:]:
                self.change.add(variance - before[1])
                self.relative_change.add(relative - before[2])
        return maps, variance, relative

    def _of(self, maps: torch.Tensor, which: int) -> torch.Tensor:
        if self.means is None:
            return over_positions(maps)
        return (maps - self.means[which].to(maps.device)).square().flatten(1).mean(1)


def _collect(spreads: list[_Spread], samples: int | None, provenance: dict[str, Any]) -> Variance:
    # The deviations are from the mean of the same n images, so the sum is divided by n - 1.
    factor = 1.0 if samples is None else samples / (samples - 1)

    def column(kind: str, value: str) -> np.ndarray:
        parts = [getattr(spread, kind) for spread in spreads]
        return np.array([factor * float(getattr(part, value)) if part.n else np.nan for part in parts])

    names = {"variance": ("variance", "stderr"), "relative": ("relative", "relative_stderr")}
    names |= {kind: (kind, f"{kind}_stderr") for kind in ("branch", "change", "relative_change")}
    arrays = {}
    for kind, (mean, error) in names.items():
        arrays |= {mean: column(kind, "mean"), error: column(kind, "stderr")}
    return Variance(
        names=[spread.block.name for spread in spreads],
        kinds=[spread.block.kind for spread in spreads],
        stages=[spread.block.stage for spread in spreads],
        **arrays,
        provenance=provenance,
    )
