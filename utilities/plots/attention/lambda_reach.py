"""Figure of how far lambda layers look, by content and by place, and what each part gives to the output."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from utilities.analysis.attention.lambda_reach import LambdaReach
from utilities.plots.labelled_figure import finish, named, new_figure, start_at_zero
from utilities.plots.paper import CURVE, GREY, HAIRLINE, REFERENCE, THIN
from utilities.plots.text_fitting import wrap

COLOURS = {"content": "#d55e00", "position": "#0173b2", "both": "0.2"}
ROWS = (
    (
        "distance\n(pixels of the image)",
        {"content": "content_distance", "position": "position_distance", "both": "distance"},
    ),
    ("share of the output", {"content": "content_share", "position": "position_share"}),
)
SHIFT = 0.12  # between the parts of one layer, so that none hides another


def plot_lambda_reach(results: Mapping[str, LambdaReach] | LambdaReach) -> Figure:
    """Draw distance and share of the parts of lambda layers over depth.

    Args:
        results: Label -> result, or one result.

    Returns:
        The figure: a column for each model; a point for each head, a line for their mean, a dashed line for equal
        weights.

    Example:
        >>> one = np.full((2, 3), 4.0)
        >>> figure = plot_lambda_reach(LambdaReach(["a", "b"], *[one] * 10, np.full(2, 8.0)))
        >>> figure.axes[0].lines[-1].get_ydata().tolist()
        [8.0, 8.0]
    """
    results = named(results)
    figure, axes = new_figure(0.9 + 2.8 * len(results), 4.2, 2, len(results), sharex="col", squeeze=False)
    for column, (label, result) in zip(axes.T, results.items(), strict=True):
        layers = np.arange(len(result.names))
        for ax, (ylabel, parts) in zip(column, ROWS, strict=True):
            for place, (part, name) in enumerate(parts.items()):
                values = getattr(result, name)
                errors = np.nan_to_num(getattr(result, "stderr" if name == "distance" else f"{name}_stderr"))
                x, colour = layers + SHIFT * (place - 1), COLOURS[part]
                for head in range(values.shape[1]):
                    look = {"color": colour, "elinewidth": THIN, "markersize": 2, "alpha": 0.6}
                    ax.errorbar(x, values[:, head], errors[:, head], fmt="o", **look)
                ax.plot(x, values.mean(1), color=colour, linewidth=CURVE, label=part)
            ax.set_ylabel(ylabel if ax in axes[:, 0] else "")
        look = {"color": GREY, "linewidth": REFERENCE, "linestyle": "--"}
        column[0].plot(layers, result.uniform_distance, label="equal weights", **look)
        start_at_zero(column[0])
        column[1].axhline(0, color=GREY, linewidth=HAIRLINE, zorder=0)
        column[0].set_title(wrap(label, 2.6))
        column[1].set_xticks(layers, result.names, rotation=90)
    note = "A point for each head, lines: means; bars: one standard error over images. Weights count by their size."
    return finish(figure, results, note)
