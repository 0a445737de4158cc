"""Linear filters of image batches: smoothing, resampling and motion, with the borders of SciPy and OpenCV.

A filter along one axis is a matrix, which includes the rule for the border. Large matrices are applied in bands, using
only the columns of each band that are not zero.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional as F

BLOCK = 32  # outputs per band
Bands = tuple[tuple[int, int, torch.Tensor], ...]


def separable(x: torch.Tensor, rows: Bands, columns: Bands) -> torch.Tensor:
    """Apply one matrix along the height and one along the width: ``rows @ x @ columns.T``.

    Args:
        x: Images (..., height, width).
        rows: Matrix along the height, see `bands`.
        columns: Matrix along the width, see `bands`.

    Returns:
        Images with the matrices' output sizes.

    Example:
        >>> half = bands(np.kron(np.eye(2), [[0.5, 0.5]]))
        >>> separable(torch.arange(16.0).view(4, 4), half, half).tolist()
        [[2.5, 4.5], [10.5, 12.5]]
    """
    return along(along(x, columns, -1), rows, -2)


def along(x: torch.Tensor, matrix: Bands, dim: int) -> torch.Tensor:
    """Apply a matrix along the height (``dim=-2``) or the width (``dim=-1``).

    A single band that is narrower than the axis is repeated along it, block by block.
    """
    start, stop, weight = matrix[0]
    if len(matrix) == 1 and (blocks := x.shape[dim] // (stop - start)) > 1:
        x = x.unflatten(dim, (blocks, stop - start))
        x = x @ weight.to(x.device).T if dim == -1 else weight.to(x.device) @ x
        return x.flatten(dim - 1, dim)
    if dim == -1:
        parts = [x[..., start:stop] @ weight.to(x.device).T for start, stop, weight in matrix]
    else:
        parts = [weight.to(x.device) @ x[..., start:stop, :] for start, stop, weight in matrix]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def bands(matrix: np.ndarray) -> Bands:
    """Cut a matrix (outputs, inputs) into bands of the form (first input, end of inputs, weights)."""
    if max(matrix.shape) <= 2 * BLOCK or len(matrix) <= BLOCK:
        return (_band(matrix, 0, matrix.shape[1]),)
    blocks = [matrix[start : start + BLOCK] for start in range(0, len(matrix), BLOCK)]
    used = [np.flatnonzero(block.any(0)) for block in blocks]
    return tuple(
        _band(block, int(columns[0]), int(columns[-1]) + 1) for block, columns in zip(blocks, used, strict=True)
    )


def repeated(block: np.ndarray) -> Bands:
    """Represent a matrix that repeats the same block along its diagonal."""
    return (_band(block, 0, block.shape[1]),)


def _band(weights: np.ndarray, first: int, end: int) -> tuple[int, int, torch.Tensor]:
    return first, end, torch.from_numpy(weights[:, first:end].astype(np.float32))


def filter_matrix(size: int, kernel: np.ndarray, border: str) -> np.ndarray:
    """Write correlation with a kernel of odd length as a matrix. Borders are named as in `numpy.pad`.

    Example:
        >>> filter_matrix(3, np.array([0.25, 0.5, 0.25]), "edge").tolist()
        [[0.75, 0.25, 0.0], [0.25, 0.5, 0.25], [0.0, 0.25, 0.75]]
    """
    padded = np.pad(np.arange(size), len(kernel) // 2, mode=border)
    matrix = np.zeros((size, size))
    for shift, weight in enumerate(kernel):
        np.add.at(matrix, (np.arange(size), padded[shift : shift + size]), weight)
    return matrix


def gaussian_kernel(sigma: float, radius: int) -> np.ndarray:
    """Sample a Gaussian at the pixels, scaled to a sum of one."""
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return weights / weights.sum()


@lru_cache(maxsize=64)
def _gaussian_bands(size: int, sigma: float, truncate: float, border: str) -> Bands:
    return bands(filter_matrix(size, gaussian_kernel(sigma, int(truncate * sigma + 0.5)), border))


def gaussian(x: torch.Tensor, sigma: float, truncate: float = 4, border: str = "edge") -> torch.Tensor:
    """Smooth as `scipy.ndimage.gaussian_filter` does, with scikit-image's defaults."""
    return separable(x, *(_gaussian_bands(size, sigma, truncate, border) for size in x.shape[-2:]))


