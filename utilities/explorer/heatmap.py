"""A similarity as a heatmap that answers: it reads a pair of layers, its row and column, and its best matches."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go

from utilities.gallery.heatmaps import colour_scale, label_of, size_of
from utilities.plots.captions import describe_similarity
from utilities.results.similarity import Similarity

BEST = 5  # matches that are listed
MARK = "#18c3c3"
SIDE = 520  # pixels of a heatmap
Pair = tuple[str, str]


class AnsweringHeatmap(widgets.VBox):
    """A heatmap, what it says of the pair of layers that is chosen, and the curves of that pair's row and column.

    Choose a pair by a click, or by the two lists of layers.

    Example:
        >>> shown = AnsweringHeatmap()
        >>> shown.show(Similarity(np.eye(2), ["a", "b"], ["x", "y"], 9))
        >>> shown.choose(1, 0)
        >>> shown.pair, shown.readout.value
        (('b', 'x'), '<div role="status">b with x: 0.000</div>')
    """

    def __init__(self) -> None:
        self.result: Similarity | None = None
        self.drawn = widgets.HBox(layout={"flex_flow": "row wrap"})
        self.rows, self.columns = (
            widgets.Dropdown(description=what, layout={"width": "22em"}) for what in ("row", "column")
        )
        self.readout = widgets.HTML()
        self.readout.add_class("explorer-readout")
        self.curves = widgets.VBox()
        self.matches, self.caption = widgets.HTML(), widgets.HTML()
        for box in (self.rows, self.columns):
            box.observe(self._from_lists, "index")
        super().__init__(
            [
                self.drawn,
                widgets.HBox([self.rows, self.columns], layout={"flex_flow": "row wrap"}),
                self.readout,
                self.curves,
                self.matches,
                self.caption,
            ]
        )

    @property
    def pair(self) -> Pair | None:
        """The layers that are chosen."""
        return None if self.result is None or self.rows.index is None else (self.rows.value, self.columns.value)

    def show(self, result: Similarity, other: Similarity | None = None, difference: bool = False) -> None:
        """Draw a similarity, beside another one or less it.

        Args:
            result: It; clicks read this one.
            other: Another one, drawn on the same scale.
            difference: Whether to draw one heatmap, of the first less the other; both need the same layers.

        Raises:
            ValueError: If the layers of a difference are not the same.
        """
        drawn = [result] if other is None else [less(result, other)] if difference else [result, other]
        low, high = _range(drawn, difference)
        layers = (result.layers1, result.layers2)
        same = self.result is not None and alike(self.result, result)
        i, j = (self.rows.index, self.columns.index) if same else _telling_pair(*layers)
        figures = [_figure(one, low, high, difference, _marks(one, i, j)) for one in drawn]
        self.result, self._figures, self._drawn = None, figures, drawn  # no reading while the lists change
        for figure in figures:
            figure.data[0].on_click(self._from_click)
        replace_figures(self.drawn, figures)
        self.rows.options, self.columns.options = drawn[0].layers1, drawn[0].layers2
        self.result = drawn[0]
        self.caption.value = "<br>".join(html.escape(describe_similarity(one)) for one in drawn)
        self._place = i, j
        self.choose(i, j)

    def choose(self, i: int, j: int) -> None:
        """Choose a pair by the numbers of its row and column."""
        self.result, kept = None, self.result
        self.rows.index, self.columns.index = i, j
        self.result = kept
        self._read()

    def _from_click(self, _trace: Any, points: Any, _state: Any) -> None:
        if points.point_inds:
            self.choose(*map(int, points.point_inds[0]))

    def _from_lists(self, _change: Any) -> None:
        if self.result is not None and self.rows.index is not None and self.columns.index is not None:
            self._read()

    def _read(self) -> None:
        """Mark the pair, and say all that is known of it."""
        i, j, result = self.rows.index, self.columns.index, self.result
        if (i, j) != self._place:  # a message to a figure that is not drawn yet would spoil it
            for figure, one in zip(self._figures, self._drawn, strict=True):
                figure.layout.shapes = _marks(one, i, j)
        self._place = i, j
        said = [describe_pair(one, i, j) for one in self._drawn if _inside(one, i, j)]
        self.readout.value = f'<div role="status">{"<br>".join(map(html.escape, said))}</div>'
        replace_figures(self.curves, [_curves(result, i, j)])
        lists = ((result.layers1[i], result.matrix[i], result.layers2),
                 (result.layers2[j], result.matrix[:, j], result.layers1))  # fmt: skip
        self.matches.value = "".join(_best(*one) for one in lists)


def alike(one: Similarity, other: Similarity) -> bool:
    """Tell whether two results are of the same layers."""
    return (one.layers1, one.layers2) == (other.layers1, other.layers2)


def less(one: Similarity, other: Similarity) -> Similarity:
    """Subtract a similarity from one of the same layers.

    Raises:
        ValueError: If the layers differ.

    Example:
        >>> one, other = (Similarity(np.array([[value]]), ["a"], ["b"], 9) for value in (0.75, 0.5))
        >>> less(one, other).matrix
        array([[0.25]])
    """
    if not alike(one, other):
        raise ValueError("only results of the same layers have a difference; show them beside each other")
    labels = " less ".join(label_of(result.provenance) or "a result" for result in (one, other))
    facts = {"model": labels, "measure": f"difference of {_measure(one)}"}
    return Similarity(one.matrix - other.matrix, one.layers1, one.layers2, one.n, provenance=facts)


def describe_pair(result: Similarity, i: int, j: int) -> str:
    """State what is known of a pair of layers.

    Example:
        >>> error = np.full((1, 1), 0.01)
        >>> details = {"width": [1200], "shape": [[3, 20, 20]]}
        >>> describe_pair(Similarity(np.eye(1), ["a"], ["b"], 9, error, details1=details, details2=details), 0, 0)
        'a (3 x 20 x 20) with b (3 x 20 x 20): 1.000 ± 0.010'
    """
    sides = ((result.layers1[i], result.details1, i), (result.layers2[j], result.details2, j))
    names = [name if details is None else f"{name} ({size_of(details, k)})" for name, details, k in sides]
    value = result.matrix[i, j]
    text = f"{names[0]} with {names[1]}: " + ("missing" if np.isnan(value) else f"{value:.3f}")
    text += "" if result.stderr is None or np.isnan(result.stderr[i, j]) else f" ± {result.stderr[i, j]:.3f}"
    return text if result.p_value is None else f"{text}, p = {result.p_value[i, j]:.3f}"


def replace_figures(box: widgets.Box, figures: Sequence[widgets.Widget]) -> None:
    """Put new figures into a box: what changes in one before a browser has drawn it is lost."""
    before, box.children = box.children, tuple(figures)
    for figure in before:
        figure.close()


def _telling_pair(rows: Sequence[str], columns: Sequence[str]) -> tuple[int, int]:
    """Choose the pair to begin with: the middle layers; of layers with themselves, an early and a late one."""
    if rows == columns:
        return len(rows) // 4, len(columns) - 1 - len(columns) // 4
    return len(rows) // 2, len(columns) // 2


def _inside(result: Similarity, i: int, j: int) -> bool:
    return i < len(result.layers1) and j < len(result.layers2)


def _marks(result: Similarity, i: int, j: int) -> list[dict[str, Any]]:
    """A frame around a pair of layers, where it is there."""
    place = {"x0": j - 0.5, "x1": j + 0.5, "y0": i - 0.5, "y1": i + 0.5}
    return [{"type": "rect", **place, "line": {"color": MARK, "width": 2}}] if _inside(result, i, j) else []


def _measure(result: Similarity) -> str:
    return str(result.provenance.get("measure", "similarity"))


def _range(drawn: list[Similarity], difference: bool) -> tuple[float, float]:
    """One scale for all, with 0 and 1 on it; that of a difference is symmetric."""
    values = np.concatenate([one.matrix[np.isfinite(one.matrix)] for one in drawn])
    if not len(values):
        return 0.0, 1.0
    end = float(np.abs(values).max()) or 1.0
    return (-end, end) if difference else (min(0.0, float(values.min())), max(1.0, float(values.max())))


def _figure(
    result: Similarity, low: float, high: float, difference: bool, marks: list[dict[str, Any]]
) -> go.FigureWidget:
    rows, columns = len(result.layers1), len(result.layers2)
    facts = result.provenance
    names = [facts.get(f"model{k}") or facts.get("model") or "the model" for k in (1, 2)]
    trace = go.Heatmap(
        z=result.matrix.astype(np.float32),
        customdata=_hover(result),
        hovertemplate="%{customdata}<extra></extra>",
        zmin=low,
        zmax=high,
        colorscale=colour_scale("vlag" if difference else "rocket"),
        colorbar={"title": {"text": _measure(result), "side": "right"}, "thickness": 12},
    )
    axis = {"showticklabels": False, "constrain": "domain"}
    square = {"scaleanchor": "x"} if 1 / 3 < rows / columns < 3 else {}  # a strip could not be read
    layout = {
        "width": SIDE,
        "height": max(220, min(SIDE, round((SIDE - 150) * rows / columns) + 120)),
        "margin": {"l": 40, "r": 10, "t": 60, "b": 40},
        "title": {"text": _wrapped(label_of(facts)), "font": {"size": 12}},
        "xaxis": {**axis, "title": {"text": f"layers of {names[1]}"}, "range": [-0.5, columns - 0.5]},
        "yaxis": {**axis, "title": {"text": f"layers of {names[0]}"}, "range": [-0.5, rows - 0.5], **square},
        "shapes": marks,
    }
    return figure_widget([trace], layout)


def _hover(result: Similarity) -> np.ndarray:
    rows, columns = result.matrix.shape
    said = [[describe_pair(result, i, j) for j in range(columns)] for i in range(rows)]
    lines = [[text.replace(" with ", "<br>with ", 1).replace(": ", "<br>", 1) for text in row] for row in said]
    return np.array(lines, object)


def _wrapped(text: str, width: int = 60) -> str:
    return "<br>".join(map(html.escape, textwrap.wrap(text, width)))


def _curves(result: Similarity, i: int, j: int) -> go.FigureWidget:
    """Draw the row and the column of a pair over depth."""
    errors = (None, None) if result.stderr is None else (result.stderr[i], result.stderr[:, j])
    row = _curve(f"row: {result.layers1[i]}", result.matrix[i], result.layers2, errors[0])
    column = _curve(f"column: {result.layers2[j]}", result.matrix[:, j], result.layers1, errors[1])
    return depth_figure([row, column], _measure(result))


def depth_figure(curves: Sequence[go.Scatter], measured: str, height: int = 320) -> go.FigureWidget:
    """Draw curves over relative depth."""
    layout = {
        "height": height,
        "margin": {"l": 60, "r": 10, "t": 20, "b": 50},
        "xaxis": {"title": {"text": "relative depth (0: first, 1: last)"}},
        "yaxis": {"title": {"text": measured}},
        "legend": {"orientation": "h", "y": 1.15},
        "template": "plotly_white",
    }
    return figure_widget(curves, layout)


def figure_widget(traces: Sequence[Any], layout: dict[str, Any]) -> go.FigureWidget:
    """Make a figure whose buttons send nothing to anybody."""
    figure = go.FigureWidget(data=list(traces), layout=layout)
    figure._config = {**figure._config, "displaylogo": False, "modeBarButtonsToRemove": ["sendChartToCloud"]}
    return figure


def _curve(name: str, values: np.ndarray, layers: list[str], errors: np.ndarray | None) -> go.Scatter:
    depth = np.linspace(0, 1, len(values)) if len(values) > 1 else np.zeros(1)
    bars = None if errors is None else {"type": "data", "array": errors, "thickness": 1, "width": 0}
    return go.Scatter(
        x=depth, y=values, text=layers, name=name, mode="lines+markers", marker={"size": 4}, error_y=bars,
        hovertemplate="%{text}: %{y:.3f}<extra></extra>",
    )  # fmt: skip


def _best(layer: str, values: np.ndarray, others: list[str]) -> str:
    order = [k for k in np.argsort(-values, kind="stable") if np.isfinite(values[k])][:BEST]
    items = "".join(f"<li>{html.escape(others[k])}: {values[k]:.3f}</li>" for k in order)
    return f"<div style='display:inline-block;vertical-align:top;margin-right:3em'><b>Most like {html.escape(layer)}"\
           f"</b><ol>{items}</ol></div>"  # fmt: skip
