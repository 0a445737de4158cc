"""Figures of classifiers' predictions: reliability diagrams, and all measures side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utilities.analysis.predictions.classification import CLASSIFICATION_MEASURES, Classification
from utilities.plots.labelled_figure import colours, finish, marker, named, new_figure
from utilities.plots.paper import CURVE, HAIRLINE, REFERENCE, TEXT_WIDTH
from utilities.results.formatting import percent
from utilities.results.statistics import wilson

# Whether more (up) or less (down) is better. A signed error is best at 0, and no share of certain images is best.
BETTER = {"nll": "↓", "brier": "↓", "ece": "↓", "signed_ece": "(best: 0)", "freq_90": ""}
UNITS = {"nll": "nats", "brier": "0 to 2"}


def plot_reliability(results: Mapping[str, Classification] | Classification) -> Figure:
    """Draw the reliability diagram of each model above the histogram of its confidences.

    Args:
        results: Label -> result, or one result.

    Returns:
        The figure. Bars are the accuracy of each bin of confidence, with Wilson's interval of one standard error. The
        hatched part is the amount by which the accuracy falls short of, or exceeds, the bin's mean confidence.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> from utilities.analysis.predictions.calibration import score
        >>> import torch
        >>> logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
        >>> figure = plot_reliability({"chance": Classification(**score(logits, torch.arange(50) % 3), num_classes=3)})
        >>> [ax.get_ylabel() for ax in figure.axes]
        ['accuracy (%)', 'images (%)']
        >>> plt.close(figure)
    """
    results = named(results)
    columns = len(results)
    ratios = {"height_ratios": (2, 1)}
    figure, axes = new_figure(
        max(3.2, 2.15 * columns), 3.5, 2, columns, sharex=True, sharey="row", squeeze=False, gridspec_kw=ratios
    )
    for (label, result), colour, (upper, lower) in zip(
        results.items(), colours(list(results)).values(), axes.T, strict=True
    ):
        bars = _bars(result)
        _draw_bins(upper, bars, colour)
        upper.set_title(
            f"{label}\nECE {percent(result.ece, result.stderr('ece'), ' %', unknown='')}, "
            f"signed {percent(result.signed_ece, result.stderr('signed_ece'), ' %', '+.1f', unknown='')}"
        )
        _draw_histogram(lower, bars, result, colour)
        lower.set_xlabel("confidence (%)")
    axes[0, 0].set(xlim=(0, 100), ylim=(0, 100), ylabel="accuracy (%)")
    axes[1, 0].set(ylim=(0, 100), ylabel="images (%)")
    note = (
        "Bars: accuracy of each bin, with Wilson's interval of one standard error; hatched: from there to the mean "
        "confidence of the bin; dotted: perfect calibration. Vertical lines: accuracy (solid) and mean confidence "
        "(dashed) over all images. ± one standard error over images."
    )
    return finish(figure, results, note)


def _bars(result: Classification) -> pd.DataFrame:
    """Return the bins as they are drawn, in percent and without empty ones."""
    frame = result.reliability()
    frame = frame[frame["count"] > 0].reset_index(drop=True)
    low, high = wilson(frame["hits"], frame["count"])
    shares = frame[["lower", "accuracy", "confidence"]].assign(low=low, high=high, share=frame["count"] / result.n)
    return 100 * shares.assign(width=1 / result.bins)


def _draw_bins(ax: Axes, bars: pd.DataFrame, colour: Any) -> None:
    place = {"x": bars["lower"], "width": bars["width"], "align": "edge"}
    ax.bar(
        height=bars["accuracy"],
        color=colour,
        alpha=0.6,
        edgecolor="white",
        linewidth=HAIRLINE,
        label="accuracy",
        **place,
    )
    gap = bars["confidence"] - bars["accuracy"]
    hatched = {"facecolor": "none", "edgecolor": "0.35", "linewidth": 0.4, "hatch": "//////"}
    ax.bar(height=gap, bottom=bars["accuracy"], label="gap to the confidence", **hatched, **place)
    errors = np.abs(bars[["low", "high"]].to_numpy().T - bars["accuracy"].to_numpy())
    middle = bars["lower"] + bars["width"] / 2
    ax.errorbar(middle, bars["accuracy"], errors, fmt="none", ecolor="black", elinewidth=REFERENCE, capsize=1.5)
    ax.plot([0, 100], [0, 100], color="black", linewidth=REFERENCE, linestyle=":", label="perfect calibration")


def _draw_histogram(ax: Axes, bars: pd.DataFrame, result: Classification, colour: Any) -> None:
    ax.bar(bars["lower"], bars["share"], bars["width"], align="edge", color=colour, alpha=0.6, linewidth=0)
    ax.axvline(100 * result.accuracy, color="black", linewidth=REFERENCE)
    ax.axvline(100 * float(result.confidences.mean()), color="black", linewidth=REFERENCE, linestyle="--")


def plot_measures(results: Mapping[str, Classification] | Classification) -> Figure:
    """Draw all measures of each model, with one panel for each measure and bars of one standard error.

    Args:
        results: Label -> result, or one result.

    Returns:
        The figure. Each panel has its own scale. A measure without images is a cross on the axis.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> from utilities.analysis.predictions.calibration import score
        >>> import torch
        >>> logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
        >>> result = Classification(**score(logits, torch.arange(50) % 3), num_classes=3)
        >>> figure = plot_measures({"one": result, "two": result})
        >>> figure.axes[0].get_title(), len(figure.axes)
        ('Acc ↑', 11)
        >>> plt.close(figure)
    """
    results = named(results)
    figure, axes = new_figure(TEXT_WIDTH, 3.9, 3, 4)
    palette = colours(list(results))
    for ax, measure in zip(axes.flat, CLASSIFICATION_MEASURES, strict=False):
        scale = 1 if measure in UNITS else 100
        for place, (label, result) in enumerate(results.items()):
            style = {"color": palette[label], "label": label, "markersize": 4}
            value, ends = scale * getattr(result, measure), scale * np.array(result.interval(measure))
            if np.isnan(value):
                ax.plot(place, 0.05, "x", transform=ax.get_xaxis_transform(), **style)
            else:
                shape = marker(result.provenance.get("model") or label)
                errors = np.abs(ends - value)[:, None]
                ax.errorbar(place, value, errors, fmt=shape, capsize=2, elinewidth=CURVE, **style)
        names = list(dict.fromkeys(result.name_of(measure) for result in results.values()))
        ax.set_title(f"{' / '.join(names)} {BETTER.get(measure, '↑')}".strip())
        ax.set(xlim=(-0.7, len(results) - 0.3), xticks=[], ylabel=UNITS.get(measure, "%"))
        if measure == "signed_ece":
            ax.axhline(0, color="black", linewidth=REFERENCE, linestyle=":")
    for ax in axes.flat[len(CLASSIFICATION_MEASURES) :]:
        ax.remove()
    crosses = " A cross: there is no image to measure it on." if _some_empty(results) else ""
    note = (
        "Bars: one standard error over images, Wilson's interval for shares of images. Arrows: which way is better; "
        f"panels differ in scale.{crosses}"
    )
    return finish(figure, results, note)


def _some_empty(results: Mapping[str, Classification]) -> bool:
    return any(np.isnan(getattr(result, measure)) for result in results.values() for measure in CLASSIFICATION_MEASURES)
