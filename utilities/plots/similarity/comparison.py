"""Heatmaps of several results: side by side on one scale, their difference, and what chance can explain."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from scipy import stats

from utilities.plots.captions import (
    basis,
    describe_similarity,
    extremes,
    heading,
    measure_of,
    model_names,
    origin,
    titles_of,
)
from utilities.plots.heatmap_layout import HeatmapLayout, Panel, bar_axes, heatmap_axes
from utilities.plots.layer_ticks import chosen
from utilities.plots.paper import LABEL, PaperFigure
from utilities.plots.similarity.heatmap import SIDE, colour_bar, draw_heatmap
from utilities.results.similarity import Similarity
from utilities.results.statistics import LEVEL

SIDES = 2.7  # longer side of one of several heatmaps in inches


def _heatmap(ax: Axes, matrix: np.ndarray, result: Similarity, title: str, **scale: object) -> Panel:
    draw_heatmap(ax, matrix, result, labels=False, **scale)
    ax.set_title(title, fontsize=LABEL)
    return Panel(ax, (result.layers1, result.layers2), title, model_names(result))


def plot_results(
    results: Sequence[Similarity],
    titles: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    vmin: float = 0.0,
    vmax: float = 1.0,
    cmap: str = "rocket",
    width: float | str | None = None,
    caption: bool = True,
    ticks: Sequence[str] | str | None = None,
) -> PaperFigure:
    """Draw heatmaps side by side, all on one colour scale.

    Args:
        results: One or more results. Their layers may differ, and so may the numbers of layers.
        titles: Title above each heatmap; None names models, weights and accuracy.
        columns: Number of heatmaps in a row; None allows up to three.
        vmin: Lower end of the colour scale.
        vmax: Upper end of the colour scale. Values outside are marked by a pointed end of the colour bar.
        cmap: Name of a seaborn or matplotlib colour map.
        width: Width of the figure: ``"column"``, ``"page"`` or inches. None lets the matrices decide.
        caption: Whether a line below says what it was made from.
        ticks: Names or globs of the layers to label; None labels as many as fit.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no result, the number of titles differs, or a layer is unknown.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> one = Similarity(np.eye(2), ["a", "b"], ["a", "b"], 10)
        >>> figure = plot_results([one, one], ["trained", "untrained"])
        >>> [ax.get_title() for ax in figure.axes[:2]], len(figure.axes)
        (['trained', 'untrained'], 3)
        >>> plt.close(figure)
    """
    titles, models = titles_of(results, titles)
    indices = chosen(ticks, *(side for result in results for side in (result.layers1, result.layers2)))
    figure, axes = heatmap_axes(len(results))
    panels = []
    for i, (ax, result, title) in enumerate(zip(axes, results, titles, strict=True)):
        panels.append(_heatmap(ax, result.matrix, result, title, vmin=vmin, vmax=vmax, cmap=cmap))
        panels[-1].ticks = indices[2 * i : 2 * i + 2]
    matrices = [result.matrix for result in results]
    values = np.concatenate([matrix.ravel() for matrix in matrices])
    bar = colour_bar(axes[0].images[0], values, measure_of(results), bar_axes(figure))
    missing = " Grey: no variance." if np.isnan(values).any() else ""
    low, high = extremes(matrices)
    figure.caption = f"{models}{basis(results)} Values from {low:.2f} to {high:.2f} over all panels.{missing}"
    figure.line = origin(results)
    HeatmapLayout(panels, min(len(results), columns or 3), SIDES, bar).arrange(figure, width, caption)
    return figure


def plot_difference(first: Similarity, second: Similarity, *, title: str | None = None, **options: Any) -> PaperFigure:
    """Draw the first result minus the second, on a diverging scale that is symmetric around 0.

    Args:
        first: Result to subtract from.
        second: Result to subtract, with the same layers.
        title: Title above the heatmap; None names the models of both.
        **options: ``width``, ``caption`` and ``ticks``, as in `plot_results`.

    Returns:
        The figure. If both results have standard errors, dots mark the differences that lie within a 95% interval
        around 0 by Student's t. For errors estimated from two models or three batches, this interval is much wider than
        two standard errors.

    Raises:
        ValueError: If the layers differ.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> one, two = (Similarity(np.array([[value]]), ["a"], ["a"], 10) for value in (0.75, 0.5))
        >>> plot_difference(one, two).axes[0].images[0].get_clim()
        (-0.25, 0.25)
        >>> plt.close()
    """
    for side in ("layers1", "layers2"):
        for i, (one, two) in enumerate(zip_longest(getattr(first, side), getattr(second, side))):
            if one != two:
                names = " against ".join("no layer" if name is None else repr(name) for name in (one, two))
                raise ValueError(f"only results of the same layers can be subtracted; {side}[{i}] is {names}")
    difference = first.matrix - second.matrix
    marked, factor = None, _errors_in_doubt(first, second)
    if first.stderr is not None and second.stderr is not None:
        marked = np.abs(difference) < factor * np.hypot(first.stderr, second.stderr)
    (one, two), _ = titles_of([first, second], None)
    top = float(np.nanmax(np.abs(difference), initial=0)) or 0.01
    text = f"First, {_inline(one)}, minus second, {_inline(two)}. {basis([first, second])} "
    text += "Differences from {:.2f} to {:.2f}.".format(*extremes([difference]))
    text += _share(marked, difference, f"Dots: below {factor:.1f} standard errors (95%), √(se₁² + se₂²),")
    label = f"difference of {measure_of([first, second])}"
    scale = {"vmin": -top, "vmax": top, "cmap": "vlag"}
    title = _difference_of(one, two) if title is None else title
    return marked_heatmap(first, difference, marked, title, text, label, scale, **options)


def _errors_in_doubt(*results: Similarity) -> float:
    """Return the 97.5% quantile of Student's t for the fewest degrees of freedom; 2 if they are not known."""
    samples = [result.provenance.get("error_samples", 0) for result in results]
    return float(stats.t.ppf(0.975, min(samples) - 1)) if min(samples) > 1 else 2.0


