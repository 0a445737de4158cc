"""Read folders of class folders, and cut sets without a validation or test part into fixed parts."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from utilities.datasets.class_order import NATURAL, ordered
from utilities.datasets.images import Source
from utilities.datasets.picture import EIGHT_BITS, brightest, open_picture, picture_size, warn_if_dark
from utilities.utils import PROJECT_ROOT

LAYOUT = "expected: PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg (or val), or PATH/CLASS/*.jpg"
TWELVE_BITS = 4095  # white in pictures of twelve bits
CLASSES_SEEN = 64  # most classes of which one picture is checked for its depth
SPLIT_OF_FOLDER = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def held_out(labels: np.ndarray, fraction: float) -> np.ndarray:
    """Mark a fixed share of each class, at least one image in a class that has two.

    Args:
        labels: Labels of all images, (n,).
        fraction: Share to mark.

    Returns:
        Booleans, (n,), the same at every call.

    Example:
        >>> held_out(np.array([0, 0, 0, 0, 1, 1]), 0.25).sum()
        np.int64(2)
    """
    rng, mask = np.random.default_rng(0), np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        mask[members[: max(round(fraction * len(members)), int(len(members) > 1))]] = True
    return mask


def take_part(pool: np.ndarray, labels: np.ndarray, split: str) -> np.ndarray:
    """Select train, validation (a tenth of each class) or both from the ``pool`` of training images.

    Args:
        pool: Indices of the training images.
        labels: Labels of all images, (n,).
        split: ``train``, ``validation``, or anything else for both.

    Example:
        >>> take_part(np.arange(20), np.zeros(20, int), "validation").size
        2
    """
    mask = held_out(labels[pool], 0.1)
    return {"train": pool[~mask], "validation": pool[mask]}.get(split, pool)


def find_folder(name: str) -> Path:
    """Find a folder: as given if absolute, else in the working directory, then in the project.

    Raises:
        FileNotFoundError: If there is none; the message names the places searched.

    Example:
        >>> find_folder("utilities").name
        'utilities'
    """
    if not name:
        raise FileNotFoundError(f"folder: names no folder; write folder:PATH; {LAYOUT}")
    path = Path(name).expanduser()
    places = [path] if path.is_absolute() else [Path.cwd() / path, PROJECT_ROOT / path]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        looked = " and ".join(dict.fromkeys(map(str, places)))
        raise FileNotFoundError(f"no folder 'folder:{name}': looked at {looked}; {LAYOUT}")
    # A link keeps its own name, which figures show.
    return found.resolve() if found.name == ".." else found.absolute()


def subfolders(folder: Path) -> list[str]:
    """Name the folders in a folder, sorted, without hidden ones; an empty list if the folder does not exist.

    Example:
        >>> subfolders(Path("/nowhere"))
        []
    """
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())


def read_folders(
    path: Path, split: str, known: list[str] | None = None, classes: Sequence[str] | str | Path | None = None
) -> Source:
    """Read a tree of class folders.

    Args:
        path: A folder that holds ``train``, ``val`` (or ``valid``, ``validation``) and ``test``, or some of them, or
            the class folders themselves.
        split: See `utilities.datasets.load_dataset`.
        known: Classes that fix the labels, where not all need be present. Their pictures are not turned upright.
        classes: The order of the classes, see `utilities.datasets.class_order.ordered`.

    Raises:
        FileNotFoundError: If a split has no folder.
        ValueError: If a class folder is empty, or splits have different classes.
    """
    places = split_folders(path)
    parts = {part: found for part, place in places.items() if (found := subfolders(place))}
    direct = not parts and known is None and set(subfolders(path)) - {place.name for place in places.values()}
    if direct:
        places, parts = {"": path}, {"": subfolders(path)}
    wanted = _wanted(parts, split)
    missing = [part for part in wanted if part not in parts]
    if missing:
        looked = f"{path / 'test'} or {path / 'val'}" if missing == ["test"] else path / missing[0]
        raise FileNotFoundError(f"no class folders in {looked} for split {split!r}; {LAYOUT}")
    names = known or ordered(parts[wanted[0]], classes, path)
    listed = known is not None or classes not in (None, NATURAL)  # then a class may have no folder
    for part, found in parts.items():
        odd = sorted(set(found) - set(names) if listed else set(found) ^ set(names))
        if odd:
            expected = "in classes" if listed else f"those of {places[wanted[0]]}"
            expected = "ImageNet's (such as n01440764)" if known else expected
            raise ValueError(f"the classes of {places[part]} are not {expected}; they differ by {', '.join(odd[:8])}")
    files, labels = scan([places[part] for part in wanted], names)
    members, note = np.arange(len(files)), ""
    if direct:
        test = held_out(labels, 0.3)
        members = members[test] if split == "test" else take_part(members[~test], labels, split)
        note = "split here: 30 % of each class for testing, a tenth of the rest for validation, the same for every seed"
    elif wanted == ["train"] and len(parts) < 3:
        members = take_part(members, labels, split)
        note = "validation split off here: a tenth of each class of train" if split in ("train", "validation") else ""
    opener = partial(open_file, files, upright=known is None)
    looked_at = np.unique(np.linspace(0, len(files) - 1, 8).astype(int))
    sizes = {opener(i, header=True) for i in looked_at}
    _refuse_dark(files, labels, looked_at, path)
    size = min(min(sizes)) if len(sizes) == 1 else 224
    return Source(
        names,
        labels,
        members,
        size=size,
        open=opener,
        native=max(map(max, sizes)),
        files=files,
        root=path,
        note="" if known else note,
    )


def _refuse_dark(files: list[Path], labels: np.ndarray, looked_at: np.ndarray, path: Path) -> None:
    """Refuse 16-bit pictures that hold no more than 8 bits, and warn of those that hold no more than 12.

    If other pictures are there too, those that hold no more than 8 bits cause a warning only.

    Raises:
        ValueError: If all are too dark; the message names the largest number, and the remedy.
    """
    found = _brightest(files[i] for i in looked_at)
    if not found:
        return
    first = np.unique(labels, return_index=True)[1]  # each class may have been written differently
    some = np.unique(np.linspace(0, len(first) - 1, CLASSES_SEEN).astype(int))
    found |= _brightest(files[i] for i in first[some] if files[i] not in found)
    largest = max(found.values())
    if largest > TWELVE_BITS:
        for file, value in found.items():
            warn_if_dark(file, value)
        return
    text = f"the pictures of {path} have 16 bits, white being 65535, but the brightest of {len(found)} is {largest}"
    if largest <= EIGHT_BITS:
        raise ValueError(f"{text}: they would be black; save them with 8 bits, or multiply them by 257")
    warnings.warn(f"{text}: they stay that dark; multiply them by 16 if 4095 is white", stacklevel=5)


def _brightest(files: Iterable[Path]) -> dict[Path, int]:
    return {file: value for file in files if (value := brightest(file)) is not None}


def split_folders(path: Path) -> dict[str, Path]:
    """Find the folders of a set's parts: ``train``, ``val`` (or ``valid``, ``validation``) and ``test``, in any case.

    Raises:
        ValueError: If a part has two folders.

    Example:
        >>> split_folders(Path("/nowhere"))
        {}
    """
    places: dict[str, Path] = {}
    for name in subfolders(path):
        part = SPLIT_OF_FOLDER.get(name.lower())
        if part in places:
            raise ValueError(f"{path} has {places[part].name} and {name}, two folders for one part; move one away")
        if part:
            places[part] = path / name
    return {part: places[part] for part in ("train", "val", "test") if part in places}


def _wanted(parts: dict[str, list[str]], split: str) -> list[str]:
    """State which folders hold a split, given those that exist."""
    if "" in parts:
        return [""]
    last = "val" if "val" in parts and "test" not in parts else "test"
    if split == "test" or (split == "validation" and "train" not in parts):
        return [last]
    if len(parts) < 3:
        return ["train"]
    return {"train": ["train"], "validation": ["val"]}.get(split, ["train", "val"])


def scan(folders: list[Path], classes: list[str]) -> tuple[list[Path], np.ndarray]:
    """List the images of every class folder, see `class_images`."""
    files, labels, numbers = [], [], {name: i for i, name in enumerate(classes)}
    for folder in folders:
        for name in subfolders(folder):
            found = class_images(folder / name)
            if not found:
                raise ValueError(f"class folder {folder / name} has no image ({', '.join(IMG_EXTENSIONS)})")
            files += found
            labels += [numbers[name]] * len(found)
    return files, np.array(labels)


def class_images(folder: Path) -> list[Path]:
    """List the images of a class, in its folder and in folders inside, as Tiny ImageNet's CLASS/images/*.JPEG.

    Raises:
        ValueError: If the folder has no image itself, but several folders with images: they may be the classes.
    """
    found = images_in(folder)
    inner = {name: images for name in subfolders(folder) if (images := class_images(folder / name))}
    if inner and ((not found and len(inner) > 1) or any(name.lower() in SPLIT_OF_FOLDER for name in inner)):
        raise ValueError(
            f"class folder {folder} holds folders with images ({', '.join(list(inner)[:4])}), which may be classes: "
            f"is it a set itself (folder:{folder})? If not, move the images up"
        )
    return found + [image for images in inner.values() for image in images]


def images_in(folder: Path) -> list[Path]:
    """List the images in a folder, sorted, without hidden ones."""
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.name[0] != "." and e.name.lower().endswith(IMG_EXTENSIONS)]
    return [folder / name for name in sorted(names)]


def imagenet_classes() -> tuple[list[str], list[str]]:
    """Return the WordNet numbers of ImageNet's 1,000 classes, and the classes' names, in the usual order.

    Example:
        >>> wnids, names = imagenet_classes()
        >>> wnids[0], names[0]
        ('n01440764', 'tench')
    """
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return info.label_names(), [info.index_to_description(i).split(",")[0] for i in range(info.num_classes())]


def open_file(
    files: list[Path], index: int, header: bool = False, upright: bool = False
) -> Image.Image | tuple[int, int]:
    """Open one of the files as an RGB image, or read its size alone, see `utilities.datasets.picture`.

    Raises:
        OSError: If it cannot be read; the message names the file.
    """
    return picture_size(files[index], upright) if header else open_picture(files[index], upright)
