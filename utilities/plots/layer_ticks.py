"""Name layers along an axis: as many as fit, or those that were asked for."""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Sequence
from functools import partial

from matplotlib.axis import Axis
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from utilities.plots.paper import TICK
from utilities.plots.text_fitting import shorten

LEADING = 1.25  # distance from line to line, in heights of a line
MAX_LABELS = 40  # nobody reads more labels than this


def line_height(points: float = TICK) -> float:
    """Return the smallest readable distance in inches from one line of text to the next."""
    _, height, _ = text_to_path.get_text_width_height_descent("lp", FontProperties(size=points), ismath=False)
    return LEADING * height / 72


def thinned(count: int, inches: float) -> list[int]:
    """Choose evenly spaced places, counted back from the last one, which often differs from all others.

    Args:
        count: Number of places, evenly spaced.
        inches: Length of the axis in inches.

    Example:
        >>> thinned(12, 12), thinned(12, 0.3)
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [5, 11])
    """
    fit = max(1, min(MAX_LABELS, int(inches / line_height())))
    return list(range(count - 1, -1, -math.ceil(count / fit)))[::-1]


def chosen(ticks: Sequence[str] | str | None, *sides: Sequence[str]) -> list[list[int] | None]:
    """Find the layers that were asked for along each axis.

    Args:
        ticks: Names or globs of layers; None takes as many as fit.
        *sides: Names of the layers along each axis.

    Raises:
        ValueError: If a name is found along no axis. The message lists similar names.

    Example:
        >>> chosen(["conv1", "layer?"], ["conv1", "layer1", "fc"], ["layer1", "layer2"])
        [[0, 1], [0, 1]]
    """
    if ticks is None:
        return [None] * len(sides)
    patterns = [ticks] if isinstance(ticks, str) else list(ticks)
    names = list(dict.fromkeys(name for side in sides for name in side))
    for pattern in patterns:
        if not fnmatch.filter(names, pattern) and pattern not in names:
            close = difflib.get_close_matches(pattern, names, n=3) or [names[0], "...", names[-1]]
            raise ValueError(f"there is no layer {pattern!r} to label; did you mean one of {', '.join(close)}?")
    return [
        [i for i, name in enumerate(side) if any(name == p or fnmatch.fnmatchcase(name, p) for p in patterns)]
        for side in sides
    ]


def name_layers(
    axis: Axis,
    layers: Sequence[str],
    inches: float,
    places: Sequence[float] | None = None,
    *,
    indices: Sequence[int] | None = None,
    longest: float = 1.4,
) -> None:
    """Name as many layers along an axis as fit, counted back from the last one.

    Args:
        axis: Axis of the drawing.
        layers: Names of all layers.
        inches: Length of the axis in inches.
        places: Position of each layer on the axis; None means 0, 1, 2, ...
        indices: Indices of the layers to name; None takes as many as fit.
        longest: Greatest length of a name in inches. The middle of a longer one is left out.
    """
    shown = thinned(len(layers), inches) if indices is None else list(indices)
    names = shorten([layers[i] for i in shown], longest, TICK)
    axis.set_ticks([i if places is None else places[i] for i in shown], names, parse_math=False)


def fit_layers(axis: Axis, layers: Sequence[str], places: Sequence[float] | None = None) -> None:
    """Name as many layers along an axis of a finished figure as fit, and again whenever it is resized.

    Args:
        axis: Axis of a figure whose texts are all written.
        layers: Names of all layers.
        places: Position of each layer on the axis; None means 0, 1, 2, ...
    """
    fit = partial(_fit, axis, layers, range(len(layers)) if places is None else places)
    axis.figure.fits = (*getattr(axis.figure, "fits", ()), fit)
    fit()


def _fit(axis: Axis, layers: Sequence[str], places: Sequence[float]) -> None:
    figure, along = axis.figure, 0 if axis.axis_name == "x" else 1
    longest = min(1.4, 0.25 * figure.get_figwidth())
    name_layers(axis, layers, 0.5, places, longest=longest)  # names that need their room
    figure.draw_without_rendering()
    ends = axis.axes.transData.transform([[x, x] for x in (places[0], places[-1])])[:, along]
    span = abs(ends[1] - ends[0]) / figure.dpi
    name_layers(axis, layers, span * len(layers) / max(1, len(layers) - 1), places, longest=longest)
