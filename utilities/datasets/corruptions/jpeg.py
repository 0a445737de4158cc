"""JPEG compression of image batches: the losses of a round trip through the format, without the entropy coding.

Three steps lose information: the colour transform, the halving of the chroma, and the rounding of the coefficients of
the 8 x 8 cosine transform. They follow ITU-T T.81, https://www.w3.org/Graphics/JPEG/itu-t81.pdf, with the tables of its
annex K scaled as in libjpeg. Everything but the rounding is linear, so one matrix per axis combines padding, halving
and cosine transform.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

from utilities.datasets.corruptions.draws import Draws
from utilities.datasets.corruptions.filters import Bands, along, bands, linear_matrix, repeated, separable

LUMINANCE = """
    16 11 10 16 24 40 51 61      12 12 14 19 26 58 60 55      14 13 16 24 40 57 69 56      14 17 22 29 51 87 80 62
    18 22 37 56 68 109 103 77    24 35 55 64 81 104 113 92    49 64 78 87 103 121 120 101  72 92 95 98 112 100 103 99
"""
CHROMINANCE = """
    17 18 24 47 99 99 99 99      18 21 26 66 99 99 99 99      24 26 56 99 99 99 99 99      47 66 99 99 99 99 99 99
    99 99 99 99 99 99 99 99      99 99 99 99 99 99 99 99      99 99 99 99 99 99 99 99      99 99 99 99 99 99 99 99
"""


def jpeg_compression(x: torch.Tensor, quality: int, draws: Draws) -> torch.Tensor:
    """Compress and decompress, with chroma at half the resolution.

    Unlike libjpeg, this function does not round the chroma before enlarging it. On average values differ from libjpeg's
    by about 0.1 to 1.5 of 255 levels. They differ most where coefficients lie halfway between two steps.
    """
    red, green, blue = x.transpose(0, 1).contiguous()
    luma = (red * 0.299).add_(green, alpha=0.587).add_(blue, alpha=0.114).round_()
    chroma = torch.stack([blue, red]).sub_(luma)
    chroma[0] *= 0.5 / 0.886
    chroma[1] *= 0.5 / 0.701
    luma = _quantise(luma.sub_(128), LUMINANCE, quality, 1).add_(128).round_().clamp_(0, 255)
    cb, cr = _quantise(chroma.round_(), CHROMINANCE, quality, 2).round_()
    planes = luma.expand(3, -1, -1, -1).clone()
    planes[0].add_(cr, alpha=1.402)
    planes[1].sub_(cb, alpha=0.344136).sub_(cr, alpha=0.714136)
    planes[2].add_(cb, alpha=1.772)
    return planes.add_(0.5).transpose(0, 1)


def _quantise(x: torch.Tensor, table: str, quality: int, step: int) -> torch.Tensor:
    """Round the coefficients of 8 x 8 blocks, which consist of pixels or of means over step x step pixels.

    Coefficients are first rounded to eighths, like libjpeg's integers. Halves are rounded away from zero.
    """
    (forward_y, back_y), (forward_x, back_x) = (_transforms(size, step) for size in x.shape[-2:])
    x = separable(x, forward_y, forward_x).mul_(8).round_()
    height, width = x.shape[-2:]
    divisor = quantisation(table, quality).to(x.device).repeat(height // 8, width // 8)
    x.mul_(0.125 / divisor)
    x.add_(x.sign(), alpha=1e-4).round_().mul_(divisor)
    return along(along(x, back_y, -2), back_x, -1)  # enlarge the cheaper axis first


def quantisation(table: str, quality: int) -> torch.Tensor:
    """Scale a table of annex K to a quality from 1 to 100, as libjpeg does.

    Example:
        >>> quantisation(LUMINANCE, 50)[0, :3].tolist(), quantisation(LUMINANCE, 10)[0, :3].tolist()
        ([16.0, 11.0, 10.0], [80.0, 55.0, 50.0])
    """
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    values = (np.array(table.split(), dtype=int) * scale + 50) // 100
    return torch.from_numpy(values.clip(1, 255).reshape(8, 8).astype(np.float32))


@lru_cache(maxsize=16)
def _transforms(size: int, step: int) -> tuple[Bands, Bands]:
    """Make the matrices of one axis, for the way forward and back.

    The way forward pads to whole blocks, averages and applies the cosine transform. The way back inverts the transform
    and enlarges linearly.
    """
    n = 8 * math.ceil(size / (8 * step))
    k = np.arange(8)
    cosine = np.sqrt(np.where(k == 0, 1, 2) / 8)[:, None] * np.cos(np.pi * k[:, None] * (2 * k + 1) / 16)
    if size == n * step:  # the matrix repeats every 16 pixels, or every 8
        repeats = 2 if step == 1 and size % 16 == 0 else 1
        forward = np.kron(np.eye(repeats), cosine @ np.kron(np.eye(8), np.full((1, step), 1 / step)))
        if step == 1:
            return repeated(forward), repeated(forward.T)
    cosine = np.kron(np.eye(n // 8), cosine)
    pad = np.eye(size)[np.minimum(np.arange(n * step), size - 1)]
    mean = np.kron(np.eye(n), np.full((1, step), 1 / step))
    centres = np.clip((np.arange(size) + 0.5) / step - 0.5, 0, math.ceil(size / step) - 1)
    back = bands(linear_matrix(centres, n) @ cosine.T)
    return repeated(forward) if size == n * step else bands(cosine @ mean @ pad), back
