"""Curves over depth: corresponding layers, best-matching layers, and both along training."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from utilities.plots.captions import (
    basis,
    caption_figure,
    extremes,
    heading,
    measure_of,
    model_names,
    origin,
    titles_of,
)
from utilities.plots.layer_ticks import fit_layers, name_layers
from utilities.plots.paper import (
    CURVE,
    DARK,
    EDGE,
    LABEL,
    LIGHT,
    PALETTE,
    REFERENCE,
    TEXT_WIDTH,
    THIN,
    TICK,
    paper_figure,
)
from utilities.plots.similarity.batches import layer_index
from utilities.plots.similarity.heatmap import stage_boundaries
from utilities.plots.text_fitting import wrap
from utilities.results.similarity import Similarity
from utilities.results.statistics import stderr_of_mean

MARKERS = "osD^"
SHOWN = 8  # number of layers in a trend, unless layers are named


def plot_diagonal(results: Sequence[Similarity] | Similarity, labels: Sequence[str] | None = None) -> Figure:
    """Draw the similarity of corresponding layers over depth, with a band of one standard error to each side.

    Args:
        results: One or more results, each with as many rows as columns; row i corresponds to column i.
        labels: Label of each result; None names models, weights and accuracy.

    Returns:
        The figure. The horizontal axis names the layers if all results have the same ones, and is relative depth
        otherwise. Dashed lines show the mean over permutations of the images (what chance gives), if there is one.

    Raises:
        ValueError: If a result has different numbers of rows and columns, or the number of labels differs.

    Example:
        >>> figure = plot_diagonal(Similarity(np.eye(3), ["a", "b", "c"], ["a", "b", "c"], 10))
        >>> figure.axes[0].lines[0].get_ydata().tolist()
        [1.0, 1.0, 1.0]
        >>> plt.close(figure)
    """
    results = [results] if isinstance(results, Similarity) else results
    titles, models = titles_of(results, labels)
    curves = [_diagonal(result) for result in results]
    nulls = [None if result.null_mean is None else _diagonal(result, "null_mean") for result in results]
    named = all(result.layers1 == results[0].layers1 for result in results)
    figure = paper_figure(TEXT_WIDTH, 3.4, layout="constrained")
    ax = figure.subplots()
    colours = sns.color_palette(PALETTE, len(results))
    for result, title, curve, null, colour in zip(results, titles, curves, nulls, colours, strict=True):
        x = np.arange(len(curve)) if named else np.linspace(0, 1, len(curve))
        ax.plot(x, curve, color=colour, linewidth=CURVE, marker="o", markersize=2, label=title)
        error = _stderr(result)
        if error is not None:
            ax.fill_between(x, curve - error, curve + error, color=colour, alpha=0.3, linewidth=0)
        if null is not None:
            ax.plot(x, null, color=colour, linewidth=REFERENCE, linestyle="--", label="_")
    if named:
        name_layers(ax.xaxis, results[0].layers1, 5.6)
        ax.tick_params(axis="x", labelrotation=90)
        for boundary in stage_boundaries(results[0].layers1):
            ax.axvline(boundary - 0.5, color="0.85", linewidth=THIN, zorder=0)
    else:
        ax.set_xlabel("relative depth (0: first layer, 1: last)")
    chance = [null for null in nulls if null is not None]
    _similarity_axis(ax, f"{measure_of(results)} of corresponding layers", [*curves, *chance])
    handles = ax.get_legend_handles_labels()[0]
    if chance:
        handles.append(Line2D([], [], color="0.4", linewidth=REFERENCE, linestyle="--", label="by chance"))
    _legend(figure, handles)
    note = " Dashed: mean over permutations of the images." if chance else ""
    caption_figure(figure, f"{models}{basis(results)}{_values(curves)}{_band_note(results)}{note}", origin(results))
    if named:
        fit_layers(ax.xaxis, results[0].layers1)
    return figure


def plot_best_match(
    results: Sequence[Similarity] | Similarity, labels: Sequence[str] | None = None, axis: int = 1
) -> Figure:
    """Draw the depth of the most similar layer of the other model for each layer of one model.

    Args:
        results: One to four results. For one result, layers are named, and a panel below shows how similar the best
            match is. For several, larger markers mean higher similarity.
        labels: Label of each result; None names models, weights and accuracy.
        axis: Axis as in `Similarity.best_match`: 1 matches each row with a column, 0 each column with a row.

    Returns:
        The figure. A thin line marks equal relative depth.

    Raises:
        ValueError: If there are no results or more than four, or the number of labels differs.

    Example:
        >>> figure = plot_best_match(Similarity(np.eye(3), ["a", "b", "c"], ["x", "y", "z"], 10))
        >>> figure.axes[0].collections[0].get_offsets().tolist()
        [[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]]
        >>> plt.close(figure)
    """
    results = [results] if isinstance(results, Similarity) else results
    if len(results) > len(MARKERS):
        raise ValueError(f"{len(results)} results would hide one another; draw at most {len(MARKERS)} at once")
    titles, models = titles_of(results, labels)
    tables = [result.best_match(axis) for result in results]
    single = len(results) == 1
    figure = paper_figure(5.4, 5.6 if single else 4.6, layout="constrained")
    axes = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1]) if single else [figure.subplots()]
    axes[0].plot([0, 1], [0, 1], color=LIGHT, linewidth=THIN, zorder=0)
    colours = sns.color_palette(PALETTE, len(results))
    for table, title, marker, colour in zip(tables, titles, MARKERS, colours, strict=False):
        fill = {"c": table["similarity"], "cmap": "rocket", "vmin": 0, "vmax": 1} if single else {"color": colour}
        size = 22 if single else _size(table["similarity"])
        look = {"marker": marker, "edgecolors": DARK, "linewidths": EDGE, "alpha": 1 if single else 0.75}
        axes[0].scatter(table["depth"], table["match_depth"], s=size, label=title, **look, **fill)
        if single:
            axes[1].plot(table["depth"], table["similarity"], color=LIGHT, linewidth=THIN, zorder=0)
            axes[1].scatter(table["depth"], table["similarity"], s=14, **look, **fill)
            _similarity_axis(axes[1], measure_of(results), [table["similarity"].to_numpy()])
    _match_axes(axes, results, axis)
    if single:
        axes[0].set_title(wrap(titles[0], 4), fontsize=LABEL)
    else:
        handles = axes[0].get_legend_handles_labels()[0]
        look = {"marker": "o", "linestyle": "", "color": LIGHT}
        handles += [Line2D([], [], markersize=_size(v) ** 0.5, label=f"similarity {v:g}", **look) for v in (0, 0.5, 1)]
        _legend(figure, handles)
    values = _values([table["similarity"].to_numpy() for table in tables])
    marks = "Colours as below" if single else "Larger markers are more similar"
    caption_figure(
        figure, f"{models}{basis(results)}{values} {marks}. Thin line: the same relative depth.", origin(results)
    )
    if single:
        for drawn, layers in zip((axes[-1].xaxis, axes[0].yaxis), _sides(results[0], axis), strict=True):
            fit_layers(drawn, layers, np.linspace(0, 1, len(layers)))
    return figure


def plot_trend(
    results: Sequence[Similarity],
    steps: Sequence[float],
    *,
    layers: Sequence[str] | None = None,
    xlabel: str = "epoch",
) -> Figure:
    """Draw the similarity of corresponding layers over training, one line for each layer, early layers dark.

    Args:
        results: One result for each checkpoint, all with the same layers.
        steps: Step at which each checkpoint was saved.
        layers: Names of rows. None chooses up to eight, evenly over depth, including the first and the last.
        xlabel: Label of the horizontal axis, stating what ``steps`` counts.

    Returns:
        The figure, with bands of one standard error to each side.

    Raises:
        ValueError: If steps or layers do not fit the results.

    Example:
        >>> results = [Similarity(np.array([[value]]), ["a"], ["a"], 10) for value in (0.25, 0.5)]
        >>> plot_trend(results, [0, 10]).axes[0].lines[0].get_ydata().tolist()
        [0.25, 0.5]
        >>> plt.close()
    """
    if not results or len(results) != len(steps):
        raise ValueError(f"there are {len(results)} results, but {len(steps)} steps; a trend needs one for each")
    first = results[0]
    for step, result in zip(steps, results, strict=True):
        if (result.layers1, result.layers2) != (first.layers1, first.layers2):
            raise ValueError(f"all results need the same layers; those at {xlabel} {step:g} are not those at the first")
    order = np.argsort(steps, kind="stable")
    x, results = np.asarray(steps, float)[order], [results[i] for i in order]
    curves = np.stack([_diagonal(result) for result in results])
    evenly = np.linspace(0, len(first.layers1) - 1, min(SHOWN, len(first.layers1))).round().astype(int)
    chosen = evenly if layers is None else [layer_index(first.layers1, name) for name in layers]
    figure = paper_figure(5.6, 3.2, layout="constrained")
    ax = figure.subplots()
    errors = [_stderr(result) for result in results]
    for i in chosen:
        colour = plt.get_cmap("viridis")(0.92 * i / max(1, len(first.layers1) - 1))
        ax.plot(x, curves[:, i], color=colour, linewidth=CURVE, marker="o", markersize=2.5, label=first.layers1[i])
        error = np.array([np.nan if error is None else error[i] for error in errors])
        if np.isfinite(error).any():
            ax.fill_between(x, curves[:, i] - error, curves[:, i] + error, color=colour, alpha=0.25, linewidth=0)
    ax.set_xlabel(xlabel)
    _similarity_axis(ax, f"{measure_of(results)} of corresponding layers", [curves[:, chosen]])
    figure.legend(loc="outside right upper", reverse=True)
    models = heading(results[-1], "").replace("\n", ", ")
    models = f"At {xlabel} {x[-1]:g}: {models}. " if models else ""
    caption_figure(
        figure, f"{models}{basis(results)}{_values([curves[:, chosen]])}{_band_note(results)}", origin(results)
    )
    return figure


def _diagonal(result: Similarity, table: str = "matrix") -> np.ndarray:
    rows, columns = result.matrix.shape
    if rows != columns:
        raise ValueError(f"corresponding layers need as many rows as columns, but there are {rows} and {columns}")
    return np.diagonal(getattr(result, table))


def _stderr(result: Similarity) -> np.ndarray | None:
    """Return the standard error of the diagonal; it is taken over the replicates if the result states none."""
    if result.stderr is not None:
        return _diagonal(result, "stderr")
    if result.replicates is None or len(result.replicates) < 2:
        return None
    return np.diagonal(stderr_of_mean(result.replicates))


def _band_note(results: Sequence[Similarity]) -> str:
    if all(_stderr(result) is None for result in results):
        return ""
    counts = sorted(
        {
            len(r.replicates)
            for r in results
            if r.replicates is not None and r.provenance.get("replicates_of") != "repeats"
        }
    )
    over = f", over {' or '.join(map(str, counts))} replicates" if counts else ""
    return f" Bands: one standard error to each side{over}."


def _values(curves: Sequence[np.ndarray]) -> str:
    return " Values from {:.2f} to {:.2f}.".format(*extremes(curves))


def _legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Write a legend above the axes, in two columns if texts are short, and enlarge the figure to hold it."""
    texts = [wrap(str(handle.get_label()), 0.85 * figure.get_figwidth(), points=TICK) for handle in handles]
    columns = 2 if max(map(len, texts)) < 40 else 1
    style = {"fontsize": TICK, "frameon": False, "ncols": columns}
    figure.legend(handles, texts, loc="outside upper left", **style)
    lines = sum(len(text.splitlines()) for text in texts) / columns
    figure.set_figheight(figure.get_figheight() + 0.12 * lines)


