"""Measure how far a map of gradients extends: the radius that holds half of it, the share in the position's cell."""

from __future__ import annotations

import torch
from torch import nn


def half_radius(maps: torch.Tensor, centre: tuple[float, float]) -> torch.Tensor:
    """Compute the radius around a point that holds half of each map's sum.

    A pixel counts as inside once the radius reaches its centre; between the distances of pixels, the sum is
    interpolated linearly. A flat map of L x L pixels around its middle has radius L / sqrt(2 pi) = 0.399 L, but for the
    rounding of a circle to pixels.

    Args:
        maps: Maps without negative values, (n, rows, columns).
        centre: Row and column of the point, in pixels; the first pixel's centre is at 0.

    Returns:
        Radius in pixels, (n,); NaN where the sum is 0.

    Example:
        >>> point = torch.zeros(1, 5, 5)
        >>> point[0, 2, 4] = 1
        >>> half_radius(point, (2, 4)).item(), round(half_radius(torch.ones(1, 101, 101), (50, 50)).item())
        (0.0, 40)
    """
    squares = sum(
        (torch.arange(length, dtype=torch.float64) - middle).square().view(shape)
        for length, middle, shape in zip(maps.shape[1:], centre, ((-1, 1), (1, -1)), strict=True)
    )
    # Pixels at one distance enter together; rounding keeps equal distances equal.
    distances, ring = torch.unique((squares * 2**20).round(), return_inverse=True)
    radii = (distances / 2**20).sqrt().to(maps.device, maps.dtype)
    sums = maps.new_zeros(len(maps), len(radii)).index_add_(1, ring.flatten().to(maps.device), maps.flatten(1))
    inside = sums.cumsum(1)
    half = inside[:, -1:] / 2
    after = (inside < half).sum(1).clamp(max=len(radii) - 1)
    start = torch.zeros_like(inside[:, :1])
    inside, radii = torch.cat([start, inside], 1), torch.cat([radii.new_zeros(1), radii])
    low, high = (inside.gather(1, place[:, None])[:, 0] for place in (after, after + 1))
    part = (half[:, 0] - low) / (high - low)  # 0 / 0 for a map of zeros
    return radii[after] + part * (radii[after + 1] - radii[after])


def own_share(maps: torch.Tensor, centre: tuple[float, float], cell: tuple[float, float]) -> torch.Tensor:
    """Compute the share of each map's sum that lies in a cell: on pixels within half a cell of its centre.

    Args:
        maps: Maps, (n, rows, columns).
        centre: Row and column of the cell's centre, in pixels.
        cell: Height and width of the cell in pixels.

    Returns:
        Share, (n,); NaN where the sum is 0.

    Example:
        >>> own_share(torch.ones(1, 4, 4), (0.5, 0.5), (2, 2))
        tensor([0.2500])
    """
    rows, columns = (
        (torch.arange(length, dtype=torch.float64) - middle).abs() <= side / 2
        for length, middle, side in zip(maps.shape[1:], centre, cell, strict=True)
    )
    inside = (rows[:, None] & columns[None]).to(maps.device, maps.dtype)
    return (maps * inside).sum((1, 2)) / maps.sum((1, 2))


def pooled(maps: torch.Tensor, size: int | None) -> torch.Tensor:
    """Average maps over equal areas, so that their longer side has ``size`` entries; None and smaller maps stay.

    Example:
        >>> pooled(torch.arange(8.0).view(1, 2, 4), 2)
        tensor([[[2.5000, 4.5000]]])
    """
    longest = max(maps.shape[1:])
    if size is None or size >= longest:
        return maps
    sides = [max(1, round(length * size / longest)) for length in maps.shape[1:]]
    return nn.functional.adaptive_avg_pool2d(maps[:, None], sides)[:, 0]
