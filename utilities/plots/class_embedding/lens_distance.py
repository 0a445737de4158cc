"""Figure of how far each block's raw and tuned lens are from the last block (after Belrose et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from utilities.analysis.class_embedding.lens_kl import LENSES, LensKL
from utilities.plots.labelled_figure import colours, finish, named, new_figure, start_at_zero
from utilities.plots.paper import CURVE, TEXT_WIDTH
from utilities.plots.text_fitting import wrap

LENS_TITLES = {"raw": "raw lens", "tuned": "tuned lens"}
TOKENS = {"CLS": "[CLS]", "image": "image tokens or positions"}


def plot_lens_distances(results: Mapping[str, LensKL] | LensKL) -> Figure:
    """Draw the divergence of every block's lenses from the last block's, with one panel for each model.

    Args:
        results: Label -> result, or one result.

    Returns:
        The figure.
    """
    results = named(results)
    figure, axes = new_figure(TEXT_WIDTH, 2.4, 1, len(results), squeeze=False, sharey=True)
    palette = colours(LENSES)
    for ax, (label, result) in zip(axes[0], results.items(), strict=True):
        blocks = np.arange(1, len(result.names) + 1)
        for i, reading in enumerate(LENSES):
            for j, group in enumerate(result.groups):
                style = {
                    "linestyle": "--" if group == "CLS" else "-",
                    "marker": "o",
                    "markersize": 3,
                    "linewidth": CURVE,
                }
                text = f"{LENS_TITLES[reading]}, {TOKENS[group]}"
                ax.errorbar(
                    blocks, result.kl[i, :, j], result.stderr[i, :, j], color=palette[reading], label=text, **style
                )
        ax.set(xlabel="block", xticks=blocks)
        ax.set_title(wrap(label, TEXT_WIDTH / len(results)))
    start_at_zero(axes[0, 0])  # for all panels, once all are drawn
    axes[0, 0].set_ylabel("KL divergence from\nthe last block's lens (nats)")
    note = (
        "Bars: one standard error over images. The tuned lens was fitted to training images. Blocks whose width is not "
        "the last one's have no raw lens."
    )
    return finish(figure, results, note)
