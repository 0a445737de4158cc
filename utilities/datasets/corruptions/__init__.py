"""The fifteen common corruptions and the four extra ones, at five severities, for whole batches of images.

Hendrycks and Dietterich 2019, *Benchmarking Neural Network Robustness to Common Corruptions and Perturbations*,
https://arxiv.org/abs/1903.12261. The definitions and parameters are those of the scripts that made CIFAR-10-C and
ImageNet-C. Where a function departs from them, its docstring states so.

Example:
    >>> import torch
    >>> images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    >>> corrupt(images, "snow", 3).shape
    torch.Size([4, 3, 32, 32])
"""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Callable
from typing import Any

import torch

from utilities.datasets.corruptions import blur, digital, jpeg, noise, spatter, weather
from utilities.datasets.corruptions.draws import Draws
from utilities.datasets.corruptions.frost import FrostImages, frost_pictures
from utilities.datasets.corruptions.parameters import (
    CORRUPTIONS,
    EXTRA_CORRUPTIONS,
    PARAMETERS,
    SEVERITIES,
    choose_table,
)

__all__ = ["CORRUPTIONS", "EXTRA_CORRUPTIONS", "PARAMETERS", "SEVERITIES", "choose_table", "corrupt"]

SMALLEST = 8  # shortest side that is accepted, in pixels
CHUNK, CHUNK_ELSEWHERE = 2**16, 2**22  # pixels processed at a time: on a CPU, chosen to fit its cache, and elsewhere
FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    name: getattr(module, name)
    for module in (noise, blur, weather, spatter, digital, jpeg)
    for name in CORRUPTIONS + EXTRA_CORRUPTIONS
    if hasattr(module, name)
}


@torch.no_grad()
def corrupt(
    images: torch.Tensor,
    kind: str,
    severity: int,
    *,
    seed: int = 0,
    first: int = 0,
    parameters: str | None = None,
    frost_images: FrostImages = None,
) -> torch.Tensor:
    """Corrupt a batch of images.

    The result is truncated to whole numbers, like the published sets. Here 1/256 is added first, so that rounding in
    single precision does not darken unchanged values.

    Args:
        images: uint8 images (images, 3, height, width), at least 8 x 8 pixels, on any device.
        kind: One of `CORRUPTIONS` or `EXTRA_CORRUPTIONS`.
        severity: Severity, 1 to 5.
        seed: Seed, 0 or more. Each seed, kind and severity corrupts the same image of a data set differently.
        first: Index in the data set of the batch's first image; the others follow. Random numbers belong to an image's
            index, and do not depend on how the data set is cut into batches.
        parameters: ``"32"`` for the parameters of CIFAR-10-C, ``"224"`` for those of ImageNet-C. None is the former up
            to 64 pixels and the latter above. Except for ``elastic_transform`` they are not scaled with the size.
        frost_images: Pictures of frost, as a folder or as uint8 tensors (3, height, width). None draws textures, see
            `utilities.datasets.corruptions.frost`.

    Returns:
        uint8 images of the same shape, on the same device.

    Raises:
        TypeError: If images are not a uint8 tensor, or severity, seed or first are not integers.
        ValueError: If their shape, the kind, the severity or another option does not fit.

    Example:
        >>> images = torch.full((2, 3, 16, 16), 100, dtype=torch.uint8)
        >>> corrupt(images, "brightness", 1)[0, :, 0, 0].tolist()
        [112, 112, 112]
    """
    _check(images, kind, severity, seed, first, parameters)
    height, width = images.shape[2:]
    table = parameters or choose_table(height, width)
    parameter = PARAMETERS[table][kind][severity - 1]
    pictures = (frost_pictures(frost_images, table, height, width),) if kind == "frost" else ()
    draws = Draws((seed, zlib.crc32(kind.encode()), severity), first, images.device)
    out = torch.empty_like(images, memory_format=torch.contiguous_format)
    size = max(1, (CHUNK if images.device.type == "cpu" else CHUNK_ELSEWHERE) // (height * width))
    for chunk, target in zip(images.split(size), out.split(size), strict=True):
        if len(chunk):
            x = chunk.to(torch.float32, memory_format=torch.contiguous_format)
            x = FUNCTIONS[kind](x, parameter, draws.chunk(len(chunk)), *pictures)
            target.copy_(x.clamp_(0, 255).add_(1 / 256).to(torch.int16))  # via int16 it takes a third of the time
    return out


def _check(images: Any, kind: Any, severity: Any, seed: Any, first: Any, parameters: Any) -> None:
    """Refuse arguments that `corrupt` cannot handle."""
    if not isinstance(images, torch.Tensor) or images.dtype != torch.uint8:
        what = images.dtype if isinstance(images, torch.Tensor) else type(images).__name__
        raise TypeError(f"images should be a uint8 tensor with values from 0 to 255, not {what}")
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < SMALLEST:
        raise ValueError(
            f"images have the shape {tuple(images.shape)}; "
            f"it should be (images, 3, height, width) with sides of at least {SMALLEST} pixels"
        )
    if kind not in FUNCTIONS:
        close = difflib.get_close_matches(str(kind), FUNCTIONS, n=3, cutoff=0.4)
        raise ValueError(f"kind {kind!r} is not known; close: {', '.join(close) or ', '.join(FUNCTIONS)}")
    for name, value in (("severity", severity), ("seed", seed), ("first", first)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} should be an integer, not {value!r}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity {severity} is not one of {SEVERITIES}; 0 would be the clean images")
    if seed < 0 or first < 0:
        raise ValueError(f"seed {seed} and first {first} should not be negative")
    if parameters is not None and parameters not in PARAMETERS:
        raise ValueError(f"parameters {parameters!r} are not known; use '32', '224' or None")
