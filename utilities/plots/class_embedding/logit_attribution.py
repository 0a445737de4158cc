"""Figures of direct logit attribution: shares over depth, and those of each class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utilities.analysis.class_embedding.logit_attribution import LogitAttribution
from utilities.plots.labelled_figure import colours, finish, named, new_figure
from utilities.plots.paper import CURVE, GREY, REFERENCE, TEXT_WIDTH, THIN
from utilities.plots.text_fitting import wrap

Results = Mapping[str, LogitAttribution] | LogitAttribution

# Group -> name in the legend, marker and line.
LOOKS = {
    "embedding": ("embedding", "s", "none"),
    "shortcut": ("input of the last stage", "s", "none"),
    "attention": ("attention, all heads", "o", "-"),
    "mlp": ("MLP", "^", "-"),
    "branch": ("residual branch", "D", "-"),
    "bias": ("biases after all blocks", "X", "none"),
}
SHORT = {"attention": "attn", "mlp": "MLP", "branch": "branch"}
VALUES = {
    "image_centred": "share in the logit of the {}\nless its mean over classes",
    "image_share": "share in the logit\nof the {}",
}
ACROSS = 3  # panels in a row
MOST_CLASSES = 30


def plot_logit_attribution(results: Results, of: str = "image_centred") -> Figure:
    """Draw the share of each head, attention, MLP or branch over depth, with one panel for each model.

    Args:
        results: Label -> result, or one result.
        of: ``"image_centred"``, less the mean over classes, or ``"image_share"``.

    Returns:
        The figure. The shares of a panel, but for single heads, add up to its model's mean logit of the class.

    Raises:
        ValueError: If ``of`` is not known.
    """
    if of not in VALUES:
        raise ValueError(f"of={of!r} is not known; choose from {', '.join(VALUES)}")
    results = named(results)
    columns = min(ACROSS, len(results))
    rows = -(-len(results) // columns)
    figure, axes = new_figure(TEXT_WIDTH if columns > 1 else 4.2, 2.5 * rows, rows, columns, squeeze=False)
    palette = colours(list(LOOKS))
    for ax, (label, result) in zip(axes.flat, results.items(), strict=False):
        _draw(ax, result, of, palette)
        ax.set_title(f"{wrap(label, 0.8 * TEXT_WIDTH / columns)}\nsum {_sum(result, of):.3g}")
    for ax in axes.flat[len(results) :]:
        ax.set_axis_off()
    for row in axes:
        row[0].set_ylabel(VALUES[of].format(_whose(results)))
    _legend(axes[0, 0], results, palette)
    note = (
        "Shares with the scale of the final norm (in CNNs: the masks of the ReLUs) kept as each image has it; means "
        "over images. Bars: one standard error. Grey: single heads. Sum: of all markers but those, which is the mean "
        f"logit. Largest error of the sum in an image: {max(one.error for one in results.values()):.1g}."
    )
    return finish(figure, results, note)


def _draw(ax: Axes, result: LogitAttribution, of: str, palette: Mapping[str, Any]) -> None:
    """Draw one model's shares, blocks counted from 1."""
    ax.axhline(0, color=GREY, linewidth=REFERENCE, linestyle=":", zorder=1)
    heads = np.array([kind == "head" for kind in result.kinds])
    if heads.any():
        mean = getattr(result, of)[:, heads].mean(0)
        ax.plot(result.blocks[heads] + 1, mean, ".", color=GREY, markersize=2.5, zorder=2)
    table = result.by_block(of)
    for group, rows in table.groupby("group", sort=False):
        _, marker, line = LOOKS[group]
        errors = rows.stderr.fillna(0)
        ax.errorbar(
            rows.block + 1, rows["mean"], errors, color=palette[group], marker=marker, linestyle=line, markersize=4,
            linewidth=CURVE, elinewidth=THIN, zorder=3,
        )  # fmt: skip
    blocks = len(result.block_names)
    step = -(-blocks // 12)
    shown = list(range(blocks, 0, -step))[::-1]
    ax.set_xticks([0, *shown, blocks + 1], ["in", *map(str, shown), "out"])
    cnn = "branch" in set(table.group)
    ax.set(xlabel="block of the last stage" if cnn else "block", xlim=(-0.5, blocks + 1.5))


def _sum(result: LogitAttribution, of: str) -> float:
    return float(getattr(result, of).sum(1).mean())


def _whose(results: Mapping[str, LogitAttribution]) -> str:
    words = {"label": "true class", "prediction": "predicted class"}
    targets = [result.provenance.get("target", "label") for result in results.values()]
    return " or ".join(dict.fromkeys(words.get(target, f"class {target}") for target in targets))


def _legend(ax: Axes, results: Mapping[str, LogitAttribution], palette: Mapping[str, Any]) -> None:
    there = {group for result in results.values() for group, _ in result.groups}
    for group, (name, marker, line) in LOOKS.items():
        if group in there:
            ax.plot([], [], color=palette[group], marker=marker, linestyle=line, markersize=4, label=name)
    if any("head" in result.kinds for result in results.values()):
        ax.plot([], [], ".", color=GREY, label="single head")


def plot_class_attribution(results: Results) -> Figure:
    """Draw the centred shares of each block for the images of each class as heatmaps, one row of them per model.

    Args:
        results: Label -> result, or one result.

    Returns:
        The figure. Where there are more than 30 classes, it shows those with most images.
    """
    results = named(results)
    sizes = [1.1 + 0.16 * len(_classes(result)) for result in results.values()]
    figure, axes = new_figure(
        TEXT_WIDTH, sum(sizes), len(results), 1, squeeze=False, gridspec_kw={"height_ratios": sizes}
    )
    cut = False
    for ax, (label, result) in zip(axes[:, 0], results.items(), strict=True):
        classes = _classes(result)
        cut = cut or len(classes) < int((result.class_count > 0).sum())
        table, values = _of_classes(result, classes)
        high = float(np.abs(values).max()) or 1.0
        drawn = ax.imshow(values, aspect="auto", cmap="RdBu_r", vmin=-high, vmax=high, interpolation="nearest")
        ax.set_yticks(range(len(classes)), [str(one) for one in classes])
        ax.set_xticks(range(len(table)), [_name(row) for row in table.itertuples()], rotation=90)
        ax.set(ylabel="class", title=wrap(label, 5))
        figure.colorbar(drawn, ax=ax, pad=0.01).set_label("share in its logit,\nless the mean")
    note = "Mean over the images of each class of the share in the logit of that class, less the mean over all classes."
    note += f" The {MOST_CLASSES} classes with most images." if cut else ""
    return finish(figure, results, note, legend=False)


def _classes(result: LogitAttribution) -> np.ndarray:
    """Choose the classes that have images, at most `MOST_CLASSES` of them, those with most images."""
    order = np.argsort(-result.class_count, kind="stable")
    return np.sort([one for one in order if result.class_count[one]][:MOST_CLASSES])


def _of_classes(result: LogitAttribution, classes: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
    """Sum the shares of each class over the components of each group and block: the groups, (classes, groups)."""
    table, groups = result.by_block(), result.groups
    sums = [
        result.class_centred[classes][:, [one == (row.group, row.block) for one in groups]].sum(1)
        for row in table.itertuples()
    ]
    return table, np.stack(sums, 1)


def _name(row: Any) -> str:
    return f"{row.block + 1} {SHORT[row.group]}" if row.group in SHORT else row.group
