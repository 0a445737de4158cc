"""Read a picture file as an RGB image of 8 bits: upright, and at the right scale."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

_ORIENTATION, _PHOTOMETRIC = 274, 262  # tags of EXIF and TIFF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DEEP = ("I", "F")  # first letters of modes of more than 8 bits
_REMEDY = "save it with 8 or 16 bits"
EIGHT_BITS = 255  # white in pictures of eight bits
_told: set[Path] = set()  # folders that have had a warning of dark pictures


def open_picture(path: Path, upright: bool = True) -> Image.Image:
    """Read a picture; PIL converts palettes, CMYK and transparency, and `eight_bits` other depths.

    A picture of 16 bits that turns black because it holds numbers of 8 bits causes a warning, once for each folder.

    Args:
        path: Path of the file.
        upright: Whether to turn the picture as its EXIF data say.

    Raises:
        OSError: If the file cannot be read, or its scale cannot be told; the message names the file.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.png"
        >>> Image.fromarray(np.full((1, 2), 65535, np.uint16)).save(path)
        >>> open_picture(path).getpixel((0, 0))
        (255, 255, 255)
    """
    with _opened(path) as image:
        wide = any(";16" in str(tile) for tile in image.tile)  # colours of 16 bits, PIL keeps the upper 8
        image.load()  # turns a TIFF upright and deletes the tag that says it was not
        turn = _turn(image) if upright else None
        if image.mode.startswith("I"):
            warn_if_dark(path, int(np.asarray(image).max()))
        image = eight_bits(image) if image.mode.startswith(_DEEP) else image
        wide = wide and image.mode.startswith(("RGB", "LA"))
        image = image.convert("RGB")
        if wide and not any(high for _, high in image.getextrema()):
            _warn_once_of_dark(path, "all its numbers are below 256")
        return image if turn is None else image.transpose(turn)


def picture_size(path: Path, upright: bool = True) -> tuple[int, int]:
    """Return a picture's width and height, reading the pixels only where a readability check needs them.

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
    """Return the largest number in a grey picture of 16 bits; None for other pictures.

    Raises:
        OSError: As `open_picture`.
    """
    with _opened(path) as image:
        if not image.mode.startswith("I"):
            return None
        image.load()
        return int(np.asarray(image).max())


def warn_if_dark(path: Path, largest: int) -> None:
    """Warn of a picture of 16 bits that holds numbers of at most 8, and not just 0; once for each folder.

    The picture is read all the same. It may really be that dark, and then no more is lost than in any 8-bit picture.

    Example:
        >>> with warnings.catch_warnings(record=True) as said:
        ...     warnings.simplefilter("always")
        ...     for largest in (0, 65535, 200, 200):
        ...         warn_if_dark(Path("night/a.png"), largest)
        >>> len(said)
        1
    """
    if 0 < largest <= EIGHT_BITS:
        _warn_once_of_dark(path, f"its largest number is {largest}")


def _warn_once_of_dark(path: Path, why: str) -> None:
    if path.parent not in _told:
        _told.add(path.parent)
        warnings.warn(
            f"{path} has 16 bits, white being 65535, but {why}, so that it becomes black; if it is not meant to be "
            "that dark, save it, and others of its folder that are so, with 8 bits, or multiply them by 257",
            stacklevel=3,
        )


def eight_bits(image: Image.Image) -> Image.Image:
    r"""Bring a grey picture of more than 8 bits to 8, by its format's definition of white, never by its own pixels.

    White is 65535 where a file has 16 bits, whether or not a camera filled them, and 1 where it has floating-point
    numbers from 0 to 1. For other floating-point numbers and for 32 bits, white is not defined.

    Args:
        image: Picture of mode ``I;16``, ``I`` or ``F``.

    Raises:
        ValueError: If the scale cannot be told.

    Example:
        >>> eight_bits(Image.fromarray(np.float32([[0, 0.5, 1]]))).tobytes()
        b'\x00\x80\xff'
    """
    image.load()  # a TIFF may change its size
    pixels = np.asarray(image)
    if image.mode == "F":
        if not ((pixels >= 0) & (pixels <= 1)).all():  # NaN fails this too
            low, high = pixels.min(), pixels.max()
            raise ValueError(
                f"it has floating-point numbers from {low:g} to {high:g}, and only those from 0 (black) to 1 (white) "
                f"can be told; divide them by what is white, or {_REMEDY}"
            )
        return _grey((pixels * 255).round(), image)
    if not image.mode.startswith("I;16") and image.format not in ("PNG", "PPM"):  # PIL reads their 16 bits as 32
        raise ValueError(
            f"it has whole numbers of 32 bits, or signed ones, of which nobody says what is white; {_REMEDY}"
        )
    return _grey((pixels.astype(np.uint32) + 128) // 257, image)


def _grey(levels: np.ndarray, image: Image.Image) -> Image.Image:
    """Make a picture of 8-bit levels; a TIFF may state that 0 is white, which PIL heeds for 8 bits only."""
    negative = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0
    levels = levels.astype(np.uint8)
    return Image.fromarray(255 - levels if negative else levels)


def _turn(image: Image.Image) -> Image.Transpose | None:
    return _TURNS.get(image.getexif().get(_ORIENTATION))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a file, and name it in any error."""
    try:
        # Open it as a stream: given the name, PIL maps it into memory and swaps height and width of a turned TIFF.
        with path.open("rb") as file, Image.open(file) as image:
            yield image
    except (OSError, ValueError, SyntaxError) as error:
        remedy = "" if isinstance(error, ValueError) else "; replace or remove it"  # our own errors have theirs
        what = "it is no image, or not a whole one" if isinstance(error, UnidentifiedImageError) else error
        raise OSError(f"cannot read image {path}: {what}{remedy}") from error
