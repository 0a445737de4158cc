"""Read ImageNet-S: images of ImageNet with the pixels of their objects marked (Gao et al. 2022).

Paper: https://arxiv.org/abs/2106.03149, files: https://github.com/LUSSeg/ImageNet-S. Nothing is fetched here: the
images are made from a copy of ImageNet by the scripts of that repository.

====================================  ===============================================================================
``train-semi/WNID/*.JPEG``            ten images of each class
``train-semi-segmentation/WNID/...``  their masks, PNG files of the same names: class = red + 256 green, 0 is unknown,
                                      1000 is to be ignored
``validation/WNID/*.JPEG``            12,419 images of 919 classes, and fewer of the 50 or 300 classes
``validation-segmentation/WNID/...``  their masks
``test``                              not read: its masks are not public
====================================  ===============================================================================

Five of the 919 classes each combine two ImageNet classes. Images of these are left out if their name does not tell
which class it is, as in Vilas et al. 2023 (https://arxiv.org/abs/2310.18969).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from utilities.datasets.folders import imagenet_classes, images_in, open_file, subfolders, take_part
from utilities.datasets.images import Source

FOLDERS = {"imagenet-s50": "ImageNetS50", "imagenet-s300": "ImageNetS300", "imagenet-s919": "ImageNetS919"}
ORIGIN = "https://github.com/LUSSeg/ImageNet-S"
# Each of these holds images of a second class of ImageNet: sunglasses, tub, lens cap, projectile, paper towel.
MERGED = ("n04355933", "n02808440", "n03832673", "n03773504", "n15075141")
CHECKED = 20  # classes whose first mask is checked for the expected class number


def read_imagenet_s(name: str, root: Path, split: str) -> Source:
    """Read images, labels among ImageNet's 1,000 classes, and the paths of their masks.

    Args:
        name: ``imagenet-s50``, ``imagenet-s300`` or ``imagenet-s919``.
        root: Folder that holds the set's folder.
        split: ``test`` reads the set's ``validation``; the other splits are cut out of ``train-semi``.

    Raises:
        FileNotFoundError: If folders or masks are missing; the message states the expected place and layout.
        ValueError: If class numbers cannot be told.

    Example:
        >>> read_imagenet_s("imagenet-s50", Path("/nowhere"), "test")
        Traceback (most recent call last):
        FileNotFoundError: no class folders in /nowhere/ImageNetS50/validation; ...
    """
    path, part = root / FOLDERS[name], "validation" if split == "test" else "train-semi"
    for place in (path / part, path / f"{part}-segmentation"):
        if not subfolders(place):
            raise FileNotFoundError(
                f"no class folders in {place}; expected: {path}/train-semi, train-semi-segmentation, validation and "
                f"validation-segmentation, each with WNID/NAME, as datapreparation/data_preparation.sh and "
                f"datapreparation_anno.sh of {ORIGIN} make them from a copy of ImageNet"
            )
    wnids, names = imagenet_classes()
    rows = _rows(path / part, wnids, MERGED if name == "imagenet-s919" else ())
    if not rows:
        raise FileNotFoundError(f"the class folders in {path / part} hold no image; make {name} again, see {ORIGIN}")
    masks = [path / f"{part}-segmentation" / file.parent.name / f"{file.stem}.png" for file, _ in rows]
    missing = [str(mask) for mask in masks if not mask.exists()]
    if missing:
        raise FileNotFoundError(f"{len(missing)} masks are missing, the first is {missing[0]}; unpack {name} again")
    numbers = class_numbers(path, masks)
    files, labels = [file for file, _ in rows], np.array([label for _, label in rows])
    members = np.arange(len(files))
    return Source(
        names,
        labels,
        members if split == "test" else take_part(members, labels, split),
        size=224,
        zoom=256 / 224,
        open=partial(open_file, files),
        files=files,
        root=path,
        open_mask=partial(_open_mask, files, masks, [numbers[file.parent.name] for file in files]),
    )


def read_ids(path: Path) -> np.ndarray:
    """Read the class numbers of a mask's pixels, (height, width); 0 is unknown, 1000 is to be ignored.

    Raises:
        OSError: If the file cannot be read; the message names it.
    """
    red, green, _ = np.moveaxis(np.asarray(open_file([path], 0)).astype(np.int64), -1, 0)  # 256 green needs int64
    return red + 256 * green


def class_numbers(path: Path, masks: list[Path]) -> dict[str, int]:
    """Map each class to its number, counted from 1 in the order of the sorted names (WNIDs).

    That is what the set's documentation states. But its list of the 919 classes is not sorted, and programs may number
    the lines as they are. If the list is present, the order is therefore the one that agrees with the masks.

    Args:
        path: The set's folder. ``ImageNetS_categories_im919.txt`` (or 300, or 50), one WNID a line, is looked for in
            it and beside it; without that file the class folders have to be complete.
        masks: Masks, of which the first ones of some classes are checked.

    Returns:
        Mapping from WNID to number.

    Raises:
        ValueError: If classes are missing, or no order agrees with the masks.
    """
    count = int(path.name.removeprefix("ImageNetS"))
    file = f"ImageNetS_categories_im{count}.txt"
    lists = [place.read_text().split() for place in (path / file, path.parent / file) if place.exists()]
    folders = sorted({name for part in ("train-semi", "validation") for name in subfolders(path / part)})
    listed = lists[0] if lists else folders
    if len(set(listed)) != count or not set(folders) <= set(listed):
        raise ValueError(
            f"{path} has {len(folders)} class folders, and {len(listed)} classes are listed, not {count}: the class "
            f"numbers in its masks cannot be told; put data/categories/{file} of {ORIGIN} into {path}"
        )
    first = {mask.parent.name: mask for mask in reversed(masks)}
    chosen = [sorted(first)[i] for i in np.unique(np.linspace(0, len(first) - 1, CHECKED).astype(int))]
    found = {wnid: set(np.unique(read_ids(first[wnid])).tolist()) for wnid in chosen}
    orders = [{wnid: i for i, wnid in enumerate(order, 1)} for order in (sorted(listed), listed)]
    hits = [sum(numbers[wnid] in found[wnid] for wnid in chosen) for numbers in orders]
    if 2 * max(hits) <= len(chosen):
        raise ValueError(
            f"of {len(chosen)} masks in {masks[0].parent.parent} only {max(hits)} hold the number of their class: "
            f"they are not the masks of {path.name}, or changed in their colours; unpack them again"
        )
    return orders[int(np.argmax(hits))]


def _rows(folder: Path, wnids: list[str], merged: tuple[str, ...]) -> list[tuple[Path, int]]:
    """List the images and their labels; training images are named ``WNID_NUMBER.JPEG``."""
    rows = []
    for wnid in subfolders(folder):
        if wnid not in wnids:
            raise ValueError(f"class folder {folder / wnid} is not one of ImageNet's (such as n01440764)")
        for file in images_in(folder / wnid):
            own = file.name.split("_")[0]
            if own in wnids or wnid not in merged:
                rows.append((file, wnids.index(own if own in wnids else wnid)))
    return rows


def _open_mask(files: list[Path], masks: list[Path], numbers: list[int], index: int) -> Image.Image:
    """Draw the pixels of the image's own class, white on black."""
    ids, size = read_ids(masks[index]), open_file(files, index, header=True)
    if ids.shape != size[::-1]:
        raise ValueError(f"mask {masks[index]} is {ids.shape[1]}x{ids.shape[0]} pixels, its image {size[0]}x{size[1]}")
    return Image.fromarray(np.where(ids == numbers[index], 255, 0).astype(np.uint8))
