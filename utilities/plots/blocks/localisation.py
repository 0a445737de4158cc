"""Figures of spatial localisation: maps of single positions, and sharpness over depth (Raghu et al. 2021, Fig. 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from utilities.analysis.blocks.localisation import Localisation
from utilities.plots.captions import shared_fact
from utilities.plots.labelled_figure import colours, finish, marker, named, new_figure
from utilities.plots.paper import CURVE, DENSE, GREY, MISSING, REFERENCE, TICK
from utilities.plots.text_fitting import wrap

POSITIONS = ("corner", "edge", "interior")
BESIDE = 2  # results beside each other; more go below
LABELS = {
    "contrast": "CKA with own patch\nless that with others",
    "own": "CKA with own patch",
    "others": "CKA with other patches",
    "found": "best patch is the own one\n(% of positions)",
    "near": "best patch is the own one\nor beside it (% of positions)",
    "distance": "distance of the best\npatch (pixels)",
}
SHARES = ("found", "near")


def plot_localisation(
    results: Mapping[str, Localisation] | Localisation,
    positions: Sequence[str] = POSITIONS,
    layers: Sequence[int] | None = None,
) -> Figure:
    """Draw the similarity of single positions with all patches of the image: a row of maps for each layer.

    Args:
        results: Label -> result, or one result; each gets a column for each position. Two are beside each other.
        positions: Some of ``"corner"`` (the upper left one), ``"edge"`` (the middle of the upper edge) and
            ``"interior"`` (the middle).
        layers: Indices of the layers to draw; None is the first, the middle and the last of each result.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no position, or one is unknown.
    """
    results, across = named(results), len(positions)
    unknown = [one for one in positions if one not in POSITIONS]
    if unknown or not positions:
        raise ValueError(f"positions {list(positions)} should be some of {', '.join(POSITIONS)}")
    chosen = {label: _layers(result, layers) for label, result in results.items()}
    rows = max(map(len, chosen.values()))
    beside = min(BESIDE, len(results))
    bands = -(-len(results) // beside)
    shape = (rows * bands, across * beside)
    figure, axes = new_figure(0.5 + 0.98 * shape[1], 0.2 + 1.12 * shape[0] + 0.25 * bands, *shape, squeeze=False)
    for number, (label, result) in enumerate(results.items()):
        top, left = rows * (number // beside), across * (number % beside)
        block = axes[top : top + rows, left : left + across]
        for row, line in enumerate(block):
            for ax, where in zip(line, positions, strict=True):
                if row < len(chosen[label]):
                    _draw_map(ax, result, chosen[label][row], where)
            if row < len(chosen[label]):
                line[0].set_ylabel(wrap(result.names[chosen[label][row]], 1.1, points=TICK), fontsize=TICK)
        for ax, where in zip(block[0], positions, strict=True):
            title = ax.get_title()
            ax.set_title(title if title.startswith(POSITIONS) else f"{where}\n{title}")
        middle = block[0][across // 2]
        middle.set_title(f"{wrap(label, 0.98 * across, points=DENSE)}\n{middle.get_title()}")
    for ax in axes.flat:
        if not ax.images:  # of a result with fewer layers, or of none
            ax.set_axis_off()
    scales = "Each map has its own scale, from 0 to its maximum (max). Red: the position's own place."
    return _finished(figure, results, f"{_how(results)} {scales}")


def _layers(result: Localisation, layers: Sequence[int] | None) -> list[int]:
    """Choose the layers to draw."""
    count = len(result.names)
    return sorted({0, count // 2, count - 1}) if layers is None else [layer % count for layer in layers]


def place_of(result: Localisation, layer: int, where: str) -> tuple[int, int]:
    """Return row and column of a position of `POSITIONS` in a layer's grid.

    Args:
        result: The result.
        layer: Index of the layer.
        where: One of `POSITIONS`.
    """
    rows, columns = (int(side) for side in result.grids[layer])
    return {"corner": (0, 0), "edge": (0, columns // 2), "interior": (rows // 2, columns // 2)}[where]


def kind_of(grid: Sequence[int], row: int, column: int) -> str:
    """Tell which of `POSITIONS` a position is; a grid of two rows or columns has no interior, perhaps corners alone.

    Args:
        grid: Rows and columns.
        row: The position's row.
        column: Its column.

    Example:
        >>> kind_of((4, 4), 2, 2), kind_of((2, 2), 1, 1), kind_of((2, 3), 1, 1)
        ('interior', 'corner', 'edge')
    """
    outer = (row in (0, grid[0] - 1)) + (column in (0, grid[1] - 1))
    return POSITIONS[2 - outer]


def _draw_map(ax: Axes, result: Localisation, layer: int, where: str) -> None:
    row, column = place_of(result, layer, where)
    values = result.map(layer, row, column)
    top = float(np.nanmax(values)) if np.isfinite(values).any() else 0.0
    colour_map = _missing_in_grey()
    ax.imshow(values, cmap=colour_map, vmin=0, vmax=max(top, 1e-6), interpolation="nearest")
    centre = result.centres[layer, row * int(result.grids[layer, 1]) + column] / result.patch - 0.5
    size = np.maximum(result.cells[layer] / result.patch, 1)
    corner = centre[::-1] - size[::-1] / 2
    ax.add_patch(Rectangle(corner, size[1], size[0], fill=False, edgecolor="red", linewidth=REFERENCE))
    ax.set(xticks=[], yticks=[])
    grid = tuple(int(side) for side in result.grids[layer])
    kind = kind_of(grid, row, column)  # of a small grid, another one than was asked for
    ax.set_title(f"{'' if kind == where else f'{kind} of {grid[0]}x{grid[1]}{chr(10)}'}max {top:.2f}")


def _missing_in_grey() -> object:
    import matplotlib.pyplot as plt

    return plt.get_cmap("viridis").with_extremes(bad=MISSING)


def plot_sharpness(
    results: Mapping[str, Localisation] | Localisation, measures: Sequence[str] = ("contrast", "near", "distance")
) -> Figure:
    """Draw how sharply positions are localised over the depth of each model, one panel for each measure.

    Args:
        results: Label -> result, or one result.
        measures: Some of `utilities.analysis.blocks.localisation.Localisation.measures`.

    Returns:
        The figure.

    Raises:
        ValueError: If a measure is unknown, or there is none.
    """
    results = named(results)
    if not measures or any(measure not in LABELS for measure in measures):
        raise ValueError(f"measures {list(measures)} should be some of {', '.join(LABELS)}")
    figure, axes = new_figure(0.4 + 2.0 * len(measures), 2.1, 1, len(measures), squeeze=False)
    palette = colours(list(results))
    for ax, measure in zip(axes[0], measures, strict=True):
        factor = 100 if measure in SHARES else 1
        for label, result in results.items():
            values, errors = (factor * part for part in result.of(measure))
            look = {"color": palette[label], "marker": marker(result.provenance.get("model", label)), "markersize": 3}
            errors = None if np.isnan(errors).all() else np.nan_to_num(errors)
            ax.errorbar(result.depth, values, errors, label=label, linewidth=CURVE, elinewidth=REFERENCE, **look)
            ax.plot(result.depth, factor * result.chance[:, result.measures.index(measure)], ":", color=palette[label],
                    linewidth=REFERENCE)  # fmt: skip
        if measure not in ("distance", *SHARES):
            ax.axhline(0, color=GREY, linewidth=REFERENCE, zorder=0)
        ax.set_xlabel("relative depth")
        ax.set_ylabel(LABELS[measure])
    chance = " Dotted: a best patch drawn at random." if {"found", "near", "distance"} & set(measures) else ""
    return finish(figure, results, f"{_how(results)}{chance} Bars: one standard error over batches.")


def _how(results: Mapping[str, Localisation]) -> str:
    """State estimator and patches."""
    patch = shared_fact(list(results.values()), "patch")
    sizes = f"{patch} pixels" if patch else ", ".join(f"{r.patch} pixels ({label})" for label, r in results.items())
    return f"Debiased CKA of the features at a position with the pixels of a patch of {sizes}."


def _finished(figure: Figure, results: Mapping[str, Localisation], note: str) -> Figure:
    figure = finish(figure, results, note, legend=False)
    for ax in figure.axes:
        ax.title.set_size(DENSE)
        ax.yaxis.label.set_size(TICK)
        for side in ("left", "bottom"):
            ax.spines[side].set_visible(False)
    for _ in range(2):  # the first layout does not know yet how high square maps are
        figure.draw_without_rendering()
    return figure
