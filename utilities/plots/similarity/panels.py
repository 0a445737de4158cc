"""Draw the study's overview pictures, untrained models above trained."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from utilities.plots.heatmaps import HeatmapLayout, Panel, bar_axes, heatmap_axes
from utilities.plots.similarity.heatmap import colour_bar, draw_heatmap
from utilities.plots.style import PaperFigure, save_figure
from utilities.results.similarity import Similarity
from utilities.utils import PROJECT_ROOT

SCREEN = 130  # dots per inch of pictures for a README; they are not meant for print

# Picture -> columns of (untrained, trained) notebooks.
PANELS = {
    "resnet": [(f"R{d}_CIFAR100_RANDOM", f"R{d}_CIFAR100_PRETRAINED") for d in (18, 34, 50)],
    "lambda": [(f"Lambda_R{d}_CIFAR100_RANDOM", f"Lambda_R{d}_CIFAR100_PRETRAINED") for d in (26, 38, 50)],
    "vit": [("ViT_ImageNet_RANDOM", "ViT_ImageNet_PRETRAINED")],
}


def plot_panels(columns: Sequence[Sequence[Similarity]], width: float | str | None = None) -> PaperFigure:
    """Draw results in columns, with the first of each on top, all on one colour scale from 0 to 1.

    Args:
        columns: Results of each column from top to bottom, equally many in each.
        width: Width of the figure: ``"column"``, ``"page"`` or inches. None lets the matrices decide.

    Returns:
        The figure.

    Example:
        >>> import numpy as np
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
        accuracy = facts.get("accuracy")
        note = f", accuracy {100 * accuracy:.1f}%" if accuracy is not None else ""
        data = f"{facts['dataset']}," if facts.get("dataset") else ""
        weights = f"\n{facts['weights']}" if facts.get("weights") else ""
        title = f"{facts.get('model', '')}{weights}\n{data} n = {result.n}{note}"
        ax.set_title(title, fontsize=6.5)
        ax.yaxis.label.set_size(7)
        ax.xaxis.label.set_size(7)
        panels.append(Panel(ax, (result.layers1, result.layers2), title, ("layer, first to last",) * 2, ([], [])))
    values = np.concatenate([result.matrix.ravel() for result in results])
    unit = f"{facts.get('measure', 'similarity')} ({facts.get('estimator', '')})"
    bar = colour_bar(axes[0].images[0], values, unit, bar_axes(figure))
    HeatmapLayout(panels, len(columns), 2.6, bar).arrange(figure, width)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the pictures from saved results."""
    parser = argparse.ArgumentParser(prog="python -m utilities.plots.similarity.panels", description=__doc__)
    parser.add_argument(
        "results", nargs="?", default=PROJECT_ROOT / "runs" / "quick", type=Path, help="a folder of runs"
    )
    parser.add_argument("--out", default=PROJECT_ROOT / "images", type=Path)
    given = parser.parse_args(arguments)
    try:
        columns = {
            name: [[Similarity.load(given.results / notebook) for notebook in column] for column in notebooks]
            for name, notebooks in PANELS.items()
        }
    except FileNotFoundError as error:
        parser.exit(2, f"error: {error}; run the notebooks first, with: make figures\n")
    for name, results in columns.items():
        figure = plot_panels(results)
        print(save_figure(figure, given.out / f"{name}.png", dpi=SCREEN))
        plt.close(figure)


if __name__ == "__main__":
    main()
