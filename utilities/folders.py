"""Folders of class folders, and the fixed parts that sets without a validation or test part are cut into."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from utilities.images import Source
from utilities.utils import PROJECT_ROOT

LAYOUT = "expected: PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg (or val), or PATH/CLASS/*.jpg"


def held_out(labels: np.ndarray, fraction: float) -> np.ndarray:
    """Mark a fixed share of each class, at least one image of a class that has two.

    Args:
        labels: Of all images, (n,).
        fraction: What to mark.

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
    """Take train, validation (a tenth of each class) or both from the ``pool`` of training images.

    Args:
        pool: Indices of the training images.
        labels: Of all images, (n,).
        split: ``train``, ``validation``, or anything else for both.

    Example:
        >>> take_part(np.arange(20), np.zeros(20, int), "validation").size
        2
    """
    mask = held_out(labels[pool], 0.1)
    return {"train": pool[~mask], "validation": pool[mask]}.get(split, pool)


def find_folder(name: str) -> Path:
    """Find a folder: as it is if absolute, else in the working directory, then in the project.

    Raises:
        FileNotFoundError: Naming the places looked at.

    Example:
        >>> find_folder("utilities").name
        'utilities'
    """
    path = Path(name).expanduser()
    places = [path] if path.is_absolute() else [Path.cwd() / path, PROJECT_ROOT / path]
    found = next((place for place in places if place.is_dir()), None)
    if not name or found is None:
        looked = " and ".join(dict.fromkeys(map(str, places)))
        raise FileNotFoundError(f"no folder 'folder:{name}': looked at {looked}; {LAYOUT}")
    return found.resolve()


def subfolders(folder: Path) -> list[str]:
    """Name the folders in a folder, sorted, hidden ones left out; none if it is not there.

    Example:
        >>> subfolders(Path("/nowhere"))
        []
    """
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")


def read_folders(path: Path, split: str, known: list[str] | None = None) -> Source:
    """Read a tree of class folders.

    Args:
        path: Holds ``train``, ``val`` and ``test``, or some of them, or the class folders themselves.
        split: See `utilities.datasets.load_dataset`.
        known: Classes that give the labels where not all need be present.

    Raises:
        FileNotFoundError: If a split has no folder.
        ValueError: If a class folder is empty, or splits have different classes.
    """
    parts = {part: found for part in ("train", "val", "test") if (found := subfolders(path / part))}
    direct = not parts and known is None and set(subfolders(path)) - {"train", "val", "test"}
    if direct:
        parts = {"": subfolders(path)}
    wanted = _wanted(parts, split)
    missing = [part for part in wanted if part not in parts]
    if missing:
        places = f"{path / 'test'} or {path / 'val'}" if missing == ["test"] else path / missing[0]
        raise FileNotFoundError(f"no class folders in {places} for split {split!r}; {LAYOUT}")
    classes = known or parts[wanted[0]]
    for part, found in parts.items():
        odd = sorted(set(found) - set(classes) if known else set(found) ^ set(classes))
        if odd:
            expected = "ImageNet's (such as n01440764)" if known else f"those of {path / wanted[0]}"
            raise ValueError(f"the classes of {path / part} are not {expected}; they differ by {', '.join(odd[:8])}")
    files, labels = scan([path / part for part in wanted], classes)
    members = np.arange(len(files))
    if direct:
        test = held_out(labels, 0.3)
        members = members[test] if split == "test" else take_part(members[~test], labels, split)
    elif wanted == ["train"] and len(parts) < 3:
        members = take_part(members, labels, split)
    opener = partial(open_file, files)
    sizes = {opener(i, header=True) for i in np.linspace(0, len(files) - 1, 8).astype(int)}
    size = min(min(sizes)) if len(sizes) == 1 else 224
    return Source(classes, labels, members, size=size, open=opener, native=max(map(max, sizes)))


def _wanted(parts: dict[str, list[str]], split: str) -> list[str]:
    """Say which folders hold a split, by what there is."""
    if "" in parts:
        return [""]
    last = "val" if "val" in parts and "test" not in parts else "test"
    if split == "test" or (split == "validation" and "train" not in parts):
        return [last]
    if len(parts) < 3:
        return ["train"]
    return {"train": ["train"], "validation": ["val"]}.get(split, ["train", "val"])


def scan(folders: list[Path], classes: list[str]) -> tuple[list[Path], np.ndarray]:
    """List the images of every class folder, sorted by path."""
    files, labels = [], []
    for folder in folders:
        for name in subfolders(folder):
            inner = subfolders(folder / name)
            found = images_in(folder / name)
            if not found and len(inner) == 1:  # Tiny ImageNet's CLASS/images/*.JPEG
                found = images_in(folder / name / inner[0])
            if not found:
                hint = f"; it has folders, is it a set itself (folder:{folder / name})?" if inner else ""
                raise ValueError(f"class folder {folder / name} has no image ({', '.join(IMG_EXTENSIONS)}){hint}")
            files += found
            labels += [classes.index(name)] * len(found)
    return files, np.array(labels)


def images_in(folder: Path) -> list[Path]:
    """List the images in a folder, sorted, hidden ones left out."""
    found = (path for path in folder.iterdir() if path.suffix.lower() in IMG_EXTENSIONS)
    return sorted(path for path in found if path.name[0] != ".")


def imagenet_classes() -> tuple[list[str], list[str]]:
    """Give WordNet's numbers of ImageNet's 1,000 classes, and what the classes are called, in the usual order.

    Example:
        >>> wnids, names = imagenet_classes()
        >>> wnids[0], names[0]
        ('n01440764', 'tench')
    """
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return info.label_names(), [info.index_to_description(i).split(",")[0] for i in range(info.num_classes())]


def open_file(files: list[Path], index: int, header: bool = False) -> Image.Image | tuple[int, int]:
    """Open one of the files as an RGB image, or read its size alone.

    Raises:
        OSError: Naming the file.
    """
    try:
        with Image.open(files[index]) as image:
            return image.size if header else image.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise OSError(f"cannot read image {files[index]}: {error}") from error
