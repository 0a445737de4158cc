"""Between the normalised images that models see and the 8-bit pixels that corruptions are defined on."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

ROUNDED = 0.5  # a pixel's value is whole, less the rounding
NEARLY = 0.1  # how far from a whole number the values of 8-bit images may lie, if they were kept in half precision
MOST = 0.95  # of them
LEVELS = 256  # of 8 bits
# Normalisations that images come with, to say which one it was where another one was named.
KNOWN = {
    "none (images in 0..1)": ((0.0,) * 3, (1.0,) * 3),
    "none (pixels in 0..255)": ((0.0,) * 3, (1 / 255,) * 3),
    "1/2 and 1/2 (images in -1..1)": ((0.5,) * 3, (0.5,) * 3),
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CLIP's": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


def to_pixels(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Bring normalised images, (batch, 3, height, width), back to 8 bits.

    Images that were no 8-bit images, such as those resized as floating-point tensors, are rounded, with a warning.

    Raises:
        ValueError: If they are not images that were normalised with this mean and deviation, as far as can be told:
            see `check_scale`.

    Example:
        >>> pixels = torch.arange(12, dtype=torch.uint8).view(1, 3, 2, 2)
        >>> scale = (0.3, 0.4, 0.5), (0.1, 0.2, 0.3)
        >>> bool((to_pixels(to_images(pixels, *scale), *scale) == pixels).all())
        True
    """
    values = _undone(images, mean, std)
    if not _is_taken(values, images, mean, std):
        warnings.warn(
            "images are no whole 8-bit numbers and are rounded to them; corruptions are defined on 8-bit images",
            stacklevel=3,
        )
    return values.round_().clamp_(0, 255).to(torch.uint8)


