"""Compute a cheap fingerprint of a split's images, enough to see that a folder no longer holds what it held."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from utilities.datasets.images import ImageDataset, Source

SIZES = 20_000  # files whose size is read: over a network, a million take minutes
HEADS = 16  # files whose first bytes are read, for formats where all pictures have the same size
HEAD = 4096


def fingerprint(data: ImageDataset | Source, name: str = "") -> str:
    """Digest the facts that tell the images of a split from others.

    For images in files, these are the classes in their order, each image's label and path within the set's folder, the
    sizes of up to `SIZES` files, and the first bytes of `HEADS` files. A folder may thus be moved or copied. For sets
    that come with this package or are known by name: the name, the classes, and which images form the split.

    Args:
        data: The split.
        name: Name of the set, where ``data`` does not state it.

    Returns:
        16 hexadecimal digits.

    Example:
        >>> from utilities.datasets import load_dataset
        >>> few, same, more = (load_dataset("digits", n_images=n) for n in (10, 10, 20))
        >>> fingerprint(few) == fingerprint(same), fingerprint(few) == fingerprint(more)
        (True, False)
    """
    if isinstance(data, Source):
        labels, members = data.labels[data.members], data.members
        files = None if data.files is None else [data.files[i] for i in members]
    else:
        labels, members, files, name = data.targets, data.indices, data.files, data.name
    digest = hashlib.sha256("\n".join(data.classes).encode())
    digest.update(np.asarray(labels, "<i8").tobytes())
    if files is None:
        digest.update(name.encode() + np.asarray(members, "<i8").tobytes())
    else:
        for part in _of_files(files, data.root):
            digest.update(part)
    return digest.hexdigest()[:16]


def _of_files(files: list[Path], root: Path) -> Iterator[bytes]:
    start = len(str(root)) + 1
    yield "\n".join(str(file)[start:].replace(os.sep, "/") for file in files).encode()
    for i in _spread(len(files), SIZES):
        yield str(files[i].stat().st_size).encode() + b" "
    for i in _spread(len(files), HEADS):
        with files[i].open("rb") as file:
            yield file.read(HEAD)


def _spread(count: int, most: int) -> list[int]:
    """Return at most so many places, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist() if count else []
