"""Sets of images with altered labels or pixels, so that models trained on them learn something else on purpose."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import product

import numpy as np
import torch

from utilities.datasets.images import ImageDataset
from utilities.hooks.calls.options import check_number

# Colours that tell classes apart, the first of them the farthest from each other.
COLOURS = sorted(product((0, 128, 255), repeat=3), key=lambda c: (c.count(128), c))


def with_random_labels(data: ImageDataset, share: float, seed: int) -> ImageDataset:
    """Replace the labels of a share of the images by ones drawn at random, each class with the same chance.

    Args:
        data: The set, which is not changed.
        share: Share of the images, 0 to 1. A drawn label is the true one in one of as many cases as there are classes.
        seed: Seed of the choice of images and of their labels.

    Raises:
        ValueError: If the share is out of range.

    Example:
        >>> from utilities.datasets import load_dataset
        >>> digits = load_dataset("digits", "test")
        >>> drawn = with_random_labels(digits, 1.0, seed=0)
        >>> bool((drawn.targets == digits.targets).mean() < 0.2), drawn[0][1] == int(drawn.targets[0])
        (True, True)
    """
    check_number("share", share, least=0, most=1)
    generator, other = np.random.default_rng(seed), copy.copy(data)
    chosen = generator.permutation(len(data))[: round(share * len(data))]
    other.targets = data.targets.copy()
    other.targets[chosen] = generator.integers(data.num_classes, size=len(chosen))
    other._labels = torch.from_numpy(other.targets)
    return other


def with_marks(data: ImageDataset, classes: Sequence[int] | np.ndarray, size: int = 2) -> ImageDataset:
    """Paint a square of a class's colour into the upper left corner of each image: a shortcut to that class.

    Args:
        data: A set in memory, which is not changed.
        classes: The class whose colour each image gets: its label, or one drawn at random, which then says nothing.
        size: Pixels along a side of the square.

    Raises:
        ValueError: If the images are not in memory, the number of classes given is not that of images, or there are
            more classes than colours.

    Example:
        >>> from utilities.datasets import load_dataset
        >>> digits = load_dataset("digits", "test", image_size=8)
        >>> marked = with_marks(digits, digits.targets)
        >>> bool((marked[0][0] != digits[0][0]).sum() <= 12), digits[0][1] == marked[0][1]
        (True, True)
    """
    if data._images is None:
        raise ValueError(f"{data} is read from files, one image at a time: marks are painted on sets in memory")
    if len(classes) != len(data) or data.num_classes > len(COLOURS):
        raise ValueError(f"{len(classes)} marks for {len(data)} images of {data.num_classes} classes ({len(COLOURS)} "
                         "colours): give one for each image")  # fmt: skip
    other, colours = copy.copy(data), torch.tensor(COLOURS, dtype=torch.uint8)
    other._images = data._images.clone()
    other._images[:, :, :size, :size] = colours[torch.as_tensor(np.asarray(classes))][:, :, None, None]
    return other
