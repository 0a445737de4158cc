"""A picture file as an RGB image of 8 bits: upright, and at the right scale."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

_ORIENTATION = 0x0112  # the tag of EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DEEP = ("I", "F")  # modes of more than 8 bits begin so
_REMEDY = "save it with 8 or 16 bits"


def open_picture(path: Path, upright: bool = True) -> Image.Image:
    """Read a picture: palettes, CMYK and transparency as PIL converts them, other depths by `eight_bits`.

    Args:
        path: Of the file.
        upright: Whether to turn it as its EXIF data say.

    Raises:
        OSError: Naming the file, if it cannot be read, or its scale cannot be told.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.png"
        >>> Image.fromarray(np.full((1, 2), 65535, np.uint16)).save(path)
        >>> open_picture(path).getpixel((0, 0))
        (255, 255, 255)
    """
    with _opened(path) as image:
        image.load()  # after which a TIFF is upright, and does not say any more that it was not
        turn = _turn(image) if upright else None
        image = eight_bits(image) if image.mode.startswith(_DEEP) else image
        image = image.convert("RGB")
        return image if turn is None else image.transpose(turn)


def picture_size(path: Path, upright: bool = True) -> tuple[int, int]:
    """Give a picture's width and height, without reading the pixels where that is not needed to see that it can be.

    Raises:
        OSError: As `open_picture`.
    """
    with _opened(path) as image:
        if image.mode.startswith(_DEEP):
            eight_bits(image)
        if image.format == "TIFF" and _turn(image):
            image.load()
        turned = upright and _turn(image) in (_TURNS[5], _TURNS[6], _TURNS[7], _TURNS[8])
        return image.size[::-1] if turned else image.size


def brightest(path: Path) -> int | None:
    """Give the largest number in a grey picture of 16 bits; None for other pictures.

    Raises:
        OSError: As `open_picture`.
    """
    with _opened(path) as image:
        if not image.mode.startswith("I"):
            return None
        image.load()
        return int(np.asarray(image).max())


def eight_bits(image: Image.Image) -> Image.Image:
    r"""Bring a grey picture of more than 8 bits to 8, by what its format says of white, never by its own pixels.

    White is 65535 where a file has 16 bits, whether or not a camera filled them, and 1 where it has floating-point
    numbers from 0 to 1. Of other floating-point numbers and of 32 bits nobody says what is white.

    Args:
        image: Of a mode ``I;16``, ``I`` or ``F``.

    Raises:
        ValueError: If the scale cannot be told.

    Example:
        >>> eight_bits(Image.fromarray(np.float32([[0, 0.5, 1]]))).tobytes()
        b'\x00\x80\xff'
    """
    image.load()  # a TIFF may change its size
    pixels = np.asarray(image)
    if image.mode == "F":
        if not ((pixels >= 0) & (pixels <= 1)).all():  # which NaN fails too
            low, high = pixels.min(), pixels.max()
            raise ValueError(
                f"it has floating-point numbers from {low:g} to {high:g}, and only those from 0 (black) to 1 (white) "
                f"can be told; divide them by what is white, or {_REMEDY}"
            )
        return Image.fromarray((pixels * 255).round().astype(np.uint8))
    if not image.mode.startswith("I;16") and image.format not in ("PNG", "PPM"):  # PIL reads their 16 bits into 32
        raise ValueError(
            f"it has whole numbers of 32 bits, or signed ones, of which nobody says what is white; {_REMEDY}"
        )
    return Image.fromarray(((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _turn(image: Image.Image) -> Image.Transpose | None:
    return _TURNS.get(image.getexif().get(_ORIENTATION))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a file, and name it in whatever goes wrong with it."""
    try:
        # Not by its name: PIL would map it into memory, and then takes height for width where a TIFF is turned.
        with path.open("rb") as file, Image.open(file) as image:
            yield image
    except (OSError, ValueError, SyntaxError) as error:
        raise OSError(f"cannot read image {path}: {error}") from error
