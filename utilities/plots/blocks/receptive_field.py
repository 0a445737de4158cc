"""Figures of effective receptive fields: maps over depth, and their sizes (Raghu et al. 2021, Figs. 6 and C.1-C.4)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from utilities.analysis.blocks.receptive_field import ReceptiveField
from utilities.plots.labelled_figure import colours, finish, marker, named, new_figure, start_at_zero
from utilities.plots.paper import CURVE, DENSE, LIGHT, REFERENCE, TEXT_WIDTH, THIN
from utilities.plots.text_fitting import shorten, wrap

Results = Mapping[str, ReceptiveField] | ReceptiveField

PARTS = {"after": "", "before": "before_"}  # the residual sum -> beginning of the names of its values
SCALES = ("own", "shared")
COLUMNS = 7
GAMMA = 0.5  # colours go with the square root: a peak would hide all else


def plot_receptive_fields(
    results: Results, part: str | None = None, *, scale: str = "own", columns: int = COLUMNS
) -> Figure:
    """Draw maps of layers evenly spaced over the depth, with one row for each model, after and before the sum.

    Args:
        results: Label -> result, or one result.
        part: ``"after"`` the residual sum, ``"before"`` it, or None for both, one row below the other.
        scale: ``"own"`` scales each map to its own maximum; ``"shared"`` all maps of a row to theirs.
        columns: Number of layers in a row.

    Returns:
        The figure.

    Raises:
        ValueError: If an option is not known, or no model has a map to draw.
    """
    if part not in (None, *PARTS) or scale not in SCALES or columns < 1:
        raise ValueError(f"part is {', '.join(PARTS)} or None, scale is {', '.join(SCALES)}, columns at least 1")
    results = named(results)
    parts = list(PARTS) if part is None else [part]
    chosen = [(label, one, _chosen(result, one, columns)) for label, result in results.items() for one in parts]
    rows = [row for row in chosen if len(row[2])]
    if not rows:
        raise ValueError("no residual branch was read, so there are no maps before the sum to draw")
    cell = TEXT_WIDTH / (columns + 0.9)
    size = (TEXT_WIDTH, 0.2 + len(rows) * (cell + 0.2))
    figure, axes = new_figure(*size, len(rows), columns, squeeze=False)
    for line, (label, one, layers) in zip(axes, rows, strict=True):
        drawn = _draw_row(line, results[label], one, layers, scale)
        line[0].set_ylabel(wrap(f"{label}\n{one} the sum", cell))
    bar = figure.colorbar(drawn, ax=axes, shrink=min(1.0, 1.0 / size[1] + 0.3), aspect=20, pad=0.01)
    bar.set_ticks([0, 1], labels=["0", "max"])
    whose = "each map's own maximum" if scale == "own" else "the largest value in the row"
    note = (
        "Absolute gradient of the mean over channels at the central position with respect to each pixel, summed over "
        f"colours, mean over images. Scaled to {whose}; colours go with the square root of the value."
    )
    if any({"msa", "mlp"} <= set(results[label].kinds) for label, _, _ in rows):
        note += " A transformer is shown after each MLP's sum, and before attention's."
    far = max(_off_centre(results[label], layers) for label, _, layers in rows)
    if far >= 1:
        note += f" Where no position is centred in the image's middle, the nearest is read, up to {far:.1f} pixels off."
    finish(figure, results, note, legend=False)
    for ax in axes.flat:
        ax.title.set_size(DENSE)
        ax.spines[:].set_visible(False)
    return figure


def _off_centre(result: ReceptiveField, layers: list[int]) -> float:
    """Compute how far the positions that are read lie from the middle of the image, at most, in pixels."""
    middle = (np.array(result.image_size) - 1) / 2  # pixels are counted from 0, at their own middles
    return float(np.linalg.norm(result.centre[layers] - middle, axis=1).max())


def _chosen(result: ReceptiveField, part: str, columns: int) -> list[int]:
    """Choose layers that have a map, evenly spaced from the first to the last; of a transformer, see the note."""
    kinds = np.array(result.kinds)
    shown = np.full(len(kinds), True)
    if {"msa", "mlp"} <= set(result.kinds):
        shown = kinds == "msa" if part == "before" else kinds != "msa"
    there = np.flatnonzero(shown & (np.nan_to_num(getattr(result, f"{PARTS[part]}maps")).max((1, 2)) > 0))
    return list(dict.fromkeys(there[np.linspace(0, len(there) - 1, columns).round().astype(int)])) if len(there) else []


def _draw_row(axes: np.ndarray, result: ReceptiveField, part: str, layers: list[int], scale: str) -> object:
    """Draw the maps of one model; return what a colour bar needs."""
    maps = getattr(result, f"{PARTS[part]}maps")
    names = shorten([result.names[layer] for layer in layers], 0.75, DENSE)
    largest = maps[layers].max()
    drawn = None
    for ax, layer, name in zip(axes, layers, names, strict=False):
        top = maps[layer].max() if scale == "own" else largest
        drawn = ax.imshow(maps[layer] / top, cmap="magma", norm=PowerNorm(GAMMA, 0, 1), interpolation="nearest")
        ax.set_title(name)
        ax.set(xticks=[], yticks=[])
    for ax in axes[len(layers) :]:
        ax.set_axis_off()
    return drawn


def plot_field_sizes(results: Results) -> Figure:
    """Draw the radius that holds half of each map, and the share of its own cell, over relative depth.

    Args:
        results: Label -> result, or one result.

    Returns:
        The figure.
    """
    results = named(results)
    figure, (left, right) = new_figure(TEXT_WIDTH, 2.4, 1, 2)
    palette = colours(list(results))
    sizes = {tuple(result.image_size) for result in results.values()}
    for label, result in results.items():
        look = {"color": palette[label], "marker": marker(result.provenance.get("model", label))}
        unit = result.flat_radius if len(sizes) > 1 else None
        for prefix, style, kinds in _curves(result, label):
            _draw_curve(left, result, f"{prefix}radius", kinds, look | style, unit)
            _draw_curve(right, result, f"{prefix}share", kinds, look | style)
    if len(sizes) == 1:
        flat = next(iter(results.values())).flat_radius.mean()
        left.axhline(flat, color=LIGHT, linestyle="-.", linewidth=REFERENCE)
    left.set(xlabel="relative depth", ylabel="radius with half of the gradient\n" + _unit(len(sizes) > 1))
    right.set(xlabel="relative depth", ylabel="share of the gradient in\nthe position's own cell", yscale="log")
    start_at_zero(left)
    note = (
        "Solid: after the residual sum; dashed: before it, the branch alone (dotted: an MLP's). Bars: one standard "
        "error over images. Grey: radius of a map that is the same everywhere."
    )
    return finish(figure, results, note)


def _unit(shares: bool) -> str:
    return "(share of a flat map's)" if shares else "(pixels)"


def _curves(result: ReceptiveField, label: str) -> list[tuple[str, dict[str, object], set[str]]]:
    """List the curves of a model, each with its look and the kinds of layers on it; attention and MLP stand apart."""
    kinds, before = set(result.kinds), {"markerfacecolor": "white"}
    mlp = {"mlp"} & kinds
    curves = [("", {"label": label}, kinds), ("before_", before | {"linestyle": "--"}, kinds - mlp)]
    return [*curves, ("before_", before | {"linestyle": ":"}, mlp)] if mlp else curves


def _draw_curve(
    ax: Axes,
    result: ReceptiveField,
    value: str,
    kinds: set[str],
    look: dict[str, object],
    unit: np.ndarray | None = None,
) -> None:
    """Draw means over images with bars of one standard error; layers without a value are left out of the line."""
    mean, error = (values / (1 if unit is None else unit) for values in result.mean(value))
    there = np.isfinite(mean) & np.isin(result.kinds, list(kinds))
    ax.errorbar(
        result.depth[there], mean[there], np.nan_to_num(error[there]), linewidth=CURVE, markersize=3, elinewidth=THIN,
        markeredgewidth=THIN, **look,
    )  # fmt: skip
