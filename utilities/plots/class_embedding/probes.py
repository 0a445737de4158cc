"""Figure of linear probes beside the lens over blocks (after Vilas et al. 2023, linear-probe comparison)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from utilities.analysis.class_embedding.probes import LinearProbes
from utilities.claims.claim import BRANCHES
from utilities.plots.labelled_figure import colours, finish, named, new_figure, start_at_zero
from utilities.plots.paper import CURVE, TEXT_WIDTH, THIN
from utilities.plots.text_fitting import wrap
from utilities.results.formatting import counted
from utilities.results.statistics import mean_and_stderr

READING_TITLES = {"probe": "linear probe", "lens": "lens", "tuned": "tuned lens"}
PART_TITLES = {"block": "block output", **BRANCHES}
BAND = (10, 90)  # percentiles over token positions


def plot_probes(results: Mapping[str, LinearProbes] | LinearProbes) -> Figure:
    """Draw top-1 accuracy of probe and lens over blocks, and of the tuned lens if there is one.

    Args:
        results: Label -> result, or one result. Each gets a row of panels.

    Returns:
        The figure.
    """
    results = named(results)
    readings = [reading for reading in READING_TITLES if any(reading in result.readings for result in results.values())]
    figure, axes = new_figure(
        TEXT_WIDTH, 0.3 + 2.0 * len(results), len(results), len(readings), sharey="row", sharex="row", squeeze=False
    )
    for row, (label, result) in zip(axes, results.items(), strict=True):
        for ax, reading in zip(row, readings, strict=True):
            _draw(ax, result, reading)
        start_at_zero(row[0])  # for the whole row, once all of it is drawn
        row[0].set_ylabel(f"{wrap(label, 1.6)}\ntop-1 accuracy (%)")
    for ax, reading in zip(axes[0], readings, strict=True):
        ax.set_title(READING_TITLES[reading])
    for ax in axes[-1]:
        ax.set_xlabel("block")
    return finish(figure, results, _note(results))


def _draw(ax: Axes, result: LinearProbes, reading: str) -> None:
    """Draw one reading: one line for each part and group of tokens, and one for chance."""
    blocks, palette = np.array(result.blocks) + 1, colours(list(PART_TITLES))
    if reading not in result.readings:
        ax.set_axis_off()
        return
    for part in result.parts:
        for group in result.groups:
            mean, stderr = mean_and_stderr(100 * result.of(reading, part, group))
            if np.isnan(mean).all():
                continue
            look = {"linestyle": "--", "marker": "s"} if group == "CLS" else {"marker": "o"}
            look |= {"color": palette[part], "linewidth": CURVE, "markersize": 2.5}
            ax.plot(blocks, mean, label=f"{PART_TITLES[part]}, {group}", **look)
            if group == "CLS":
                ax.errorbar(blocks, mean, stderr, fmt="none", ecolor=palette[part], elinewidth=THIN)
            else:
                ax.fill_between(blocks, *_band(result, reading, part), color=palette[part], alpha=0.2, linewidth=0)
    ax.axhline(100 / result.num_classes, color="0.4", linewidth=0.7, linestyle=":", zorder=1, label="chance")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _band(result: LinearProbes, reading: str, part: str) -> np.ndarray:
    """Return the percentiles over image-token positions for each block, (2, blocks)."""
    first = 1 if "CLS" in result.groups else 0
    values = result.accuracy[result.readings.index(reading), result.parts.index(part), :, first:]
    band = np.full((2, len(values)), np.nan)
    for column, of_block in zip(band.T, values, strict=True):
        there = of_block[np.isfinite(of_block)]
        if len(there):
            column[:] = 100 * np.percentile(there, BAND)
    return band


def _note(results: Mapping[str, LinearProbes]) -> str:
    """Explain how to read lines, bands and bars, and what the probes were."""
    kinds = {result.provenance.get("tokens") for result in results.values()}
    cls = any("CLS" in result.groups for result in results.values())
    own = ", one for CLS" if cls else ""
    how = {"each": "one probe for each token position", "shared": f"one probe for all image tokens{own}"}
    trained = {result.provenance.get("n_train") for result in results.values()} - {None}
    images = f", fitted to {counted(trained.pop(), 'other image')}" if len(trained) == 1 else ", fitted to other images"
    probes = how.get(kinds.pop(), "") if len(kinds) == 1 else ""
    lines = "Lines: mean over image tokens; bands: 10th to 90th percentile of their positions, which is no error."
    bars = " Dashed: CLS, bars of one standard error over images." if cls else ""
    return f"Ridge probes{f', {probes}' if probes else ''}{images}. {lines}{bars} Dotted: chance, 1 / classes."
