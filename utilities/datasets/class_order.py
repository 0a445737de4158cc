"""Put the classes of a folder, and thus their labels, into alphabetical, natural or the user's order."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

NATURAL = "natural"


def ordered(found: Sequence[str], order: Sequence[str] | str | Path | None, path: Path) -> list[str]:
    """Put the classes of a folder into an order.

    Args:
        found: Names of the class folders.
        order: None is alphabetical (``"10"`` before ``"2"``), as in torchvision's ImageFolder. ``"natural"`` puts 2
            before 10, as timm does. Names, or a text file with one name a line, set your own order; it may name
            classes that have no folder here, which keep their labels.
        path: The folder, for messages.

    Returns:
        The names, in the order of the labels.

    Raises:
        FileNotFoundError: If there is no such text file.
        ValueError: If the order names a class twice, or leaves one out.

    Example:
        >>> ordered(["10", "2"], None, Path()), ordered(["10", "2"], "natural", Path())
        (['10', '2'], ['2', '10'])
    """
    if order is None:
        return sorted(found)
    if order == NATURAL:
        return sorted(found, key=_natural)
    names = _read(Path(order)) if isinstance(order, (str, Path)) else [str(name) for name in order]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"classes names {', '.join(twice[:8])} more than once; name each class once")
    missing = sorted(set(found) - set(names))
    if missing:
        raise ValueError(f"classes leaves out {', '.join(missing[:8])} of {path}; name all class folders")
    return names


def from_options(given: Sequence[str] | None) -> list[str] | str | None:
    """Parse the words of a command line: nothing, ``natural``, a text file, or names.

    Example:
        >>> from_options(None), from_options(["natural"]), from_options(["cat", "dog"])
        (None, 'natural', ['cat', 'dog'])
    """
    if not given:
        return None
    return given[0] if len(given) == 1 else list(given)


def _natural(name: str) -> list[int | str]:
    """Compare runs of digits as numbers, and all else in lower case, as timm's ImageFolder does."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.lower())]


def _read(file: Path) -> list[str]:
    if not file.is_file():
        raise FileNotFoundError(
            f"classes: {file} is no file; give {NATURAL!r}, names, or a text file with the name of a class in each line"
        )
    return [line.strip() for line in file.read_text().splitlines() if line.strip()]
