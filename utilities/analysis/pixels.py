"""Between the normalised images that models see and the 8-bit pixels that corruptions are defined on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch


def to_pixels(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Bring normalised images, (batch, 3, height, width), back to 8 bits.

    Raises:
        ValueError: If they are not 8-bit images that were normalised with this mean and deviation.

    Example:
        >>> pixels = torch.arange(12, dtype=torch.uint8).view(1, 3, 2, 2)
        >>> scale = (0.3, 0.4, 0.5), (0.1, 0.2, 0.3)
        >>> bool((to_pixels(to_images(pixels, *scale), *scale) == pixels).all())
        True
    """
    shift, factor = _scale(images, mean, std)
    values = images * factor + shift
    if values.min() < -0.5 or values.max() > 255.5:
        low, high = values.aminmax()
        raise ValueError(
            f"undoing mean {tuple(mean)} and std {tuple(std)} gives pixels from {low:.0f} to {high:.0f}, not 0 to 255: "
            "pass the mean= and std= that the images were normalised with"
        )
    return values.round().clamp(0, 255).to(torch.uint8)


def to_images(pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Normalise 8-bit images as `utilities.images.ImageDataset` does, see `to_pixels`."""
    shift, factor = _scale(pixels, mean, std)
    return pixels.float().sub_(shift).div_(factor)


def _scale(images: torch.Tensor, *values: Sequence[float]) -> list[torch.Tensor]:
    return [255 * torch.tensor(value, device=images.device).view(1, 3, 1, 1) for value in values]


def normalisation(
    loader: Iterable[Any], mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> tuple[Sequence[float], Sequence[float]]:
    """Give mean and deviation that a loader's images were normalised with, unless they are given.

    Raises:
        ValueError: If they are not known.
    """
    data = getattr(loader, "dataset", None)
    mean = getattr(data, "mean", None) if mean is None else mean
    std = getattr(data, "std", None) if std is None else std
    if mean is None or std is None:
        raise ValueError(
            "the loader does not say how its images were normalised, so they cannot be brought back to 8 bits: pass "
            "mean= and std=, three numbers each, as given to Normalize, or use utilities.datasets.load_dataset"
        )
    return mean, std
