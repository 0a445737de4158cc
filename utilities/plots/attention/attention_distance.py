"""Figures of mean attention distance: sorted heads of low and high blocks, and all heads over depth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utilities.analysis.attention.attention_distance import AttentionDistance
from utilities.plots.blocks.values_over_depth import colour_of
from utilities.plots.labelled_figure import finish, named, new_figure, start_at_zero
from utilities.plots.paper import CURVE, DARK, EDGE, GREY, INK, REFERENCE, THIN
from utilities.plots.text_fitting import wrap

ENDS = {0: "first block", 1: "second block", -2: "last block but one", -1: "last block"}
INNER = (ENDS[1], ENDS[-2])  # drawn hollow, to be told from their neighbours
DEFINITION = "Class token and registers are left out."
PARTS = {
    "distance": ("stderr", "uniform_distance", "mean attention distance\n(pixels of the image)"),
    "entropy": ("entropy_stderr", "uniform_entropy", "entropy of attention\n(nats)"),
}


def plot_sorted_heads(results: Mapping[str, AttentionDistance] | AttentionDistance) -> Figure:
    """Draw the heads of the first two and last two blocks, sorted by distance (Raghu et al. 2021, Fig. 3).

    Args:
        results: Label -> result, or one result.

    Returns:
        The figure, with a panel for each model. Bars are one standard error over images; dashed lines show attention
        that is spread evenly over all keys, dotted ones half of that.

    Example:
        >>> one = np.array([[10.0, 50.0], [60.0, 70.0]])
        >>> result = AttentionDistance(["a", "b"], one, one / 9, one, one, np.full(2, 80.0), np.full(2, 9.0))
        >>> [line.get_ydata().tolist() for line in plot_sorted_heads(result).axes[0].lines[:2]]
        [[10.0, 50.0], [60.0, 70.0]]
    """
    results = named(results)
    figure, axes = new_figure(0.9 + 2.3 * len(results), 2.5, 1, len(results), squeeze=False)
    for ax, (label, result) in zip(axes[0], results.items(), strict=True):
        for i, name in _ends(len(result.names)):
            heads = np.isfinite(result.sorted_distance[i])
            x = 1 + np.arange(heads.sum())
            look = {"color": colour_of(result.depth[i]), "linewidth": CURVE, "marker": "o", "markersize": 3}
            look |= {"markerfacecolor": "white"} if name in INNER else {}
            errors = np.nan_to_num(result.sorted_stderr[i][heads])
            ax.errorbar(x, result.sorted_distance[i][heads], errors, elinewidth=THIN, label=name, **look)
        _references(ax, result.uniform_distance[[i for i, _ in _ends(len(result.names))]])
        ax.set(title=wrap(label, 2.1), xlabel="head, from local to global")
        start_at_zero(ax)
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_ylabel(PARTS["distance"][2])
    note = f"{DEFINITION} Bars: one standard error over images. Dashed: even attention; dotted: half its distance."
    return finish(figure, results, note)


def plot_distance_over_depth(results: Mapping[str, AttentionDistance] | AttentionDistance) -> Figure:
    """Draw distance and entropy of all heads over depth.

    Args:
        results: Label -> result, or one result.

    Returns:
        The figure: a column for each model; a point for each head, a line for their mean, dashed lines for attention
        that is spread evenly over all keys.
    """
    results = named(results)
    figure, axes = new_figure(0.9 + 2.3 * len(results), 4.0, 2, len(results), sharex="col", squeeze=False)
    for column, (label, result) in zip(axes.T, results.items(), strict=True):
        blocks = 1 + np.arange(len(result.names))
        for ax, (part, (error, even, ylabel)) in zip(column, PARTS.items(), strict=True):
            values = getattr(result, part)
            for head in range(values.shape[1]):
                ax.errorbar(
                    blocks, values[:, head], np.nan_to_num(getattr(result, error)[:, head]), fmt="none", ecolor="0.4",
                    elinewidth=THIN, zorder=1,
                )  # fmt: skip
                colours = [colour_of(depth) for depth in result.depth]
                ax.scatter(blocks, values[:, head], s=10, color=colours, linewidths=EDGE, edgecolors=INK, zorder=3)
            ax.plot(blocks, np.nanmean(values, 1), color=DARK, linewidth=CURVE, label="mean over heads", zorder=2)
            line = {"color": GREY, "linewidth": REFERENCE, "linestyle": "--"}
            ax.plot(blocks, getattr(result, even), label="even attention", **line)
            start_at_zero(ax)
            ax.set_ylabel(ylabel if ax in axes[:, 0] else "")
        column[0].set_title(wrap(label, 2.1))
        column[1].set_xlabel("attention layer")
        column[1].xaxis.get_major_locator().set_params(integer=True)
    return finish(figure, results, f"{DEFINITION} A point for each head; bars: one standard error over images.")


def _ends(count: int) -> list[tuple[int, str]]:
    """Return the first two and last two of some blocks, each once, with their names."""
    places = {place % count: name for place, name in reversed(ENDS.items()) if -count <= place < count}
    return sorted(places.items())


def _references(ax: Axes, uniform: np.ndarray) -> None:
    """Draw the distance of even attention, and half of it."""
    for value in np.unique(uniform.round(6)):
        ax.axhline(value, color=GREY, linewidth=REFERENCE, linestyle="--", zorder=0)
        ax.axhline(value / 2, color=GREY, linewidth=REFERENCE, linestyle=":", zorder=0)
