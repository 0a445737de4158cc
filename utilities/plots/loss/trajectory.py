"""Figure of the weights' trajectories through training, in polar coordinates."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from utilities.analysis.loss.trajectory import Trajectory
from utilities.plots.labelled_figure import colours, finish, marker, named, new_figure
from utilities.plots.paper import CURVE

CAVEAT = (
    "Distance from the last weights over that of the first, and angle between what is to go and what was to go at the "
    "start. Dashed: a random walk with steps as long, whose angles are those of geometry alone. The author of this "
    "kind of figure withdrew it as misleading: only what differs from the walk is training's."
)


def plot_trajectories(results: Mapping[str, Trajectory] | Trajectory) -> Figure:
    """Draw trajectories from the first weights, on the right, to the last ones, at the origin, with random walks.

    Args:
        results: Label -> trajectory, or one trajectory.

    Returns:
        The figure. Points are snapshots.

    Example:
        >>> path = Trajectory(np.arange(3), *np.array([[1, 0.5, 0], [0, 0.2, np.nan]] * 2), parameters=10)
        >>> figure = plot_trajectories({"ViT": path})
        >>> figure.axes[0].lines[0].get_ydata().tolist()
        [1.0, 0.5, 0.0]
    """
    results = named(results)
    figure, ax = new_figure(4.6, 3.4, subplot_kw={"projection": "polar"})
    widest = np.pi / 2
    for (label, result), colour in zip(results.items(), colours(list(results)).values(), strict=True):
        look = {"marker": marker(label), "markersize": 3, "color": colour, "linewidth": CURVE}
        name = f"{label}, epochs {result.epochs[0]}-{result.epochs[-1]}"
        ax.plot(_to_the_end(result.angle), result.radius, label=name, **look)
        ax.plot(_to_the_end(result.walk_angle), result.walk_radius, **look | {"linestyle": "--", "alpha": 0.6})
        widest = max(widest, float(np.nanmax(result.angle)), float(np.nanmax(result.walk_angle)))
    highest = max(float(max(result.radius.max(), result.walk_radius.max())) for result in results.values())
    ax.set(thetamin=0, thetamax=min(180, 15 * np.ceil(np.degrees(widest) / 15)), rmax=1.05 * highest)
    ax.set_rticks([0.25, 0.5, 0.75, 1.0])
    ax.set_xlabel("distance from the last weights (1: first weights)", labelpad=16)
    return finish(figure, results, CAVEAT)


def _to_the_end(angle: np.ndarray) -> np.ndarray:
    """Let the last point, which has no angle, keep that of the one before, so that the line ends at the origin."""
    return np.where(np.isnan(angle), angle[-2], angle)
