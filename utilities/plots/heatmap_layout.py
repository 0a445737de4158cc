"""Layout of heatmaps: the canvas follows the matrix, and every text gets its place, measured as it is drawn."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import LayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from utilities.plots.layer_ticks import LEADING, line_height, name_layers, thinned
from utilities.plots.paper import DARK, LABEL, SMALLEST, PaperFigure, inches, paper_figure
from utilities.plots.text_fitting import wrap, write_wrapped

ELONGATION = 3  # largest aspect ratio of a heatmap; the cells of a longer matrix are not square
TALLEST = 6.5  # inches: height of a heatmap that is higher than wide
SHORTEST = 1.1  # inches: height of a heatmap that is wider than high
NARROWEST = 3.4  # inches: width of a canvas whose width is not given
SLIMMEST = 1.1  # inches: width of a heatmap; if several in a row would be narrower, fewer are put in a row
HIGHEST_ABOVE = 0.25  # inches: how far labels beside a heatmap may reach above it
PAD, GAP, BAR = 0.05, 0.15, 0.11  # inches: around the canvas, between panels, width of a colour bar


@dataclass(eq=False)
class Panel:
    """A heatmap and the texts around it.

    Attributes:
        ax: Axes that it is drawn on.
        layers: Names of the rows and of the columns.
        title: Title above it.
        labels: Labels beside the rows and below the columns.
        ticks: Indices of the rows and the columns to name. None names as many as fit, an empty list none.
        bar: Axes of its own colour bar.
    """

    ax: Axes
    layers: tuple[Sequence[str], Sequence[str]]
    title: str = ""
    labels: tuple[str, str] = ("", "")
    ticks: Sequence[Sequence[int] | None] = (None, None)
    bar: Axes | None = None
    written: dict[str, tuple[str, str]] = field(default_factory=dict)  # each text before and after breaking its lines
    named: dict[int, tuple[Sequence[int], float]] = field(default_factory=dict)

    @property
    def shape(self) -> np.ndarray:
        """Height and width as fractions of the longer side."""
        count = np.array([len(names) for names in self.layers], float)
        return np.maximum(count / count.max(), 1 / ELONGATION)

    @property
    def size(self) -> np.ndarray:
        """Height and width of the axes in inches."""
        return np.array([self.ax.bbox.height, self.ax.bbox.width]) / self.ax.figure.dpi


def heatmap_axes(count: int) -> tuple[PaperFigure, list[Axes]]:
    """Make a figure and the axes of ``count`` heatmaps; `HeatmapLayout` places them."""
    figure = paper_figure(5, 5)
    return figure, [figure.add_axes([0.2, 0.2, 0.6, 0.6], label=f"heatmap {i}") for i in range(count)]


def bar_axes(figure: Figure) -> Axes:
    """Make the axes of a colour bar; `HeatmapLayout` places them."""
    return figure.add_axes([0.85, 0.2, 0.02, 0.6], label="<colorbar>")


class HeatmapLayout(LayoutEngine):
    """Place heatmaps in a grid, with names, titles, colour bars and a caption around them, at every drawing.

    Args:
        panels: Panels in reading order.
        across: Number of panels in a row, if there is room for so many.
        side: Longer side of a heatmap in inches, used if the width of the figure is not given.
        bar: Colour bar that all panels share. Without it each panel has its own, or none.
    """

    _adjust_compatible = False
    _colorbar_gridspec = False

    def __init__(self, panels: Sequence[Panel], across: int, side: float, bar: Axes | None = None) -> None:
        super().__init__()
        self.panels, self.columns, self.across = list(panels), across, across
        self.side, self.bar = side, bar
        self._beside = 0.0  # width of a shared bar in inches
        self._renderer: object = None

    def arrange(self, figure: Figure, width: float | str | None = None, caption: bool = True) -> None:
        """Size the canvas to fit the matrices, and place everything in it.

        Args:
            figure: Figure that holds the panels.
            width: Width of the figure: ``"column"``, ``"page"`` or inches. None lets the matrices decide.
            caption: Whether to write the line below it that says what it was made from.
        """
        figure.set_layout_engine(self)
        text = getattr(figure, "line", "") if caption else ""
        figure.supxlabel(text, fontsize=SMALLEST, color=DARK, ha="left", va="bottom")
        self.across = self.columns
        width = None if width is None else inches(width)
        self._solve(figure, width, None)
        while width is not None and self.across > 1 and max(panel.size[1] for panel in self.panels) < SLIMMEST:
            self.across -= 1
            self._solve(figure, width, None)
        self._warn_of_crowded_ticks(figure)

    def execute(self, figure: Figure) -> None:
        """Fit everything into the canvas at its present size; matplotlib calls this before it draws."""
        self._solve(figure, *figure.get_size_inches())

    def _solve(self, figure: Figure, width: float | None, height: float | None) -> None:
        self._renderer = figure._get_renderer()  # the renderer of the saved format, which measures text in its own way
        try:
            self._settle(figure, width, height)
        finally:
            self._renderer = None  # some renderers cannot be pickled

    def _settle(self, figure: Figure, width: float | None, height: float | None) -> None:
        """Place everything a few times: the texts depend on the sizes of the axes, and these on the texts."""
        before = None
        for _ in range(6):
            self._write(figure, width or figure.get_figwidth())
            sides, rows = self._margins()
            self._beside = 0.0 if self.bar is None else sides[2]
            across = self._across(sides, width)
            down = self._down(figure, rows, across[0], across[1], height)
            sizes = np.array([across[1], down[1], across[0], down[0]])
            self._place(figure, sides, rows, *across, *down)
            if before is not None and np.allclose(before, sizes, atol=0.005):
                return
            before = sizes

    def _write(self, figure: Figure, width: float) -> None:
        """Break titles and labels, and choose names of layers, to fit the present sizes of the axes."""
        room = float(np.clip(0.25 * width / self.across, 0.45, 1.4))
        for panel in self.panels:
            (high, wide), ax = panel.size, panel.ax
            for i, (axis, inch) in enumerate(((ax.yaxis, high), (ax.xaxis, wide))):
                shown = thinned(len(panel.layers[i]), inch) if panel.ticks[i] is None else panel.ticks[i]
                if panel.named.get(i) != (shown, room):  # making ticks takes long
                    name_layers(axis, panel.layers[i], inch, indices=shown, longest=room)
                    panel.named[i] = shown, room
                _rewrite(panel, f"label{i}", axis.label, panel.labels[i], max(inch, 1.1), self._renderer)
            slot = (width - 2 * PAD - self._beside + GAP) / self.across - GAP
            _rewrite(panel, "title", ax.title, panel.title, slot, self._renderer)
        for bar, high in self._bars():
            bar._colorbar.locator = MaxNLocator(int(np.clip(high / 0.2, 1, 5)), steps=[1, 2, 2.5, 5, 10])
            bar.yaxis.label.set_text(wrap(" ".join(bar.yaxis.label.get_text().split()), max(high, 0.8), LABEL))
        if text := getattr(figure, "line", "") if figure._supxlabel.get_text() else "":
            write_wrapped(figure._supxlabel, text, width - 2 * PAD, self._renderer)

    def _bars(self) -> list[tuple[Axes, float]]:
        bars = [(panel.bar, panel.size[0]) for panel in self.panels if panel.bar is not None]
        if self.bar is not None:
            bars.append((self.bar, self.bar.bbox.height / self.bar.figure.dpi))
        return bars

    def _margins(self) -> tuple[np.ndarray, np.ndarray]:
        """Measure the texts around the axes.

        Returns:
            Two arrays of inches: left, right and bar (with its texts) of all panels; above, below and title of each row
            of panels.
        """
        margins = np.array([_around(panel.ax, self._renderer) for panel in self.panels])  # left, below, right, above
        bars, space = [_around(bar, self._renderer) for bar, _ in self._bars()], 0.0
        if bars:
            bar = np.max(bars, axis=0)
            space = GAP / 2 + BAR + bar[2]
            margins[:, [1, 3]] = np.maximum(margins[:, [1, 3]], bar[[1, 3]])
        titles = [self._height(panel.ax.title, 6 / 72 + 0.02) for panel in self.panels]  # 6 points of space below it
        rows = [
            [*margins[i : i + self.across, [3, 1]].max(0), max(titles[i : i + self.across])]
            for i in range(0, len(self.panels), self.across)
        ]
        return np.array([margins[:, 0].max(), margins[:, 2].max(), space]), np.array(rows)

    def _across(self, sides: np.ndarray, width: float | None) -> tuple[float, float]:
        """Return the width of the canvas, and the inches along it that a side of length 1 takes."""
        widest = max(panel.shape[1] for panel in self.panels)
        bars = sides[2] * (1 if self.bar is not None else self.across)
        fixed = 2 * PAD + self.across * sides[:2].sum() + bars + (self.across - 1) * GAP
        if width is None:
            width = max(NARROWEST, fixed + self.across * widest * self.side)
        return width, max(0.3, (width - fixed) / self.across / widest)

    def _down(
        self, figure: Figure, rows: np.ndarray, width: float, unit: float, height: float | None
    ) -> tuple[float, float]:
        """Return the height of the canvas, and the inches along it that a side of length 1 takes."""
        shapes = [panel.shape for panel in self.panels]
        highest = np.array([max(s[0] for s in shapes[i : i + self.across]) for i in range(0, len(shapes), self.across)])
        fixed = 2 * PAD + rows.sum() + (len(rows) - 1) * GAP + self._caption(figure) + self._height(figure._suptitle)
        if height is None:
            widest = max(s[1] for s in shapes)
            upright = min(unit, max(TALLEST, unit * widest) / highest.max())
            if highest.max() < 1:
                upright = max(upright, SHORTEST / highest.max())
            return fixed + upright * highest.sum(), upright
        return height, max(0.1, (height - fixed) / highest.sum())

    def _caption(self, figure: Figure) -> float:
        return self._height(figure._supxlabel) + 0.03 if figure._supxlabel.get_text() else 0.0

    def _place(
        self, figure: Figure, sides: np.ndarray, rows: np.ndarray, width: float, unit: float, height: float, up: float
    ) -> None:
        if not np.allclose(figure.get_size_inches(), (width, height)):
            figure.set_size_inches(width, height)
        left, right, bar = sides
        own = bar if self.bar is None else 0.0
        widest = unit * max(panel.shape[1] for panel in self.panels)
        slot = left + widest + right + own
        figure._supxlabel.set_position((PAD / width, PAD / height))
        top = height - PAD - self._height(figure._suptitle)
        if figure._suptitle is not None:
            figure._suptitle.set(y=1 - PAD / height, va="top")
        first = top
        for number, (above, below, title) in enumerate(rows):
            panels = self.panels[number * self.across : (number + 1) * self.across]
            top -= title + above
            first = top if number == 0 else first
            for place, panel in enumerate(panels):
                high, wide = panel.shape * (up, unit)
                start = PAD + place * (slot + GAP)
                x = start + left + (widest - wide) / 2
                _put(panel.ax, x, top - high, wide, high)
                square = np.isclose(high / len(panel.layers[0]), wide / len(panel.layers[1]), rtol=0.01)
                panel.ax.set_aspect("equal" if square else "auto")
                self._put_title(panel.ax, x, start, start + slot, high, wide, above)
                if panel.bar is not None:
                    _put(panel.bar, x + wide + right + GAP / 2, top - high, BAR, high)
            top -= up * max(panel.shape[0] for panel in panels)
            last = top
            top -= below + GAP
        if self.bar is not None:
            _put(self.bar, PAD + self.across * (slot + GAP) - GAP / 2, last, BAR, first - last)

    def _height(self, artist: Text | None, air: float = 0.06) -> float:
        """Measure the height of a text in inches, with a little space around it; 0 if there is none."""
        if artist is None or not artist.get_text():
            return 0.0
        return artist.get_window_extent(self._renderer).height / artist.figure.dpi + air

    def _put_title(self, ax: Axes, x: float, start: float, end: float, high: float, wide: float, above: float) -> None:
        """Centre a title above its axes, as far as it stays within its slot."""
        half = ax.title.get_window_extent(self._renderer).width / ax.figure.dpi / 2
        centre = np.clip(x + wide / 2, start + half, max(start + half, end - half))
        ax._autotitlepos = False  # otherwise matplotlib moves it back
        ax.title.set_va("bottom")
        ax.title.set_position(((centre - x) / wide, 1 + above / high))

    def _warn_of_crowded_ticks(self, figure: Figure) -> None:
        for panel in self.panels:
            for names, ticks, inch in zip(panel.layers, panel.ticks, panel.size, strict=True):
                if ticks is not None and len(ticks) > 1:
                    closest = np.diff(sorted(ticks)).min() * inch / len(names)
                    if closest < line_height() / LEADING:
                        warnings.warn(
                            f"the layers to label lie {closest:.2f} inches apart, a line of text needs "
                            f"{line_height():.2f}: choose fewer, or a wider figure",
                            stacklevel=4,
                        )
                        return


def _rewrite(panel: Panel, key: str, artist: Text, text: str, room: float, renderer: object) -> None:
    """Break the lines of a text to fit its room; if the user has changed the text since, break the new one."""
    raw, broken = panel.written.get(key, (text, artist.get_text()))
    raw = raw if artist.get_text() == broken else artist.get_text()
    if artist.get_rotation():
        artist.set_text(wrap(raw, room, artist.get_fontsize()))
    else:
        write_wrapped(artist, raw, room, renderer)
    panel.written[key] = raw, artist.get_text()


def _around(ax: Axes, renderer: object) -> tuple[float, float, float, float]:
    """Measure the inches that ticks, names and labels take on the left, below, on the right and above."""
    dpi, inner = ax.figure.dpi, ax.bbox
    boxes = [box for box in (ax.xaxis.get_tightbbox(renderer), ax.yaxis.get_tightbbox(renderer)) if box is not None]
    left, below = (min([0.0, *(getattr(b, k) - getattr(inner, k) for b in boxes)]) for k in ("x0", "y0"))
    right, above = (max([0.0, *(getattr(b, k) - getattr(inner, k) for b in boxes)]) for k in ("x1", "y1"))
    # A label longer than the height of its axes sticks out further the lower the axes get. They are made lower for it
    # only up to this point.
    return -left / dpi, -below / dpi, right / dpi, min(above / dpi, HIGHEST_ABOVE)


def _put(ax: Axes, x: float, y: float, width: float, height: float) -> None:
    """Place axes, in inches."""
    size = ax.figure.get_size_inches()
    ax.set_position([x / size[0], y / size[1], width / size[0], height / size[1]])
