"""Images that scikit-learn brings along: its digits, and crops of its two photographs."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from PIL import Image

from utilities.datasets.folders import take_part
from utilities.datasets.images import Source

PHOTO_CROPS = {"train": 1024, "validation": 128, "test": 256}
PHOTO_COLUMNS = {"train": (0, 256), "validation": (256, 448), "test": (448, 640)}


def read_digits(split: str) -> Source:
    """Read a split of the 8x8 digits; 30 % are the test set, equally many of each class."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.3, stratify=labels, random_state=0)
    images = torch.from_numpy(pixels.reshape(-1, 1, 8, 8) * (255 / 16)).round().to(torch.uint8)
    members = np.sort(test) if split == "test" else take_part(np.sort(train), labels, split)
    return Source(
        [str(i) for i in range(10)],
        labels,
        members,
        size=16,
        images=images.expand(-1, 3, -1, -1).contiguous(),
        mean=(0.3056,) * 3,  # of the training images at 16x16
        std=(0.3190,) * 3,
        flip=False,
    )


def read_photos(split: str, seed: int) -> Source:
    """Draw crops from the two photographs; each split has a strip of its own."""
    from sklearn.datasets import load_sample_images

    photos = load_sample_images().images
    crops = []
    for number, (part, (left, right)) in enumerate(PHOTO_COLUMNS.items()):
        if part in split.split("+"):
            rng, count = np.random.default_rng([seed, number]), PHOTO_CROPS[part]
            side = rng.integers(112, 192, count, endpoint=True)
            x = left + rng.random(count) * (right - left - side)
            y = rng.random(count) * (photos[0].shape[0] - side)
            crops.append(np.stack([np.arange(count) % 2, x.astype(np.int64), y.astype(np.int64), side], axis=1))
    table = np.concatenate(crops)
    opener = partial(_crop_photo, photos, table)
    return Source(["china", "flower"], table[:, 0], np.arange(len(table)), size=224, open=opener)


def _crop_photo(photos: list[np.ndarray], table: np.ndarray, index: int) -> Image.Image:
    which, x, y, side = table[index]
    return Image.fromarray(photos[which][y : y + side, x : x + side])
