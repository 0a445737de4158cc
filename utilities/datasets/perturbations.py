"""Sequences of small perturbations of an image, made here: noise anew in each frame, or a change from frame to frame.

Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261. Definitions, parameters and numbers of frames are those
of the scripts that made CIFAR-10-P and ImageNet-P. Spatter and snow, which they have too, are not made here. Images of
ImageNet-P were cut out of larger ones after they were moved. Here what lies beyond an image is black, as in CIFAR-10-P.
"""

from __future__ import annotations

import difflib
import math
import zlib
from collections.abc import Iterator, Sequence

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from utilities.datasets.corruptions import digital, noise
from utilities.datasets.corruptions.draws import Draws
from utilities.datasets.corruptions.filters import motion
from utilities.datasets.corruptions.parameters import choose_table

# By the size of images as corruptions are: "32" is CIFAR-10-P's, "224" ImageNet-P's.
FRAMES = {"32": {"motion_blur": 21, "translate": 16}, "224": {"translate": 41}}
USUAL = 31  # frames of the other kinds
STRENGTH = {
    "32": {
        "gaussian_noise": 0.02, "shot_noise": 700, "motion_blur": (6, 1.8, 9), "zoom_blur": 0.004,
        "brightness": 0.015, "translate": 7, "rotate": 1, "tilt": 0.75, "scale": (0.70, 0.02),
    },
    "224": {
        "gaussian_noise": 0.03, "shot_noise": 300, "motion_blur": (10, 3, 4), "zoom_blur": 0.004,
        "brightness": 0.02, "translate": 20, "rotate": 1, "tilt": 1, "scale": (0.40, 0.025),
    },
}  # fmt: skip
PERTURBATIONS = tuple(STRENGTH["32"])


def is_noise(kind: str) -> bool:
    """Tell whether frames of a kind are drawn anew: each is compared with the first then, not with the one before.

    Example:
        >>> is_noise("shot_noise"), is_noise("tilt")
        (True, False)
    """
    return "noise" in kind


