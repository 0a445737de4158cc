"""Figure of class-value agreement over depth (Vilas et al. 2023, https://arxiv.org/abs/2310.18969)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utilities.analysis.class_embedding.agreement import ClassValueAgreement
from utilities.claims.claim import BRANCHES
from utilities.plots.labelled_figure import colours, finish, named, new_figure
from utilities.plots.layer_ticks import name_layers
from utilities.plots.paper import CURVE, DARK, GREY, INK, LABEL, REFERENCE, THIN
from utilities.plots.text_fitting import wrap
from utilities.results.statistics import LEVEL

CHANCE = {"color": INK, "linestyle": "--", "linewidth": REFERENCE, "label": "chance"}
TWIN = {
    "color": GREY,
    "marker": "x",
    "markersize": 3.5,
    "linewidth": REFERENCE,
    "label": "untrained model, mean over classes",
}
NOTE = (
    "From the weights alone. Boxes: median and quartiles of the classes; whiskers: lowest and highest class, none left "
    "out. Chance: mean of the largest cosine among as many random directions."
)
STARS = f"Stars: above the untrained model (one-sided Wilcoxon test over classes, each block by itself, p < {LEVEL})."
FOLDED = {
    "none": "",
    "scale": "Value vectors are scaled by LayerScale or by the norm after their branch.",
    "scale+norm": "Value vectors are scaled by LayerScale or by the norm after their branch, and by the final norm.",
}


def plot_class_value_agreement(results: Mapping[str, ClassValueAgreement] | ClassValueAgreement) -> Figure:
    """Draw the largest cosine between each class and each layer's value vectors, with one row for each model.

    Args:
        results: Label -> result, or one result. All must have the same parts.

    Returns:
        The figure. Its columns are attention and MLP; all panels share one vertical axis.

    Raises:
        ValueError: If there is no result, or results have different parts.
    """
    results = named(results)
    parts = next(iter(results.values())).parts
    for label, result in results.items():
        if result.parts != parts:
            raise ValueError(f"results should be of the same parts, got {parts} and, of {label}, {result.parts}")
    figure, axes = new_figure(
        0.4 + 3.05 * len(parts), 0.4 + 1.6 * len(results), len(results), len(parts), sharey=True, squeeze=False
    )
    for row, (label, result) in zip(axes, results.items(), strict=True):
        for i, (ax, part) in enumerate(zip(row, parts, strict=True)):
            _draw(ax, result, i, colours(list(BRANCHES))[part])
            ax.set_title(wrap(f"{label}: {BRANCHES[part]}", 2.8))
        row[0].set_ylabel("largest cosine of a class\nwith a value vector")
    low, high = axes[0, 0].get_ylim()
    axes[0, 0].set_ylim(min(0, low), high + 0.1 * (high - min(0, low)))  # room for stars
    for ax in axes[-1]:
        ax.set_xlabel("block")
    tested = any(np.isfinite(result.p).any() for result in results.values())
    axes[0, 0].plot([], [], **CHANCE)
    if tested:
        axes[0, 0].plot([], [], **TWIN)
    return finish(figure, results, " ".join([_facts(results), NOTE, STARS if tested else ""]).strip())


def _draw(ax: Axes, result: ClassValueAgreement, part: int, colour: tuple[float, ...]) -> None:
    """Draw one part of a model."""
    blocks = np.arange(1, len(result.names) + 1)
    grey = {"color": DARK, "linewidth": THIN}
    scores = [values[~np.isnan(values)] for values in result.scores[part]]
    looks = {"boxprops": {"facecolor": colour, "edgecolor": DARK, "linewidth": THIN}, "whiskerprops": grey}
    looks |= {"capprops": grey, "medianprops": {"color": "black", "linewidth": CURVE}}
    ax.boxplot(scores, positions=blocks, widths=0.6, whis=(0, 100), patch_artist=True, manage_ticks=False, **looks)
    ax.plot(blocks, result.chance[part], **{**CHANCE, "label": None})
    ax.plot(blocks, result.random_mean[part], **{**TWIN, "label": None})
    for block in blocks[result.p[part] < LEVEL]:
        ax.text(block, 0.99, "*", transform=ax.get_xaxis_transform(), ha="center", va="top", fontsize=LABEL)
    ax.set_xlim(0.3, len(blocks) + 0.7)
    name_layers(ax.xaxis, [str(block) for block in blocks], 2.6, list(blocks))


def _facts(results: Mapping[str, ClassValueAgreement]) -> str:
    """State the number of classes and of untrained models, and what is folded in; once if it is the same for all."""
    texts = {}
    for label, result in results.items():
        twins = result.provenance["random_models"]
        counts = f"{result.scores.shape[2]} classes"
        counts += f", {twins} untrained model{'s' * (twins > 1)}." if twins else "."
        texts[label] = f"{counts} {FOLDED[result.provenance['fold']]}".strip()
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return " ".join(f"{label}: {text}" for label, text in texts.items())
