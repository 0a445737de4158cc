"""Figure of the variance of feature maps over depth (Park & Kim 2022, Fig. 9)."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from utilities.analysis.blocks.variance import Variance
from utilities.plots.blocks.values_over_depth import plot_over_depth
from utilities.plots.captions import shared_fact
from utilities.plots.labelled_figure import named

VALUES = {
    "variance": ("stderr", "variance"),
    "relative": ("relative_stderr", "relative variance\n(variance / mean square)"),
    "branch": ("branch_stderr", "variance of what\nthe block adds"),
}


def plot_variance(results: Mapping[str, Variance] | Variance, value: str = "variance") -> Figure:
    """Draw a variance of all blocks over depth, with one panel for each model.

    Args:
        results: Label -> result, or one result.
        value: Variance to draw: ``"variance"`` (the paper's; each panel has its own scale), ``"relative"`` or
            ``"branch"``.

    Returns:
        The figure.

    Raises:
        ValueError: If ``value`` is unknown.
    """
    if value not in VALUES:
        raise ValueError(f"value {value!r} is not known; choose from {', '.join(VALUES)}")
    error, label = VALUES[value]
    over = shared_fact(list(named(results).values()), "over")
    note = f"Variance over {over}, mean over channels and images." if over else ""
    return plot_over_depth(results, value, error, label, shared=value == "relative", note=note)
