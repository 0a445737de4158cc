"""Figures of calibrated similarities: each layer's best match, and what chance makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from utilities.plots.captions import describe_models, measure_of
from utilities.plots.labelled_figure import finish, new_figure
from utilities.plots.paper import CURVE, FAINT, LABEL, PALETTE, REFERENCE, TEXT_WIDTH
from utilities.results.calibration import Calibration
from utilities.results.images import describe_images


def plot_calibration(results: Mapping[str, Calibration] | Calibration, columns: int = 3) -> Figure:
    """Draw the most similar layer of the second model for each layer of the first one, raw and calibrated.

    Args:
        results: Results by title, or one; a panel each.
        columns: Number of panels in a row, at most.

    Returns:
        The figure. The grey area is what permuted images reach: the largest value over the second model's layers, up to
        the threshold. Open markers: p is above the level.

    Raises:
        ValueError: If there is no result.

    Example:
        >>> from utilities.results.calibration import calibration_of
        >>> null = np.full((99, 2, 2), 0.2)
        >>> result = calibration_of(np.array([[0.6, 0.1], [0.2, 0.1]]), null, ["a", "b"], ["x", "y"], 10)
        >>> [line.get_ydata().round(2).tolist() for line in plot_calibration(result).axes[0].lines[:4:3]]
        [[0.6, 0.2], [0.5, 0.0]]
    """
    results = {"": results} if isinstance(results, Calibration) else dict(results)
    if not results:
        raise ValueError("there are no results to draw")
    across = min(columns, len(results))
    rows = -(-len(results) // across)
    figure, axes = new_figure(TEXT_WIDTH, 0.6 + 1.9 * rows, rows, across, squeeze=False, sharey=True)
    raw, calibrated = sns.color_palette(PALETTE, 2)
    for ax, (title, result) in zip(axes.flat, results.items(), strict=False):
        table = result.best_match()
        depth = np.array([result.layers1.index(name) for name in table.index]) / max(1, len(result.layers1) - 1)
        ax.fill_between(depth, 0, table["threshold"], color=FAINT, linewidth=0, label="reached by permuted images")
        passed = (table["p_value"] <= result.level).to_numpy()
        for name, colour, label in (("similarity", raw, "raw"), ("calibrated", calibrated, "calibrated")):
            values = table[name].to_numpy()
            ax.plot(depth, values, color=colour, linewidth=CURVE, label=label)
            for chosen, face in ((passed, colour), (~passed, "white")):
                ax.plot(depth[chosen], values[chosen], "o", color=colour, markerfacecolor=face, markersize=3, label="_")
        ax.axhline(0, color=FAINT, linewidth=REFERENCE, zorder=0)
        ax.set_title(title, fontsize=LABEL)
    for ax in axes.flat[len(results) :]:
        ax.remove()
    low = min(0.0, *(float(result.best_match()["similarity"].min()) for result in results.values()))
    for ax in axes.flat[: len(results)]:
        ax.set_ylim(low - 0.02, 1.02)
        ax.set_xlabel("relative depth in the first model")
    for ax in axes[:, 0]:
        ax.set_ylabel("best match")
    return _finish(figure, results)


def _finish(figure: Figure, results: Mapping[str, Calibration]) -> Figure:
    first = next(iter(results.values()))
    shown = {title: SimpleNamespace(provenance=one.provenance | {"n": one.n}) for title, one in results.items()}
    finish(figure, shown)
    models = [
        f"{title}: {', '.join(describe_models(one.provenance, 'first', 'second'))}".removeprefix(": ")
        for title, one in results.items()
    ]
    measures = dict.fromkeys(measure_of([one]) for one in results.values())
    figure.caption = (
        f"{'. '.join(models)}. {describe_images(first.provenance, first.n)}. {', '.join(measures)}, the largest value "
        f"over the second model's layers, {first.permutations} permutations of the images, level {first.level:g}. Open "
        "markers: p is above the level."
    )
    return figure
