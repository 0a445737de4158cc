"""Figures of loss landscapes: contours, surfaces in space, and cuts along the first direction."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from scipy.ndimage import binary_dilation

from utilities.analysis.loss.landscape import Landscape
from utilities.plots.labelled_figure import colours, finish, marker, named, new_figure
from utilities.plots.paper import CURVE, EDGE, TEXT_WIDTH, TICK
from utilities.results.statistics import stderr_of_share

WORDS = {"nll": "NLL", "l2": "L2 penalty", "total": "NLL + L2"}
DECADES = 5  # decades of rises that contours show below the highest one
NORMS = {
    "trained": "statistics of training",
    "batch": "statistics of each batch",
    "estimate": "statistics estimated anew at every point",
}
LINEAR = 10.0  # nats, the most that a linear axis of a cut shows
DRAWN = 81  # points along an axis of a surface, for smooth edges where it is cut


def plot_contours(results: Mapping[str, Landscape] | Landscape) -> Figure:
    """Draw contours of NLL, L2 penalty and their sum around the trained weights, with one row for each model.

    The figure shows the rise above the centre, on one logarithmic scale for all panels. Models can thus be compared,
    and the penalty's share in the sum is visible. Without weight decay there is only one column.

    Args:
        results: Label -> landscape of two directions, or one landscape.

    Returns:
        The figure.

    Raises:
        ValueError: If a landscape has only one direction.

    Example:
        >>> x = np.linspace(-1, 1, 5)
        >>> bowl = x[:, None] ** 2 + x**2 + 1
        >>> figure = plot_contours(Landscape(x, x, bowl, 0 * bowl, 0 * bowl, bowl, 0 * bowl, 10))
        >>> figure.axes[0].get_title().splitlines()
        ['model', 'NLL, 1 at the centre']
    """
    results = _planes(results)
    columns = ("nll",) if all(not result.l2.any() for result in results.values()) else ("nll", "l2", "total")
    levels = _levels([_rise(result, of) for result in results.values() for of in columns])
    height, width = 2.1 * len(results) + 0.3, 2.1 * len(columns) + 0.9
    figure, axes = new_figure(max(width, 3.4), height, len(results), len(columns), squeeze=False)
    for (label, result), row in zip(results.items(), axes, strict=True):
        for of, ax in zip(columns, row, strict=True):
            style = {"levels": levels, "norm": LogNorm(levels[0], levels[-1]), "cmap": "viridis", "extend": "both"}
            surface = np.maximum(
                _rise(result, of), levels[0] / 10
            )  # a logarithm cannot show a fall: it gets the lowest colour
            image = ax.contourf(result.x, result.y, surface, **style)
            ax.contour(result.x, result.y, surface, levels=levels, colors="white", linewidths=EDGE)
            ax.plot(0, 0, marker="+", color="white", markersize=5)
            ax.set_title(_title(label, result, of))
            _name_axes(ax)
    for ax in axes.flat:
        ax.label_outer()
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=30, pad=0.02)
    bar.set_label("rise above the centre (nats)")
    bar.set_ticks([level for level in levels if f"{level:.0e}".startswith("1")])
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bar.ax.minorticks_off()
    note = (
        f"Contours at 1, 2 and 5 times powers of ten, all rises on one scale; rises below {levels[0]:g} are not told "
    )
    return _settled(figure, results, f"{note}apart. {_note(results, penalty=len(columns) > 1)}")


def plot_surfaces(results: Mapping[str, Landscape] | Landscape, of: str = "nll", top: float | None = None) -> Figure:
    """Draw landscapes as surfaces in space, side by side and with the same vertical axis.

    Args:
        results: Label -> landscape of two directions, or one landscape.
        of: Surface to draw: ``nll``, ``l2`` or ``total``.
        top: Height above the centre, in nats, at which all surfaces are cut; None shows them whole.

    Returns:
        The figure. Heights are rises above the centre, interpolated linearly between the measured points.

    Raises:
        ValueError: If a landscape has only one direction, or the surface is not known.

    Example:
        >>> x = np.linspace(-1, 1, 5)
        >>> bowl = x[:, None] ** 2 + x**2 + 1
        >>> figure = plot_surfaces(Landscape(x, x, bowl, 0 * bowl, 0 * bowl, bowl, 0 * bowl, 10))
        >>> [round(float(z), 2) for z in figure.axes[0].get_zlim()]
        [0.0, 2.0]
    """
    results = _planes(results)
    if of not in WORDS:
        raise ValueError(f"surface {of!r} is not known; choose from {', '.join(WORDS)}")
    rises = {label: _rise(result, of) for label, result in results.items()}
    low = min(0.0, *(float(np.nanmin(rise)) for rise in rises.values()))
    highest = max(float(np.nanmax(rise[np.isfinite(rise)])) for rise in rises.values())
    high = highest if top is None else min(top, highest)
    figure, axes = new_figure(
        max(2.2 * len(results), 3.4), 2.3, 1, len(results), squeeze=False, subplot_kw={"projection": "3d"}
    )
    for ax, (label, result) in zip(axes[0], results.items(), strict=True):
        x, y, z = _finer(result, rises[label])
        above = z > high
        z[above] = high  # the edge of the drawn part; everything farther is left out
        z[above & ~binary_dilation(~above)] = np.nan
        style = {"cmap": "plasma", "vmin": low, "vmax": high, "linewidth": 0, "antialiased": False}
        ax.plot_surface(*np.meshgrid(x, y), z, rcount=DRAWN, ccount=DRAWN, **style)
        ax.set_zlim(low, high)
        ax.set_box_aspect((1, 1, 0.8), zoom=0.88)
        ax.view_init(elev=25, azim=-60)
        ax.set_title(_title(label, result, of))
        ax.set_xlabel("direction 1", labelpad=-10)
        ax.set_ylabel("direction 2", labelpad=-10)
        ax.set_zlabel(f"rise of {WORDS[of]} (nats)", labelpad=-6)
        ends = [result.x[0], 0, result.x[-1]]
        ax.set(xticks=ends, yticks=ends)
        for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
            axis.set_tick_params(labelsize=TICK, pad=-3)
    cut = (
        f"Surfaces are cut at {high:g} nats above the centre; the highest rise is {highest:.3g}. "
        if high < highest
        else ""
    )
    return _settled(figure, results, f"{cut}{_note(results, penalty=of != 'nll')}")


def plot_cuts(results: Mapping[str, Landscape] | Landscape) -> Figure:
    """Draw NLL and accuracy along the first direction, with bands of one standard error.

    Args:
        results: Label -> landscape with one or two directions, or one landscape.

    Returns:
        The figure. The axis of the NLL is linear, so that the eye can compare rises; beyond 10 nats it is logarithmic.

    Example:
        >>> x, y = np.linspace(-1, 1, 3), np.zeros(1)
        >>> none, nll = np.zeros((1, 3)), np.array([[3.0, 1.0, 2.0]])
        >>> figure = plot_cuts({"CNN": Landscape(x, y, nll, none, none, none, none, 10)})
        >>> figure.axes[0].lines[0].get_ydata().tolist()
        [3.0, 1.0, 2.0]
    """
    results = named(results)
    figure, (left, right) = new_figure(TEXT_WIDTH, 2.4, 1, 2)
    for (label, result), colour in zip(results.items(), colours(list(results)).values(), strict=True):
        row = result.centre[0]
        look = {"color": colour, "linewidth": CURVE, "marker": marker(label), "markersize": 2.5, "label": label}
        accuracy = result.accuracy[row]
        errors = {left: result.stderr[row], right: stderr_of_share(accuracy, result.n)}
        for ax, values in ((left, result.nll[row]), (right, accuracy)):
            ax.plot(result.x, values, **look)
            ax.fill_between(result.x, values - errors[ax], values + errors[ax], color=colour, alpha=0.3, linewidth=0)
    losses = [line.get_ydata() for line in left.lines]
    if max(np.max(nll, where=np.isfinite(nll), initial=0) for nll in losses) > LINEAR:
        left.set_yscale("log")
        left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    left.set_ylabel("NLL (nats)")
    right.set(ylabel="accuracy", ylim=(-0.02, 1.02))
    for ax in (left, right):
        ax.set_xlabel("direction 1 (filter-normalised)")
    return finish(figure, results, f"Bands: one standard error over images. {_note(results, penalty=False)}")


def _planes(results: Mapping[str, Landscape] | Landscape) -> dict[str, Landscape]:
    results = named(results)
    for label, result in results.items():
        if len(result.y) < 2:
            raise ValueError(f"{label}: a landscape along one direction is a line; draw it with plot_cuts")
    return results


def _rise(result: Landscape, of: str) -> np.ndarray:
    surface = getattr(result, of)
    return np.ma.masked_invalid(surface - surface[result.centre]).filled(np.nan)


def _levels(rises: list[np.ndarray]) -> list[float]:
    """Return levels at 1, 2 and 5 times powers of ten, over some decades up to the highest rise."""
    highest = max(max(float(np.nanmax(rise)) for rise in rises), 1e-3)
    top = int(np.ceil(np.log10(highest)))
    levels = [factor * 10.0**power for power in range(top - DECADES, top + 1) for factor in (1, 2, 5)]
    enough = next(place for place, level in enumerate(levels) if level >= highest)
    return [float(f"{level:.0e}") for level in levels[: enough + 1]]


def _finer(result: Landscape, surface: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Interpolate a surface linearly between the points of its grid."""
    x, y = (np.linspace(axis[0], axis[-1], DRAWN) for axis in (result.x, result.y))
    rows = np.array([np.interp(x, result.x, row) for row in surface])
    return x, y, np.array([np.interp(y, result.y, column) for column in rows.T]).T


