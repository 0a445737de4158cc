"""The published corrupted test sets, CIFAR-10-C, CIFAR-100-C and ImageNet-C, in the formats of their archives.

Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261. Nothing is downloaded here, because the archives have
3 to 55 GB.

===============  ==================================================================================================
``cifar10-c``    ``ROOT/CIFAR-10-C/KIND.npy``, uint8 (50000, 32, 32, 3): the 10,000 test images at severity 1, then at
                 severity 2 and so on; ``labels.npy``, the labels five times over
``cifar100-c``   ``ROOT/CIFAR-100-C``, the same
``imagenet-c``   ``ROOT/imagenet-c/KIND/SEVERITY/CLASS/*.JPEG``, 224x224 already: nothing is resized or cut off
===============  ==================================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from utilities.datasets.cifar import CIFAR
from utilities.datasets.corruptions import SEVERITIES
from utilities.datasets.corruptions.parameters import FAMILIES, check_sets
from utilities.datasets.factory import balanced
from utilities.datasets.folders import imagenet_classes, open_file, scan
from utilities.datasets.images import ImageDataset, Source
from utilities.datasets.pixels import per_channel
from utilities.utils import PROJECT_ROOT

CLEAN = {"cifar10-c": "cifar10", "cifar100-c": "cifar100", "imagenet-c": "imagenet"}
CIFAR_FOLDERS = {"cifar10-c": ("CIFAR-10-C", 10), "cifar100-c": ("CIFAR-100-C", 100)}
RECORDS = {"cifar10-c": 2535967, "cifar100-c": 3555552, "imagenet-c": 2235448}  # record numbers at zenodo.org
ARCHIVES = {  # file -> md5
    "cifar10-c": {"CIFAR-10-C.tar": "56bf5dcef84df0e2308c6dcbcbbd8499"},
    "cifar100-c": {"CIFAR-100-C.tar": "11f0ed0f1191edbf9fa23466ae6021d3"},
    "imagenet-c": {
        "noise.tar": "e80562d7f6c3f8834afb1ecf27252745",
        "blur.tar": "2d8e81fdd8e07fef67b9334fa635e45c",
        "weather.tar": "33ffea4db4d93fe4a428c40a6ce0c25d",
        "digital.tar": "89157860d7b10d5797849337ca2e5c03",
        "extra.tar": "d492dfba5fc162d8ec2c3cd8ee672984",
    },
}


def load_corrupted(
    name: str,
    kind: str,
    severity: int,
    *,
    root: str | Path | None = None,
    image_size: int | None = None,
    n_images: int | None = None,
    seed: int = 0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ImageDataset:
    """Load the test images of one corruption at one severity.

    Args:
        name: ``cifar10-c``, ``cifar100-c`` or ``imagenet-c``.
        kind: One of `utilities.datasets.corruptions.CORRUPTIONS` or ``EXTRA_CORRUPTIONS``, such as ``"fog"``.
        severity: Severity from 1 to 5.
        root: Folder that holds the sets' folders; None is ``data`` in the project.
        image_size: Height and width in pixels; None is the set's own, 32 or 224.
        n_images: Number of images to keep. They are the ones that `utilities.datasets.load_dataset` chooses with the
            same seed, and the same for each corruption.
        seed: Seed of that choice.
        mean: Three channel means of images in 0..1; None is those of the clean set.
        std: Three channel deviations of images in 0..1; None is those of the clean set.

    Returns:
        A data set like that of `utilities.datasets.load_dataset`, with images in the order of the clean test set.

    Raises:
        ValueError: If an option is out of range, or a file is not in the published format.
        FileNotFoundError: If a file is missing; the message states what to fetch and where to put it.

    Example:
        >>> load_corrupted("cifar10-c", "fog", 6)
        Traceback (most recent call last):
        ValueError: severities should be some of 1, 2, 3, 4, 5, each once; got [6]
    """
    place = locate(name, kind, severity, root)
    source = _read_folders(place) if name == "imagenet-c" else _read_array(name, place, severity)
    given = {"mean": mean, "std": std}
    own = {"size": image_size, **{key: None if v is None else per_channel(key, v) for key, v in given.items()}}
    if n_images is not None:
        if not 1 <= n_images <= len(source.members):
            raise ValueError(f"n_images should be from 1 to the {len(source.members)} of {name}, got {n_images}")
        own["members"] = balanced(source.labels, n_images, seed)
    source = replace(source, **{key: value for key, value in own.items() if value is not None})
    return ImageDataset(source, name, f"{kind}, severity {severity}")


def locate(name: str, kind: str, severity: int, root: str | Path | None = None) -> Path:
    """Find the file, or the folder of class folders, of one set. For the arguments see `load_corrupted`.

    Raises:
        ValueError: If there is no such set.
        FileNotFoundError: If it is missing; the message states what to fetch and where to put it.

    Example:
        >>> locate("cifar10c", "fog", 1)
        Traceback (most recent call last):
        ValueError: corrupted set 'cifar10c' is not known; known: cifar10-c, cifar100-c, imagenet-c
    """
    if name not in CLEAN:
        raise ValueError(f"corrupted set {name!r} is not known; known: {', '.join(CLEAN)}")
    check_sets([kind], [severity])
    root = PROJECT_ROOT / "data" if root is None else Path(root).resolve()
    if name == "imagenet-c":
        folder = root / name
        files = [folder / kind / str(severity)]
        archive = next(f"{family}.tar" for family, kinds in FAMILIES.items() if kind in kinds)
    else:
        folder = root / CIFAR_FOLDERS[name][0]
        files, archive = [folder / f"{kind}.npy", folder / "labels.npy"], f"{folder.name}.tar"
    missing = next((file for file in files if not file.exists()), None)
    if missing is not None:
        record = f"https://zenodo.org/records/{RECORDS[name]}"
        target = folder if name == "imagenet-c" else root
        raise FileNotFoundError(
            f"{missing} is missing: fetch {archive} (md5 {ARCHIVES[name][archive]}) from {record}, then `mkdir -p "
            f"{target} && tar -xf {archive} -C {target}`. utilities.analysis.predictions.robustness "
            "corrupts images itself and needs no such files."
        )
    return files[0]


def _read_array(name: str, path: Path, severity: int) -> Source:
    """Read one severity out of an array, leaving the rest on disk."""
    images, labels = _load(path), _load(path.with_name("labels.npy"))
    shape, count = images.shape, len(images) // len(SEVERITIES)
    if (
        images.dtype != np.uint8
        or images.ndim != 4
        or shape[3] != 3
        or shape[1] != shape[2]
        or shape[0] % 5
        or not count
    ):
        raise ValueError(
            f"{path} should hold uint8 images of all five severities, such as (50000, 32, 32, 3), got {images.dtype} "
            f"{shape}; {_archive_of(name)}"
        )
    classes = CIFAR_FOLDERS[name][1]
    if labels.shape != shape[:1] or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"{path.with_name('labels.npy')} should hold {shape[0]} whole numbers from 0 to {classes - 1}, one "
            f"for each image of {path.name}, got {labels.dtype} {labels.shape}; {_archive_of(name)}"
        )
    rows = slice(count * (severity - 1), count * severity)
    pixels = np.ascontiguousarray(images[rows].transpose(0, 3, 1, 2))
    _, mean, std = CIFAR[CLEAN[name]]
    return Source(
        [str(label) for label in range(classes)],  # the archives do not name the classes
        np.asarray(labels[rows], np.int64),
        np.arange(count),
        size=shape[1],
        images=torch.from_numpy(pixels),
        mean=mean,
        std=std,
    )


def _load(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is damaged or no npy file: {error}; unpack the archive again") from error


def _archive_of(name: str) -> str:
    (archive, md5), *_ = ARCHIVES[name].items()
    return f"unpack {archive} again, whose md5 is {md5}"


def _read_folders(path: Path) -> Source:
    """Read class folders of images that already have their final size."""
    known, names = imagenet_classes()
    odd = sorted({entry.name for entry in path.iterdir() if entry.is_dir()} - set(known))
    if odd:
        raise ValueError(f"the classes of {path} are not ImageNet's (such as n01440764): {', '.join(odd[:8])}")
    files, labels = scan([path], known)
    if not files:
        raise ValueError(f"{path} has no class folders; unpack the archive again")
    return Source(names, labels, np.arange(len(files)), size=224, open=partial(open_file, files))
