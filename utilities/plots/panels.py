"""The study's overview pictures: untrained models above trained ones, ``python -m utilities.plots.panels``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from utilities.compare import Similarity
from utilities.plots.similarity import draw_heatmap
from utilities.utils import PROJECT_ROOT, write_whole

# Picture -> columns of (untrained, trained) notebooks.
PANELS = {
    "resnet": [(f"R{d}_CIFAR100_RANDOM", f"R{d}_CIFAR100_PRETRAINED") for d in (18, 34, 50)],
    "lambda": [(f"Lambda_R{d}_CIFAR100_RANDOM", f"Lambda_R{d}_CIFAR100_PRETRAINED") for d in (26, 38, 50)],
    "vit": [("ViT_ImageNet_RANDOM", "ViT_ImageNet_PRETRAINED")],
}


def plot_panels(columns: Sequence[Sequence[Similarity]]) -> Figure:
    """Draw results in columns, the first of each on top, all with one colour scale from 0 to 1.

    Args:
        columns: For each column its results from top to bottom.

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
    rows = max(map(len, columns))
    figure = plt.figure(figsize=(0.9 + 2.9 * len(columns), 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for across, results in enumerate(columns):
        for down, result in enumerate(results):
            ax, facts = axes[down, across], result.provenance
            image = draw_heatmap(ax, result.matrix, result, vmin=0, vmax=1, cmap="rocket", labels=False)
            accuracy = facts.get("accuracy")
            note = f", accuracy {100 * accuracy:.1f}%" if accuracy is not None else ""
            data = f"{facts['dataset']}," if facts.get("dataset") else ""
            weights = f"\n{facts['weights']}" if facts.get("weights") else ""
            ax.set_title(f"{facts.get('model', '')}{weights}\n{data} n = {result.n}{note}", fontsize=6.5)
            ax.set_xlabel("layer, first to last", fontsize=7)
            ax.set_ylabel("layer, first to last", fontsize=7)
    bar = figure.colorbar(image, ax=axes, shrink=0.5)
    bar.set_label(f"{facts.get('measure', 'similarity')} ({facts.get('estimator', '')})", fontsize=7)
    bar.ax.tick_params(labelsize=6)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the pictures from saved results."""
    parser = argparse.ArgumentParser(prog="python -m utilities.plots.panels", description=__doc__)
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
        print(write_whole(given.out / f"{name}.png", lambda path, figure=figure: figure.savefig(path, dpi=130)))
        plt.close(figure)


if __name__ == "__main__":
    main()
