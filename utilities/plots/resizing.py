"""Resize a finished figure, with or without the line below it; fonts keep their size."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utilities.plots.captions import line_height, write_line
from utilities.plots.heatmap_layout import HeatmapLayout
from utilities.plots.paper import inches
from utilities.plots.text_fitting import wrap

LOWEST = 0.75  # smallest share of its height that a figure keeps when it is made narrower


def resize_figure(figure: Figure, width: float | str | None = None, *, caption: bool = True) -> None:
    """Bring a figure to a width, break its texts anew, and adapt its height.

    Args:
        figure: Figure of `utilities.plots`, or any other of matplotlib's.
        width: New width: ``"column"``, ``"page"`` or inches. None leaves the width as it is.
        caption: Whether the line below the figure stays, which says what it was made from.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> from utilities.plots.captions import caption_figure
        >>> from utilities.plots.paper import paper_figure
        >>> figure = paper_figure(6.75, 3, layout="constrained")
        >>> caption_figure(figure, "One sentence that says what was drawn.", "digits, n = 9")
        >>> resize_figure(figure, "column", caption=False)
        >>> figure.get_size_inches().tolist(), figure.get_supxlabel()
        ([3.25, 2.25], '')
        >>> plt.close(figure)
    """
    engine = figure.get_layout_engine()
    if isinstance(engine, HeatmapLayout):
        engine.arrange(figure, figure.get_figwidth() if width is None else width, caption)
        return
    line = getattr(figure, "line", "")
    written = len(figure.get_supxlabel().splitlines()) if line else 0
    height = figure.get_figheight() - line_height(written)
    if width is not None and inches(width) != figure.get_figwidth():
        new, old = inches(width), figure.get_figwidth()
        height *= max(LOWEST, min(1.0, new / old))
        figure.set_size_inches(new, height)
        height += _fit_legends(figure)
    if line:
        figure.supxlabel("")
    figure.set_figheight(height)
    if line and caption:
        write_line(figure)
    if width is not None:
        for fit in getattr(figure, "fits", ()):
            fit()
        for _ in range(2):  # the first pass changes the sizes of the axes
            _fit_titles(figure)


def _fit_legends(figure: Figure) -> float:
    """Write legends above the axes in fewer columns if they are too wide, and return the inches that this adds."""
    added = 0.0
    for legend in figure.legends:
        before = legend.get_window_extent().height
        for text in legend.get_texts():
            text.set_text(wrap(text.get_text(), 0.85 * figure.get_figwidth(), text.get_fontsize()))
        columns = legend._ncols
        while columns > 1 and legend.get_window_extent().width > 0.98 * figure.bbox.width:
            columns -= 1
            legend.set_ncols(columns)
        added += max(0.0, legend.get_window_extent().height - before) / figure.dpi
    return added


def _fit_titles(figure: Figure) -> None:
    """Break titles and labels of axes that would overlap those beside them."""
    figure.draw_without_rendering()
    for ax in figure.axes:
        wide, high = (size / figure.dpi for size in ax.bbox.size)
        centre = (ax.bbox.x0 + ax.bbox.x1) / 2 / figure.dpi
        across = min(_slot(ax, wide), 1.96 * min(centre, figure.get_figwidth() - centre))
        for artist, room in ((ax.title, across), (ax.xaxis.label, across), (ax.yaxis.label, high)):
            if artist.get_text():
                artist.set_text(wrap(artist.get_text(), max(room, 0.5), artist.get_fontsize()))


def _slot(ax: Axes, wide: float) -> float:
    """Return the width of a subplot in inches, including the margins beside it if it is alone in its row."""
    spec = ax.get_subplotspec()
    if spec is None:
        return wide
    columns = spec.get_gridspec().ncols
    return max(wide, 0.97 * ax.figure.get_figwidth() / columns) if columns == 1 else wide
