"""Brightness, contrast, saturation, elastic transform and pixelation. JPEG has a file of its own.

For the form of the functions see `noise`. Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional as F

from utilities.datasets.corruptions.draws import Draws
from utilities.datasets.corruptions.filters import Bands, along, bands, gaussian


def contrast(x: torch.Tensor, left: float, draws: Draws) -> torch.Tensor:
    """Pull each channel towards its mean over the image."""
    mean = x.mean((2, 3), keepdim=True)
    return x.mul_(left).add_(mean, alpha=1 - left)


def brightness(x: torch.Tensor, amount: float, draws: Draws) -> torch.Tensor:
    """Add to the value of HSV, the largest channel. Hue and saturation stay, so all channels grow by one factor."""
    value = x.amax(1, keepdim=True)
    brighter = (value + 255 * amount).clamp_(max=255)
    black = 1 - value.clamp(max=1)
    return x.mul_(brighter / value.clamp_(min=1)).add_(black.mul_(brighter))


def saturate(x: torch.Tensor, parameters: tuple[float, float], draws: Draws) -> torch.Tensor:
    """Scale and shift the saturation of HSV, keeping value and hue.

    A grey pixel has the hue of red, as in scikit-image, so a positive shift turns it reddish.
    """
    factor, shift = parameters
    value, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    spread = value - low
    wanted = (spread * factor).add_(value, alpha=shift).minimum(value)
    out = torch.lerp(value, x, wanted / spread.clamp(min=1))
    if shift:
        grey = 1 - spread.clamp_(max=1)
        out[:, 1:] -= grey.mul_(wanted)
    return out


def elastic_transform(x: torch.Tensor, parameters: tuple[float, float, float], draws: Draws) -> torch.Tensor:
    """Distort by an affine map with three jittered corners, then shift every pixel by a smoothed random field.

    Both steps interpolate linearly and mirror the borders. The first does not repeat the outermost pixel. The
    parameters are fractions of the shorter side.
    """
    count, _, height, width = x.shape
    strength, sigma, jitter = (min(height, width) * value for value in parameters)
    if jitter:
        grid = _affine_grid(draws.uniform(3, 2).mul_(2 * jitter).sub_(jitter), height, width)
        x = F.grid_sample(x, grid, "bilinear", "reflection", align_corners=True)
    if not strength:
        return x
    shift = gaussian(draws.uniform(2, height, width).mul_(2).sub_(1), sigma, 3, "symmetric").mul_(strength)
    grid = x.new_empty(count, height, width, 2)
    for axis, size in enumerate((width, height)):
        here = torch.arange(size, device=x.device) if axis == 0 else torch.arange(size, device=x.device)[:, None]
        grid[..., axis] = shift[:, axis].mul_(2 / size).add_((2 * here + 1) / size - 1)
    return F.grid_sample(x, grid, "bilinear", "reflection", align_corners=False)


def _affine_grid(jitter: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Compute where each pixel comes from if three corners of a centred square move by ``jitter``.

    The jitter has the shape (images, 3, 2), with x before y.
    """
    reach = min(height, width) // 3
    middle = jitter.new_tensor([width // 2, height // 2])
    corner = middle + reach * jitter.new_tensor([[1, 1], [1, -1], [-1, -1]])
    moved = corner + jitter
    across, down = (moved[:, 1] - moved[:, 2]) / (2 * reach), (moved[:, 0] - moved[:, 1]) / (2 * reach)
    area = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]
    x = (torch.arange(width, device=jitter.device) - moved[:, 1, :1])[:, None, :]
    y = (torch.arange(height, device=jitter.device) - moved[:, 1, 1:])[:, :, None]
    grid = jitter.new_empty(len(jitter), height, width, 2)
    inverse = torch.stack([down[:, 1], -down[:, 0], -across[:, 1], across[:, 0]]) / area
    for axis, size in enumerate((width, height)):
        a, b = inverse[2 * axis : 2 * axis + 2, :, None, None] * (2 / (size - 1))
        grid[..., axis] = x * a + (y * b + (corner[1, axis] * 2 / (size - 1) - 1))
    return grid


def pixelate(x: torch.Tensor, left: float, draws: Draws) -> torch.Tensor:
    """Shrink by averaging over boxes of whole pixels, as Pillow does, and enlarge by repeating."""
    height, width = x.shape[-2:]
    for dim, size in ((-1, width), (-2, height)):
        x = along(x, _box_bands(size, int(size * left)), dim).add_(0.5 + 1e-4).floor_()
    x = along(x, _box_bands(int(width * left), width), -1)
    rows = _nearest(int(height * left), height).to(x.device)
    start = torch.arange(len(x) * 3, device=x.device)[:, None] * x.shape[-2]
    return x.view(-1, width).index_select(0, (start + rows).flatten()).view(len(x), 3, height, width)


@lru_cache(maxsize=64)
def _box_bands(size: int, wanted: int) -> Bands:
    return bands(boxes(size, wanted))


@lru_cache(maxsize=64)
def _nearest(size: int, wanted: int) -> torch.Tensor:
    return torch.from_numpy(boxes(size, wanted).argmax(1))


def boxes(size: int, wanted: int) -> np.ndarray:
    """Compute weights that average over each of ``wanted`` equal parts of an axis, or repeat the nearest pixel.

    A part averages over the pixels whose centres lie in it. The computation follows Pillow's, because rounding decides
    where a centre lies between two parts.

    Example:
        >>> boxes(5, 2).round(2).tolist()
        [[0.33, 0.33, 0.33, 0.0, 0.0], [0.0, 0.0, 0.0, 0.5, 0.5]]
    """
    scale = size / wanted
    reach = max(scale, 1)
    weights = np.zeros((wanted, size))
    for part in range(wanted):
        centre = (part + 0.5) * scale
        first, end = max(int(centre - 0.5 * reach + 0.5), 0), min(int(centre + 0.5 * reach + 0.5), size)
        offset = (np.arange(first, end) - centre + 0.5) * (1 / reach)
        weights[part, first:end] = (offset > -0.5) & (offset <= 0.5)
    return weights / weights.sum(1, keepdims=True)
