"""Spectra of maps: the logarithm of their Fourier amplitudes, read along a path of frequencies."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from utilities.results.moments import precise

PATHS = ("diagonal", "radial", "paper")
REFERENCES = ("dc", "ac")
WINDOWS = ("none", "hann")
FLOOR = 1e-6  # fraction of a map's root-mean-square amplitude, added so that ln has a value where the amplitude is 0
LARGEST = 2**24  # most complex values transformed at once


def log_amplitude(maps: torch.Tensor, floor: float | None = None) -> torch.Tensor:
    """Compute ln |F| of maps, where F is their un-normalised discrete Fourier transform.

    Args:
        maps: Maps, shape (..., H, W).
        floor: Number added to |F|. None adds 1e-6 of each map's root-mean-square amplitude, so that scaling a map only
            shifts the result.

    Returns:
        Log amplitudes, shape (..., H, W), with frequency 0 at [0, 0]. They are minus infinity for a map that is zero.

    Example:
        >>> log_amplitude(torch.ones(4, 4))[0, 0].exp()
        tensor(16.0000)
    """
    maps = maps.float() if maps.dtype in (torch.float16, torch.bfloat16) else maps
    amplitude = torch.fft.fft2(maps).abs()
    if floor is None:
        return torch.log(amplitude + FLOOR * amplitude.square().mean((-2, -1), keepdim=True).sqrt())
    return torch.log(amplitude + floor)


def frequencies(height: int, width: int, path: str) -> np.ndarray:
    """Return the frequencies of a path, in units of pi per position.

    Example:
        >>> frequencies(8, 8, "diagonal").tolist(), frequencies(8, 8, "paper").round(2).tolist()
        ([0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 0.33, 0.67, 1.0])
    """
    if path == "radial":
        longest = max(height, width)
        return np.arange(longest // 2 + 1) * 2 / longest
    common = math.gcd(height, width)
    if path == "paper":
        if height != width:
            raise ValueError(f"path 'paper' needs square maps, these are {height}x{width}; take path='diagonal'")
        return np.linspace(0, 1, height - height // 2)
    if common == 1 < max(height, width):
        raise ValueError(f"maps of {height}x{width} positions share no frequency (f, f); take path='radial'")
    return np.arange(common // 2 + 1) * 2 / common


def along(values: torch.Tensor, path: str) -> torch.Tensor:
    """Read the values at all frequencies along a path.

    Args:
        values: Values on the plane of frequencies, shape (..., H, W), with frequency 0 at [0, 0].
        path: See `utilities.analysis.blocks.fourier.fourier`.

    Returns:
        Values along the path, shape (..., frequencies). See `frequencies`.

    Example:
        >>> along(torch.arange(16.0).view(4, 4), "diagonal")
        tensor([ 0.,  6., 10.])
    """
    height, width = values.shape[-2:]
    if path == "radial":
        return _rings(values)
    common = math.gcd(height, width)
    k = torch.arange(len(frequencies(height, width, path)), device=values.device)
    rows, columns = k * (height // common), k * (width // common)
    falling = values[..., rows, columns]
    return falling if path == "paper" else (falling + values[..., rows, -columns]) / 2


def _rings(values: torch.Tensor) -> torch.Tensor:
    """Average over rings around frequency 0, each as wide as the longer side's step. Corners are left out."""
    height, width = values.shape[-2:]
    longest = max(height, width)
    fy, fx = (torch.fft.fftfreq(size, device=values.device) * longest for size in (height, width))
    ring = (fy[:, None].square() + fx.square()).sqrt().round().long().flatten()
    inside = ring <= longest // 2
    weights = nn.functional.one_hot(ring[inside], longest // 2 + 1).to(values.dtype)
    return values.flatten(-2)[..., inside] @ (weights / weights.sum(0))


def log_curves(maps: torch.Tensor, path: str, reference: str, window: str) -> torch.Tensor:
    """Compute ln(|F| / (H W)) along the path, with the reference in last place: (images, frequencies + 1)."""
    if window == "hann" and min(maps.shape[-2:]) > 2:
        rows, columns = (torch.hann_window(n, periodic=False, device=maps.device) for n in maps.shape[-2:])
        maps = maps * rows[:, None] * columns
    parts = maps.split(max(1, LARGEST // maps[0].numel()))
    return torch.cat([_image_curves(part, path, reference) for part in parts])


def _image_curves(maps: torch.Tensor, path: str, reference: str) -> torch.Tensor:
    height, width = maps.shape[-2:]
    logs = log_amplitude(maps, 1e-6 if path == "paper" else None)
    curve = along(logs, path)
    total = logs.sum((-2, -1)) - logs[..., 0, 0]
    base = logs[..., 0, 0] if reference == "dc" else total / max(1, height * width - 1)
    values = precise(torch.cat([curve, base[..., None]], -1))
    # A map that is zero throughout has no spectrum. An image with only such maps is all NaN.
    values = values.masked_fill(~torch.isfinite(values), torch.nan)
    return values.nanmean(1) - math.log(height * width)
