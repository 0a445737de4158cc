"""Conversion between the normalised images that models see and the 8-bit pixels that corruptions are defined on."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

ROUNDED = 0.5  # a pixel's value is whole up to rounding
NEARLY = 0.1  # how far from a whole number the values of 8-bit images may lie, if they were kept in half precision
MOST = 0.95  # share of the values that have to lie that close
LEVELS = 256  # levels of 8 bits
# Common normalisations, to name the right one where a wrong one was given.
KNOWN = {
    "none (images in 0..1)": ((0.0,) * 3, (1.0,) * 3),
    "none (pixels in 0..255)": ((0.0,) * 3, (1 / 255,) * 3),
    "1/2 and 1/2 (images in -1..1)": ((0.5,) * 3, (0.5,) * 3),
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CLIP's": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


def to_pixels(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Bring normalised images (batch, 3, height, width) back to 8 bits.

    Images that did not come from 8 bits, such as those resized as floating-point tensors, are rounded with a warning.

    Raises:
        ValueError: If the images were evidently not normalised with this mean and deviation, see `check_scale`.

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


def to_pictures(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Bring normalised images (batch, 3, height, width) back to what figures show, (batch, height, width, 3), 0 to 1.

    Example:
        >>> to_pictures(torch.zeros(1, 3, 1, 1), (0.25, 0.5, 0.75), (0.1, 0.2, 0.3)).tolist()
        [[[[0.25, 0.5, 0.75]]]]
    """
    centre, scale = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    return (images * scale + centre).clamp(0, 1).permute(0, 2, 3, 1).numpy()


def check_scale(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> bool:
    """Refuse a mean and deviation other than those that the images were normalised with.

    Undoing the right normalisation yields whole numbers from 0 to 255 if the images came from 8 bits. Other images
    reach from black to white. If neither holds, a wrong normalisation shows in one of these ways:

    - Pixels lie outside 0 to 255.
    - Pixels have only a few levels, which are not whole.
    - Images lie in 0..1 and no pixel would be below the mean.
    - Another normalisation explains the pixels.

    Args:
        images: Normalised images, (batch, 3, height, width).
        mean: Channel means that were subtracted from images in 0..1.
        std: Channel deviations that they were divided by.

    Returns:
        Whether the pixels are whole 8-bit numbers.

    Raises:
        ValueError: If the normalisation is wrong; the message names the resulting range and the remedy.

    Example:
        >>> images = torch.linspace(0, 1, 384).view(2, 3, 8, 8)
        >>> check_scale(images, (0.5,) * 3, (0.5,) * 3)
        Traceback (most recent call last):
        ValueError: undoing mean (0.5, 0.5, 0.5) and std (0.5, 0.5, 0.5) gives pixels from 128 to 255, ...
    """
    return _is_taken(_undone(images, mean, std), images, mean, std)


def _is_taken(values: torch.Tensor, images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> bool:
    """Tell whether the resulting pixels are whole 8-bit numbers, and refuse wrong ones, see `check_scale`."""
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
    if low > ROUNDED and _has_few_levels(values):  # images that include black may have fewer bits, or be darkened
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
    """Tell whether images have 8 bits or fewer, if there are enough pixels to decide."""
    channels = values.transpose(0, 1).flatten(1)
    return all(len(channel.unique()) <= min(LEVELS, channel.numel() // 4) for channel in channels)


def to_images(pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Normalise 8-bit images as `utilities.datasets.images.ImageDataset` does, see `to_pixels`."""
    shift, factor = _scale(pixels, mean, std)
    return pixels.float().sub_(shift).div_(factor)


def _scale(images: torch.Tensor, *values: Sequence[float]) -> list[torch.Tensor]:
    return [255 * torch.tensor(value, device=images.device).view(1, 3, 1, 1) for value in values]


def per_channel(name: str, values: float | Sequence[float]) -> tuple[float, ...]:
    """Return the three numbers of a normalisation. A single number counts for every channel, as in torchvision.

    Args:
        name: ``"mean"`` or ``"std"``. Deviations have to be above 0.
        values: One number or three.

    Raises:
        ValueError: If the numbers do not fit; the message names them.

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
    """Return mean and deviation that a loader's images were normalised with, as the data set or the caller states.

    The data set states them as its ``mean`` and ``std``, also inside subsets, or by torchvision's ``Normalize`` among
    its transforms.

    Raises:
        ValueError: If they are unknown, are not a valid normalisation, or differ from the data set's own.
    """
    own = next(_known_normalisation(loader), (None, None))
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


def _known_normalisation(loader: Any) -> Iterator[tuple[Sequence[float], Sequence[float]]]:
    """Look for a normalisation in a loader's data set, and in the data sets that it is a subset of."""
    data = loader
    while (data := getattr(data, "dataset", None)) is not None:
        transform = getattr(data, "transform", None)
        for one in (data, transform, *(getattr(transform, "transforms", None) or ())):
            pair = getattr(one, "mean", None), getattr(one, "std", None)
            if all(isinstance(values, (tuple, list)) and len(values) in (1, 3) for values in pair):
                yield pair
