"""The published sets of perturbed sequences, CIFAR-10-P and ImageNet-P, in the formats of their archives.

Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261. Nothing is downloaded here.

================  =================================================================================================
``cifar10-p``     ``ROOT/CIFAR-10-P/KIND.npy``, uint8 (10000, frames, 32, 32, 3): the sequences of the test images
``imagenet-p``    ``ROOT/imagenet-p/KIND/CLASS/*.mp4``, videos of 224x224 pixels; reading them needs the package av
================  =================================================================================================

Frames of videos have been through a lossy codec, which is part of the set.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from utilities.datasets.cifar import CIFAR
from utilities.datasets.perturbations import check_each_once
from utilities.utils import PROJECT_ROOT

NORMALISATIONS = {  # means and deviations of the clean sets
    "cifar10-p": CIFAR["cifar10"][1:],
    "imagenet-p": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
COMMON = ("gaussian_noise", "shot_noise", "motion_blur", "zoom_blur")
MOVED = ("brightness", "translate", "rotate", "tilt", "scale")
# The ten kinds that averages are over.
KINDS = {"cifar10-p": (*COMMON, "spatter", *MOVED), "imagenet-p": (*COMMON, "snow", *MOVED)}
FOLDERS = {"cifar10-p": "CIFAR-10-P", "imagenet-p": "imagenet-p"}
SOURCES = {
    "cifar10-p": "CIFAR-10-P.tar (md5 125d6775afc5846ea84584d7524dedff) of https://zenodo.org/records/2535967",
    "imagenet-p": "the archives of ImageNet-P that https://github.com/hendrycks/robustness names",
}


def locate_sequences(name: str, kind: str, root: str | Path | None = None) -> Path:
    """Find the file, or the folder of class folders, of one kind of perturbation.

    Args:
        name: ``cifar10-p`` or ``imagenet-p``.
        kind: Name of the file or folder, such as ``"tilt"`` or ``"gaussian_noise_2"``.
        root: Folder that holds the sets' folders; None is ``data`` in the project.

    Raises:
        ValueError: If there is no such set.
        FileNotFoundError: If it is missing; the message states what to fetch and where to put it.

    Example:
        >>> locate_sequences("cifar10p", "tilt")
        Traceback (most recent call last):
        ValueError: perturbed set 'cifar10p' is not known; known: cifar10-p, imagenet-p
    """
    if name not in FOLDERS:
        raise ValueError(f"perturbed set {name!r} is not known; known: {', '.join(FOLDERS)}")
    root = PROJECT_ROOT / "data" if root is None else Path(root).resolve()
    path = root / FOLDERS[name] / (f"{kind}.npy" if name == "cifar10-p" else kind)
    if not path.exists():
        close = ", ".join(difflib.get_close_matches(kind, KINDS[name], cutoff=0.4)) or "none"
        odd = "" if kind in KINDS[name] else f"kind {kind!r} is none of the ten of {name}; close: {close}. "
        raise FileNotFoundError(
            f"{odd}{path} is missing: fetch {SOURCES[name]} and unpack it into {root}. "
            "utilities.analysis.predictions.consistency perturbs images itself and needs no such files."
        )
    return path


def check_sequences(name: str, kinds: Sequence[str] | None = None, root: str | Path | None = None) -> list[str]:
    """Find the files of all kinds that are asked for.

    Args:
        name: ``cifar10-p`` or ``imagenet-p``.
        kinds: Names of the perturbations, each once; None is the ten of the set.
        root: See `locate_sequences`.

    Returns:
        The kinds.

    Raises:
        ValueError: If there is no such set, no kind, or one kind twice.
        FileNotFoundError: See `locate_sequences`.

    Example:
        >>> check_sequences("cifar10-p", ["scale", "scale"])
        Traceback (most recent call last):
        ValueError: perturbations should be one or more, each once; got ['scale', 'scale']
    """
    chosen = KINDS.get(name, ("",)) if kinds is None else kinds  # an unknown set is told by `locate_sequences`
    check_each_once(chosen)
    for kind in chosen:
        locate_sequences(name, kind, root)
    return list(chosen)


def read_sequences(
    name: str, kind: str, *, root: str | Path | None = None, n_images: int | None = None, batch_size: int = 32
) -> Iterator[torch.Tensor]:
    """Read the sequences of one kind, some at a time.

    Args:
        name: ``cifar10-p`` or ``imagenet-p``.
        kind: See `locate_sequences`.
        root: See `locate_sequences`.
        n_images: Number of sequences to read, spread evenly over the set; None reads all.
        batch_size: Sequences read at a time.

    Yields:
        uint8, (sequences, frames, 3, height, width).

    Raises:
        ValueError: If a file is not in the published format, there are fewer sequences, or a batch has none.
        FileNotFoundError: See `locate_sequences`.
        ImportError: If videos are to be read and av is not installed.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} should be 1 or more")
    path = locate_sequences(name, kind, root)
    read = _open_array(path) if name == "cifar10-p" else _Videos(path)
    if n_images is not None and not 1 <= n_images <= len(read):
        raise ValueError(f"n_images should be from 1 to the {len(read)} of {path}, got {n_images}")
    rows = np.arange(len(read)) if n_images is None else np.arange(n_images) * len(read) // n_images
    for start in range(0, len(rows), batch_size):
        batch = [read[row] for row in rows[start : start + batch_size]]
        shapes = {frames.shape for frames in batch}
        if len(shapes) > 1:
            raise ValueError(f"sequences of {path} differ in shape: {', '.join(map(str, sorted(shapes)))}")
        yield torch.from_numpy(np.stack(batch)).permute(0, 1, 4, 2, 3)


def _open_array(path: Path) -> np.ndarray:
    """Open an array of sequences, and leave it on disk."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is damaged or no npy file: {error}; unpack the archive again") from error
    if found.dtype != np.uint8 or found.ndim != 5 or found.shape[-1] != 3 or found.shape[1] < 2 or not len(found):
        raise ValueError(
            f"{path} should hold uint8 sequences such as (10000, 31, 32, 32, 3), got {found.dtype} {found.shape}; "
            "unpack the archive again"
        )
    return found


class _Videos:
    """Serve the videos of class folders by number, each (frames, height, width, 3)."""

    def __init__(self, path: Path) -> None:
        self.files = sorted(path.glob("*/*.mp4"))
        if not self.files:
            raise ValueError(f"{path} has no class folders of .mp4 videos; unpack the archive again")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> np.ndarray:
        return read_video(self.files[row])


def read_video(path: Path) -> np.ndarray:
    """Decode all frames of a video: uint8, (frames, height, width, 3).

    Raises:
        ImportError: If av is not installed.
        ValueError: If the file is no video, or holds fewer than two frames.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError("reading ImageNet-P needs the package av: pip install --editable '.[video]'") from error
    try:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(f"{path} cannot be read as a video: {error}; unpack the archive again") from error
    if len(frames) < 2:
        raise ValueError(f"{path} holds {len(frames)} frames; a sequence has two or more")
    return np.stack(frames)
