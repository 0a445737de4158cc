"""Spatter of water or mud on the lens. For the form of the function see `noise`.

Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261. How water glistens depends on the distance of a drop's
pixels from its edges. Canny's detector finds the edges (https://doi.org/10.1109/TPAMI.1986.4767851). The steps below
work on whole batches, with the borders and rounding of OpenCV.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from utilities.datasets.corruptions.draws import Draws
from utilities.datasets.corruptions.filters import gaussian

WATER, MUD = (175, 238, 238), (63, 42, 20)
FAR = 20  # cap on the distance from an edge, in pixels


def spatter(x: torch.Tensor, parameters: tuple[float, ...], draws: Draws) -> torch.Tensor:
    """Cover with liquid where smoothed noise exceeds a threshold. The liquid is pale turquoise water or brown mud.

    An image without any water stays unchanged. The published script divides zero by zero there.
    """
    mean, deviation, sigma, threshold, strength, mud = parameters
    noise = draws.normal(1, *x.shape[2:]).mul_(deviation).add_(mean)
    liquid = F.threshold(gaussian(noise, sigma), threshold, 0)
    colour = x.new_tensor(MUD if mud else WATER)[:, None, None]
    if mud:
        cover = F.threshold(gaussian((liquid > 0).to(x.dtype), strength), 0.8, 0)
        return x.sub_(colour).mul_(1 - cover).add_(colour)
    liquid = liquid.mul_(255).floor_().clamp_(max=255)
    grey = liquid[:, 0].to(torch.int16).permute(1, 2, 0).contiguous()
    gleam = liquid.mul_(glisten(distance(edges(grey))).permute(2, 0, 1)[:, None])
    gleam = gleam / gleam.amax((1, 2, 3), keepdim=True).clamp_(min=1)
    return x.addcmul_(gleam, colour, value=strength)


# From here on images are int16 (height, width, images), so that neighbours of all images lie side by side in memory.
# Conditions are differences of whole numbers clamped to 0 and 1, which cost a tenth of a comparison.


def edges(grey: torch.Tensor, low: int = 50, high: int = 150) -> torch.Tensor:
    """Find edges by Canny's method, with the sum of absolute Sobel derivatives as the gradient.

    Args:
        grey: Images (height, width, images) from 0 to 255, int16.
        low: Gradient that a pixel next to an edge must exceed.
        high: Gradient that at least one pixel of an edge must exceed.

    Returns:
        Ones on edges and zeros elsewhere, in the same shape.
    """
    padded = _padded(grey, 0)
    across, along = padded[:, 2:] - padded[:, :-2], padded[2:] - padded[:-2]
    dx = (across[:-2] + across[2:]).add_(across[1:-1], alpha=2)
    dy = (along[:, :-2] + along[:, 2:]).add_(along[:, 1:-1], alpha=2)
    flat, steep = dx.abs(), dy.abs()
    size = flat + steep
    near = _neighbours(F.pad(size, (0, 0, 1, 1, 1, 1)))

    def exceeds(before: tuple[int, int], after: tuple[int, int], strictly: int) -> torch.Tensor:
        return (size - torch.maximum(near[before], near[after] + (strictly - 1))).clamp_(0, 1)

    slope = flat.int().mul_(13573)  # the tangent of 22.5 degrees, times 2 ** 15
    level = steep.int().mul_(-(2**15)).add_(slope).clamp_(0, 1).short()
    upright = steep.int().mul_(2**15).sub_(slope).sub_(flat, alpha=2**16).clamp_(0, 1).short()
    crossing = dx.sign_().mul_(dy.sign_()).clamp_(-1, 0).neg_()  # the gradient points to the upper right or lower left
    slanted = 1 - level - upright
    ridge = level * exceeds((0, -1), (0, 1), 0) + upright * exceeds((-1, 0), (1, 0), 0)
    ridge += slanted * crossing * exceeds((-1, 1), (1, -1), 1)
    ridge += slanted * (1 - crossing) * exceeds((-1, -1), (1, 1), 1)
    candidates, found = (ridge * (size - limit).clamp_(0, 1) for limit in (low, high))
    while True:
        padded = F.pad(found, (0, 0, 1, 1, 1, 1))
        rows = torch.maximum(torch.maximum(padded[:-2], padded[1:-1]), padded[2:])
        grown = torch.maximum(torch.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:]).mul_(candidates)
        if torch.equal(grown, found):
            return found
        found = grown


def _padded(x: torch.Tensor, inner: int) -> torch.Tensor:
    """Pad height and width by one, with the outermost pixel (inner 0) or the one next to it (inner 1)."""
    for dim in (0, 1):
        size = x.shape[dim]
        x = torch.cat([x.narrow(dim, inner, 1), x, x.narrow(dim, size - 1 - inner, 1)], dim)
    return x


def _neighbours(padded: torch.Tensor) -> dict[tuple[int, int], torch.Tensor]:
    """Return the nine views of an image that is padded by one, keyed by (down, right)."""
    height, width = padded.shape[0] - 2, padded.shape[1] - 2
    steps = (-1, 0, 1)
    return {(i, j): padded[1 + i : 1 + i + height, 1 + j : 1 + j + width] for i in steps for j in steps}


def distance(found: torch.Tensor) -> torch.Tensor:
    """Measure each pixel's Euclidean distance to the nearest edge, up to 20 pixels: float32.

    OpenCV uses an approximation that is off by up to two percent. Along one axis distances add up, so steps of 1, 2, 4,
    8 and 16 reach all pixels. Along the other axis squares add up, and each further step costs the next odd number.
    """
    far = (1 - found).mul_(FAR)
    for step in (1, 2, 4, 8, 16):
        far = _nearer(far, 0, step, step)
    square = far.mul_(far)
    for step in range(1, FAR):
        square = _nearer(square, 1, 1, 2 * step - 1)
    return square.float().sqrt_()


def _nearer(x: torch.Tensor, dim: int, step: int, cost: int) -> torch.Tensor:
    """Replace each pixel, in place, by the minimum of itself and the pixels a step away plus a cost."""
    size = x.shape[dim] - step
    if size <= 0:
        return x
    further = x + cost
    for target, source in ((0, step), (step, 0)):
        view = x.narrow(dim, target, size)
        torch.minimum(view, further.narrow(dim, source, size), out=view)
    return x


def glisten(away: torch.Tensor) -> torch.Tensor:
    """Turn distances into highlights: smooth, equalise the histogram, take diagonal differences, and smooth again."""
    near = _neighbours(_padded(equalise(_box(away).add_(1e-3).to(torch.int32)), 1))
    slope = near[0, 0] + near[0, 1] + near[1, 0] - near[-1, 0] - near[0, -1]
    slope.add_(near[1, 1], alpha=2).sub_(near[-1, -1], alpha=2)
    return _box(slope.clamp_(0, 255).float()).round_()


def _box(x: torch.Tensor) -> torch.Tensor:
    padded = _padded(x, 1)
    rows = (padded[:-2] + padded[1:-1]).add_(padded[2:])
    return (rows[:, :-2] + rows[:, 1:-1]).add_(rows[:, 2:]).mul_(1 / 9)


def equalise(level: torch.Tensor, levels: int = FAR + 1) -> torch.Tensor:
    """Equalise each image's histogram of whole numbers, as `cv2.equalizeHist` does: int16."""
    count = level.shape[-1]
    index = (level + torch.arange(count, device=level.device, dtype=level.dtype) * levels).flatten()
    histogram = torch.bincount(index, minlength=count * levels).view(count, levels)
    first = (histogram > 0).int().argmax(1, keepdim=True)  # the lowest level goes to zero
    lowest = histogram.gather(1, first)
    above = histogram.sum(1, keepdim=True) - lowest
    share = (histogram.cumsum(1) - lowest).clamp_(min=0).float().mul_(255).div_(above.clamp(min=1)).round_()
    table = torch.where(above > 0, share, first.float()).to(torch.int16)
    return table.flatten().index_select(0, index).view(level.shape)