def linear_matrix(positions: np.ndarray, size: int) -> np.ndarray:
    """Write linear interpolation at positions from 0 to ``size - 1`` as a matrix."""
    low = np.clip(np.floor(positions).astype(int), 0, max(size - 2, 0))
    part = np.clip(positions - low, 0, 1)
    matrix = np.zeros((len(positions), size))
    matrix[np.arange(len(low)), low] = 1 - part
    np.add.at(matrix, (np.arange(len(low)), np.minimum(low + 1, size - 1)), part)
    return matrix


@lru_cache(maxsize=256)
def _zoom_bands(size: int, factor: float) -> Bands:
    crop = math.ceil(size / factor)
    top, zoomed = (size - crop) // 2, max(round(crop * factor), size)
    positions = np.linspace(0, crop - 1, zoomed)[(zoomed - size) // 2 :][:size]
    return bands(linear_matrix(positions + top, size))


def zoom(x: torch.Tensor, factor: float) -> torch.Tensor:
    """Enlarge the middle linearly, as `scipy.ndimage.zoom` does, and crop it to the original size."""
    return separable(x, *(_zoom_bands(size, factor) for size in x.shape[-2:])) if factor != 1 else x


def motion(x: torch.Tensor, radius: int, sigma: float, degrees: torch.Tensor) -> torch.Tensor:
    """Smear each image along its own direction with half a Gaussian, as ImageMagick does, repeating the borders.

    Taps below 1e-4 of the total are left out.

    Args:
        x: Images (images, channels, height, width).
        radius: There are twice this many taps plus one, a pixel apart.
        sigma: Standard deviation of the Gaussian, in pixels.
        degrees: Angle of each image's direction in degrees, (images,).

    Returns:
        Images of the same shape.
    """
    weights = np.exp(-0.5 * (np.arange(2 * radius + 1) / sigma) ** 2)
    weights = weights[weights >= 1e-4 * weights.sum()]
    count, channels, height, width = x.shape
    reach = len(weights)
    padded = F.pad(x, (reach, reach, 0, 0), mode="replicate")
    wide = width + 2 * reach
    starts = padded.as_strided((padded.numel() - width + 1, width), (1, 1))  # a row starting at every value
    steps = torch.arange(reach, dtype=torch.float64)[:, None]
    angle = torch.deg2rad(degrees.cpu().double())  # in float64, so that all devices agree
    down, right = (torch.ceil(steps * turn(angle) - 0.5)[..., None] for turn in (torch.sin, torch.cos))
    down, right = down.long().to(x.device), right.long().to(x.device)
    row = (torch.arange(height, device=x.device) + down).clamp_(0, height - 1).mul_(wide).add_(right + reach)
    plane = torch.arange(count * channels, device=x.device).view(count, channels, 1) * (height * wide)
    out = torch.zeros(count * channels * height, width, device=x.device)
    for weight, places in zip((weights / weights.sum()).tolist(), row[:, :, None], strict=True):
        out.add_(starts.index_select(0, (plane + places).flatten()), alpha=weight)
    return out.view(x.shape)


def mirrored(x: torch.Tensor, pad: int) -> torch.Tensor:
    """Pad height and width by mirroring without repeating the outermost pixel, even by more than the image's size."""
    height, width = x.shape[-2:]
    if pad < min(height, width):
        return F.pad(x, (pad, pad, pad, pad), mode="reflect")
    for dim, size in ((-2, height), (-1, width)):
        index = torch.from_numpy(np.pad(np.arange(size), pad, mode="reflect")).to(x.device)
        x = x.index_select(dim, index)
    return x
