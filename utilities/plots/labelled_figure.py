"""Begin and finish a figure of results by label: axes, colours, markers, legend, caption."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utilities.plots.captions import HasProvenance, caption_figure, made_from, origin
from utilities.plots.paper import CURVE, LABEL, PALETTE, TICK, paper_figure
from utilities.plots.text_fitting import wrap
from utilities.zoo.families import family


def named(results: Mapping[str, Any] | Any) -> dict[str, Any]:
    """Return results by label; a single one gets its model's name as label.

    Raises:
        ValueError: If there is no result.
    """
    if not isinstance(results, Mapping):
        results = {results.provenance.get("model", "model"): results}
    if not results:
        raise ValueError("there are no results to draw")
    return dict(results)


def twins_of(results: Mapping[str, Any], random: Mapping[str, Any] | Any | None) -> dict[str, Any]:
    """Return the results of untrained models under the labels of the trained ones.

    Raises:
        ValueError: If a label does not occur among the results.
    """
    twins = {} if random is None else named(random)
    unknown = sorted(set(twins) - set(results))
    if unknown:
        raise ValueError(
            f"untrained {', '.join(unknown)} is none of {', '.join(results)}; give it a trained one's label"
        )
    return twins


def colours(labels: Sequence[str]) -> dict[str, Any]:
    """Choose a colour for each label that colour-blind readers can tell from the others."""
    return dict(zip(labels, sns.color_palette(PALETTE, len(labels)), strict=True))


def marker(model: str) -> str:
    """Choose a marker: a diamond for CNNs, a circle for transformers, a square for hybrids.

    Example:
        >>> [marker(name) for name in ("resnet18", "vit_tiny_patch2_16", "alternet18", "lambda_resnet26")]
        ['D', 'o', 's', 's']
    """
    return {"cnn": "D", "vit": "o", "hybrid": "s"}[family(model)]


def is_cnn(model: str) -> bool:
    """Tell whether a model, by its name, has neither attention nor a class token."""
    return family(model) == "cnn"


def draw_with_band(
    ax: Axes, x: np.ndarray, y: np.ndarray, ends: Sequence[np.ndarray], alpha: float = 0.2, **look: Any
) -> None:
    """Draw a line and a band of its colour between lower and upper ends, (2, points)."""
    ax.plot(x, y, **{"linewidth": CURVE, "markersize": 3, **look})
    ax.fill_between(x, *ends, color=look["color"], alpha=alpha, linewidth=0)


def tidy(axes: Iterable[Axes]) -> None:
    """Remove the upper and right frame of axes, and give titles their size."""
    for ax in axes:
        ax.title.set_size(LABEL)  # matplotlib sizes it by the settings at the time when it is written
        if not hasattr(ax, "zaxis") and ax.name == "rectilinear":
            sns.despine(ax=ax)


def start_at_zero(ax: Axes, along: str = "y") -> None:
    """Let an axis, once all is drawn, start at zero, and leave room at its end for the farthest marker.

    The room is a share of the whole axis: a share of the values' range would cut markers of values that lie close
    together far from zero. Axes that share their scale are scaled together, and values below zero stay in sight.

    Args:
        ax: Axes that all is drawn on.
        along: ``"y"`` or ``"x"``.
    """
    across = along == "x"
    ax.update_datalim([(0, 0)], updatex=across, updatey=not across)
    ax.autoscale_view(scalex=across, scaley=not across)
    together = getattr(ax, f"get_shared_{along}_axes")().get_siblings(ax)
    if min(getattr(one.dataLim, f"{along}0") for one in together) >= 0:
        ax.set(**{f"{along}lim": (0, None)})


def finish(figure: Figure, results: Mapping[str, HasProvenance], note: str = "", legend: bool = True) -> Figure:
    """Tidy all axes, write a legend of the first axes' labels above them, and give the figure its caption."""
    tidy(figure.axes)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if legend and labels:
        texts = [wrap(label, 0.85 * figure.get_figwidth(), points=TICK) for label in labels]
        columns = 3 if max(map(len, texts)) < 26 else 1
        figure.legend(handles, texts, loc="outside upper left", ncols=columns)
        figure.set_figheight(figure.get_figheight() + 0.12 * -(-len(texts) // columns))
    caption_figure(figure, f"{made_from(results)} {note}".strip(), origin(results.values()))
    return figure


def own_scales(results: Mapping[str, Any]) -> str:
    """Say that panels have scales of their own, where there are several.

    Example:
        >>> own_scales({"a": 1}), own_scales({"a": 1, "b": 2})
        ('', ' Each panel has its own scale.')
    """
    return " Each panel has its own scale." if len(results) > 1 else ""


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """Make a figure with constrained layout and its axes: one, or an array (rows, columns)."""
    figure = paper_figure(width, height, layout="constrained")
    return figure, figure.subplots(rows, columns, **options)
