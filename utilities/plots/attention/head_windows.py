"""Figure of CKA between windows of attention heads and layers of a CNN, over the heads' mean distance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from utilities.plots.captions import basis, caption_figure, heading, measure_of, origin
from utilities.plots.labelled_figure import named, new_figure, start_at_zero, tidy
from utilities.plots.paper import CURVE, PALETTE, THIN, TICK
from utilities.plots.text_fitting import wrap
from utilities.results.head_windows import HeadWindowSimilarity


def plot_head_windows(results: Mapping[str, HeadWindowSimilarity] | HeadWindowSimilarity) -> Figure:
    """Draw the similarity of heads to each layer of a CNN over their distance (Raghu et al. 2021, Fig. 5).

    Args:
        results: Label -> result, or one result.

    Returns:
        The figure, with a panel for each result and a curve for each layer. Bars are one standard error.

    Example:
        >>> falling, far = np.array([[0.5], [0.3]]), np.array([20.0, 60.0])
        >>> result = HeadWindowSimilarity(falling, ["heads 0", "heads 1"], ["conv1"], 9, distance=far)
        >>> plot_head_windows(result).axes[0].lines[0].get_xydata().tolist()
        [[20.0, 0.5], [60.0, 0.3]]
    """
    results = named(results) if isinstance(results, Mapping) else {_title(results): results}
    figure, axes = new_figure(1.9 + 2.6 * len(results), 2.7, 1, len(results), sharey=True, squeeze=False)
    for ax, (label, result) in zip(axes[0], results.items(), strict=True):
        errors = np.zeros_like(result.matrix) if result.stderr is None else np.nan_to_num(result.stderr)
        for name, curve, error, colour in zip(
            result.layers2, result.matrix.T, errors.T, sns.color_palette(PALETTE, len(result.layers2)), strict=True
        ):
            look = {"color": colour, "linewidth": CURVE, "elinewidth": THIN, "marker": "o", "markersize": 3}
            ax.errorbar(result.distance, curve, error, label=name, **look)
        ax.set(title=wrap(label, 2.4), xlabel="mean attention distance of the heads\n(pixels of the image)")
    start_at_zero(axes[0, 0])  # for all panels, once all are drawn
    axes[0, 0].set_ylabel(measure_of(list(results.values())))
    style = {"title": "layer of\nthe CNN", "fontsize": TICK, "title_fontsize": TICK, "frameon": False}
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), **style)
    tidy(figure.axes)
    every = list(results.values())
    models = dict.fromkeys(heading(result, "").replace("\n", ", ") for result in every)
    text = " ".join([*(f"{model}." for model in models if model), basis(every), _windows(every)])
    caption_figure(figure, text, origin(every))
    return figure


def _title(result: HeadWindowSimilarity) -> str:
    """Name the models of a single result."""
    names = [str(result.provenance.get(key, "")).rpartition("/")[2] for key in ("model1", "model2")]
    return " and ".join(name for name in names if name) or "heads and layers"


def _windows(results: list[HeadWindowSimilarity]) -> str:
    """Describe what a point is."""
    widths = {len(heads) for result in results for heads in result.provenance.get("heads", [])}
    blocks = {str(result.provenance["block"]) for result in results if result.provenance.get("block")}
    of = f" of {', '.join(sorted(blocks))}" if blocks else ""
    many = (
        "a head" if widths == {1} else f"{'/'.join(map(str, sorted(widths)))} neighbouring heads" if widths else "heads"
    )
    return f"Each point is {many}{of}, sorted by distance."
