"""The figure of the Hessian's blocks on the diagonal: trace, trace per parameter and largest eigenvalue over depth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utilities.analysis.loss.layer_hessian import LayerHessians
from utilities.analysis.loss.parameter_groups import KINDS
from utilities.plots.labelled_figure import colours, finish, named, new_figure
from utilities.plots.layer_ticks import fit_layers
from utilities.plots.loss.hessian import describe_loss
from utilities.plots.paper import LIGHT, TEXT_WIDTH, THIN
from utilities.plots.text_fitting import wrap

Values = tuple[np.ndarray, np.ndarray]
ROWS = ("trace", "trace per parameter", "largest eigenvalue")
RANGE = 1e-6  # of the largest value; smaller ones are drawn at the axis' end


def plot_layer_hessians(results: Mapping[str, LayerHessians] | LayerHessians) -> Figure:
    """Draw trace, trace per parameter and largest eigenvalue of each layer over depth, with a column for each model.

    The axes are logarithmic and shared by all models. A negative value is drawn hollow at its size.

    Args:
        results: Label -> result, or one result.

    Returns:
        The figure.

    Example:
        >>> result = LayerHessians(["a"], ["linear"], np.array([4]), np.array([[2.0], [4.0]]), np.ones(1), np.zeros(1))
        >>> figure = plot_layer_hessians(result)
        >>> [ax.lines[0].get_ydata().tolist() for ax in figure.axes]
        [[3.0], [0.75], [1.0]]
    """
    results = named(results)
    rows = ROWS if any(np.isfinite(result.eigenvalues).any() for result in results.values()) else ROWS[:2]
    size = TEXT_WIDTH if len(results) > 1 else 5.2
    figure, axes = new_figure(size, 0.6 + 1.5 * len(rows), len(rows), len(results), squeeze=False, sharey="row")
    for column, (label, result) in zip(axes.T, results.items(), strict=True):
        for ax, values in zip(column, _values(result), strict=False):
            _draw(ax, result, values)
            ax.set_xticks([])
        column[0].set_title(wrap(label, 0.85 * size / len(results)))
        column[-1].set_xlabel("layer, in order of depth")
    for row, name in zip(axes, rows, strict=True):
        row[0].set_ylabel(name)
        _limit(row, [abs(_values(result)[rows.index(name)][0]) for result in results.values()])
    there = {kind for result in results.values() for kind in result.kinds}
    for kind, colour in colours(list(KINDS)).items():
        if kind in there:
            axes[0, 0].plot([], [], "o", color=colour, markersize=4, label=kind)
    figure = finish(figure, results, _note(results))
    for ax, result in zip(axes[-1], results.values(), strict=True):
        ax.tick_params(axis="x", rotation=90)
        fit_layers(ax.xaxis, result.names)
    return figure


def _values(result: LayerHessians) -> list[Values]:
    return [result.trace, result.trace_per_parameter, (result.eigenvalues, np.full(len(result.names), np.nan))]


def _draw(ax: Axes, result: LayerHessians, values: Values) -> None:
    """Draw a value of each layer, with one colour for each kind of layer."""
    value, error = values
    x, size = np.arange(len(value)), np.abs(value)
    ax.plot(x, size, color=LIGHT, linewidth=THIN, zorder=1)
    for kind, colour in colours(list(KINDS)).items():
        own = np.array([one == kind for one in result.kinds])
        for part, fill in ((own & (value >= 0), colour), (own & (value < 0), "none")):
            ax.errorbar(
                x[part], size[part], np.nan_to_num(error[part]), fmt="o", color=colour, markerfacecolor=fill,
                markersize=3, elinewidth=THIN, zorder=2,
            )  # fmt: skip
    ax.set_yscale("log", nonpositive="clip")
    ax.set_xlim(-0.8, len(value) - 0.2)


def _limit(row: np.ndarray, sizes: list[np.ndarray]) -> None:
    """Let an axis end at the smallest and largest value, so that bars that reach zero do not stretch it."""
    every = np.concatenate(sizes)
    every = every[np.isfinite(every) & (every > 0)]
    if len(every):
        row[0].set_ylim(max(every.min(), RANGE * every.max()) / 2, 2 * every.max())


def _note(results: Mapping[str, LayerHessians]) -> str:
    probes = sorted({len(result.traces) for result in results.values()})
    missing = sum(int(np.isnan(result.eigenvalues).sum()) for result in results.values())
    whose = {True: "the same ones for all layers", False: "other ones for each layer"}
    ways = dict.fromkeys(whose[bool(result.provenance.get("shared", True))] for result in results.values())
    note = (
        f"Blocks on the Hessian's diagonal. Traces: {' or '.join(map(str, probes))} random vectors, "
        f"{' or '.join(ways)}; bars: one standard error over these. Hollow: negative."
    )
    some = any(np.isfinite(result.eigenvalues).any() for result in results.values())
    note += f" {missing} eigenvalues did not converge." if missing and some else ""
    texts = dict.fromkeys(describe_loss(result.provenance) for result in results.values())
    return " ".join([note, *texts]).strip()