def check_scale(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> bool:
    """Refuse a mean and deviation that are not those which images were normalised with.

    Right ones give whole numbers from 0 to 255, of images that came from 8 bits; or reach from black to white, of
    others. Where they do neither, wrong ones are told by what they give: pixels beyond 0 to 255, a few levels that are
    not whole, images in 0..1 that would have no pixel below the mean, or pixels that another normalisation explains.

    Args:
        images: Normalised, (batch, 3, height, width).
        mean: What was subtracted from images in 0..1.
        std: What they were divided by.

    Returns:
        Whether they are whole 8-bit numbers.

    Raises:
        ValueError: Naming the range that comes out, and the remedy.

    Example:
        >>> images = torch.linspace(0, 1, 384).view(2, 3, 8, 8)
        >>> check_scale(images, (0.5,) * 3, (0.5,) * 3)
        Traceback (most recent call last):
        ValueError: undoing mean (0.5, 0.5, 0.5) and std (0.5, 0.5, 0.5) gives pixels from 128 to 255, ...
    """
    return _is_taken(_undone(images, mean, std), images, mean, std)


def _is_taken(values: torch.Tensor, images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> bool:
    """Look at the pixels that come out, see `check_scale`."""
    low, high = (float(end) for end in values.aminmax())
    inside = low >= -ROUNDED and high <= 255 + ROUNDED
    whole = inside and _is_whole(values)
    if whole or (inside and _reaches_both_ends(values)):
        return whole
    text = f"undoing mean {tuple(mean)} and std {tuple(std)} gives pixels from {low:.0f} to {high:.0f}"
    remedy = "pass the mean= and std= that the images were normalised with"
    for name, (shift, factor) in KNOWN.items():
        others = _undone(images, shift, factor)
        if _in_range(others) and (_is_whole(others) or _reaches_both_ends(others)):
            given = f"mean={tuple(round(x, 4) for x in shift)} and std={tuple(round(x, 4) for x in factor)}"
            raise ValueError(f"{text}, and no 8-bit images; their normalisation seems to be {name}: pass {given}")
    if not inside:
        raise ValueError(f"{text}, not 0 to 255: {remedy}")
    if low > ROUNDED and _has_few_levels(values):  # with black among them they may be of fewer bits, or darkened
        raise ValueError(f"{text} on a few levels that are not whole, as 8-bit images would be: {remedy}")
    if float(images.min()) >= 0 and float(images.max()) <= 1 and min(mean) > 0:
        raise ValueError(
            f"{text}, none below the mean; the images lie in 0..1, as if nothing had been subtracted: {remedy}, "
            "such as mean=(0, 0, 0) and std=(1, 1, 1)"
        )
    return False


def _undone(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    shift, factor = _scale(images, mean, std)
    return images * factor + shift


def _in_range(values: torch.Tensor) -> bool:
    return bool(values.min() >= -ROUNDED and values.max() <= 255 + ROUNDED)


def _is_whole(values: torch.Tensor) -> bool:
    near = values.round().sub_(values).abs_() <= NEARLY
    return int(near.sum()) >= MOST * near.numel()


def _reaches_both_ends(values: torch.Tensor) -> bool:
    return bool(values.min() <= ROUNDED and values.max() >= 255 - ROUNDED)


def _has_few_levels(values: torch.Tensor) -> bool:
    """Tell images of 8 bits or fewer from those of more, where there are pixels enough to tell."""
    channels = values.transpose(0, 1).flatten(1)
    return all(len(channel.unique()) <= min(LEVELS, channel.numel() // 4) for channel in channels)


def to_images(pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Normalise 8-bit images as `utilities.images.ImageDataset` does, see `to_pixels`."""
    shift, factor = _scale(pixels, mean, std)
    return pixels.float().sub_(shift).div_(factor)


def _scale(images: torch.Tensor, *values: Sequence[float]) -> list[torch.Tensor]:
    return [255 * torch.tensor(value, device=images.device).view(1, 3, 1, 1) for value in values]


def per_channel(name: str, values: float | Sequence[float]) -> tuple[float, ...]:
    """Return the three numbers of a normalisation; a single one is that of every channel, as torchvision takes it.

    Args:
        name: ``"mean"`` or ``"std"``, which has to be above 0.
        values: One number or three.

    Raises:
        ValueError: Naming the numbers.

    Example:
        >>> per_channel("mean", [0.5]), per_channel("std", (0.2, 0.3, 0.4))
        ((0.5, 0.5, 0.5), (0.2, 0.3, 0.4))
    """
    try:
        found = torch.as_tensor(values, dtype=torch.float64).flatten().tolist()
    except (TypeError, ValueError, RuntimeError):
        found = []
    if len(found) not in (1, 3) or not all(map(math.isfinite, found)):
        raise ValueError(f"{name}={values!r} should be one number, or three, of the channels red, green and blue")
    if name == "std" and min(found) <= 0:
        raise ValueError(f"std={values!r} should be above 0: images are divided by it, as Normalize does")
    return tuple(found * (3 // len(found)))


def normalisation(
    loader: Iterable[Any],
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation that a loader's images were normalised with, as its data set or as the caller says.

    The data set's are its ``mean`` and ``std``, also below subsets, or those of torchvision's ``Normalize`` among its
    transforms.

    Raises:
        ValueError: If they are not known or no normalisation, or those given are not the data set's own.
    """
    own = next(_said(loader), (None, None))
    mean, std = (theirs if told is None else told for told, theirs in zip((mean, std), own, strict=True))
    if mean is None or std is None:
        raise ValueError(
            "the loader does not say how its images were normalised, so they cannot be brought back to 8 bits: pass "
            "mean= and std=, one number or three each, as given to Normalize, or use utilities.datasets.load_dataset"
        )
    mean, std = per_channel("mean", mean), per_channel("std", std)
    for name, told, theirs in (("mean", mean, own[0]), ("std", std, own[1])):
        if theirs is not None and max(abs(a - b) for a, b in zip(told, per_channel(name, theirs), strict=True)) > 1e-3:
            raise ValueError(f"{name}={told} is not the data set's own, {tuple(theirs)}; leave mean= and std= to it")
    return mean, std


def _said(loader: Any) -> Iterator[tuple[Sequence[float], Sequence[float]]]:
    """Look for a normalisation in a loader's data set, and in what that is a subset of."""
    data = loader
    while (data := getattr(data, "dataset", None)) is not None:
        transform = getattr(data, "transform", None)
        for one in (data, transform, *(getattr(transform, "transforms", None) or ())):
            pair = getattr(one, "mean", None), getattr(one, "std", None)
            if all(isinstance(values, (tuple, list)) and len(values) in (1, 3) for values in pair):
                yield pair