def _sides(result: Similarity, axis: int) -> tuple[list[str], list[str]]:
    """Return the layers to match, and the layers they are matched with."""
    return (result.layers1, result.layers2) if axis == 1 else (result.layers2, result.layers1)


def _size(similarity: float) -> float:
    return 5 + 35 * np.clip(similarity, 0, 1)


def _match_axes(axes: Sequence[Axes], results: Sequence[Similarity], axis: int) -> None:
    """Label the axes of best matches: by layers for one result, by relative depth for several."""
    sides = [model_names(result)[:: 1 if axis == 1 else -1] for result in results]
    one, two = (names.pop() if len(names) == 1 else "" for names in map(set, zip(*sides, strict=True)))
    one, two = one or f"model {2 - axis}", two or "the other model"
    axes[-1].set_xlabel(f"layer of {one}" if len(results) == 1 else f"relative depth in {one}")
    axes[0].set_ylabel(f"best match in {two}" + ("" if len(results) == 1 else " (relative depth)"))
    axes[0].set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    if len(results) == 1:
        along, up = _sides(results[0], axis)
        name_layers(axes[-1].xaxis, along, 4, np.linspace(0, 1, len(along)))
        name_layers(axes[0].yaxis, up, 3, np.linspace(0, 1, len(up)))
        axes[-1].tick_params(axis="x", labelrotation=90)


def _similarity_axis(ax: Axes, label: str, curves: Sequence[np.ndarray]) -> None:
    """Let the vertical axis run from 0 to 1, or further if values do."""
    low, high = extremes(curves)
    ax.set_ylim(np.nanmin([0, low - 0.03]), np.nanmax([1.02, high + 0.03]))
    ax.set_ylabel(label)
