"""Measure text before it is drawn: its size, its lines, and names that are too long for their place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import matplotlib as mpl
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

from utilities.plots.paper import LABEL, TICK

ELLIPSIS = "…"
BREAKS = re.compile(r"(?<=[/_.,:;+-])")  # preferred places to break a word that is longer than a line
SLACK = 1.05  # each renderer rounds glyphs to pixels in its own way


def text_width(text: str, points: float) -> float:
    """Measure a line of text in the font of figures.

    Args:
        text: One line of text.
        points: Size of the font in points.

    Returns:
        Its width in inches.

    Example:
        >>> 1.9 < text_width("layer1.0", 12) / text_width("layer1.0", 6) < 2.1
        True
    """
    return (
        SLACK
        * _em_width(text, tuple(mpl.rcParams["font.family"]), tuple(mpl.rcParams["font.sans-serif"]))
        * points
        / 72
    )


@lru_cache(maxsize=20_000)
def _em_width(text: str, *_font: tuple[str, ...]) -> float:
    """Measure a line in units of the font's size. The font comes from the settings and is part of the cache key."""
    size = 10.0
    return text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)[0] / size


def wrap(text: str, inches: float, points: float = LABEL) -> str:
    r"""Break lines that are wider than the room for them; break words only where necessary.

    Args:
        text: Text to break. Line breaks that it already has are kept.
        inches: Width of a line in inches.
        points: Size of the font in points.

    Example:
        >>> wrap("untrained, seed 0", 0.6)
        'untrained,\nseed 0'
    """
    return "\n".join(_fill(line, inches, points) for line in text.split("\n"))


def _fill(line: str, inches: float, points: float) -> str:
    lines = [""]
    for word in line.split():
        first, *rest = _pieces(word, inches, points)
        longer = f"{lines[-1]} {first}".strip()
        if not lines[-1] or text_width(longer, points) <= inches:
            lines[-1] = longer
        else:
            lines.append(first)
        lines += rest
    return "\n".join(lines)


def _pieces(word: str, inches: float, points: float) -> list[str]:
    """Break a word that is wider than a line, after a mark if there is one, otherwise at any letter."""
    if text_width(word, points) <= inches:
        return [word]
    pieces = [""]
    for part in BREAKS.split(word):
        letters = [part] if text_width(part, points) <= inches else part
        for some in letters:
            if pieces[-1] and text_width(pieces[-1] + some, points) > inches:
                pieces.append("")
            pieces[-1] += some
    return pieces


def write_wrapped(artist: Text, text: str, inches: float, renderer: object = None) -> str:
    """Write a text in lines that fit the room for them, measured as they are drawn.

    Args:
        artist: Text of a figure, not rotated.
        text: Text to write.
        inches: Width of a line in inches.
        renderer: Renderer that draws the text; None takes the figure's.

    Returns:
        The text with its lines broken.
    """
    room = inches
    for _ in range(4):
        artist.set_text(wrap(text, room, artist.get_fontsize()))
        drawn = artist.get_window_extent(renderer).width / artist.figure.dpi
        if drawn <= inches:
            break
        room *= 0.98 * inches / drawn
    return artist.get_text()


def shorten(names: Sequence[str], inches: float, points: float = TICK) -> list[str]:
    """Shorten names that are wider than their room, so that they can still be told apart.

    Args:
        names: Names to shorten. First the beginning that all share is removed, then the middle of each name that is
            still too wide.
        inches: Room for each name in inches.
        points: Size of the font in points.

    Example:
        >>> shorten(["backbone.encoder.layers.0.attn", "backbone.encoder.layers.11.mlp"], 0.8)
        ['…layers.0.attn', '…layers.11.mlp']
    """
    names = list(names)
    if all(text_width(name, points) <= inches for name in names):
        return names
    shared = _shared_beginning(names)
    names = [ELLIPSIS + name[len(shared) :] for name in names] if shared else names
    # Among several places to cut, take the first that keeps most names different and most of their numbers.
    cuts = [[_cut(name, inches, points, share) for name in names] for share in (0.5, 0.7, 0.3)]
    return max(cuts, key=lambda cut: (len(set(cut)), sum(letter.isdigit() for name in cut for letter in name)))


def _shared_beginning(names: Sequence[str]) -> str:
    """Return the dotted beginning that all names share, without its last part, which says what is counted."""
    parts = []
    for column in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(column)) > 1:
            break
        parts.append(column[0])
    if len(set(names)) < 2 or len(parts) < 2:
        return ""
    return ".".join(parts[:-1]) + "."


def _cut(name: str, inches: float, points: float, share: float) -> str:
    """Replace the middle of a name; ``share`` of the kept letters stand at its beginning."""
    if text_width(name, points) <= inches:
        return name
    low, high = 0, len(name) - 1  # number of letters kept: `low` fit, unless there is no room for any
    while low < high:
        kept = (low + high + 1) // 2
        low, high = (kept, high) if text_width(_keep(name, kept, share), points) <= inches else (low, kept - 1)
    return _keep(name, low, share)


def _keep(name: str, kept: int, share: float) -> str:
    head = round(kept * share)
    return name[:head] + ELLIPSIS + name[len(name) - (kept - head) :]
