"""Blur: defocus, glass, motion, zoom and Gaussian blur. For the form of the functions see `noise`.

Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261.
"""

from __future__ import annotations

import math

import torch

from utilities.datasets.corruptions.draws import Draws
from utilities.datasets.corruptions.filters import gaussian, gaussian_kernel, mirrored, motion, zoom


def gaussian_blur(x: torch.Tensor, sigma: float, draws: Draws) -> torch.Tensor:
    """Smooth with a Gaussian, repeating the borders."""
    return gaussian(x, sigma)


def defocus_blur(x: torch.Tensor, parameters: tuple[float, float], draws: Draws) -> torch.Tensor:
    """Average over a disk with a smoothed rim, mirroring the borders without repeating the outermost pixel.

    The published script draws disks of radius 8 and 10 into squares that cut off their rims, so its weights sum to
    1.015. Here they sum to one.
    """
    radius, sigma = parameters
    rim = gaussian_kernel(sigma, 1)
    spread = int(rim[0] > 1e-6)
    height, width = x.shape[-2:]
    padded = mirrored(x, int(radius) + spread)
    total = disk_sum(padded, radius)
    if not spread:
        return total
    for dim, size in ((-2, height), (-1, width)):
        smooth = total.narrow(dim, 1, size) * float(rim[1])
        for start in (0, 2):
            smooth.add_(total.narrow(dim, start, size), alpha=float(rim[0]))
        total = smooth
    return total


def disk_sum(x: torch.Tensor, radius: float) -> torch.Tensor:
    """Average whole numbers up to 255 over a disk, wherever the disk fits into the image.

    A disk is a stack of rows, and the sum over a row of a given length is needed at several heights. Rows are therefore
    widened step by step, and each width is added at the heights that have it. All images form one long line of numbers.
    In it a step sideways is a shift by one, and a step down is a shift by the width. Sums that run over an edge are
    dropped at the end. Sixteen bits hold the partial sums.

    Args:
        x: Images (images, channels, height, width).
        radius: Radius in pixels.

    Returns:
        Averages. Height and width are smaller than those of ``x`` by twice the radius rounded down.

    Example:
        >>> x = torch.zeros(1, 1, 5, 6)
        >>> x[0, 0, 2, 2] = 10
        >>> disk_sum(x, 1).int().tolist()
        [[[[0, 2, 0, 0], [2, 2, 2, 0], [0, 2, 0, 0]]]]
    """
    reach = int(radius)
    heights: dict[int, list[int]] = {}
    for down in range(-reach, reach + 1):
        heights.setdefault(math.isqrt(int(radius**2 - down**2)), []).append(down)
    height, width = x.shape[-2:]
    line = x.to(torch.int16).view(-1)
    size = len(line) - 2 * reach
    valid = size - 2 * reach * width
    row, total = line[reach : reach + size].clone(), torch.empty(len(line), device=x.device)
    sums = total[:valid].zero_()
    for half in range(max(heights) + 1):
        if half:
            row.add_(line[reach - half :][:size]).add_(line[reach + half :][:size])
        places, most = heights.get(half, []), 32767 // (255 * (2 * half + 1))
        for first in range(0, len(places), most):
            starts = [(reach + down) * width for down in places[first : first + most]]
            part = row[starts[0] :][:valid]
            if len(starts) > 1:
                part = part + row[starts[1] :][:valid]
            for start in starts[2:]:
                part.add_(row[start:][:valid])
            sums.add_(part.to(x.dtype))
    pixels = sum((2 * half + 1) * len(places) for half, places in heights.items())
    return total.view(x.shape)[..., : height - 2 * reach, : width - 2 * reach].mul(1 / pixels)


def motion_blur(x: torch.Tensor, parameters: tuple[int, float], draws: Draws) -> torch.Tensor:
    """Smear along a direction within 45 degrees of the horizontal."""
    return motion(x, *parameters, draws.uniform(1)[:, 0] * 90 - 45)


def zoom_blur(x: torch.Tensor, factors: tuple[float, ...], draws: Draws) -> torch.Tensor:
    """Average the image and its enlargements about the centre."""
    total = x.clone()
    for factor in factors:
        total += zoom(x, factor)
    return total.mul_(1 / (len(factors) + 1))


def glass_blur(x: torch.Tensor, parameters: tuple[float, int, int], draws: Draws) -> torch.Tensor:
    """Smooth, let every pixel take the colour of one nearby, and smooth again.

    The published script means to swap two pixels but copies one over the other. So does this function.
    """
    sigma, reach, passes = parameters
    channels, height, width = x.shape[1:]
    values = gaussian(x, sigma).clamp_(0, 255).add_(1 / 256).floor_().flatten(2)
    for _ in range(passes):
        source = shuffled(draws.bits(2, height, width), reach)
        values = values.gather(2, source[:, None].expand(-1, channels, -1))
    return gaussian(values.view(x.shape), sigma)


def shuffled(bits: torch.Tensor, reach: int) -> torch.Tensor:
    """Find where each pixel's colour comes from after one pass of copying.

    Pixels are visited from the last to the first. Each takes the colour that another pixel has by then. That pixel is
    up to ``reach`` rows and columns before it, or ``reach - 1`` after it. A later pixel has been visited already, and
    passes on the colour it took. Such chains are followed by doubling, in as many steps as their length has binary
    digits.

    Args:
        bits: Random integers (images, 2, height, width) that choose row and column.
        reach: Largest distance, as above. Pixels nearer to the border than that stay, and so do the row and column
            after those.

    Returns:
        Flat indices (images, height * width).
    """
    count, _, height, width = bits.shape
    down, right = (bits % (2 * reach) - reach).long().unbind(1)
    row, column = (torch.arange(size, device=bits.device) for size in (height, width))
    moves = ((row > reach) & (row <= height - reach))[:, None] & ((column > reach) & (column <= width - reach))
    here = (row[:, None] * width + column).expand(count, -1, -1)
    target = torch.where(moves, here + down * width + right, here)
    follows = (target > here) & moves.flatten()[target]
    pixels = height * width
    # The second half of the nodes are colours before the pass. They stay where they are.
    node = torch.cat([torch.where(follows, target, target + pixels).flatten(1), here.flatten(1) + pixels], 1)
    while bool((node[:, :pixels] < pixels).any()):
        node = node.gather(1, node)
    return node[:, :pixels] - pixels
