"""Figure of accuracy and loss on the way from a CNN to a hybrid."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from utilities.analysis.predictions.classification import Classification
from utilities.plots.labelled_figure import colours, finish, new_figure
from utilities.plots.paper import CURVE

PANELS = (("accuracy", "accuracy (%)", 100), ("nll", "negative log-likelihood (nats)", 1))


def plot_build_up(steps: Mapping[str, Classification], others: Mapping[str, Classification] | None = None) -> Figure:
    """Draw accuracy and loss over the number of attention blocks, with error bars of one standard error.

    Args:
        steps: Name -> result. The first model has no attention block, and each further one has one more.
        others: Models to compare with, drawn as horizontal bands.

    Returns:
        The figure.
    """
    others = others or {}
    figure, axes = new_figure(6.0, 2.6, 1, 2)
    palette = colours(["steps", *others])
    for ax, (measure, label, scale) in zip(axes, PANELS, strict=True):
        values = [scale * getattr(result, measure) for result in steps.values()]
        errors = [scale * result.stderr(measure) for result in steps.values()]
        ax.errorbar(
            list(range(len(steps))),
            values,
            errors,
            color=palette["steps"],
            marker="s",
            markersize=4,
            lw=CURVE,
            label="the steps",
        )
        for name, result in others.items():
            value, error = scale * getattr(result, measure), scale * result.stderr(measure)
            ax.axhline(value, color=palette[name], lw=CURVE, label=name)
            ax.axhspan(value - error, value + error, color=palette[name], alpha=0.2, linewidth=0)
        ax.set(xlabel="attention (MSA) blocks", ylabel=label)
        ax.set_xticks(range(len(steps)))
    return finish(figure, {**steps, **others}, "Bars and bands: one standard error over images; one training each.")
