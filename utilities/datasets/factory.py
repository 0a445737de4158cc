"""Load labelled sets of images by name, each with a fixed train, validation and test split.

====================  ===================================================================================
``digits``            scikit-learn's 1,797 bundled 8x8 digits, 16x16 by default; needs no network
``canvas``            those digits, each at a random place on a canvas of noise, 24x24; masks; needs no network
``photos``            crops of scikit-learn's two bundled photographs, 224x224; needs no network
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
includes them. ``python -m utilities.datasets cifar100`` fetches a set ahead of time.
"""

from __future__ import annotations

import argparse
import difflib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from torchvision import datasets as official
from torchvision.datasets.utils import calculate_md5, check_integrity

from utilities.datasets.canvas import canvas_source
from utilities.datasets.folders import find_folder, imagenet_classes, read_folders, take_part
from utilities.datasets.imagenet_s import FOLDERS, read_imagenet_s
from utilities.datasets.images import Augmentation, ImageDataset, Source
from utilities.datasets.loaders import Loader, make_loader
from utilities.results.writing import check_writable
from utilities.utils import PROJECT_ROOT

__all__ = ["NAMES", "SPLITS", "Augmentation", "ImageDataset", "Loader", "load_dataset", "make_loader"]

NAMES = ("digits", "canvas", "cifar10", "cifar100", "imagenet", *FOLDERS, "photos", "folder:PATH")
MASKED = ("canvas", *FOLDERS)  # sets that have masks of their objects
SPLITS = ("train", "validation", "test", "train+validation")
# Mean and standard deviation over all pixels of the training set. For CIFAR-10 this is not the .2023 that is often
# used, which is the mean of each image's own deviation.
CIFAR = {
    "cifar10": (official.CIFAR10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": (official.CIFAR100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
PHOTO_CROPS = {"train": 1024, "validation": 128, "test": 256}
PHOTO_COLUMNS = {"train": (0, 256), "validation": (256, 448), "test": (448, 640)}


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
        _say_once(f"{name}: {source.note}", source.root)
    if n_images is not None:
        labels = source.labels[source.members]
        if n_images > len(labels):
            raise ValueError(f"n_images={n_images} is more than the {len(labels)} of {name} ({split})")
        source = replace(source, members=source.members[balanced(labels, n_images, seed)])
    if len(source.members) == 0:
        raise ValueError(f"{name} is so small that its {split} split has no image")
    return name, source


def _check(name: str, split: str, image_size: int | None, n_images: int | None, seed: int) -> None:
    if name not in NAMES[:-1] and not name.startswith("folder:"):
        close = difflib.get_close_matches(name.lower().replace("-", ""), NAMES, cutoff=0.5)
        hint = f"; close: {', '.join(close)}" if close else ""
        raise ValueError(f"dataset {name!r} is not known{hint}; known: {', '.join(NAMES)}")
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not known; use one of {', '.join(SPLITS)}")
    for key, value, least in (("image_size", image_size, 1), ("n_images", n_images, 1), ("seed", seed, 0)):
        if value is not None and (not isinstance(value, (int, np.integer)) or value < least):
            raise ValueError(f"{key} should be a whole number of at least {least}, got {value!r}")


@cache
def _say_once(text: str, root: Path) -> None:
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
        return name, _cifar(name, split, root, download)
    if name == "imagenet":
        return name, _imagenet(root.resolve() / "imagenet", split)
    if name in FOLDERS:
        return name, read_imagenet_s(name, root.resolve(), split)
    if name.startswith("folder:"):
        path = find_folder(name.removeprefix("folder:"))
        return f"folder:{path.name}", read_folders(path, split, classes=classes)
    if name == "canvas":
        return name, canvas_source({part: _digits(part) for part in split.split("+")}, seed, image_size)
    return name, _digits(split) if name == "digits" else _photos(split, seed)


def balanced(labels: np.ndarray, n_images: int, seed: int) -> np.ndarray:
    """Choose images class by class in turns; a smaller choice with the same seed is part of a larger one."""
    rng = np.random.default_rng(seed)
    order, turn = rng.permutation(len(labels)), np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        turn[members] = np.arange(len(members))
    priority = rng.permutation(labels.max() + 1)[labels]
    return np.sort(np.lexsort((priority, turn))[:n_images])


def _digits(split: str) -> Source:
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


def _photos(split: str, seed: int) -> Source:
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


def _cifar(name: str, split: str, root: Path, download: bool) -> Source:
    kind, mean, std = CIFAR[name]
    try:
        data = kind(root, train=split != "test")
    except RuntimeError:  # torchvision raises it where files are missing or damaged
        _fetch_cifar(name, root.resolve(), download)
        data = kind(root, train=split != "test")
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    members, tenth = np.arange(len(images)), len(images) // 10
    if split in ("train", "validation"):
        members = members[:-tenth] if split == "train" else members[-tenth:]
    return Source(data.classes, np.array(data.targets), members, size=32, images=images, mean=mean, std=std)


def _fetch_cifar(name: str, root: Path, download: bool) -> None:
    """Unpack the official archive, after downloading it unless somebody has put it there by hand."""
    kind = CIFAR[name][0]
    archive = root / kind.filename
    where = "" if root == PROJECT_ROOT / "data" else f" --root {root}"
    remedy = (
        f"With a network, `python -m utilities.datasets {name}{where}` fetches {kind.url}; without one, put a copy "
        f"of {kind.filename} at {archive}. load_dataset('digits') needs neither."
    )
    if not download and not archive.exists():
        raise FileNotFoundError(f"{root / kind.base_folder} is missing or damaged, and so is {archive}. {remedy}")
    check_writable(archive)
    with FileLock(root / f".{name}.lock"):
        if archive.exists() and not check_integrity(archive, kind.tgz_md5):
            raise ValueError(
                f"{archive} is not the official {kind.filename}: its md5 is {calculate_md5(archive)}, not "
                f"{kind.tgz_md5}. It may be cut short, or another version under this name. Remove it. {remedy}"
            )
        try:
            kind(root, download=True)
        except (URLError, HTTPException, ConnectionError, TimeoutError, RuntimeError) as error:
            listed = (root / kind.base_folder / file for file, md5 in kind.train_list + kind.test_list)
            there = ", ".join(str(path) for path in listed if path.exists())
            state = f"some of {there} is damaged and " if there else ""
            raise ConnectionError(f"{state}{kind.filename} cannot be downloaded: {error}. {remedy}") from error
        finally:
            if archive.exists() and not check_integrity(archive, kind.tgz_md5):
                archive.unlink()  # left by an interrupted download


def _imagenet(path: Path, split: str) -> Source:
    wnids, names = imagenet_classes()
    source = read_folders(path, split, wnids)
    return replace(source, classes=names, size=224, zoom=256 / 224)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fetch a set ahead of time: ``python -m utilities.datasets cifar100``."""
    parser = argparse.ArgumentParser(description="Fetch and check a set of images.")
    parser.add_argument("name", help=", ".join(NAMES))
    parser.add_argument("--root", type=Path, help="folder of downloaded sets (default: data in the project)")
    chosen = parser.parse_args(arguments)
    try:
        dataset = load_dataset(chosen.name, root=chosen.root)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    print(f"{dataset}: {dataset.num_classes} classes, {dataset.image_size} px")


if __name__ == "__main__":
    main()
