"""Draw digits on noise: images whose object fills a square that is known to the pixel.

Whether a token knows the class can be told apart from whether the object is there only if the object's place is known.
Vilas et al. 2023 (https://arxiv.org/abs/2310.18969) tell class tokens from context tokens by ImageNet-S. Here the masks
are exact: a handwritten digit, on its own black ground, replaces a square of uniform noise. There are fewer digits than
canvases: each of 540 test digits is on two of 1,080 canvases, so errors over images are a little too small.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional as F

from utilities.datasets.images import Source

COUNTS = {"train": 8000, "validation": 500, "test": 1080}
SIZE = 24  # pixels, by default
LEAST_SIZE = 4
NOISE = 0.6  # the brightest noise, where the brightest digit is 1
MEAN, STD = 0.3015, 0.2209  # of the training canvases of seed 0 at 24x24


def canvas_source(digits: Mapping[str, Source], seed: int, size: int | None = None) -> Source:
    """Draw the canvases of some splits, all at one size.

    Places and noise are functions of (seed, split, index of the image) alone. The digit of an image is a function of
    split and index; the digits of each class take turns.

    Args:
        digits: Mapping from each wanted split to its digits, uint8, of which ``members`` form the split.
        seed: Seed of places and noise.
        size: Height and width in pixels; None is 24.

    Returns:
        The images and their masks.

    Raises:
        ValueError: If the size is too small to hold a digit.

    Example:
        >>> pixels = torch.full((10, 3, 8, 8), 255, dtype=torch.uint8)
        >>> ten = Source(list("0123456789"), np.arange(10), np.arange(10), size=8, images=pixels)
        >>> drawn = canvas_source({"test": ten}, seed=0)
        >>> drawn.images.shape, int(drawn.masks[0].sum())
        (torch.Size([1080, 3, 24, 24]), 144)
    """
    size = SIZE if size is None else size
    if size < LEAST_SIZE:
        raise ValueError(f"image_size={size} is too small for a digit on a canvas; take {LEAST_SIZE} or more")
    parts = []
    for split, source in digits.items():
        shown = in_turns(source.labels[source.members], COUNTS[split])
        pixels = source.images[torch.from_numpy(source.members), :1]
        rng = np.random.default_rng([seed, list(COUNTS).index(split)])
        images, masks = paste(_shrunk(pixels, size)[shown], size, rng)
        parts.append((images, masks, source.labels[source.members][shown]))
    images, masks, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Source(
        next(iter(digits.values())).classes,
        labels,
        np.arange(len(labels)),
        size=size,
        images=torch.from_numpy(images)[:, None].expand(-1, 3, -1, -1),
        masks=torch.from_numpy(masks),
        mean=(MEAN,) * 3,
        std=(STD,) * 3,
        flip=False,
    )


def in_turns(labels: np.ndarray, count: int) -> np.ndarray:
    """Choose ``count`` indices: classes take turns, and within each class its members take turns.

    Args:
        labels: Whole numbers, (n,).
        count: Number of indices; each class gets as many as the others, or one fewer.

    Example:
        >>> in_turns(np.array([0, 1, 1]), 5).tolist()
        [0, 1, 0, 2, 0]
    """
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    turn, which = np.divmod(np.arange(count), len(members))
    sizes = np.array([len(one) for one in members])
    starts = np.cumsum(sizes) - sizes
    return np.concatenate(members)[starts[which] + turn % sizes[which]]


def paste(objects: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Put each object on its own canvas of noise, anywhere it fits with equal chance.

    Args:
        objects: Grey levels, uint8, (n, side, side).
        size: Height and width of the canvases, at least ``side``.
        rng: Generator to draw from.

    Returns:
        Canvases, uint8, and masks of the objects, bool, both (n, size, size).

    Example:
        >>> canvas, mask = paste(np.full((1, 2, 2), 255, np.uint8), 3, np.random.default_rng(0))
        >>> int(mask.sum()), bool((canvas[mask] == 255).all()), bool((canvas[~mask] <= 153).all())
        (4, True, True)
    """
    n, side, _ = objects.shape
    top, left = rng.integers(0, size - side, (2, n, 1), endpoint=True)
    canvases = rng.integers(0, round(NOISE * 255), (n, size, size), dtype=np.uint8, endpoint=True)
    rows, columns = top + np.arange(side), left + np.arange(side)
    where = np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]
    masks = np.zeros(canvases.shape, dtype=bool)
    canvases[where], masks[where] = objects, True
    return canvases, masks


def _shrunk(digits: torch.Tensor, size: int) -> np.ndarray:
    """Resize digits, uint8 (n, 1, 8, 8), to squares of half the canvas's side."""
    side = max(1, size // 2)
    resized = F.interpolate(digits.float(), size=(side, side), mode="bilinear", antialias=True)
    return resized.round().to(torch.uint8)[:, 0].numpy()