def _name_axes(ax: Axes) -> None:
    ax.set_aspect("equal")
    ax.set_xlabel("direction 1 (filter-normalised)")
    ax.set_ylabel("direction 2 (filter-normalised)")


def _settled(figure: Figure, results: Mapping[str, Landscape], note: str) -> Figure:
    """Write the caption and draw once, because the layout of axes with a fixed aspect settles at the second drawing."""
    finish(figure, results, note, legend=False)
    figure.draw_without_rendering()
    return figure


def _title(label: str, result: Landscape, of: str) -> str:
    return f"{label}\n{WORDS[of]}, {getattr(result, of)[result.centre]:.3g} at the centre"


def _note(results: Mapping[str, Landscape], penalty: bool) -> str:
    """State what a reader has to know about the measurement of the loss."""
    facts = [result.provenance for result in results.values()]
    sentences = {"batch_norm": "Batch norm: {}.", "direction_seed": "Directions of seed {}."}
    if penalty:
        sentences["weight_decay"] = "L2 penalty: half of {} times the squared norm of the weights."
    parts = ["Coordinates in filter norms. The same images at every point."]
    for name, sentence in sentences.items():
        values = list(dict.fromkeys(NORMS.get(fact[name], str(fact[name])) for fact in facts if name in fact))
        if values:
            parts.append(sentence.format(" and ".join(values)))
    return " ".join(parts)
