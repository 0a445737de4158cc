"""Pictures of frost: drawn by a program here, or read from a folder.

The published corruption adds pieces of five photographs that are not part of this project. They are replaced by five
textures of fine needles and soft clouds, with about the brightness, contrast and tint of those photographs. Results are
close to those on the published sets, but not comparable digit by digit. If you have the photographs, pass their folder
to `utilities.datasets.corruptions.corrupt`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch.nn import functional as F
from torchvision.transforms import functional as TF

from utilities.datasets.picture import open_picture

SUFFIXES = {".png", ".jpg", ".jpeg"}
SHRINKING = {"32": 0.2, "224": 1.0}  # table of parameters -> scale of the pictures
# Means of red, green and blue, and the deviation, for each texture.
LOOKS = [
    ((78, 149, 166), 18),
    ((201, 205, 214), 22),
    ((201, 205, 214), 22),
    ((138, 153, 165), 28),
    ((112, 123, 135), 41),
]
FrostImages = str | Path | Sequence[torch.Tensor] | None


class Pictures:
    """Pictures of any size stored end to end, so that pieces of many pictures can be read at once, row by row.

    Args:
        pictures: uint8 tensors (3, height, width).

    Example:
        >>> pictures = Pictures([torch.arange(75, dtype=torch.uint8).view(3, 5, 5)])
        >>> pictures.pieces(torch.tensor([[0.0, 0.5, 0.9]]), 2, 3)[0, 0].tolist()
        [[6.0, 7.0, 8.0], [11.0, 12.0, 13.0]]
    """

    def __init__(self, pictures: Sequence[torch.Tensor]) -> None:
        self.values = torch.cat([picture.flatten() for picture in pictures])
        sizes = [picture.numel() for picture in pictures]
        starts = [sum(sizes[:k]) for k in range(len(sizes))]
        self.facts = torch.tensor([[start, *p.shape[1:]] for start, p in zip(starts, pictures, strict=True)])

    def pieces(self, uniform: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Cut one piece per row (picture, top, left) of numbers between 0 and 1: float32 from 0 to 255."""
        device = uniform.device
        start, tall, wide = self.facts.to(device)[(uniform[:, 0] * len(self.facts)).long()].unbind(1)
        top = (uniform[:, 1] * (tall - height)).long()
        left = (uniform[:, 2] * (wide - width)).long()
        row = torch.arange(height, device=device) + top[:, None]
        plane = torch.arange(3, device=device) * (tall * wide)[:, None] + (start + left)[:, None]
        index = plane[:, :, None] + (row * wide[:, None])[:, None]
        values = self.values.to(device)
        rows = values.as_strided((len(values) - width + 1, width), (1, 1)).index_select(0, index.flatten())
        return rows.view(len(uniform), 3, height, width).float()


def frost_pictures(images: FrostImages, table: str, height: int, width: int) -> Pictures:
    """Prepare pictures for images of a given size.

    Pictures are shrunk as the table of parameters requires, and enlarged where they are too small.

    Raises:
        ValueError: If a folder has no picture, or a tensor is not uint8 (3, height, width).
    """
    if images is None or isinstance(images, (str, Path)):
        return _kept_pictures(None if images is None else str(images), SHRINKING[table], height, width)
    for picture in images:
        if picture.dtype != torch.uint8 or picture.ndim != 3 or len(picture) != 3:
            what = f"{picture.dtype} {tuple(picture.shape)}"
            raise ValueError(f"frost_images: a picture is {what}; it should be uint8 (3, height, width)")
    if not len(images):
        raise ValueError("frost_images is empty; leave it out to use drawn textures")
    return Pictures([_fit(picture, SHRINKING[table], height, width) for picture in images])


@lru_cache(maxsize=4)
def _kept_pictures(folder: str | None, scale: float, height: int, width: int) -> Pictures:
    if folder is None:
        found = frost_textures(max(512, 2 ** math.ceil(math.log2(max(height, width) / scale))))
    else:
        paths = [p for p in sorted(Path(folder).expanduser().glob("*")) if p.suffix.lower() in SUFFIXES]
        if not paths:
            raise ValueError(f"frost_images: {folder} holds no picture ({', '.join(sorted(SUFFIXES))})")
        found = [TF.pil_to_tensor(open_picture(path, upright=False)) for path in paths]
    return Pictures([_fit(picture, scale, height, width) for picture in found])


def _fit(picture: torch.Tensor, scale: float, height: int, width: int) -> torch.Tensor:
    tall, wide = (round(scale * size) for size in picture.shape[1:])
    grow = max(1.0, (height + 1) / tall, (width + 1) / wide)
    size = math.ceil(tall * grow), math.ceil(wide * grow)
    if size == tuple(picture.shape[1:]):
        return picture
    resized = F.interpolate(picture[None].float(), size, mode="bilinear", align_corners=False)
    return resized[0].round().to(torch.uint8)


def frost_textures(side: int = 512, seed: int = 0) -> list[torch.Tensor]:
    """Draw five textures of needles and clouds.

    Needles are white noise smeared along nine directions, of which each pixel shows the strongest.

    Returns:
        Five uint8 tensors (3, side, side), which continue across their borders.

    Example:
        >>> [texture.shape for texture in frost_textures(64)][:1]
        [torch.Size([3, 64, 64])]
    """
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.fft.fftfreq(side) * 2 * math.pi
    down, right = frequency[:, None], torch.fft.rfftfreq(side) * 2 * math.pi
    textures = []
    for means, deviation in LOOKS:
        noise = torch.fft.rfft2(torch.randn(2, side, side, generator=generator))
        needles = torch.stack([_needles(noise[0], down, right, k * math.pi / 9) for k in range(9)]).amax(0)
        clouds = torch.fft.irfft2(noise[1] / (down**2 + right**2).clamp(min=(4 * math.pi / side) ** 2).pow(0.75))
        grey = _standard(_standard(needles) + 0.8 * _standard(clouds))
        tinted = torch.tensor(means)[:, None, None] + deviation * grey
        textures.append(tinted.round().clamp(0, 255).to(torch.uint8))
    return textures


def _needles(noise: torch.Tensor, down: torch.Tensor, right: torch.Tensor, angle: float) -> torch.Tensor:
    """Smear noise over about 14 pixels along a direction, and hardly at all across it."""
    along = right * math.cos(angle) + down * math.sin(angle)
    across = down * math.cos(angle) - right * math.sin(angle)
    return torch.fft.irfft2(noise * torch.exp(-0.5 * ((14 * along) ** 2 + (1.2 * across) ** 2)))


def _standard(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean()) / x.std()
