"""Heatmaps of the similarity of layers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from utilities.plots.captions import describe_similarity, origin
from utilities.plots.heatmap_layout import HeatmapLayout, Panel, bar_axes, heatmap_axes
from utilities.plots.layer_ticks import chosen, name_layers
from utilities.plots.paper import HEADLINE, LIGHT, MISSING, SIDE_NAME, THIN, PaperFigure
from utilities.results.similarity import Similarity

SIDE = 4.0  # longer side of a single heatmap in inches
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
                line(boundary - 0.5, color=LIGHT, linewidth=THIN if len(boundaries) < 10 else 0.2)
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
    drawn.set_label(label)
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
    """Draw a heatmap of all pairs of layers, with a line that states what it was made from.

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
        caption: Whether to write a line below that says what it was made from; a paper may have its own.
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
        ax.set_title(label, fontsize=HEADLINE)
        bar = colour_bar(image, matrix, unit, bar_axes(figure))
        sides = (facts["model1"], facts["model2"]) if two and ax is axes[0] else ("", "")
        ax.set_ylabel(sides[0], fontsize=SIDE_NAME)
        ax.set_xlabel(sides[1], fontsize=SIDE_NAME)
        panels.append(Panel(ax, (result.layers1, result.layers2), label, sides, indices, bar))
    missing = " Grey: no variance." if np.isnan(result.matrix).any() else ""
    figure.caption, figure.line = describe_similarity(result) + missing, origin([result])
    HeatmapLayout(panels, len(panels), SIDE if len(panels) == 1 else 0.75 * SIDE).arrange(figure, width, caption)
    return figure


def _unit(result: Similarity) -> str:
    return str(result.provenance.get("measure", "similarity"))
