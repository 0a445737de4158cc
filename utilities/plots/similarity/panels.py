"""Draw the study's overview pictures, untrained models above trained; ``python -m utilities images`` saves them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from utilities.plots.captions import describe_accuracy, heading, model_names
from utilities.plots.heatmap_layout import HeatmapLayout, Panel, bar_axes, heatmap_axes
from utilities.plots.paper import DENSE, PaperFigure
from utilities.plots.similarity.heatmap import colour_bar, draw_heatmap
from utilities.results.images import alike, dataset_name
from utilities.results.similarity import Similarity

SCREEN = 130  # dots per inch of pictures for a README; they are not meant for print


def plot_panels(columns: Sequence[Sequence[Similarity]], width: float | str | None = None) -> PaperFigure:
    """Draw results in columns, with the first of each on top, all on one colour scale from 0 to 1.

    Args:
        columns: Results of each column from top to bottom, equally many in each.
        width: Width of the figure: ``"column"``, ``"page"`` or inches. None lets the matrices decide.

    Returns:
        The figure.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> one = Similarity(np.eye(2), ["a", "b"], ["a", "b"], 10, provenance={"model": "m", "accuracy": 0.5})
        >>> figure = plot_panels([[one, one], [one, one], [one, one]])
        >>> len(figure.axes)  # six heatmaps and one colour bar
        7
        >>> plt.close(figure)
    """
    results = [result for row in zip(*columns, strict=True) for result in row]
    figure, axes = heatmap_axes(len(results))
    panels = []
    for ax, result in zip(axes, results, strict=True):
        facts = result.provenance
        draw_heatmap(ax, result.matrix, result, vmin=0, vmax=1, cmap="rocket", labels=False)
        accuracy = describe_accuracy(facts)
        note = f"\n{alike(facts).partition(':')[0]}" if alike(facts) else ""  # panels show no errors
        data = f"{dataset_name(facts)}," if facts.get("dataset") else ""
        weights = f"\n{facts['weights']}" if facts.get("weights") else ""
        pair = "" if facts.get("model") else heading(result, "")  # of two models: both names, and the weights of each
        title = f"{pair or facts.get('model', '')}{weights}\n{data} n = {result.n}{accuracy and f', {accuracy}'}{note}"
        ax.set_title(title, fontsize=DENSE)
        names = [name.rpartition("/")[2] for name in model_names(result)]
        sides = tuple(f"layers of {name}" if pair and name else "layer, first to last" for name in names)
        panels.append(Panel(ax, (result.layers1, result.layers2), title, sides, ([], [])))
    values = np.concatenate([result.matrix.ravel() for result in results])
    unit = f"{facts.get('measure', 'similarity')} ({facts.get('estimator', '')})"
    bar = colour_bar(axes[0].images[0], values, unit, bar_axes(figure))
    HeatmapLayout(panels, len(columns), 2.6, bar).arrange(figure, width)
    return figure
