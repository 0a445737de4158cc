"""Heatmaps of the similarity of layers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from utilities.plots.heatmaps import HeatmapLayout, Panel, bar_axes, heatmap_axes
from utilities.plots.style import PaperFigure
from utilities.plots.ticks import MAX_LABELS, chosen, name_layers
from utilities.results.similarity import Similarity

__all__ = ["MAX_LABELS", "MISSING", "caption", "draw_heatmap", "plot_similarity", "stage_boundaries", "stage_of"]
MISSING = "0.75"  # grey, for a layer without variance
SIDE = 4.0  # longer side of a single heatmap in inches
# Options of a comparison that change its values, and their names in captions.
CHANGES = {
    "bandwidth": "bandwidth",
    "sigma": "σ",
    "view1": "view of rows:",
    "view2": "view of columns:",
    "confounder": "regressed out:",
    "remove_top_pc": "leading components removed:",
}
# Names of the parts that models are built of, with the number that distinguishes them.
STAGE = re.compile(r"^((?:[a-z_]+\.)*?(?:layer|layers|stages|blocks|features|encoder_layer_)\.?\d+)(?:\.|$)")


def stage_of(layer: str) -> str:
    """Name the stage or block that a layer belongs to; layers outside all stages keep their own first name.

    Args:
        layer: Dotted name of the layer.

    Example:
        >>> [stage_of(name) for name in ("bn1", "layer2.0.relu1", "blocks.11.attn.proj", "relu#2")]
        ['', 'layer2', 'blocks.11', '']
    """
    match = STAGE.match(layer)
    return match.group(1) if match else ""


def stage_boundaries(layers: list[str]) -> list[int]:
    """List the indices at which a new stage begins.

    Args:
        layers: Names of the layers in the order of execution.

    Example:
        >>> stage_boundaries(["bn1", "layer1.0.relu1", "layer1.1.relu1", "layer2.0.relu1", "fc"])
        [1, 3, 4]
    """
    return [i for i, (one, two) in enumerate(pairwise(map(stage_of, layers)), 1) if one != two]


def caption(result: Similarity) -> str:
    """State what a result was made from: model, weights, accuracy, data, number of images, estimator.

    Args:
        result: Result to describe. Facts missing from its provenance are left out.

    Example:
        >>> result = Similarity(np.eye(1), ["a"], ["a"], 540, provenance={"model": "resnet18", "accuracy": 0.974})
        >>> caption(result)
        'resnet18, accuracy 97.4%. n = 540 images.'
    """
    facts = result.provenance
    models = [_model(facts, ""), _model(facts, "1"), _model(facts, "2")]
    if models[0]:
        sentences = [models[0]]
    else:
        sentences = [models[1]] if models[1] == models[2] else [f"rows: {models[1]}", f"columns: {models[2]}"]
    batch = f" in batches of {facts['batch_size']}" if facts.get("batch_size") else ""
    data = f"{facts['dataset']}, " if facts.get("dataset") else ""
    sentences.append(f"{data}n = {result.n:,} images{batch}")
    measure = ", ".join(str(facts[key]) for key in ("measure", "estimator") if facts.get(key))
    changes = [f"{text} {facts[key]}" for key, text in CHANGES.items() if facts.get(key)]
    measure = ", ".join(([measure] if measure else []) + changes)
    sentences.append(f"{measure[:1].upper()}{measure[1:]}{_range(result)}")
    if result.stderr is not None and np.isfinite(result.stderr).any():
        sentences.append(
            f"Standard errors {np.nanmean(result.stderr):.3f} on average, {np.nanmax(result.stderr):.3f} at most"
        )
    if facts.get("profile") == "quick":
        sentences.append("Quick profile: not comparable with published figures")
    return ". ".join(s for s in sentences if s) + "."


def _range(result: Similarity) -> str:
    """State the least and the largest value between different layers, which a scale from 0 to 1 may not show."""
    different = np.not_equal.outer(result.layers1, result.layers2)
    values = result.matrix[different & np.isfinite(result.matrix)]
    return f", {values.min():.2f} to {values.max():.2f} between different layers" if values.size else ""


def _model(facts: dict, which: str) -> str:
    accuracy = facts.get(f"accuracy{which}")
    parts = [facts.get(f"model{which}"), facts.get(f"weights{which}")]
    parts.append(None if accuracy is None else f"accuracy {100 * accuracy:.1f}%")
    return ", ".join(part for part in parts if part)


def draw_heatmap(
    ax: Axes, matrix: np.ndarray, result: Similarity, *, vmin: float, vmax: float, cmap: str, labels: bool = True
) -> AxesImage:
    """Draw one matrix on given axes: first layer at the lower left, equal aspect, stage boundaries as lines.

    Args:
        ax: Axes to draw on.
        matrix: Values to draw, (layers1, layers2). NaN is drawn grey.
        result: Result with the names of the layers.
        vmin: Value of the darkest colour.
        vmax: Value of the brightest colour.
        cmap: Name of a seaborn or matplotlib colour map.
        labels: Whether to name layers along the axes.

    Returns:
        The image, for a colour bar.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> result = Similarity(np.eye(2), ["a", "b"], ["a", "b"], 10)
        >>> draw_heatmap(plt.figure().gca(), result.matrix, result, vmin=0, vmax=1, cmap="rocket").get_clim()
        (0.0, 1.0)
        >>> plt.close()
    """
    colours = sns.color_palette(cmap, as_cmap=True).with_extremes(bad=MISSING)
    scale = {"cmap": colours, "vmin": vmin, "vmax": vmax}
    image = ax.imshow(matrix, origin="lower", aspect="equal", interpolation="nearest", **scale)
    ax.grid(False)
    ax.apply_aspect()
    box, dpi = ax.bbox, ax.figure.dpi
    for layers, line, axis, pixels in (
        (result.layers1, ax.axhline, ax.yaxis, box.height),
        (result.layers2, ax.axvline, ax.xaxis, box.width),
    ):
        boundaries = stage_boundaries(layers)
        if 2 * len(boundaries) <= len(layers):  # otherwise nearly every layer is a stage, and lines are useless
            for boundary in boundaries:
                line(boundary - 0.5, color="0.6", linewidth=0.6 if len(boundaries) < 10 else 0.2)
        if labels:
            name_layers(axis, layers, pixels / dpi)
        else:
            axis.set_ticks([])
    ax.tick_params(axis="x", labelrotation=90)
    ax.tick_params(length=2, pad=1.5)
    return image


def colour_bar(image: AxesImage, values: np.ndarray, label: str, bar: Axes) -> Axes:
    """Draw the colour bar of an image, with a pointed end if values lie outside its scale.

    Args:
        image: Image with the colours and the scale.
        values: All values drawn with this colour bar.
        label: Name of the values.
        bar: Axes to draw on.

    Returns:
        These axes.
    """
    low, high = image.get_clim()
    below, above = np.nanmin(values, initial=low) < low - 0.005, np.nanmax(values, initial=high) > high + 0.005
    kinds = {(True, True): "both", (True, False): "min", (False, True): "max"}
    extend = kinds.get((bool(below), bool(above)), "neither")
    drawn = bar.figure.colorbar(image, cax=bar, extend=extend)
    drawn.set_label(label, fontsize=7)
    bar.tick_params(labelsize=6)
    return bar


def plot_similarity(
    result: Similarity,
    *,
    title: str | None = None,
    vmin: float = 0.0,
    vmax: float = 1.0,
    cmap: str = "rocket",
    spread: bool = True,
    width: float | str | None = None,
    caption: bool = True,
    ticks: Sequence[str] | str | None = None,
) -> PaperFigure:
    """Draw a heatmap of all pairs of layers, with a caption that states what it was made from.

    Args:
        result: Result to draw. Its rows form the vertical axis.
        title: Title above the heatmap. None takes the model's name, ``""`` writes none.
        vmin: Lower end of the colour scale.
        vmax: Upper end of the colour scale, by default the same for all figures. A pointed end of the colour bar marks
            values outside.
        cmap: Name of a seaborn or matplotlib colour map.
        spread: Whether to draw the standard deviation beside an average, on a scale of its own.
        width: Width of the figure: ``"column"`` (3.25 inches), ``"page"`` (6.75) or inches. None lets the matrix
            decide. The height follows the matrix. Cells are square up to three times as many rows as columns.
        caption: Whether to write the caption below; a paper has its own.
        ticks: Names or globs of the layers to label; None labels as many as fit, ``[]`` none.

    Returns:
        The figure; save it with ``figure.savefig(path)``.

    Raises:
        ValueError: If ``ticks`` matches no layer, or the width is not valid.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> figure = plot_similarity(Similarity(np.eye(2), ["a", "b"], ["a", "b"], 10))
        >>> figure.axes[0].images[0].get_clim()
        (0.0, 1.0)
        >>> plt.close(figure)
    """
    facts = result.provenance
    names = dict.fromkeys(str(facts[k]) for k in ("model", "model1", "model2") if facts.get(k))
    heading = (names and (facts.get("model") or " x ".join(names))) or "similarity of layers"
    drawings = [(heading if title is None else title, result.matrix, vmin, vmax, cmap, _unit(result))]
    if spread and result.replicates is not None:
        deviation = result.replicates.std(0, ddof=1)
        top = max(0.01, float(np.nanmax(deviation, initial=0)))
        what = f"spread over {len(result.replicates)} {facts.get('replicates_of', 'models')}"
        drawings.append((what, deviation, 0.0, top, "mako", "standard deviation"))
    indices = chosen(ticks, result.layers1, result.layers2)
    two = "model2" in facts and facts.get("model1") != facts["model2"]
    figure, axes = heatmap_axes(len(drawings))
    panels = []
    for ax, (label, matrix, low, high, colours, unit) in zip(axes, drawings, strict=True):
        image = draw_heatmap(ax, matrix, result, vmin=low, vmax=high, cmap=colours, labels=False)
        ax.set_title(label, fontsize=9)
        bar = colour_bar(image, matrix, unit, bar_axes(figure))
        sides = (facts["model1"], facts["model2"]) if two and ax is axes[0] else ("", "")
        ax.set_ylabel(sides[0], fontsize=8)
        ax.set_xlabel(sides[1], fontsize=8)
        panels.append(Panel(ax, (result.layers1, result.layers2), label, sides, indices, bar))
    missing = " Grey: no variance." if np.isnan(result.matrix).any() else ""
    figure.caption = describe(result) + missing
    HeatmapLayout(panels, len(panels), SIDE if len(panels) == 1 else 0.75 * SIDE).arrange(figure, width, caption)
    return figure


def _unit(result: Similarity) -> str:
    return str(result.provenance.get("measure", "similarity"))


describe = caption  # an alias for functions in which an option hides the name
