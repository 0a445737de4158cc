"""Weather: snow, frost and fog. Spatter has its own file. For the form of the functions see `noise`.

Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261.
"""

from __future__ import annotations

import torch

from utilities.datasets.corruptions.draws import Draws
from utilities.datasets.corruptions.filters import motion, zoom
from utilities.datasets.corruptions.frost import Pictures


def snow(x: torch.Tensor, parameters: tuple[float, ...], draws: Draws) -> torch.Tensor:
    """Whiten the image, and add a layer of flakes twice, the second time rotated by 180 degrees.

    The flakes are noise that is enlarged, set to zero below a threshold, and smeared.
    """
    mean, deviation, factor, threshold, radius, sigma, weight = parameters
    height, width = x.shape[-2:]
    layer = zoom(draws.normal(1, height, width).mul_(deviation).add_(mean), factor)
    layer = torch.nn.functional.threshold(layer, threshold, 0).clamp_(0, 1).mul_(255).floor_()
    layer = motion(layer, int(radius), sigma, draws.uniform(1)[:, 0] * 90 - 135).round_()
    white = luminance(x).mul_(1.5).add_(127.5)
    return torch.maximum(x, white).lerp_(x, weight).add_(layer.add(layer.flip(2, 3)))


def luminance(x: torch.Tensor) -> torch.Tensor:
    """Compute the weighted sum of red, green and blue that video uses: (images, 1, height, width)."""
    return (x[:, :1] * 0.299).add_(x[:, 1:2], alpha=0.587).add_(x[:, 2:3], alpha=0.114)


def frost(x: torch.Tensor, weights: tuple[float, float], draws: Draws, pictures: Pictures) -> torch.Tensor:
    """Add a random piece of a random picture of frost, see `utilities.datasets.corruptions.frost`."""
    return x.mul_(weights[0]).add_(pictures.pieces(draws.uniform(3), *x.shape[-2:]), alpha=weights[1])


def fog(x: torch.Tensor, parameters: tuple[float, float], draws: Draws) -> torch.Tensor:
    """Add a plasma fractal, then scale back to the image's own maximum."""
    thickness, decay = parameters
    height, width = x.shape[-2:]
    side = 1 << (max(height, width) - 1).bit_length()
    layer = plasma(draws.uniform(side * side), decay)[:, None, :height, :width]
    top = x.amax((1, 2, 3), keepdim=True)
    return x.add_(layer, alpha=255 * thickness).mul_(top / (top + 255 * thickness))


def plasma(uniform: torch.Tensor, decay: float) -> torch.Tensor:
    """Make height maps between 0 and 1 by the diamond-square algorithm on a torus (Fournier, Fussell, Carpenter 1982).

    Each point in the middle of a square, then of a diamond, gets the mean of its four corners plus a random height. The
    range of these heights shrinks by ``decay`` squared from one scale to the next.

    Args:
        uniform: Numbers between 0 and 1, (images, side * side); the side is a power of two.
        decay: Decay of the roughness. Larger values give smoother maps.

    Returns:
        Maps (images, side, side).
    """
    count, side = len(uniform), int(uniform.shape[1] ** 0.5)
    heights = uniform.new_zeros(count, side, side)
    step, spread, used = side, 100.0, 0
    while step >= 2:
        half, cells = step // 2, side // step
        rough = uniform[:, used : used + 3 * cells**2].unflatten(1, (3, cells, cells)).mul(2).sub_(1).mul_(spread**2)
        used += 3 * cells**2
        corner = heights[:, ::step, ::step]
        pair = corner + corner.roll(-1, 1)
        heights[:, half::step, half::step] = (pair + pair.roll(-1, 2)) / 4 + rough[:, 0]
        middle, corner = heights[:, half::step, half::step], heights[:, ::step, ::step]
        above = middle + middle.roll(1, 1) + corner + corner.roll(-1, 2)
        beside = middle + middle.roll(1, 2) + corner + corner.roll(-1, 1)
        heights[:, ::step, half::step] = above / 4 + rough[:, 1]
        heights[:, half::step, ::step] = beside / 4 + rough[:, 2]
        step, spread = half, spread / decay
    low, high = heights.amin((1, 2), keepdim=True), heights.amax((1, 2), keepdim=True)
    return (heights - low) / (high - low)
