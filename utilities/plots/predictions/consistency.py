"""Figure of flip rates and top-5 distances by kind of perturbation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from utilities.analysis.predictions.consistency import Consistency
from utilities.plots.captions import shared_fact
from utilities.plots.labelled_figure import colours, finish, named, new_figure
from utilities.plots.paper import REFERENCE, TEXT_WIDTH
from utilities.results.statistics import stderr_of_mean


def plot_consistency(results: Mapping[str, Consistency] | Consistency) -> Figure:
    """Draw flip rates and top-5 distances of each kind as bars, with bars of one standard error.

    Args:
        results: Label -> result, or one result; all of the same kinds.

    Returns:
        The figure.

    Raises:
        ValueError: If the results are of other kinds.

    Example:
        >>> figure = plot_consistency(Consistency(np.array([[0.5], [0.0]]), np.array([[3.0], [1.0]]), ["tilt"]))
        >>> [float(ax.patches[0].get_height()) for ax in figure.axes]
        [25.0, 2.0]
    """
    results = named(results)
    if len({tuple(result.kinds) for result in results.values()}) > 1:
        raise ValueError("the results are of other kinds of perturbation; evaluate all alike")
    kinds = next(iter(results.values())).kinds
    figure, axes = new_figure(TEXT_WIDTH, 2.9, 1, 2)
    width = 0.8 / len(results)
    for place, (label, colour) in enumerate(colours(list(results)).items()):
        result = results[label]
        x = np.arange(len(kinds)) + (place - (len(results) - 1) / 2) * width
        for ax, values, scale in zip(axes, (result.flips, result.distances), (100, 1), strict=True):
            error = {"yerr": scale * np.asarray(stderr_of_mean(values)), "error_kw": {"elinewidth": REFERENCE}}
            ax.bar(x, scale * values.mean(0), width, color=colour, linewidth=0, label=label, **error)
    for ax, label in zip(axes, ("flip rate (%)", "top-5 distance (0 to 15)"), strict=True):
        ax.set(ylabel=label, ylim=(0, None))
        ax.set_xticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds], rotation=40, ha="right")
    sequences = shared_fact(list(results.values()), "sequences")
    note = (
        f"Sequences{f' {sequences}' if sequences else ''}. Frames of noise are compared with the first one, all others "
        "with the one before. Bars: one standard error over images."
    )
    return finish(figure, results, note=note)