def perturb(images: torch.Tensor, kind: str, *, seed: int = 0, first: int = 0) -> Iterator[torch.Tensor]:
    """Yield the frames of a batch of images, from the first to the last; those of noise begin with the images.

    Args:
        images: uint8 images (images, 3, height, width).
        kind: One of `PERTURBATIONS`.
        seed: Seed of the noise, 0 or more.
        first: Index in the data set of the batch's first image. Noise belongs to an image's index, and does not depend
            on how the data set is cut into batches.

    Yields:
        uint8 images of the same shape.

    Raises:
        TypeError: If images are not a uint8 tensor.
        ValueError: If their shape or the kind does not fit, or seed or first is negative.

    Example:
        >>> frames = list(perturb(torch.full((1, 3, 8, 8), 100, dtype=torch.uint8), "brightness"))
        >>> len(frames), [int(frame[0, 0, 0, 0]) for frame in frames[14:17]]
        (31, [96, 100, 103])
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise TypeError(f"images should be uint8, (images, 3, height, width), got {images.dtype} {tuple(images.shape)}")
    check_kinds([kind])
    if seed < 0 or first < 0:
        raise ValueError(f"seed {seed} and first {first} should not be negative")
    return _frames(images, kind, seed, first)


def check_each_once(kinds: Sequence[str]) -> None:
    """Refuse kinds of which there is none, or one twice, and one name in place of a list.

    Example:
        >>> check_each_once("tilt")
        Traceback (most recent call last):
        ValueError: perturbations should be one or more, each once; got 'tilt', which is no list: pass ['tilt']
    """
    hint = f", which is no list: pass [{kinds!r}]" if isinstance(kinds, str) else ""
    if hint or not kinds or len(set(kinds)) < len(kinds):
        raise ValueError(f"perturbations should be one or more, each once; got {kinds!r}{hint}")


def check_kinds(kinds: Sequence[str]) -> list[str]:
    """Refuse kinds that are not made here, or given twice.

    Example:
        >>> check_kinds(["tlit"])
        Traceback (most recent call last):
        ValueError: perturbation 'tlit' is not made here; close: tilt...; made are gaussian_noise, ...
    """
    check_each_once(kinds)
    for kind in kinds:
        if kind not in PERTURBATIONS:
            close = ", ".join(difflib.get_close_matches(kind, PERTURBATIONS, cutoff=0.4)) or "none"
            raise ValueError(
                f"perturbation {kind!r} is not made here; close: {close}; made are {', '.join(PERTURBATIONS)}"
            )
    return list(kinds)


def _frames(images: torch.Tensor, kind: str, seed: int, first: int) -> Iterator[torch.Tensor]:
    table = choose_table(*images.shape[2:])
    strength, count = STRENGTH[table][kind], FRAMES[table].get(kind, USUAL)
    x = images.float()
    if is_noise(kind):
        yield images
        draws = Draws((seed, zlib.crc32(f"{kind} sequence".encode())), first, images.device).chunk(len(images))
        add = getattr(noise, kind)
        for _ in range(1, count):
            yield _bytes(add(x.clone(), strength, draws))
        return
    if kind == "zoom_blur":
        total = x.clone()
        yield images
        for i in range(1, count):
            total += _moved(x, scale=1 + strength * i)
            yield _bytes(total / (i + 1))
        return
    for i in range(count):
        yield _bytes(_frame(x, kind, strength, i, count))


def _frame(x: torch.Tensor, kind: str, strength: float | tuple[float, ...], i: int, count: int) -> torch.Tensor:
    """Make frame i of a sequence whose frames do not build on each other."""
    middle = i - count // 2
    if kind == "motion_blur":
        radius, sigma, step = strength
        return motion(x, radius, sigma, torch.full((len(x),), float((i - count + 1) * step), device=x.device))
    if kind == "brightness":
        return digital.brightness(x.clone(), middle * strength, None)
    if kind == "translate":
        return _moved(x, translate=i - strength)
    if kind == "rotate":
        return _moved(x, angle=middle * strength)
    if kind == "scale":
        return _moved(x, scale=strength[0] + strength[1] * i)
    return _tilted(x, math.radians(middle * strength))


def _moved(x: torch.Tensor, angle: float = 0.0, translate: int = 0, scale: float = 1.0) -> torch.Tensor:
    """Rotate about the centre by degrees, move to the right by pixels, and enlarge; black beyond the border."""
    way = {"angle": float(angle), "translate": [translate, 0], "scale": float(scale), "shear": [0.0]}
    return TF.affine(x, **way, interpolation=InterpolationMode.BILINEAR, fill=0.0)


def _tilted(x: torch.Tensor, angle: float) -> torch.Tensor:
    """Turn a picture about both its axes, and look at it from as far away as its diagonal is long."""
    height, width = x.shape[-2:]
    start = [[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]
    end = [_seen(column, row, height, width, angle) for column, row in start]
    return TF.perspective(x, start, end, interpolation=InterpolationMode.BILINEAR, fill=[0.0])


def _seen(column: float, row: float, height: int, width: int, angle: float) -> list[float]:
    """Return where a point of the picture is seen."""
    across, down, distance = column - width / 2, row - height / 2, math.hypot(width, height)
    cosine, sine = math.cos(angle), math.sin(angle)
    across, back = cosine * across, sine * across  # about the vertical axis
    down, back = cosine * down - sine * back, sine * down + cosine * back  # about the horizontal one
    shrink = distance / (distance + back)
    return [width / 2 + shrink * across, height / 2 + shrink * down]


def _bytes(x: torch.Tensor) -> torch.Tensor:
    """Truncate to whole numbers from 0 to 255, as `utilities.datasets.corruptions.corrupt` does."""
    return x.clamp(0, 255).add_(1 / 256).to(torch.uint8)
