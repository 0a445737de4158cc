"""Images that installed packages bring along: scikit-learn's digits, and crops of its and scikit-image's pictures."""

from __future__ import annotations

import importlib.util
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from utilities.datasets.folders import take_part
from utilities.datasets.images import Source

# Files of scikit-image's package, by class. They are all its colour scenes that need no download.
SCENES = {
    "astronaut": "astronaut.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "galaxies": "hubble_deep_field.jpg",
    "tissue": "ihc.png",
    "motorcycle": "motorcycle_left.png",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
}
PHOTO_CLASSES = ["china", "flower", *SCENES]
PHOTO_CROPS = {"train": 512, "validation": 64, "test": 128}  # of each class
# Each split has a strip of its own of every picture, and crops are as large as the narrowest strip allows. Pixels are
# those of a picture of 640 columns, as scikit-learn's two are; all grow in proportion to a picture's width.
PHOTO_COLUMNS = {"train": (0, 256), "validation": (256, 448), "test": (448, 640)}
CROP_SIDES = (112, 192)
PHOTO_WIDTH = 640


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
    """Draw crops from ten pictures, each of which is a class; each split has a strip of its own.

    Args:
        split: ``train``, ``validation``, ``test`` or two of them joined by ``+``.
        seed: Seed of the places and sizes of the crops.

    Raises:
        FileNotFoundError: If scikit-image lacks one of its pictures.
    """
    pictures = _pictures()
    tables = [
        _draw_crops(number, part, seed, [picture.shape[:2] for picture in pictures])
        for number, part in enumerate(PHOTO_COLUMNS)
        if part in split.split("+")
    ]
    table = np.concatenate(tables)
    return Source(PHOTO_CLASSES, table[:, 0], np.arange(len(table)), size=224, open=partial(_crop_photo, table))


def _draw_crops(number: int, part: str, seed: int, sizes: list[tuple[int, int]]) -> np.ndarray:
    """Draw the crops of one split: columns class, left, top and side.

    scikit-learn's two pictures take turns and have a generator of their own, so that their crops do not depend on the
    pictures that follow.
    """
    found = []
    for classes, generator in (([0, 1], [seed, number]), (range(2, len(sizes)), [seed, number, 2])):
        rng, which = np.random.default_rng(generator), np.resize(np.array(classes), PHOTO_CROPS[part] * len(classes))
        height, width = np.array(sizes)[which].T
        scale = width / PHOTO_WIDTH
        left, right = (
            round_(column * scale) for round_, column in zip((np.ceil, np.floor), PHOTO_COLUMNS[part], strict=True)
        )
        side = np.minimum(rng.integers(*CROP_SIDES, len(which), endpoint=True) * scale, right - left).astype(np.int64)
        x = left + rng.random(len(which)) * (right - left - side)
        y = rng.random(len(which)) * (height - side)
        found.append(np.stack([which, x.astype(np.int64), y.astype(np.int64), side], axis=1))
    return np.concatenate(found)


@cache
def _pictures() -> list[np.ndarray]:
    """Decode the pictures once, in the order of the classes."""
    from sklearn.datasets import load_sample_images

    return [*load_sample_images().images, *(np.asarray(Image.open(path).convert("RGB")) for path in _scenes())]


def _scenes() -> list[Path]:
    """Find scikit-image's pictures without importing it, which would look for a downloader."""
    spec = importlib.util.find_spec("skimage")
    if spec is None:
        raise FileNotFoundError("photos needs the pictures of scikit-image: pip install scikit-image")
    paths = [Path(spec.submodule_search_locations[0]) / "data" / file for file in SCENES.values()]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"photos needs {', '.join(missing)} in {paths[0].parent}: pip install --force-reinstall scikit-image"
        )
    return paths


def _crop_photo(table: np.ndarray, index: int) -> Image.Image:
    which, x, y, side = table[index]
    return Image.fromarray(_pictures()[which][y : y + side, x : x + side])
