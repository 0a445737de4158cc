"""Similarity of two layers in each single batch."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes

from utilities.plots.captions import basis, caption_figure, extremes, measure_of, origin, titles_of
from utilities.plots.paper import BOLD, HAIRLINE, LABEL, MISSING, TICK, PaperFigure, paper_figure
from utilities.plots.similarity.heatmap import colour_bar
from utilities.plots.text_fitting import wrap
from utilities.results.similarity import Similarity

SIDE = 2.6  # side of a square in inches


def layer_index(layers: Sequence[str], name: str) -> int:
    """Find a layer by its name.

    Args:
        layers: Names of the layers on one side of a result.
        name: Name of the layer to find.

    Raises:
        ValueError: If no layer has this name. The message lists similar names.

    Example:
        >>> layer_index(["bn1", "fc"], "fc")
        1
    """
    if name in layers:
        return list(layers).index(name)
    close = difflib.get_close_matches(name, layers, n=3) or [layers[0], "...", layers[-1]]
    raise ValueError(f"there is no layer {name!r}; did you mean one of {', '.join(close)}?")


def plot_batches(
    results: Sequence[Similarity] | Similarity,
    layer1: str,
    layer2: str,
    titles: Sequence[str] | None = None,
    *,
    vmin: float = 0.0,
    vmax: float = 1.0,
    cmap: str = "rocket",
) -> PaperFigure:
    """Draw the similarity of two layers in each batch, sorted in a square and as points on one axis.

    Args:
        results: One or more results made with ``per_batch=True``, for example a teacher against students.
        layer1: Name of a row.
        layer2: Name of a column.
        titles: Title of each result; None names models, weights and accuracy.
        vmin: Lower end of the colour scale.
        vmax: Upper end of the colour scale, the same for all results.
        cmap: Name of a seaborn or matplotlib colour map.

    Returns:
        The figure; each title states the median.

    Raises:
        ValueError: If a result has no values of single batches, or a layer is unknown.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> result = Similarity(np.eye(1), ["a"], ["b"], 30, per_batch=np.array([[[0.5]], [[0.25]], [[0.75]]]))
        >>> plot_batches(result, "a", "b").axes[0].images[0].get_array().tolist()
        [[0.25, 0.5], [0.75, None]]
        >>> plt.close()
    """
    results = [results] if isinstance(results, Similarity) else results
    names = titles or ([f"result {i}" for i in range(1, len(results) + 1)] if len(results) > 1 else ["batches"])
    titles, models = titles_of(results, titles)
    values = [_sorted_values(result, layer1, layer2) for result in results]
    medians = [float(np.nanmedian(v)) if np.isfinite(v).any() else np.nan for v in values]
    titles = [
        wrap(f"{title}\nmedian {median:.3f} of {len(v)} batches", SIDE)
        for title, median, v in zip(titles, medians, values, strict=True)
    ]
    widths = [SIDE] * len(results) + [0.6 + 0.7 * len(results)]
    height = SIDE + 0.2 + 0.13 * max(len(title.splitlines()) for title in titles)
    figure = paper_figure(sum(widths) + 1.2, height, layout="constrained")
    axes = figure.subplots(1, len(widths), width_ratios=widths)
    colours = sns.color_palette(cmap, as_cmap=True).with_extremes(bad=MISSING)
    for ax, title, numbers in zip(axes, titles, values, strict=False):
        ax.imshow(_square(numbers), cmap=colours, vmin=vmin, vmax=vmax, interpolation="nearest")
        for edge in np.arange(0.5, len(_square(numbers)) - 1):
            ax.axhline(edge, color="white", linewidth=HAIRLINE)
            ax.axvline(edge, color="white", linewidth=HAIRLINE)
        ax.set(xticks=[], yticks=[], anchor="N")
        ax.set_title(title, fontsize=LABEL)
    place = axes[-2].inset_axes([1.04, 0, 0.05, 1])
    colour_bar(axes[0].images[0], np.concatenate(values), measure_of(results), place)
    _strip(axes[-1], values, medians, names)
    axes[-1].set_ylabel(f"{measure_of(results)} of each batch")
    text = f"{layer1} (rows' model) against {layer2} (columns' model). {models}{basis(results)} "
    text += "Each cell is one batch, sorted from the lowest (upper left) to the highest (lower right); "
    text += "batches from {:.2f} to {:.2f}. Line: median.".format(*extremes(values))
    absent = sum(int(np.isnan(v).sum()) for v in values)
    gaps = any(len(v) != math.isqrt(len(v)) ** 2 for v in values)
    text += " Grey: no batch." if gaps else ""
    text += f" {absent} without a value, grey too." if absent else ""
    caption_figure(figure, text, origin(results))
    return figure


def _sorted_values(result: Similarity, layer1: str, layer2: str) -> np.ndarray:
    if result.per_batch is None:
        raise ValueError("this result has no values of single batches; make it with `compare(..., per_batch=True)`")
    place = layer_index(result.layers1, layer1), layer_index(result.layers2, layer2)
    return np.sort(result.per_batch[:, place[0], place[1]])  # NaN comes last


def _square(values: np.ndarray) -> np.ndarray:
    side = math.isqrt(len(values) - 1) + 1 if len(values) else 1
    return np.append(values, np.full(side**2 - len(values), np.nan)).reshape(side, side)


def _strip(ax: Axes, values: Sequence[np.ndarray], medians: Sequence[float], names: Sequence[str]) -> None:
    """Draw the batches of each result as points in a separate column, with a line at the median."""
    shift = np.random.default_rng(0)
    for place, (numbers, median) in enumerate(zip(values, medians, strict=True), 1):
        x = place + shift.uniform(-0.18, 0.18, len(numbers))
        ax.scatter(x, numbers, s=9, color="0.45", linewidths=0, alpha=0.7)
        ax.plot([place - 0.3, place + 0.3], [median, median], color="crimson", linewidth=BOLD)
    ax.set_xlim(0.5, len(values) + 0.5)
    ax.set_xticks(range(1, len(values) + 1), [wrap(name, 0.6, points=TICK) for name in names])
