"""Figures of skip connections beside their branches (Raghu et al. 2021, Figs. 7, E.1 and E.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from utilities.analysis.blocks.skip_ratios import SkipRatios
from utilities.plots.labelled_figure import colours, finish, marker, named, new_figure
from utilities.plots.paper import CURVE, GREY, HAIRLINE, MISSING, TEXT_WIDTH, THIN
from utilities.plots.text_fitting import wrap

Results = Mapping[str, SkipRatios] | SkipRatios

VALUES = {
    "ratio": ("norm of skip / norm of branch", "||z|| / ||f(z)||"),
    "cosine": ("cosine of skip and sum", "cos(z, z + f(z))"),
}
PANELS = {"msa": "attention (MSA)", "mlp": "MLP"}
STYLES = {"CLS": "--", "registers": ":", "spatial": "-"}
PREFIX_SHARE = 0.06  # of a heatmap's height for each class or register token, which one row would hide


def plot_skip_lines(results: Results, value: str = "ratio") -> Figure:
    """Draw a value over relative depth, mean over the tokens of each group, attention beside MLP.

    A model without MLP branches, such as a ResNet, is drawn in both panels, all its branches in one line.

    Args:
        results: Label -> result, or one result.
        value: ``"ratio"``, on a logarithmic scale, or ``"cosine"``.

    Returns:
        The figure.

    Raises:
        ValueError: If ``value`` is not known.
    """
    _check(value)
    results = named(results)
    kinds = list(PANELS) if any(_is_transformer(result) for result in results.values()) else ["all"]
    figure, axes = new_figure(TEXT_WIDTH if len(kinds) > 1 else 4, 2.5, 1, len(kinds), sharey=True, squeeze=False)
    palette = colours(list(results))
    for ax, kind in zip(axes[0], kinds, strict=True):
        for label, result in results.items():
            _draw_lines(ax, label, result, value, kind, palette[label])
        ax.set(xlabel="relative depth", yscale="log" if value == "ratio" else "linear")
        if value == "ratio":
            _plain_numbers(ax.yaxis)
        ax.axhline(1, color=GREY, linewidth=HAIRLINE, zorder=1)
        if kind in PANELS:
            ax.set_title(PANELS[kind])
    axes[0, 0].set_ylabel("\n".join(VALUES[value]))
    note = "Means over tokens and images; bars: one standard error over images." + _equal(value)
    return finish(figure, results, note + _twice(results))


def _twice(results: Mapping[str, SkipRatios]) -> str:
    """Name the models whose line stands in both panels; empty where there is one panel or no such model."""
    plain = [label for label, result in results.items() if not _is_transformer(result)]
    if not plain or len(plain) == len(results):
        return ""
    lines, stand = ("lines", "stand") if len(plain) > 1 else ("line", "stands")
    return f" The {lines} of {' and '.join(plain)}, over all residual blocks, {stand} in both panels."


def plot_skip_cosines(results: Results) -> Figure:
    """Draw the cosine of skip and sum over relative depth, see `plot_skip_lines`."""
    return plot_skip_lines(results, "cosine")


def _plain_numbers(axis: Axis) -> None:
    """Write 0.5, 1, 2 along a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _equal(value: str) -> str:
    return " Line at 1: skip and branch are equally large." if value == "ratio" else ""


def _is_transformer(result: SkipRatios) -> bool:
    return "mlp" in result.kinds


def _draw_lines(ax: Axes, label: str, result: SkipRatios, value: str, kind: str, colour: Any) -> None:
    """Draw one line for each group of tokens."""
    rows = (
        [i for i, one in enumerate(result.kinds) if one == kind]
        if _is_transformer(result)
        else range(len(result.names))
    )
    rows = np.array(list(rows), int)
    mean, error = result.mean(value)
    for j, group in enumerate(result.groups):
        there = rows[np.isfinite(mean[rows, j])]
        look = {"color": colour, "linestyle": STYLES[group], "marker": marker(result.provenance.get("model", label))}
        name = f"{label}, {group}" if len(result.groups) > 1 else label
        ax.errorbar(
            result.depth[there], mean[there, j], np.nan_to_num(error[there, j]), label=name, linewidth=CURVE,
            markersize=3, elinewidth=THIN, **look,
        )  # fmt: skip


