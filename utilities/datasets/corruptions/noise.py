"""Independent noise on every value: Gaussian, shot, impulse and speckle noise.

All corruption functions of this package have the same form. They take float images (images, 3, height, width) from 0 to
255, the severity's parameters and the images' random numbers. They may change the images in place, and return floats
that `corrupt` clips and truncates. Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from utilities.datasets.corruptions.draws import LEVELS, Draws

QUANTILES = 2**13  # quantiles of photon counts, few enough for the table of all values to fit into a core's cache


def gaussian_noise(x: torch.Tensor, deviation: float, draws: Draws) -> torch.Tensor:
    """Add independent normal noise."""
    return x.add_(draws.normal(*x.shape[1:]), alpha=255 * deviation)


def speckle_noise(x: torch.Tensor, deviation: float, draws: Draws) -> torch.Tensor:
    """Add independent normal noise in proportion to the value."""
    return x.addcmul_(x, draws.normal(*x.shape[1:]), value=deviation)


def impulse_noise(x: torch.Tensor, amount: float, draws: Draws) -> torch.Tensor:
    """Turn a fraction of the values into 0 or 255 with equal probability, by adding more than the range."""
    return x.add_(draws.table(_impulses(amount), *x.shape[1:]))


def shot_noise(x: torch.Tensor, photons: float, draws: Draws) -> torch.Tensor:
    """Replace values by Poisson photon counts, with mean ``photons`` for white, from a table by value and quantile."""
    index = draws.bits(*x.shape[1:]).bitwise_right_shift_(3).add_(x.to(torch.int32), alpha=QUANTILES)
    return _counts(float(photons)).to(x.device).index_select(0, index.flatten()).view(x.shape).to(x.dtype)


@lru_cache(maxsize=16)
def _impulses(amount: float) -> torch.Tensor:
    flipped = round(LEVELS * amount / 2)
    quantiles = torch.zeros(LEVELS)
    quantiles[:flipped], quantiles[LEVELS - flipped :] = -256, 256
    return quantiles


@lru_cache(maxsize=10)  # 2 MiB each
def _counts(photons: float) -> torch.Tensor:
    """Tabulate, for each of 256 values, all quantiles of the noisy value. Counts above white become white."""
    counts = torch.arange(int(photons) + 1, dtype=torch.float64)
    mean = torch.arange(256, dtype=torch.float64)[:, None] * (photons / 255)
    below = torch.special.gammaincc(counts + 1, mean).mul_(QUANTILES).round_().long()
    below[:, -1] = QUANTILES
    becomes = (counts / photons).clamp(max=1).mul(255).to(torch.uint8)
    repeats = below.diff(prepend=below.new_zeros(256, 1))
    return becomes.expand(256, -1).flatten().repeat_interleave(repeats.flatten())
