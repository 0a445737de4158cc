"""Sums over batches of the HSIC between the features at each position and the pixels of each patch.

The minibatch estimator of Nguyen, Raghu & Kornblith, ICLR 2021, https://arxiv.org/abs/2010.15327, sums HSIC over
batches and divides at the end. As in `utilities.compare`, the HSIC of a batch of n images is weighted by n(n - 3), so
that each pair of images counts the same.
"""

from __future__ import annotations

import torch

from utilities.metrics import MIN_IMAGES, center
from utilities.results.moments import precise

MAX_BLOCKS = 16  # blocks of batches that the jackknife leaves out in turn
CHUNK = 2**25  # numbers of Gram matrices held at a time, 256 MiB


def centred_grams(features: torch.Tensor) -> torch.Tensor:
    """Compute the Gram matrices of many sets of features, centred for the debiased HSIC and flattened.

    The inner product of two of them, divided by n(n - 3), is the debiased HSIC (see `utilities.metrics.center`). A
    spread over images below the rounding of the values counts as none, and gives zeros.

    Args:
        features: Features of the same n images, (sets, n, width).

    Returns:
        The matrices, float64, (sets, n * n).

    Example:
        >>> x = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
        >>> from utilities.metrics import gram, hsic
        >>> rows = centred_grams(x)
        >>> abs((rows[0] @ rows[1]).item() / 18 - hsic(gram(x[0]), gram(x[1]))) < 1e-12
        True
    """
    n, dtype = features.shape[1], features.dtype
    eps = 8 * torch.finfo(dtype).eps * n**0.5
    values = precise(features)
    mean = values.mean(1, keepdim=True)
    values = values - mean
    grams = center(values @ values.mT)
    spread = values.square().sum((1, 2))
    grams[spread <= eps**2 * mean.square().sum((1, 2))] = 0
    return grams.flatten(1)


class LocalisationSums:
    """Sums of one layer, in at most `MAX_BLOCKS` blocks of batches.

    Args:
        positions: Number of positions.
        patches: Number of patches.

    Attributes:
        stride: Number of batches in a block.
        blocks: Block -> [cross (positions, patches), own of positions, own of patches, images].
    """

    def __init__(self, positions: int, patches: int) -> None:
        self.positions, self.patches, self.stride = positions, patches, 1
        self.blocks: dict[int, list] = {}

    @staticmethod
    def bytes_needed(positions: int, patches: int) -> int:
        """Count the bytes that the sums may take, and their statistics.

        Example:
            >>> LocalisationSums.bytes_needed(256, 256)
            17825792
        """
        return 8 * positions * patches * 2 * (MAX_BLOCKS + 1)

    def add(self, index: int, features: torch.Tensor, pixels: torch.Tensor) -> None:
        """Add a batch.

        Args:
            index: Number of the batch, from 0.
            features: Features at each position, (positions, n, width).
            pixels: Centred Gram matrices of the patches, (patches, n * n), see `centred_grams`.
        """
        n = features.shape[1]
        cross, own = [], []
        for part in features.split(max(1, CHUNK // n**2)):
            grams = centred_grams(part)
            own.append(grams.square().sum(1))
            cross.append(grams @ pixels.T)
        terms = [torch.cat(cross).cpu(), torch.cat(own).cpu(), pixels.square().sum(1).cpu(), n]
        while index // self.stride >= MAX_BLOCKS:
            self._halve()
        self._join(index // self.stride, terms)

    def merge(self, later: LocalisationSums) -> None:
        """Add the batches of other sums, whose numbers are others."""
        while self.stride < later.stride:
            self._halve()
        while later.stride < self.stride:
            later._halve()
        for key, block in later.blocks.items():
            self._join(key, block)

    def _halve(self) -> None:
        before, self.blocks, self.stride = self.blocks, {}, self.stride * 2
        for key, block in before.items():
            self._join(key // 2, block)

    def _join(self, key: int, terms: list) -> None:
        before = self.blocks.get(key)
        self.blocks[key] = terms if before is None else [a + b for a, b in zip(before, terms, strict=True)]

    def varied(self) -> tuple[int, int]:
        """Count the positions and the patches that have variance over the images of a batch."""
        own, pixels = (sum(block[i] for block in self.blocks.values()) for i in (1, 2))
        return int((own > 0).sum()), int((pixels > 0).sum())

    def similarity(self, without: int | None = None) -> torch.Tensor:
        """Compute CKA of all positions with all patches, NaN where one of them has no variance.

        Args:
            without: Block to leave out, or None.
        """
        kept = [block for key, block in self.blocks.items() if key != without]
        cross, own, pixels = (sum(block[i] for block in kept) for i in range(3))
        scale = own.clamp(min=0).sqrt()[:, None] * pixels.clamp(min=0).sqrt()
        return torch.where(scale > 0, cross / scale, torch.nan)


def usable(count: int, index: int) -> bool:
    """Tell whether a batch is large enough for the debiased estimator.

    Args:
        count: Number of its images.
        index: Number of batches before it.

    Raises:
        ValueError: If the first batch is too small.

    Example:
        >>> usable(4, 0), usable(3, 1)
        (True, False)
    """
    least = MIN_IMAGES["debiased"]
    if count < least and not index:
        raise ValueError(f"the first batch has {count} images; the debiased estimator takes batches of {least} or more")
    return count >= least
