"""CIFAR-10 and CIFAR-100: the official Python archives, fetched when they are missing and allowed to be."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
from filelock import FileLock
from torchvision import datasets as official
from torchvision.datasets.utils import calculate_md5, check_integrity

from utilities.datasets.images import Source
from utilities.results.writing import check_writable
from utilities.utils import PROJECT_ROOT

# Mean and standard deviation over all pixels of the training set. For CIFAR-10 this is not the .2023 that is often
# used, which is the mean of each image's own deviation.
CIFAR = {
    "cifar10": (official.CIFAR10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": (official.CIFAR100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


def read_cifar(name: str, split: str, root: Path, download: bool) -> Source:
    """Read a split of CIFAR, and fetch the archive first if it is missing; the last tenth is for validation."""
    kind, mean, std = CIFAR[name]
    try:
        data = kind(root, train=split != "test")
    except RuntimeError:  # torchvision raises it where files are missing or damaged
        _fetch(name, root.resolve(), download)
        data = kind(root, train=split != "test")
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    members, tenth = np.arange(len(images)), len(images) // 10
    if split in ("train", "validation"):
        members = members[:-tenth] if split == "train" else members[-tenth:]
    return Source(data.classes, np.array(data.targets), members, size=32, images=images, mean=mean, std=std)


def _fetch(name: str, root: Path, download: bool) -> None:
    """Unpack the official archive, after downloading it unless somebody has put it there by hand."""
    kind = CIFAR[name][0]
    archive = root / kind.filename
    where = "" if root == PROJECT_ROOT / "data" else f" --root {root}"
    remedy = (
        f"With a network, `python -m utilities fetch {name}{where}` fetches {kind.url}; without one, put a copy "
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