def plot_skip_heatmaps(results: Results, value: str = "ratio") -> Figure:
    """Draw a value of each token of each branch, with one row for each model, attention beside MLP.

    Class and register tokens stand above those of positions, which follow in raster order from the top. Where branches
    have grids of several sizes, each column is stretched to the largest.

    Args:
        results: Label -> result, or one result.
        value: ``"ratio"``, with colours on a logarithmic scale, or ``"cosine"``.

    Returns:
        The figure.

    Raises:
        ValueError: If ``value`` is not known.
    """
    _check(value)
    results = named(results)
    panels = [(label, kinds) for label, result in results.items() for kinds in [_kinds(result)]]
    columns = max(len(kinds) for _, kinds in panels)
    figure, axes = new_figure(TEXT_WIDTH, 0.3 + 2.1 * len(panels), len(panels), columns, squeeze=False)
    norm = _norm([getattr(result, f"token_{value}") for result in results.values()], value)
    for row, (label, kinds) in zip(axes, panels, strict=True):
        for ax, kind in zip(row, kinds, strict=False):
            drawn = _draw_tokens(ax, results[label], value, kind, norm)
            ax.set_title(wrap(f"{label}: {PANELS[kind]}" if kind in PANELS else label, 6 / columns))
        for ax in row[len(kinds) :]:
            ax.set_axis_off()
    bar = figure.colorbar(drawn, ax=axes, aspect=30, pad=0.01)
    bar.set_label(", ".join(VALUES[value]))
    if value == "ratio":
        _plain_numbers(bar.ax.yaxis)
    note = f"Mean over images. Positions in raster order, from the top.{' Logarithmic colours.' * (value == 'ratio')}"
    if any(len(np.unique(result.grid, axis=0)) > 1 for result in results.values()):
        note += " Grids of several sizes are stretched to one height."
    return finish(figure, results, note, legend=False)


def _kinds(result: SkipRatios) -> list[str]:
    return [kind for kind in PANELS if kind in result.kinds] if _is_transformer(result) else ["all"]


def _norm(values: Sequence[np.ndarray], value: str) -> Normalize:
    """Make one scale for all panels."""
    flat = np.concatenate([array[np.isfinite(array)] for array in values])
    low, high = (flat.min(), flat.max()) if len(flat) else (0.5, 2.0)
    return LogNorm(max(low, 1e-6), max(high, 2e-6)) if value == "ratio" else Normalize(min(low, 0.99), 1)


def _draw_tokens(ax: Axes, result: SkipRatios, value: str, kind: str, norm: Normalize) -> Any:
    """Draw the tokens of the branches of one kind as columns."""
    rows = [i for i, one in enumerate(result.kinds) if kind in ("all", one)]
    counts = [int(result.prefix[i] + result.grid[i].prod()) for i in rows]
    counts = [count if count > prefix else int(np.isfinite(result.token_cosine[i]).sum())
              for i, count, prefix in zip(rows, counts, result.prefix[rows], strict=True)]  # fmt: skip
    prefix, height = int(result.prefix[rows].max()), max(counts)
    tall = max(1, round(PREFIX_SHARE * height)) if prefix else 0
    columns = []
    for i, count in zip(rows, counts, strict=True):
        first, tokens = int(result.prefix[i]), getattr(result, f"token_{value}")[i, :count]
        above = np.full(prefix, np.nan)
        above[:first] = tokens[:first]
        places = np.linspace(0, count - first, height - prefix, endpoint=False).astype(int)
        columns.append(np.concatenate([np.repeat(above, tall), tokens[first:][places]]))
    ax.set_facecolor(MISSING)
    drawn = ax.imshow(np.stack(columns, 1), aspect="auto", interpolation="nearest", norm=norm, cmap="viridis")
    ax.set_xlabel("block" if len(rows) != len(result.names) else "residual block")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    groups = [group for group in result.groups if group != "spatial"] if prefix else []
    sizes = [1 if group == "CLS" else prefix - ("CLS" in result.groups) for group in groups]
    starts = np.cumsum([0, *sizes])
    places = [tall * (start + size / 2) - 0.5 for start, size in zip(starts, sizes, strict=False)]
    middle = tall * prefix + (height - prefix) / 2
    ax.set_yticks([*places, middle], [*groups, "positions"])
    return drawn


def _check(value: str) -> None:
    if value not in VALUES:
        raise ValueError(f"value {value!r} is not known; choose from {', '.join(VALUES)}")
