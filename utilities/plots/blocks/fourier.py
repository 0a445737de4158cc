"""Figures of the Fourier analysis: a curve for each block, the highest frequency over depth, gains of blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from utilities.analysis.blocks.fourier import Fourier
from utilities.plots.blocks.values_over_depth import colour_of, depth_colours, plot_over_depth
from utilities.plots.captions import shared_fact
from utilities.plots.labelled_figure import finish, named, new_figure
from utilities.plots.paper import CURVE, GREY, HAIRLINE, THICK, THIN
from utilities.plots.text_fitting import wrap

DEFINITION = "Delta log amplitude: ln|F(f)| less ln|F(0)| of the same block, mean over channels and images."
AXES = {
    "own": ("frequency", "frequency (units of pi,\nof each block's own grid)"),
    "pixel": ("pixel_frequency", "frequency (units of pi,\nin pixels of the image)"),
}
LOWEST = -5.0  # gain at which the figure ends: what a blur removes altogether has no logarithm
KIND_COLOURS = {"conv": "#0173b2", "msa": "#d55e00", "mlp": "#029e73", "pool": "#56b4e9", "blur": "#cc78bc"}


def plot_spectra(results: Mapping[str, Fourier] | Fourier, axis: str = "own") -> Figure:
    """Draw the spectrum after each block, a panel for each model (Park & Kim 2022, Fig. 2a).

    Args:
        results: Label -> result, or one result.
        axis: Unit of frequency: ``"own"``, where 1 is the highest frequency of each block's grid, or ``"pixel"``, where
            it is the image's.

    Returns:
        The figure. Early blocks are dark.

    Raises:
        ValueError: If ``axis`` is unknown.
    """
    if axis not in AXES:
        raise ValueError(f"axis {axis!r} is not known; choose from {', '.join(AXES)}")
    results, (name, label) = named(results), AXES[axis]
    figure, axes = new_figure(0.9 + 2.0 * len(results), 2.5, 1, len(results), sharey=True, squeeze=False)
    for ax, (title, result) in zip(axes[0], results.items(), strict=True):
        for x, y, error, depth in zip(
            getattr(result, name), result.delta, result.delta_stderr, result.depth, strict=True
        ):
            ax.plot(x, y, color=colour_of(depth), linewidth=CURVE, marker="o", markersize=1.5)
            ax.fill_between(x, y - error, y + error, color=colour_of(depth), alpha=0.25, linewidth=0)
        ax.axhline(0, color=GREY, linewidth=HAIRLINE, zorder=0)
        ax.set(title=wrap(title, 2), xlabel=label)
    axes[0, 0].set_ylabel("Delta log amplitude")
    scale = plt.cm.ScalarMappable(plt.Normalize(0, 1 / 0.9), depth_colours())
    bar = figure.colorbar(scale, ax=axes, aspect=25, pad=0.02, boundaries=np.linspace(0, 1, 100), ticks=[0, 0.5, 1])
    bar.set_label("relative depth")
    path = shared_fact(list(results.values()), "path")
    way = {"diagonal": "Along both diagonals.", "radial": "Mean over rings.", "paper": "The published axis."}
    return finish(figure, results, f"{DEFINITION} {way.get(path, '')} Bands: one standard error.", legend=False)


def plot_high_frequency(results: Mapping[str, Fourier] | Fourier) -> Figure:
    """Draw Delta at each block's highest frequency over depth (Park & Kim 2022, Fig. 8).

    Args:
        results: Label -> result, or one result.
    """
    return plot_over_depth(
        results, "high", "high_stderr", "Delta log amplitude\nat the highest frequency", note=DEFINITION
    )


def plot_gain(results: Mapping[str, Fourier] | Fourier) -> Figure:
    """Draw each block's change of the spectrum minus its change at frequency 0, coloured by kind.

    Args:
        results: Label -> result, or one result.

    Returns:
        The figure. Thin lines are blocks, thick lines the mean of a kind. The stem and blocks that change the grid are
        left out.
    """
    results = named(results)
    figure, axes = new_figure(0.9 + 2.0 * len(results), 2.5, 1, len(results), sharex=True, sharey=True, squeeze=False)
    seen: set[str] = set()
    for ax, (title, result) in zip(axes[0], results.items(), strict=True):
        kept = np.isfinite(result.change)
        for kind, colour in KIND_COLOURS.items():
            rows = [i for i in np.flatnonzero(kept) if result.kinds[i] == kind]
            for i in rows:
                ax.plot(result.pixel_frequency[i], result.gain[i] - result.gain[i, 0], color=colour, lw=THIN, alpha=0.5)
            whole = [i for i in rows if np.isfinite(result.pixel_frequency[i]).sum() == _most(result, rows)]
            if whole:
                mean = np.mean([result.gain[i] - result.gain[i, 0] for i in whole], 0)
                ax.plot(result.pixel_frequency[whole[0]], mean, color=colour, lw=THICK)
                seen.add(kind)
        ax.axhline(0, color=GREY, linewidth=HAIRLINE, zorder=0)
        ax.set(title=wrap(title, 2), xlabel="frequency (units of pi,\nin pixels of the image)")
    lowest = min(float(np.nanmin(result.gain - result.gain[:, :1], initial=0)) for result in results.values())
    if lowest < LOWEST:
        axes[0, 0].set_ylim(bottom=LOWEST)
    for kind in KIND_COLOURS:
        if kind in seen:
            axes[0, 0].plot([], [], color=KIND_COLOURS[kind], lw=THICK, label=kind)
    axes[0, 0].set_ylabel("gain: ln(output / input amplitude),\nless that of frequency 0")
    note = "Thin: single blocks; thick: mean of a kind, over the blocks of its largest grid."
    if lowest < LOWEST:
        note += f" Lines that leave at the bottom: less than {math.exp(LOWEST):.1%} of the amplitude is left."
    return finish(figure, results, note)


def _most(result: Fourier, rows: list[int]) -> int:
    """Return the largest number of frequencies among these blocks."""
    return max((int(np.isfinite(result.pixel_frequency[i]).sum()) for i in rows), default=0)