def plot_significance(result: Similarity, **options: Any) -> PaperFigure:
    """Draw a heatmap with dots on the pairs of layers that are no more similar than by chance.

    Args:
        result: Result with ``p_value``. A pair is marked where this is above 0.05.
        **options: ``width``, ``caption`` and ``ticks``, as in `plot_results`.

    Returns:
        The figure.

    Raises:
        ValueError: If the result has no p-values.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> result = Similarity(np.array([[0.9, 0.1]]), ["a"], ["x", "y"], 10, p_value=np.array([[0.01, 0.4]]))
        >>> plot_significance(result).axes[0].collections[0].get_offsets().tolist()
        [[1.0, 0.0]]
        >>> plt.close()
    """
    if result.p_value is None:
        raise ValueError("this result has no p-values; make it with `compare(..., permutations=100)`")
    marked = result.p_value > LEVEL
    text = describe_similarity(result) + _share(
        marked, result.p_value, f"Dots: p > {LEVEL}, each pair tested by itself,"
    )
    scale = {"vmin": 0.0, "vmax": 1.0, "cmap": "rocket"}
    return marked_heatmap(result, result.matrix, marked, heading(result), text, measure_of([result]), scale, **options)


def _difference_of(one: str, two: str) -> str:
    """Name a difference by the lines in which two headings differ."""
    lines = one.splitlines(), two.splitlines()
    same = [line for line in lines[0] if line in lines[1]]
    left, right = (", ".join(line for line in side if line not in same) for side in lines)
    return "\n".join([*same[:1], f"{left or 'first'}\n\N{MINUS SIGN} {right or 'second'}"])


def _inline(title: str) -> str:
    return title.replace("\n", ", ")


def _share(marked: np.ndarray | None, values: np.ndarray, meaning: str) -> str:
    if marked is None:
        return " There are no standard errors to judge them by."
    return f" {meaning} {int(marked.sum()):,} of {int(np.isfinite(values).sum()):,} pairs."


def marked_heatmap(
    result: Similarity,
    matrix: np.ndarray,
    marked: np.ndarray | None,
    title: str,
    text: str,
    label: str,
    scale: dict,
    *,
    width: float | str | None = None,
    caption: bool = True,
    ticks: Sequence[str] | str | None = None,
) -> PaperFigure:
    """Draw a heatmap with a dot on each cell that is marked.

    Args:
        result: Result with the names of the layers.
        matrix: What is drawn, (layers1, layers2).
        marked: Where dots are, the same shape, or None.
        title: Title above the heatmap.
        text: Caption.
        label: Name of the values.
        scale: ``vmin``, ``vmax`` and ``cmap``.
        width: See `plot_results`.
        caption: See `plot_results`.
        ticks: See `plot_results`.

    Returns:
        The figure.
    """
    figure, (ax,) = heatmap_axes(1)
    panel = _heatmap(ax, matrix, result, title, **scale)
    panel.ticks = chosen(ticks, result.layers1, result.layers2)
    panel.bar = colour_bar(ax.images[0], matrix, label, bar_axes(figure))
    figure.caption = text + (" Grey: no variance." if np.isnan(matrix).any() else "")
    figure.line = origin([result])
    HeatmapLayout([panel], 1, SIDE).arrange(figure, width, caption)
    if marked is not None:
        rows, columns = np.nonzero(marked)
        light = ax.images[0].norm(matrix[rows, columns]) < 0.5 if scale["cmap"] == "rocket" else np.zeros(rows.size)
        cell = (panel.size / matrix.shape).min()
        colours = np.where(np.ma.filled(light, False), "0.9", "0.15")
        size = min(9.0, (0.35 * 72 * cell) ** 2)
        ax.scatter(columns, rows, s=size, c=colours, linewidths=0, rasterized=rows.size > 5000)
    return figure
