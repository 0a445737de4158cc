"""Random numbers that belong to images: those of image i depend on the seed and on i, not on how batches are cut.

They come from a generator that can jump ahead (PCG64, O'Neill 2014). It runs on the CPU for all devices, so that a
corrupted image is the same in any batch and on any device. A number has sixteen bits, which is plenty for images of
eight bits. Normal numbers lie within 4.2 standard deviations.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

LEVELS = 2**16


class Draws:
    """Streams of random numbers for consecutive images.

    The first request for a chunk of images reads the first stream, the second request the second stream, and so on.
    Every stream serves the images one after the other.

    Args:
        keys: Non-negative integers that together form the seed.
        first: Index of the first image.
        device: Device to put the numbers on.

    Example:
        >>> draws, late = Draws((0,), 0, torch.device("cpu")), Draws((0,), 2, torch.device("cpu"))
        >>> bool((draws.chunk(3).bits(5)[2] == late.chunk(1).bits(5)[0]).all())
        True
    """

    def __init__(self, keys: tuple[int, ...], first: int, device: torch.device) -> None:
        self.keys, self.first, self.device = keys, first, device
        self._streams: list[np.random.PCG64] = []
        self._count = self._request = 0

    def chunk(self, count: int) -> Draws:
        """Move on to the next ``count`` images."""
        self._count, self._request = count, 0
        return self

    def bits(self, *shape: int) -> torch.Tensor:
        """Draw integers from 0 to 65535, of this shape for each image: int32, (images, *shape)."""
        size = int(np.prod(shape))
        words = -(-size // 4)
        if self._request == len(self._streams):
            stream = np.random.PCG64(np.random.SeedSequence((*self.keys, self._request)))
            self._streams.append(stream.advance(self.first * words))
        raw = self._streams[self._request].random_raw(self._count * words).view(np.uint16)
        self._request += 1
        wide = torch.from_numpy(raw.astype(np.int32)).view(self._count, words * 4)
        return wide[:, :size].to(self.device).reshape(self._count, *shape)

    def table(self, quantiles: torch.Tensor, *shape: int) -> torch.Tensor:
        """Draw from a distribution given by its 65536 quantiles."""
        return quantiles.to(self.device).index_select(0, self.bits(*shape).flatten()).view(self._count, *shape)

    def uniform(self, *shape: int) -> torch.Tensor:
        """Draw uniformly between 0 and 1: float32, (images, *shape)."""
        return self.bits(*shape).to(torch.float32).add_(0.5).mul_(1 / LEVELS)

    def normal(self, *shape: int) -> torch.Tensor:
        """Draw standard normal numbers: float32, (images, *shape)."""
        return self.table(normal_quantiles(), *shape)


@lru_cache(maxsize=1)
def normal_quantiles() -> torch.Tensor:
    """Tabulate the standard normal distribution, scaled to a variance of exactly one."""
    quantiles = torch.special.ndtri((torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS)
    return (quantiles / quantiles.square().mean().sqrt()).float()
