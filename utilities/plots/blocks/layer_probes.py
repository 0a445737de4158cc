"""Figures of linear probes of layers: accuracy over depth, and of each position (Raghu et al. 2021, Figs. 11, 13)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from utilities.analysis.blocks.layer_probes import LayerProbes
from utilities.plots.captions import shared_fact
from utilities.plots.labelled_figure import colours, finish, is_cnn, marker, named, new_figure, start_at_zero
from utilities.plots.paper import CURVE, DENSE, REFERENCE, THIN, TICK
from utilities.plots.text_fitting import wrap
from utilities.results.formatting import counted

FIRST = "token:0"
VIEW_TITLES = {
    "gap": "mean over positions",
    "cls": "class token",
    "mean_all": "mean over all tokens",
    FIRST: "first token, or corner",
    "tokens": "single positions, mean",
    "flatten": "all features",
}


def plot_layer_probes(results: Mapping[str, LayerProbes] | LayerProbes, views: Sequence[str] | None = None) -> Figure:
    """Draw the accuracy of probes over relative depth, one panel for each view of the layers.

    Args:
        results: Label -> result, or one result.
        views: Views to draw; None draws all that were read.

    Returns:
        The figure.

    Raises:
        ValueError: If no model was read under a view.
    """
    results = named(results)
    known = list(dict.fromkeys(view for result in results.values() for view in result.views))
    views = known if views is None else list(views)
    unknown = [view for view in views if view not in known]
    if unknown or not views:
        raise ValueError(f"view {', '.join(unknown)!r} was not read; there are {', '.join(known)}")
    across = min(3, len(views))
    down = -(-len(views) // across)
    figure, axes = new_figure(0.7 + 2.0 * across, 0.2 + 2.0 * down, down, across, sharey=True, squeeze=False)
    palette = colours(list(results))
    for ax, view in zip(axes.flat, views, strict=False):
        for label, result in results.items():
            if view in result.views:
                mean, error = result.of(view)
                look = {"color": palette[label], "marker": marker(result.provenance.get("model", label))}
                look |= {"markersize": 3, "linewidth": CURVE, "elinewidth": THIN}
                ax.errorbar(result.depth, 100 * mean, 100 * np.nan_to_num(error), label=label, **look)
        chances = {round(100 * result.chance, 6) for result in results.values()}
        for chance in chances:
            ax.axhline(chance, color="0.4", linewidth=REFERENCE, linestyle=":", zorder=1)
        ax.set_title(VIEW_TITLES.get(view, view))
        ax.set_xlabel("relative depth")
    start_at_zero(axes[0, 0])  # for all panels, once all are drawn
    for ax in axes.flat[len(views) :]:
        ax.set_axis_off()
    for ax in axes[:, 0]:
        ax.set_ylabel("top-1 accuracy of probes (%)")
    _legend_of_all(axes, results)
    return finish(figure, results, _note(results) + _first_token(results, views))


def _first_token(results: Mapping[str, LayerProbes], views: Sequence[str]) -> str:
    """State what the first token is, and of which models it is a position of a map."""
    if FIRST not in views:
        return ""
    maps = [label for label, one in results.items() if is_cnn(one.provenance.get("model", label))]
    such = f" ({', '.join(maps)})" if maps else ""
    return f" First token: the class token, or, where there is none{such}, the position in the upper left corner."


def _legend_of_all(axes: np.ndarray, results: Mapping[str, LayerProbes]) -> None:
    """Let the first panel, which the legend is made from, name models that only other panels show."""
    first = axes.flat[0]
    drawn = first.get_legend_handles_labels()[1]
    for label in results:
        if label not in drawn:
            first.plot([], [], color=colours(list(results))[label], label=label, linewidth=CURVE)


def plot_token_probes(results: Mapping[str, LayerProbes] | LayerProbes, layers: Sequence[int] = (0, -1)) -> Figure:
    """Draw the accuracy of the probe of each position as maps, on one scale for all.

    Args:
        results: Label -> result with the view ``tokens``, or one result; each gets a row.
        layers: Indices of the layers to draw.

    Returns:
        The figure.

    Raises:
        ValueError: If a result has no probes of single positions.
    """
    results = named(results)
    maps = {label: [100 * result.token_map(layer) for layer in layers] for label, result in results.items()}
    top = max(float(values.max()) for row in maps.values() for values in row)
    figure, axes = new_figure(
        1.0 + 1.7 * len(layers), 0.3 + 1.75 * len(results), len(results), len(layers), squeeze=False
    )
    for line, (label, result) in zip(axes, results.items(), strict=True):
        for ax, layer, values in zip(line, layers, maps[label], strict=True):
            image = ax.imshow(values, cmap="viridis", vmin=0, vmax=top, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            own = f"; class token {100 * result.class_token(layer)[0]:.0f}%" if _has_class_token(result, layer) else ""
            ax.set_title(f"{result.names[layer]}\nmean {values.mean():.0f}%{own}")
        line[0].set_ylabel(wrap(label, 1.5, points=TICK))
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("top-1 accuracy of\neach position's probe (%)", fontsize=TICK)
    figure = finish(figure, results, _note(results, bars=False), legend=False)
    for ax in axes.flat:
        ax.title.set_size(DENSE)
    for _ in range(2):  # the first layout does not know yet how high square maps are
        figure.draw_without_rendering()
    return figure


def _has_class_token(result: LayerProbes, layer: int) -> bool:
    return bool(result.prefix[result.views.index("tokens"), layer]) or "cls" in result.views


def _note(results: Mapping[str, LayerProbes], bars: bool = True) -> str:
    """State what the probes were fitted to, the penalty, chance and errors."""
    found = list(results.values())
    shots, draws, count, alpha = (shared_fact(found, name) for name in ("shots", "draws", "n_train", "alpha"))
    images = counted(int(count), "other image") if count.isdigit() else "other images"
    if shots.isdigit():
        images = f"{counted(int(shots), 'image')} a class"
        images += f", mean of {counted(int(draws), 'draw')}" if draws else ""
    penalty = {"": "", "None": ", penalty chosen on a fifth of these"}.get(alpha, f", penalty {alpha}")
    chance = ", ".join(dict.fromkeys(f"{100 * result.chance:.0f}%" for result in found))
    note = f"Ridge probes fitted to {images}{penalty}. Chance: {chance}"
    draws_too = " and draws" if draws not in ("", "1") else ""
    return f"{note} (dotted). Bars: one standard error over test images{draws_too}." if bars else f"{note}."
