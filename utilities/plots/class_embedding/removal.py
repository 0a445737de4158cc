"""Figure of accuracy over the share of removed image tokens."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utilities.analysis.class_embedding.removal import DIRECTIONS, RemovalCurves
from utilities.plots.labelled_figure import colours, draw_with_band, finish, named, new_figure
from utilities.plots.paper import BOLD, GREY, INK, LIGHT, REFERENCE, TEXT_WIDTH
from utilities.plots.text_fitting import wrap

HEADINGS = {"negative": "least important first", "positive": "most important first"}
STYLES = ("-", "--", "-.", ":")  # in addition to colours, for prints in grey


def plot_removal(results: Mapping[str, RemovalCurves] | RemovalCurves) -> Figure:
    """Draw the curves of each importance map, negative on the left, positive on the right, with one row for each model.

    Args:
        results: Label of a model -> its curves, or one result.

    Returns:
        The figure.

    Example:
        >>> lines = np.array([[1.0, 0.8, 0.2]])
        >>> curves = RemovalCurves(["gradient"], np.arange(3), 2, lines, lines, lines[:0], np.full(3, np.nan),
        ...     lines[:, :1], lines[:, :1], lines[:0], np.zeros(1))
        >>> figure = plot_removal(curves)
        >>> figure.axes[0].lines[1].get_xdata().tolist()
        [0.0, 50.0, 100.0]
    """
    results = named(results)
    palette = colours(list(dict.fromkeys(name for result in results.values() for name in result.names)))
    looks = {name: {"color": colour, "ls": STYLES[i % 4]} for i, (name, colour) in enumerate(palette.items())}
    figure, axes = new_figure(TEXT_WIDTH, 0.2 + 2.3 * len(results), len(results), 2, sharey="row", squeeze=False)
    for row, (label, result) in zip(axes, results.items(), strict=True):
        for ax, direction in zip(row, DIRECTIONS, strict=True):
            _draw(ax, result, direction, looks)
            ax.set_title(wrap(f"{label}: {HEADINGS[direction]}" if len(results) > 1 else HEADINGS[direction], 2.8))
        predicted = result.provenance.get("target") == "prediction"
        row[0].set_ylabel("same answer as the\nintact model (%)" if predicted else "accuracy (%)")
    for ax in axes[-1]:
        ax.set_xlabel("image tokens removed (%)")
    return finish(figure, results, _note(results))


def _draw(ax: Axes, result: RemovalCurves, direction: str, looks: Mapping[str, Mapping[str, object]]) -> None:
    x = 100 * result.fraction
    intact = 100 * result.intact
    ax.axhline(intact, color=INK, linestyle=(0, (4, 3)), linewidth=REFERENCE, label="intact model")
    if len(result.random):
        mean = 100 * result.random.mean(0)
        spread = 100 * result.random.std(0, ddof=1) if len(result.random) > 1 else np.zeros_like(mean)
        ax.fill_between(x, mean - spread, mean + spread, color=LIGHT, alpha=0.4, linewidth=0)
        ax.plot(x, mean, color=GREY, linewidth=BOLD, label="random order")
    for name, curve, error in zip(
        result.names, 100 * getattr(result, direction), 100 * np.nan_to_num(result.stderr(direction)), strict=True
    ):
        draw_with_band(ax, x, curve, [curve - error, curve + error], linewidth=BOLD, label=name, **looks[name])
    ax.set(xlim=(0, 100), ylim=(0, None))


def _note(results: Mapping[str, RemovalCurves]) -> str:
    """Explain how to read the figure."""
    orders = sorted({len(result.random) for result in results.values()})
    parts = ["Tokens are taken out after position embeddings; each image loses its own."]
    parts.append("Bands of curves: one standard error over images.")
    if orders[-1]:
        count = " or ".join(str(number) for number in orders if number)
        parts.append(f"Grey: mean of {count} random orders, with a band of one standard deviation between them.")
    if any(result.removed[-1] == result.tokens for result in results.values()):
        parts.append("At 100 % only tokens that are not the image's are left.")
    if any(result.removed[-1] < result.tokens for result in results.values()):
        parts.append("Where tokens are averaged, curves end at the last one.")
    return " ".join(parts)
