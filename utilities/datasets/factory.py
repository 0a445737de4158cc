"""Load labelled sets of images by name, each with a fixed train, validation and test split.

====================  ===================================================================================
``digits``            scikit-learn's 1,797 bundled 8x8 digits, 16x16 by default; needs no network
``canvas``            those digits, each at a random place on a canvas of noise, 24x24; masks; needs no network
``photos``            crops of ten pictures that scikit-learn and scikit-image bundle, 224x224; needs no network
``cifar10/cifar100``  the official Python archives, downloaded when missing; 32x32
``imagenet``          class folders ``ROOT/imagenet/train/n01440764/...`` and ``ROOT/imagenet/val/...``; 224x224
``imagenet-s919``     and ``-s300``, ``-s50``: ImageNet-S, see `utilities.datasets.imagenet_s`; masks; 224x224
``folder:PATH``       any class folders: ``PATH/train/CLASS/*.jpg`` and ``PATH/test/CLASS/*.jpg`` (or ``val``,
                      ``valid``, ``validation``), or ``PATH/CLASS/*.jpg``
====================  ===================================================================================

``canvas`` and ImageNet-S come with masks of the objects: items are (image, label, mask).

The test set is for reporting only. If a set has no validation part of its own, a tenth of its training images is held
out, the same for every seed. It is a tenth of each class, drawn once; for CIFAR, it is the last tenth of the training
files (the last 5,000, as in Raghu et al. 2021). ``split="train"`` excludes those images, ``"train+validation"``
includes them. ``python -m utilities fetch cifar100`` fetches a set ahead of time.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from utilities.datasets.bundled import read_digits, read_photos
from utilities.datasets.canvas import canvas_source
from utilities.datasets.cifar import CIFAR, read_cifar
from utilities.datasets.folders import find_folder, imagenet_classes, read_folders
from utilities.datasets.imagenet_s import FOLDERS, read_imagenet_s
from utilities.datasets.images import Augmentation, ImageDataset, Source
from utilities.datasets.loaders import Loader, make_loader
from utilities.utils import PROJECT_ROOT

__all__ = ["NAMES", "SPLITS", "Augmentation", "ImageDataset", "Loader", "load_dataset", "make_loader"]

NAMES = ("digits", "canvas", "cifar10", "cifar100", "imagenet", *FOLDERS, "photos", "folder:PATH")
MASKED = ("canvas", *FOLDERS)  # sets that have masks of their objects
SPLITS = ("train", "validation", "test", "train+validation")


def load_dataset(
    name: str,
    split: str = "test",
    *,
    image_size: int | None = None,
    n_images: int | None = None,
    seed: int = 0,
    augment: bool = False,
    root: str | Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    transform: Callable[[Image.Image], torch.Tensor] | None = None,
    masks: bool | None = None,
    download: bool = True,
    classes: Sequence[str] | str | Path | None = None,
) -> ImageDataset:
    """Load one split of a set of images by name.

    Args:
        name: One of `NAMES`, see the table above. A relative PATH in ``folder:PATH`` is looked up in the working
            directory, then in the project. A PATH that holds class folders directly is split into 70 % train and 30 %
            test of each class, the same for every seed, with a warning. If there are ``train``, ``val`` (or ``valid``,
            ``validation``) and ``test`` folders, each is what its name says; if there are two, ``test`` or ``val`` is
            the test set. Pictures of 16 bits and of floating-point numbers in 0..1 are converted to 8 bits, and turned
            upright as their EXIF data say. Those of ImageNet are not turned, as they were not for published models.
        split: ``train``, ``validation``, ``test`` or ``train+validation``.
        image_size: Height and width in pixels; None is the set's own. Whole images are resized bilinearly, the
            shorter side first, and cropped at the centre (ImageNet: 256 to 224, and in proportion for other sizes).
            Folders whose first images differ in size default to 224.
        n_images: Number of images to keep, as equally spread over the classes as possible; None keeps all.
        seed: Seed of that choice, of the crops of ``photos`` (whose splits are separate parts of the picture), and of
            the places and the noise of ``canvas`` (whose splits share no digit).
        augment: Whether to shift images by up to size/8 pixels and mirror them, see
            `utilities.datasets.images.Augmentation`. Digits are never mirrored: mirrored digits are other symbols.
        root: Folder of downloaded sets; None is ``data`` in the project.
        mean: Three channel means, for images in 0..1; None is the set's own (``folder`` and ``photos``: ImageNet's).
        std: Three channel deviations; None as for ``mean``.
        transform: Function from an RGB ``PIL.Image`` to a float tensor (3, size, size), in place of all of the above.
            Masks are drawn as pictures and go through it as well, so it may not draw random numbers for a set with
            masks.
        masks: Whether to add each object's mask as a third item, see `utilities.datasets.images.ImageDataset`. None
            adds it where the set has masks.
        download: Whether CIFAR may be fetched when it is missing.
        classes: Order of the classes of a ``folder:``, and thus the labels: names, a text file with one name a line,
            or ``"natural"``, which puts 2 before 10 as timm does. None is alphabetical.

    Returns:
        The dataset.

    Raises:
        ValueError: If a name, split or number is out of range, classes are empty or differ between splits, or an
            archive is not the official one.
        FileNotFoundError: If a folder is missing; the message states the expected place and layout.
        ConnectionError: If a download fails; the message states what to fetch by hand and where to put it.
        OSError: If an image cannot be read.

    Example:
        >>> digits = load_dataset("digits", "test")
        >>> print(digits)
        digits (test, 540 images)
        >>> image, label = digits[0]
        >>> image.shape, digits.classes[label]
        (torch.Size([3, 16, 16]), '0')
    """
    _check(name, split, image_size, n_images, seed)
    if transform is not None and (image_size, mean, std) != (None, None, None):
        raise ValueError("a transform decides on image_size, mean and std by itself: leave those out")
    if masks and name not in MASKED:
        raise ValueError(f"{name} has no masks; sets that have them: {', '.join(MASKED)}")
    choice = {"image_size": image_size, "n_images": n_images, "seed": seed, "download": download, "classes": classes}
    name, source = load_source(name, split, root=root, **choice)
    if masks is False:
        source = replace(source, masks=None, open_mask=None)
    own = {"size": image_size, "mean": mean, "std": std}
    source = replace(source, **{key: value for key, value in own.items() if value is not None})
    if len(source.mean) != 3 or len(source.std) != 3 or min(source.std) <= 0:
        raise ValueError(f"mean and std should be three numbers, std above 0; got {source.mean}, {source.std}")
    dataset = ImageDataset(source, name, split, transform)
    if augment:
        dataset.augmentation = Augmentation(dataset.image_size // 8, source.flip)
    return dataset


def load_source(
    name: str,
    split: str,
    *,
    image_size: int | None = None,
    n_images: int | None = None,
    seed: int = 0,
    root: str | Path | None = None,
    download: bool = True,
    classes: Sequence[str] | str | Path | None = None,
) -> tuple[str, Source]:
    """Find the images of a split, without decoding those in files; for the arguments see `load_dataset`.

    Returns:
        The set's name for captions, and the images.

    Example:
        >>> name, source = load_source("digits", "test")
        >>> name, len(source.members)
        ('digits', 540)
    """
    _check(name, split, image_size, n_images, seed)
    if classes is not None and not name.startswith("folder:"):
        raise ValueError(f"classes gives the order of the classes of a folder:PATH; those of {name} have their own")
    root = PROJECT_ROOT / "data" if root is None else Path(root)
    name, source = _read(name, split, root, seed, image_size, download, classes)
    if source.note:
        _warn_once(f"{name}: {source.note}", source.root)
    if n_images is not None:
        labels = source.labels[source.members]
        if n_images > len(labels):
            raise ValueError(f"n_images={n_images} is more than the {len(labels)} of {name} ({split})")
        source = replace(source, members=source.members[balanced(labels, n_images, seed)])
    if len(source.members) == 0:
        raise ValueError(
            f"{name} is so small that its {split} split has no image: add images, or folders of that split"
        )
    return name, source


def check_name(name: str) -> None:
    """Check that a set of images is known by a name; a folder need not be there.

    Raises:
        ValueError: If it is not; the message names close ones.

    Example:
        >>> check_name("folder:pets")
    """
    if name not in NAMES[:-1] and not name.startswith("folder:"):
        close = difflib.get_close_matches(name.lower().replace("-", ""), NAMES, cutoff=0.5)
        hint = f"; close: {', '.join(close)}" if close else ""
        raise ValueError(f"dataset {name!r} is not known{hint}; known: {', '.join(NAMES)}")


def _check(name: str, split: str, image_size: int | None, n_images: int | None, seed: int) -> None:
    check_name(name)
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not known; use one of {', '.join(SPLITS)}")
    for key, value, least in (("image_size", image_size, 1), ("n_images", n_images, 1), ("seed", seed, 0)):
        if value is not None and (not isinstance(value, (int, np.integer)) or value < least):
            raise ValueError(f"{key} should be a whole number of at least {least}, got {value!r}")


@cache
def _warn_once(text: str, root: Path) -> None:
    """Warn once for each folder, not for each split and each model that it is loaded for."""
    warnings.warn(text, stacklevel=3)


def _read(
    name: str,
    split: str,
    root: Path,
    seed: int,
    image_size: int | None,
    download: bool,
    classes: Sequence[str] | str | Path | None,
) -> tuple[str, Source]:
    """Return the name for captions and the images of the split."""
    if name in CIFAR:
        return name, read_cifar(name, split, root, download)
    if name == "imagenet":
        return name, _imagenet(root.resolve() / "imagenet", split)
    if name in FOLDERS:
        return name, read_imagenet_s(name, root.resolve(), split)
    if name.startswith("folder:"):
        path = find_folder(name.removeprefix("folder:"))
        return f"folder:{path.name}", read_folders(path, split, classes=classes)
    if name == "canvas":
        return name, canvas_source({part: read_digits(part) for part in split.split("+")}, seed, image_size)
    return name, read_digits(split) if name == "digits" else read_photos(split, seed)


def balanced(labels: np.ndarray, n_images: int, seed: int) -> np.ndarray:
    """Choose images class by class in turns; a smaller choice with the same seed is part of a larger one."""
    rng = np.random.default_rng(seed)
    order, turn = rng.permutation(len(labels)), np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        turn[members] = np.arange(len(members))
    priority = rng.permutation(labels.max() + 1)[labels]
    return np.sort(np.lexsort((priority, turn))[:n_images])


def _imagenet(path: Path, split: str) -> Source:
    wnids, names = imagenet_classes()
    source = read_folders(path, split, wnids)
    return replace(source, classes=names, size=224, zoom=256 / 224)
