"""One style of all figures: `paper.mplstyle`, the sizes that differ from it, and the empty figure itself.

Every figure of this package is a `PaperFigure`: whatever is added to it, and however it is drawn, has this style.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 300
WIDTHS = {"column": 3.25, "page": 6.75}  # inches, in a paper with two columns
TEXT_WIDTH = 6.5  # inches: width of a column of text, and of most figures
# Sizes of text in points that differ from the style's.
HEADLINE = 9  # title of a single heatmap, stars
SIDE_NAME = 8  # names of the models beside a single heatmap
DENSE = 6.5  # titles of many small panels, cells of a table
SMALLEST = 6  # smaller text cannot be read in print
# Widths of lines in points.
THICK = 2
BOLD = 1.2
CURVE = 1
REFERENCE = 0.8  # chance, zero, clean images
THIN = 0.6  # error bars, boundaries, frames of boxes
HAIRLINE = 0.5
EDGE = 0.3  # outlines of markers and bars
# Colours and greys.
INK, DARK, GREY, LIGHT, FAINT = "0.2", "0.3", "0.5", "0.6", "0.8"
PALETTE = "colorblind"  # seaborn's; colour-blind readers can tell its colours apart
MISSING = "0.75"  # grey, for what has no value


@cache
def _style() -> dict[str, Any]:
    return dict(mpl.rc_params_from_file(Path(__file__).with_name("paper.mplstyle"), use_default_template=False))


LABEL: float = _style()["axes.labelsize"]  # titles, labels of axes, captions
TICK: float = _style()["xtick.labelsize"]  # ticks, legends, names of layers


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
    with mpl.rc_context(_style() | resolution):
        yield


def _styled(name: str) -> Callable[..., Any]:
    """Return a method of `matplotlib.figure.Figure` that makes what it makes in this style."""
    method = getattr(Figure, name)

    @wraps(method)
    def in_style(self: Figure, *arguments: Any, **options: Any) -> Any:
        with mpl.rc_context(_style()):
            made = method(self, *arguments, **options)
            if isinstance(made, Axes):  # its ticks are made later, out of the style's sight
                made.tick_params(axis="x", which="both", labelsize=mpl.rcParams["xtick.labelsize"])
                made.tick_params(axis="y", which="both", labelsize=mpl.rcParams["ytick.labelsize"])
        return made

    return in_style


class PaperFigure(Figure):
    """A figure whose ``savefig`` embeds TrueType fonts and writes 300 dots per inch, unless told otherwise."""

    caption = ""  # what is to be read with the figure; it stands beside it, not inside
    line = ""  # what it was made from, in few words; stands below
    fits: tuple[Callable[[], None], ...] = ()  # functions to call again when the figure's size changes

    add_axes, add_subplot, colorbar = map(_styled, ("add_axes", "add_subplot", "colorbar"))
    legend, suptitle, supxlabel, supylabel = map(_styled, ("legend", "suptitle", "supxlabel", "supylabel"))

    def _ipython_display_(self) -> None:
        """Show the figure in a notebook, and its caption below."""
        from IPython.core.pylabtools import print_figure
        from IPython.display import display

        picture = print_figure(self, fmt="png", base64=True)
        if picture is None:  # there is nothing on it
            return
        display({"image/png": picture, "text/plain": repr(self)}, raw=True)
        if self.caption:
            marks = re.compile(r"([*_`<>\\[\]#|])")  # of Markdown; names have stars and underscores
            display({"text/markdown": marks.sub(r"\\\1", self.caption), "text/plain": self.caption}, raw=True)

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
