"""Style of all figures: widths in a paper, resolution, embedded fonts, and saving."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from utilities.utils import write_whole

DPI = 300
WIDTHS = {"column": 3.25, "page": 6.75}  # inches, in a paper with two columns
FORMATS = (".png", ".pdf", ".svg", ".eps")
OTHER_FORMATS = (".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".webp", ".ps", ".bmp")
SMALLEST = 6  # points; smaller text cannot be read in print
# Type 42 embeds fonts as TrueType. Several venues refuse the default, Type 3. Text of an SVG stays text, which can be
# searched, edited and set in another font.
STYLE = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none"}


@contextmanager
def saving() -> Iterator[None]:
    """Save figures in this style inside the context; restore the settings on exit.

    Example:
        >>> with saving():
        ...     mpl.rcParams["pdf.fonttype"]
        42
        >>> mpl.rcParams["pdf.fonttype"]
        3
    """
    resolution = {"savefig.dpi": DPI} if mpl.rcParams["savefig.dpi"] == "figure" else {}  # keep the user's own choice
    with mpl.rc_context(STYLE | resolution):
        yield


class PaperFigure(Figure):
    """A figure whose ``savefig`` embeds TrueType fonts and writes 300 dots per inch, unless told otherwise."""

    caption = ""  # text below the figure, before its lines are broken
    fits: tuple[Callable[[], None], ...] = ()  # functions to call again when the figure's size changes

    def savefig(self, fname: Any, **options: Any) -> None:
        """Save the figure as `matplotlib.figure.Figure.savefig` does."""
        with saving():
            super().savefig(fname, **options)


def paper_figure(width: float, height: float, **options: Any) -> PaperFigure:
    """Make an empty figure in this style, sized in inches; ``options`` go to `matplotlib.pyplot.figure`."""
    return plt.figure(figsize=(width, height), FigureClass=PaperFigure, **options)


def inches(width: float | str) -> float:
    """Convert a width to inches.

    Args:
        width: ``"column"`` or ``"page"`` of a paper with two columns, or inches as a number or a string.

    Raises:
        ValueError: If the width is none of these, or too small for a figure.

    Example:
        >>> inches("column"), inches("page"), inches(5), inches("2.5")
        (3.25, 6.75, 5.0, 2.5)
    """
    try:
        value = WIDTHS[width] if width in WIDTHS else float(width)
    except ValueError:
        value = 0.0
    if not 2 <= value <= 60:
        raise ValueError(f"a figure's width is {', '.join(map(repr, WIDTHS))} or inches from 2 to 60, not {width!r}")
    return value


def save_figure(
    figure: Figure,
    path: str | Path,
    *,
    width: float | str | None = None,
    caption: bool = True,
    dpi: float | None = None,
) -> Path:
    """Save a figure in the format that its path ends in, completely or not at all.

    Args:
        figure: Any matplotlib figure.
        path: Path that ends in .png, .pdf, .svg or .eps. If it has no ending, .png is added.
        width: Width of the figure: ``"column"``, ``"page"`` or inches. None leaves it as it is. Fonts keep their size.
        caption: Whether the text below the figure stays; a paper has its own.
        dpi: Dots per inch of the parts made of pixels; None takes 300, or the user's ``savefig.dpi``.

    Returns:
        The path.

    Raises:
        ValueError: If the path ends in any other format.

    Example:
        >>> import tempfile
        >>> save_figure(paper_figure(2, 1), Path(tempfile.mkdtemp()) / "empty.pdf").name
        'empty.pdf'
        >>> plt.close()
    """
    path = Path(path)
    base, suffix = split_picture(path)
    if width is not None or not caption:
        from utilities.plots.resize import resize  # the layout of heatmaps imports this module

        resize(figure, width, caption=caption)
    path = path if path.suffix.lower() == suffix else base.with_name(f"{base.name}{suffix}")
    options = {} if dpi is None else {"dpi": dpi}

    def write(temporary: Path) -> None:
        with saving():
            figure.savefig(temporary, format=suffix[1:], **options)

    return write_whole(path, write)


def save_figures(
    figures: Mapping[str, Figure],
    base: str | Path,
    suffix: str = ".png",
    *,
    width: float | str | None = None,
    caption: bool = True,
) -> list[Path]:
    """Save figures under one name, each with its own ending.

    Args:
        figures: Ending of the name, such as ``"_surface"``, or ``""`` -> figure.
        base: Path of a result without its suffix.
        suffix: Suffix of the format.
        width: As in `save_figure`.
        caption: As in `save_figure`.

    Returns:
        The paths.

    Example:
        >>> import tempfile
        >>> one, two = (paper_figure(2, 1) for _ in range(2))
        >>> [path.name for path in save_figures({"": one, "_cut": two}, Path(tempfile.mkdtemp()) / "r18", ".svg")]
        ['r18.svg', 'r18_cut.svg']
        >>> plt.close("all")
    """
    base = Path(base)
    return [
        save_figure(figure, base.with_name(f"{base.name}{part}{suffix}"), width=width, caption=caption)
        for part, figure in figures.items()
    ]


def split_picture(path: str | Path) -> tuple[Path, str]:
    """Split the path of a result into the beginning of all its files and the suffix of its pictures.

    Args:
        path: Path that ends in the format of the pictures. With .npz or no known suffix, the pictures are .png.

    Raises:
        ValueError: If the path ends in a picture format that cannot be written.

    Example:
        >>> [split_picture(f"runs/{name}")[0].name for name in ("r18.pdf", "r18.npz", "r18", "seed0.5")]
        ['r18', 'r18', 'r18', 'seed0.5']
        >>> [split_picture(f"runs/{name}")[1] for name in ("r18.pdf", "r18.npz", "r18", "seed0.5")]
        ['.pdf', '.png', '.png', '.png']
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in OTHER_FORMATS:
        raise ValueError(f"{path.name}: pictures are not written as {suffix}; choose one of {', '.join(FORMATS)}")
    if suffix in FORMATS:
        return path.with_suffix(""), suffix
    return (path.with_suffix("") if suffix == ".npz" else path), ".png"
