"""Keep what a comparison needs while images stream by: sums over batches, their spread, their permutations.

This is the minibatch estimator of Nguyen, Raghu & Kornblith, ICLR 2021, https://arxiv.org/abs/2010.15327: HSIC is
summed over batches and divided at the end, a ratio of sums. Memory grows with the number of pairs of layers, not with
the number of images. Batches are gathered in at most `MAX_BLOCKS` blocks, which the jackknife leaves out in turn.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from utilities.results.statistics import block_jackknife

MAX_BLOCKS = 64
# If the confounder explains all but this share of a layer's HSIC, it explains the layer in full: the rest is rounding.
EXPLAINED = 1e-5


@dataclass
class LayerStatistics:
    """Hold what is known of the layers of one model; tensors stay on the device, so that nothing waits for them.

    Attributes:
        names: Names of the layers, in the order of execution.
        widths: Number of features of one image.
        first: Sum over images of the first component's share of the variance in their batch.
        share: Largest share of its batch's variance that one image has.
        image: The place of that image.
        shapes: Shape of the output for one image; None where batches differ in it, as with a mean over positions, or
            where it was not kept.
    """

    names: list[str]
    widths: list[int]
    first: torch.Tensor
    share: torch.Tensor
    image: torch.Tensor
    shapes: list[list[int] | None]

    def merge(self, other: LayerStatistics) -> None:
        """Add what other batches show about the same layers.

        Raises:
            ValueError: If the layers are not the same.
        """
        if self.names != other.names:
            raise ValueError("the model ran other layers, or in another order, than on the batch before")
        if self.widths != other.widths:
            name, before, now = next(
                part for part in zip(self.names, self.widths, other.widths, strict=True) if part[1] != part[2]
            )
            raise ValueError(
                f"layer {name!r} has {now} features, and had {before} on the batch before: give all images one size, "
                "or take view='gap'"
            )
        self.shapes = [a if a == b else None for a, b in zip(self.shapes, other.shapes, strict=True)]
        larger = other.share > self.share
        self.first = self.first + other.first
        self.image = torch.where(larger, other.image, self.image)
        self.share = torch.where(larger, other.share, self.share)

    def cpu(self) -> LayerStatistics:
        """Return the same in main memory."""
        return replace(self, first=self.first.cpu(), share=self.share.cpu(), image=self.image.cpu())

    def details(self, n: int) -> dict[str, list[Any]]:
        """Return the table that `Similarity.report` shows."""
        return {
            "width": self.widths,
            "shape": self.shapes,
            "first_component": (self.first / n).tolist(),
            "dominant_image": self.image.tolist(),
            "dominant_share": self.share.tolist(),
        }


@dataclass
class BatchSums:
    """Hold sums over batches, which can be merged and saved.

    Attributes:
        confounded: Whether the last row and column belong to the confounder, which is to be regressed out.
        stride: Number of batches in a block: batch i belongs to block i // stride.
        blocks: Mapping from block to [cross (rows, columns), own1 (rows,), own2 (columns,), images].
        null: Cross with the images of one side permuted, (permutations, rows, columns); or None.
        per_batch: Mapping from batch to [cross, own1, own2], if values of single batches are asked for; or None.
        done: The batches that have been added.
        n: Number of images.
        largest: Number of images in the largest batch.
        sides: The layers of both models.
        decision: How the precision was decided, if that was to be measured; see
            `utilities.compare.measured_precision`.
    """

    confounded: bool = False
    stride: int = 1
    blocks: dict[int, list[Any]] = field(default_factory=dict)
    null: torch.Tensor | None = None
    per_batch: dict[int, list[torch.Tensor]] | None = None
    done: set[int] = field(default_factory=set)
    n: int = 0
    largest: int = 0
    sides: tuple[LayerStatistics, LayerStatistics] | None = None
    decision: dict[str, Any] | None = None

    def add(self, index: int, images: int, terms: list[torch.Tensor], null: torch.Tensor | None = None) -> None:
        """Add one batch.

        Args:
            index: Place of the batch among all batches.
            images: Number of images in it.
            terms: Tensors cross (rows, columns), own1 (rows,), own2 (columns,).
            null: Permuted cross terms, (permutations, rows, columns).
        """
        self._fit(index)
        block = self.blocks.setdefault(index // self.stride, [0.0, 0.0, 0.0, 0])
        block[:] = [a + b for a, b in zip(block, (*terms, images), strict=True)]
        if null is not None:
            self.null = null if self.null is None else self.null.add_(null)
        if self.per_batch is not None:
            self.per_batch[index] = [term.cpu() for term in terms]
        self.done.add(index)
        self.n, self.largest = self.n + images, max(self.largest, images)

    def merge(self, other: BatchSums) -> None:
        """Add the sums of other batches.

        Raises:
            ValueError: If a batch is in both.
        """
        if self.done & other.done:
            raise ValueError(f"batch {min(self.done & other.done)} is in both of the sums that are to be merged")
        if not other.done:
            return
        self._fit(max(other.done))
        other._fit(max(self.done, default=0))
        for key, block in other.blocks.items():
            mine = self.blocks.setdefault(key, [0.0, 0.0, 0.0, 0])
            mine[:] = [a + b for a, b in zip(mine, block, strict=True)]
        if other.null is not None:
            self.null = other.null if self.null is None else self.null + other.null
        if other.per_batch:
            self.per_batch = {**(self.per_batch or {}), **other.per_batch}
        self.done |= other.done
        self.n, self.largest = self.n + other.n, max(self.largest, other.largest)
        if self.sides is None:
            self.sides = other.sides
        else:
            for mine, theirs in zip(self.sides, other.sides, strict=True):
                mine.merge(theirs)

    def _fit(self, index: int) -> None:
        """Join neighbouring blocks until there is one for this batch."""
        while index // self.stride >= MAX_BLOCKS:
            self.stride *= 2
            joined: dict[int, list[Any]] = {}
            for key, block in self.blocks.items():
                mine = joined.setdefault(key // 2, [0.0, 0.0, 0.0, 0])
                mine[:] = [a + b for a, b in zip(mine, block, strict=True)]
            self.blocks = joined

    def cpu(self) -> BatchSums:
        """Return the same sums in main memory, to be saved or sent to another process."""
        blocks = {key: [torch.as_tensor(x).cpu() for x in block[:3]] + block[3:] for key, block in self.blocks.items()}
        null = None if self.null is None else self.null.cpu()
        sides = None if self.sides is None else (self.sides[0].cpu(), self.sides[1].cpu())
        return replace(self, blocks=blocks, null=null, sides=sides)

    def totals(self) -> list[np.ndarray]:
        """Return cross, own1 and own2 over all batches."""
        return [np.sum([_numpy(self.blocks[key][i]) for key in sorted(self.blocks)], axis=0) for i in range(3)]

    def matrix(self) -> np.ndarray:
        """Return the similarity of all pairs, NaN where a layer has no variance."""
        return alignment(*self.totals(), self.confounded)

    def stderr(self) -> np.ndarray | None:
        """Estimate the standard error by leaving out each block in turn; None where there is only one block.

        This is the jackknife for blocks of unequal size, Busing, Meijer & van der Leeden 1999, Statistics and
        Computing 9:3. With few blocks it is rough: with k equal ones the estimate itself has a relative error of about
        √(1/2(k-1)).
        """
        if len(self.blocks) < 2:
            return None
        totals, whole = self.totals(), self.matrix()
        sizes = np.array([self.blocks[key][3] for key in sorted(self.blocks)])
        left_out = []
        for key in sorted(self.blocks):
            parts = [total - _numpy(part) for total, part in zip(totals, self.blocks[key][:3], strict=True)]
            left_out.append(alignment(*parts, self.confounded))
        without = np.stack(left_out)
        return block_jackknife(whole, without, sizes)

    def null_values(self) -> np.ndarray | None:
        """Return the similarity under each permutation, (permutations, rows, columns), or None."""
        if self.null is None:
            return None
        cross, own1, own2 = self.totals()
        null = _numpy(self.null)
        if self.confounded:  # take the confounder's part out of both sides, then permute one of them
            left, right = cross[:-1, -1:] / cross[-1, -1], cross[-1:, :-1] / cross[-1, -1]
            null = (
                null[:, :-1, :-1] - left * null[:, -1:, :-1] - right * null[:, :-1, -1:]
                + left * right * null[:, -1:, -1:]
            )  # fmt: skip
            own1, own2 = _partial(own1, left[:, 0], cross[-1, -1]), _partial(own2, right[0], cross[-1, -1])
        return _ratio(null, own1, own2)

    def batch_values(self) -> np.ndarray | None:
        """Return the similarity within each batch, in the order of the loader, or None."""
        if self.per_batch is None:
            return None
        terms = [[_numpy(x) for x in self.per_batch[index]] for index in sorted(self.per_batch)]
        return np.stack([alignment(*three, self.confounded) for three in terms])


def alignment(cross: np.ndarray, own1: np.ndarray, own2: np.ndarray, confounded: bool = False) -> np.ndarray:
    """Divide sums of HSIC: cross / sqrt(own1 own2), after regressing out a confounder.

    With a confounder, K - αK₀ and L - βL₀ are compared, with α and β by least squares over all batches (Cui et al.
    2022, https://arxiv.org/abs/2202.00095): cross less cross_K0 cross_0L / own_0, and so on.

    Args:
        cross: Sums of HSIC between the sides, (rows, columns), the confounder last on both axes.
        own1: Sums of HSIC of each row with itself, (rows,).
        own2: Sums of HSIC of each column with itself, (columns,).
        confounded: Whether there is a confounder.

    Returns:
        The similarity without the confounder's row and column; NaN where a layer has no variance left.

    Example:
        >>> alignment(np.array([[2.0]]), np.array([4.0]), np.array([4.0]))
        array([[0.5]])
    """
    if confounded:
        left, right, own0 = cross[:-1, -1:], cross[-1:, :-1], cross[-1, -1]
        cross = cross[:-1, :-1] - left * right / own0
        own1, own2 = _partial(own1, left[:, 0] / own0, own0), _partial(own2, right[0] / own0, own0)
    return _ratio(cross, own1, own2)


def _partial(own: np.ndarray, slope: np.ndarray, own0: float) -> np.ndarray:
    rest = own[:-1] - slope**2 * own0
    return np.where(rest > EXPLAINED * own[:-1], rest, 0.0)


def _ratio(cross: np.ndarray, own1: np.ndarray, own2: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.sqrt(own1[:, None]) * np.sqrt(own2[None, :])
        return np.where(scale > 0, cross / scale, np.nan)


def _numpy(x: Any) -> np.ndarray:
    return torch.as_tensor(x).double().cpu().numpy()
