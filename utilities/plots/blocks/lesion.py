"""Figure of what the removal of each unit costs (Park & Kim 2022, Fig. 10)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from utilities.analysis.blocks.lesion import Lesions
from utilities.plots.captions import shared_fact
from utilities.plots.labelled_figure import finish, named, new_figure, own_scales
from utilities.plots.paper import INK, LIGHT, TEXT_WIDTH, THIN
from utilities.plots.text_fitting import wrap

FILLS = {"conv": "white", "mlp": "white", "msa": "0.45"}
WAYS = {"identity": "removed (its input is passed on)", "zero": "replaced by zero", "mean": "replaced by its mean"}


def plot_lesions(results: Mapping[str, Lesions] | Lesions, value: str = "drop") -> Figure:
    """Draw the drop in accuracy, or the rise in loss, for each unit in network order.

    Args:
        results: Label -> result, or one result.
        value: Quantity to draw: ``"drop"`` or ``"loss"``.

    Returns:
        The figure, with one panel for each model. Attention is grey, all other units are white, and dashed lines
        separate stages.

    Raises:
        ValueError: If ``value`` is unknown.
    """
    if value not in ("drop", "loss"):
        raise ValueError(f"value {value!r} is not known; choose from drop, loss")
    results = named(results)
    scale = 100 if value == "drop" else 1
    figure, axes = new_figure(TEXT_WIDTH, 0.4 + 1.8 * len(results), len(results), 1, squeeze=False)
    for ax, (label, result) in zip(axes[:, 0], results.items(), strict=True):
        x = np.arange(len(result.names))
        bars = ax.bar(x, scale * getattr(result, value), edgecolor=INK, linewidth=THIN)
        for bar, kind in zip(bars, result.kinds, strict=True):
            bar.set_facecolor(FILLS[kind])
        errors = scale * getattr(result, f"{value}_stderr")
        ax.errorbar(x, scale * getattr(result, value), errors, fmt="none", ecolor=INK, elinewidth=0.7)
        for i in np.flatnonzero(np.diff(result.stages)):
            ax.axvline(i + 0.5, color=LIGHT, linestyle="--", linewidth=THIN)
        ax.axhline(0, color=INK, linewidth=THIN)
        ax.set_xticks(x, result.names, rotation=90)
        for text, kind in zip(ax.get_xticklabels(), result.kinds, strict=True):
            text.set_fontweight("bold" if kind == "msa" else "normal")
        ax.set(title=wrap(label, 6), xlim=(-0.7, len(x) - 0.3))
    figure.supylabel("drop of accuracy (percent points)" if value == "drop" else "rise of loss (nats)")
    axes[0, 0].bar([0], [0], color=FILLS["msa"], edgecolor=INK, label="attention (bold names)")
    axes[0, 0].bar([0], [0], color="white", edgecolor=INK, label="convolution or MLP")
    way = WAYS.get(shared_fact(list(results.values()), "ablation"), "removed")
    note = (
        f"Each unit by itself {way}. Dashed: stages. Bars: one standard error over images, paired.{own_scales(results)}"
    )
    return finish(figure, results, note)
