"""Figures of block values over depth, in the style of Park & Kim 2022: attention grey, lower resolution blue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from utilities.plots.captions import HasProvenance
from utilities.plots.labelled_figure import finish, marker, named, new_figure, own_scales
from utilities.plots.paper import CURVE, EDGE, GREY, HAIRLINE, INK, THIN
from utilities.plots.text_fitting import wrap

SHADES = {"msa": ("0.88", "attention (MSA)"), "pool": ("#cfe3f5", "lower resolution")}
SHADING_NOTE = "Grey: attention; blue: the resolution is lowered."


class OfBlocks(HasProvenance, Protocol):
    """A result with an entry for each block."""

    names: list[str]
    kinds: list[str]
    depth: np.ndarray


def depth_colours() -> Colormap:
    """Return the colour map of depth, dark for early blocks and never too light to be seen.

    Example:
        >>> len(depth_colours()(0.5))
        4
    """
    return plt.get_cmap("plasma")


def colour_of(depth: float) -> tuple[float, ...]:
    """Return the colour of a block at a depth from 0 to 1."""
    return depth_colours()(0.9 * depth)


def shade_kinds(ax: Axes, result: OfBlocks) -> None:
    """Shade the effect of attention and pooling: the span from the previous block to the block itself."""
    for i, kind in enumerate(result.kinds):
        if i and kind in SHADES:
            ax.axvspan(result.depth[i - 1], result.depth[i], color=SHADES[kind][0], linewidth=0, zorder=0)


def draw_over_depth(ax: Axes, result: OfBlocks, values: np.ndarray, errors: np.ndarray, label: str = "") -> None:
    """Draw a value of each block over depth, coloured by depth, with error bars of one standard error.

    Args:
        ax: Axes to draw on.
        result: Result with the depth, the kinds and the model's marker.
        values: Values of the blocks.
        errors: Standard errors of the values; NaN draws no bar.
        label: Title of the panel.
    """
    shade_kinds(ax, result)
    depth = result.depth
    points = np.stack([depth, values], 1)
    segments = np.stack([points[:-1], points[1:]], 1)
    colours = [colour_of(x) for x in (depth[:-1] + depth[1:]) / 2]
    ax.add_collection(LineCollection(segments, colors=colours, linewidths=CURVE))
    ax.errorbar(depth, values, np.nan_to_num(errors), fmt="none", ecolor="0.4", elinewidth=THIN, zorder=1)
    look = {"marker": marker(result.provenance.get("model", label)), "s": 14, "linewidths": EDGE, "edgecolors": INK}
    ax.scatter(depth, values, color=[colour_of(x) for x in depth], zorder=3, **look)
    ax.set(xlim=(-0.03, 1.03), xlabel="relative depth")
    ax.set_title(wrap(label, 2))


def plot_over_depth(
    results: Mapping[str, OfBlocks] | OfBlocks,
    value: str,
    error: str,
    ylabel: str,
    *,
    zero: bool = True,
    shared: bool = True,
    note: str = "",
) -> Figure:
    """Draw one value of all blocks over depth, with one panel for each model.

    Args:
        results: Label -> result, or one result.
        value: Name of the attribute that holds the values.
        error: Name of the attribute that holds their standard errors.
        ylabel: Label of the vertical axis, with the unit.
        zero: Whether the axis must include 0.
        shared: Whether all panels share one vertical axis.
        note: Text to add to the caption.

    Returns:
        The figure.
    """
    results = named(results)
    width = 0.7 + 2.1 * len(results)
    figure, axes = new_figure(width, 2.3, 1, len(results), sharey=shared, squeeze=False)
    for ax, (label, result) in zip(axes[0], results.items(), strict=True):
        draw_over_depth(ax, result, getattr(result, value), getattr(result, error), label)
        if zero:
            ax.axhline(0, color=GREY, linewidth=HAIRLINE, zorder=1)
    axes[0, 0].set_ylabel(ylabel)
    note = f"{SHADING_NOTE} Bars: one standard error over images. {note}{'' if shared else own_scales(results)}".strip()
    return finish(figure, results, note, legend=False)
