"""Heatmaps of several results: side by side on one scale, their difference, and what chance can explain."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from utilities.plots.captions import (
    basis,
    colour_bar,
    extremes,
    heading,
    measure_of,
    model_names,
    name_layers,
    titles_of,
    wrap,
    write_caption,
)
from utilities.plots.similarity import caption, draw_heatmap
from utilities.similarity import Similarity

SIDE = 2.9  # inches of the longer side of a heatmap
SIGNIFICANT = 0.05


def _slot(results: Sequence[Similarity], side: float) -> tuple[float, float]:
    """Give the inches that a heatmap and the names along it need, without a title, the largest of several."""
    names = 0.35 + 0.05 * max(len(name) for r in results for name in (*r.layers1, *r.layers2))
    return side + names, 0.2 + names + max(side * len(r.layers1) / max(r.matrix.shape) for r in results)


def _heatmap(ax: Axes, matrix: np.ndarray, result: Similarity, side: float, **scale: object) -> None:
    draw_heatmap(ax, matrix, result, labels=False, **scale)
    ax.set_anchor("N")
    height, width = (side * size / max(matrix.shape) for size in matrix.shape)
    name_layers(ax.yaxis, result.layers1, height)
    name_layers(ax.xaxis, result.layers2, width)
    rows, columns = model_names(result)
    ax.set_ylabel(rows, fontsize=7)
    ax.set_xlabel(columns, fontsize=7)


def plot_results(
    results: Sequence[Similarity],
    titles: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    vmin: float = 0.0,
    vmax: float = 1.0,
    cmap: str = "rocket",
) -> Figure:
    """Draw heatmaps side by side, all on one colour scale.

    Args:
        results: One or more; they may have other layers and other numbers of layers.
        titles: One above each heatmap; None names models, weights and accuracy.
        columns: Heatmaps in a row; None puts up to three.
        vmin: Lower end of the colour scale.
        vmax: Upper end of the colour scale. Values outside are marked by a pointed end of the colour bar.
        cmap: A seaborn or matplotlib colour map.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no result, or another number of titles.

    Example:
        >>> one = Similarity(np.eye(2), ["a", "b"], ["a", "b"], 10)
        >>> figure = plot_results([one, one], ["trained", "untrained"])
        >>> [ax.get_title() for ax in figure.axes[:2]], len(figure.axes)
        (['trained', 'untrained'], 3)
        >>> plt.close(figure)
    """
    titles, models = titles_of(results, titles)
    across = min(len(results), columns or 3)
    width = _slot(results, SIDE)[0]
    titles = [wrap(title, width) for title in titles]
    heights = []
    for i in range(0, len(results), across):
        lines = max(len(title.splitlines()) for title in titles[i : i + across])
        heights.append(_slot(results[i : i + across], SIDE)[1] + 0.13 * lines)
    figure = plt.figure(figsize=(0.8 + across * width, sum(heights)), layout="constrained")
    grid = list(figure.subplots(len(heights), across, squeeze=False, height_ratios=heights).flat)
    for ax in grid[len(results) :]:
        ax.remove()
    axes = grid[: len(results)]
    for ax, result, title in zip(axes, results, titles, strict=True):
        _heatmap(ax, result.matrix, result, SIDE, vmin=vmin, vmax=vmax, cmap=cmap)
        ax.set_title(title, fontsize=7)
    matrices = [result.matrix for result in results]
    colour_bar(figure, axes, matrices, measure_of(results))
    missing = " Grey: no variance." if any(np.isnan(m).any() for m in matrices) else ""
    low, high = extremes(matrices)
    write_caption(figure, f"{models}{basis(results)} Values from {low:.2f} to {high:.2f} over all panels.{missing}")
    return figure


def plot_difference(first: Similarity, second: Similarity, *, title: str | None = None) -> Figure:
    """Draw the first result minus the second, on a diverging scale that is symmetric around 0.

    Args:
        first: What is subtracted from.
        second: What is subtracted; of the same layers.
        title: Above the heatmap; None names the models of both.

    Returns:
        The figure. Where both have standard errors, dots mark differences that a 95% interval around 0 holds, by
        Student's t: of errors estimated from two models or three batches it is much wider than two of them.

    Raises:
        ValueError: If the layers differ.

    Example:
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
    return _plot_marked(first, difference, marked, title or _difference_of(one, two), text, label, scale)


def _errors_in_doubt(*results: Similarity) -> float:
    """Give the 97.5% quantile of Student's t for the least degrees of freedom; 2 where they are not known."""
    samples = [result.provenance.get("error_samples", 0) for result in results]
    return float(stats.t.ppf(0.975, min(samples) - 1)) if min(samples) > 1 else 2.0


def plot_significance(result: Similarity) -> Figure:
    """Draw a heatmap with dots on the pairs of layers that are no more similar than chance makes them.

    Args:
        result: With ``p_value``; a pair is marked where that is above 0.05.

    Returns:
        The figure.

    Raises:
        ValueError: If the result has no p-values.

    Example:
        >>> result = Similarity(np.array([[0.9, 0.1]]), ["a"], ["x", "y"], 10, p_value=np.array([[0.01, 0.4]]))
        >>> plot_significance(result).axes[0].collections[0].get_offsets().tolist()
        [[1.0, 0.0]]
        >>> plt.close()
    """
    if result.p_value is None:
        raise ValueError("this result has no p-values; make it with `compare(..., permutations=100)`")
    marked = result.p_value > SIGNIFICANT
    text = caption(result) + _share(marked, result.p_value, f"Dots: p > {SIGNIFICANT}, each pair tested by itself,")
    scale = {"vmin": 0.0, "vmax": 1.0, "cmap": "rocket"}
    return _plot_marked(result, result.matrix, marked, heading(result), text, measure_of([result]), scale)


def _difference_of(one: str, two: str) -> str:
    """Name a difference by the lines of two headings that are not the same."""
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


def _plot_marked(
    result: Similarity, matrix: np.ndarray, marked: np.ndarray | None, title: str, text: str, label: str, scale: dict
) -> Figure:
    side = 1.5 * SIDE
    width, height = _slot([result], side)
    title = wrap(title, width)
    size = (0.8 + width, height + 0.13 * len(title.splitlines()))
    figure = plt.figure(figsize=size, layout="constrained")
    ax = figure.subplots()
    _heatmap(ax, matrix, result, side, **scale)
    ax.set_title(title, fontsize=7)
    if marked is not None:
        rows, columns = np.nonzero(marked)
        light = ax.images[0].norm(matrix[rows, columns]) < 0.5 if scale["cmap"] == "rocket" else np.zeros(rows.size)
        size = min(9.0, (0.35 * 72 * side / max(matrix.shape)) ** 2)
        colours = np.where(np.ma.filled(light, False), "0.9", "0.15")
        ax.scatter(columns, rows, s=size, c=colours, linewidths=0, rasterized=rows.size > 5000)
    colour_bar(figure, [ax], [matrix], label)
    write_caption(figure, text + (" Grey: no variance." if np.isnan(matrix).any() else ""))
    return figure
