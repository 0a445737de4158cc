"""Figure of which of two models a model is nearer to: differences of layers, and the largest of them under its null."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utilities.plots.captions import describe_model
from utilities.plots.labelled_figure import finish, new_figure
from utilities.plots.layer_ticks import fit_layers, name_layers
from utilities.plots.paper import DARK, LIGHT, PALETTE, REFERENCE, TEXT_WIDTH, THIN, TICK
from utilities.results.images import describe_images
from utilities.results.similarity_difference import WHOLE, SimilarityDifference

MATCHED = {"depth": "the layer at the same relative depth", "best": "its most similar layer"}


def plot_nearness(result: SimilarityDifference) -> Figure:
    """Draw the difference of each layer's two similarities, and the largest difference beside what chance gives.

    Args:
        result: Differences of similarities.

    Returns:
        The figure. On the left, bars are intervals of single layers, the grey band holds all layers at once, a ring
        marks the largest difference, and the last point is the mean over layers. On the right is the distribution of
        the largest difference if none was real, with a dashed line at the level of confidence; the ring is at the
        observed one.

    Raises:
        ValueError: If the result is a difference of whole matrices.

    Example:
        >>> one, none = np.array([0.3, 0.1]), np.zeros(2)
        >>> result = SimilarityDifference(
        ...     ["a", "b"], ["x", "y"], ["u", "v"], one, none, one, one / 4, none, 2 * one, none, -one, 3 * one, one,
        ...     np.array([4.0, 4.0]), np.linspace(0, 3, 50), 2.0,
        ...     {"difference": 0.2, "low": 0.1, "high": 0.3, "p_value": 0.01}, 10,
        ... )
        >>> [ax.get_xlabel() for ax in plot_nearness(result).axes]
        ['layers of the model', 'largest, in standard errors']
    """
    if result.difference.ndim > 1:
        raise ValueError("this result is a difference of whole matrices: plot_nearness_matrix draws it")
    figure, (left, right) = new_figure(TEXT_WIDTH, 3.6, 1, 2, width_ratios=[3, 1])
    colours = sns.color_palette(PALETTE, 3)
    _differences(left, result, colours)
    _null(right, result, colours[2])
    facts = result.provenance
    finish(figure, {"": SimpleNamespace(provenance=facts | {"n": result.n})})
    fit_layers(left.xaxis, [*result.layers, WHOLE], _places(result))
    figure.caption = ". ".join([*describe_three(result), describe_images(facts, result.n), _note(result)])
    return figure


def describe_three(result: SimilarityDifference) -> list[str]:
    """Describe the three models, as far as their names do not say it."""
    said = [(name, describe_model(result.provenance, k, name=False))
            for k, name in zip("123", result.names, strict=True)]  # fmt: skip
    return [f"{name}: {text}" for name, text in said if text and f"({text})" not in name]


def _places(result: SimilarityDifference) -> list[float]:
    """Place layers along the axis, and their mean a little apart."""
    return [*map(float, range(len(result.layers))), len(result.layers) + 0.5]


def _differences(ax: Axes, result: SimilarityDifference, colours: Sequence[Any]) -> None:
    """Draw the difference of each layer, and their mean."""
    (*places, end), names, whole = _places(result), result.names, result.whole
    at, level = result.layers.index(result.largest), f"{100 * result.provenance.get('confidence', 0.95):g}%"
    ax.fill_between(
        places,
        result.band_low,
        result.band_high,
        color=LIGHT,
        alpha=0.6,
        linewidth=0,
        label=f"{level} band, all layers",
    )
    for x, y, low, high, shape, colour, label in (
        (places, result.difference, result.low, result.high, "o", colours[0], f"layer, {level} interval"),
        ([end], [whole["difference"]], [whole["low"]], [whole["high"]], "s", colours[1], f"mean, {level} interval"),
    ):
        ax.vlines(x, low, high, color=colour, linewidth=REFERENCE)
        ax.plot(x, y, shape, markersize=3, color=colour, label=label)
    ax.plot(places[at], result.difference[at], "o", markersize=8, fillstyle="none", color=colours[2], label="largest")
    ax.axhline(0, color=DARK, linewidth=THIN, zorder=0)
    name_layers(ax.xaxis, [*result.layers, WHOLE], 4.6, [*places, end])
    ax.tick_params(axis="x", labelrotation=90)
    ax.set(xlabel=f"layers of {names[0]}", ylabel=f"difference of {result.provenance.get('measure', 'similarity')}")
    ax.margins(y=0.2)
    for y, text, side in ((0.99, f"↑ nearer to {names[1]}", "top"), (0.01, f"↓ nearer to {names[2]}", "bottom")):
        ax.text(0.01, y, text, transform=ax.transAxes, va=side, fontsize=TICK, color=DARK)


def _null(ax: Axes, result: SimilarityDifference, colour: Any) -> None:
    """Draw the distribution of the largest difference under its null, and mark the observed one."""
    own, most = float(np.nanmax(np.abs(result.score))), max(float(result.null_largest.max()), result.critical)
    ax.hist(result.null_largest, bins=30, density=True, color=LIGHT, linewidth=0)
    ax.axvline(result.critical, color=DARK, linewidth=REFERENCE, linestyle="--")
    ax.plot(own, 0, "o", markersize=8, fillstyle="none", color=colour, clip_on=False)
    ax.set(xlabel="largest, in standard errors", yticks=[], xlim=(0, 1.08 * (max(most, own) or 1)))
    ax.set_ylim(bottom=0)
    said = f"ring: {own:.1f} at {result.largest}\ngrey: if none is real\np = {np.nanmin(result.p_family):.2g}"
    ax.set_title(said, fontsize=TICK)


def _note(result: SimilarityDifference) -> str:
    facts, whole = result.provenance, result.whole
    text = f"Each layer is compared with {MATCHED.get(facts.get('match'), 'a layer of each other model')}. "
    text += f"All layers: {whole['difference']:+.3f}, p = {whole['p_value']:.2g}."
    return text
