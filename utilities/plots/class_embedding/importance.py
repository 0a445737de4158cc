"""Figure of images beside maps of what matters in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from utilities.plots.labelled_figure import finish, named, new_figure
from utilities.plots.text_fitting import wrap

GREY = (0.299, 0.587, 0.114)  # the luma of red, green and blue (ITU-R BT.601)
HEAT = {"cmap": "magma", "vmin": 0, "vmax": 1, "alpha": 0.65}


def plot_heatmaps(
    images: np.ndarray,
    maps: Mapping[str, np.ndarray],
    *,
    titles: Sequence[str] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Figure:
    """Draw one row for each image: the image, then each of its maps, laid over the image in grey.

    Each map has its own scale, from its least to its largest value, because maps of several methods share no unit.

    Args:
        images: Images without normalisation, (k, height, width, 3), values 0 to 1.
        maps: Method or class in question -> maps, (k, rows, columns) or (k, height, width), such as some of the
            ``heatmaps`` of `utilities.analysis.class_embedding.importance.Importance`.
        titles: Titles of the rows.
        provenance: Provenance of the maps, for the caption. The caption states the number of drawn images.

    Returns:
        The figure.

    Raises:
        ValueError: If shapes do not match, or values are not finite or out of range.

    Example:
        >>> figure = plot_heatmaps(np.full((1, 8, 8, 3), 0.5), {"gradient": np.arange(4.0).reshape(1, 2, 2)})
        >>> [ax.get_title() for ax in figure.axes[:2]]
        ['image', 'gradient']
    """
    images, maps = np.asarray(images), {label: np.asarray(values) for label, values in maps.items()}
    titles = [""] * len(images) if titles is None else list(titles)
    _check(images, maps, titles)
    count, height, width = images.shape[:3]
    cell = min(1.3, 5.6 / (1 + len(maps)))
    size = (max(cell * (1 + len(maps)) + 0.9, 3.2), count * (cell * height / width + 0.08) + 0.25)
    figure, axes = new_figure(*size, count, 1 + len(maps), squeeze=False)
    frame = {"extent": (0, width, height, 0)}  # patches end at the edges of their pixels
    for row, image, title in zip(axes, images, titles, strict=True):
        row[0].imshow(image, **frame)
        row[0].set_ylabel(wrap(title, cell))
    for column, values in enumerate(maps.values(), 1):
        for row, image, heat in zip(axes[:, column], images, values, strict=True):
            row.imshow(image @ np.array(GREY), cmap="gray", vmin=0, vmax=1, **frame)
            drawn = row.imshow(scaled(heat), interpolation="nearest", **HEAT, **frame)
    for ax, label in zip(axes[0], ["image", *maps], strict=True):
        ax.set_title(wrap(label, cell))
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    bar = figure.colorbar(drawn, ax=axes, shrink=min(1.0, 1.2 / size[1] + 0.3), aspect=20, pad=0.02)
    bar.set_label("importance (scale of each map)")
    bar.set_ticks([0, 1], labels=["least", "most"])
    note = (
        "Each map is scaled by itself, from its least value to its largest: colours cannot be compared between maps. "
        "A map of equal values is drawn as least."
    )
    facts = {**(provenance or {}), "n": count}
    finish(figure, named(SimpleNamespace(provenance=facts)), note, legend=False)
    for ax in axes.flat:
        ax.spines[:].set_visible(False)
    return figure


def scaled(heat: np.ndarray) -> np.ndarray:
    """Scale a map to 0..1 by its least and largest value; equal values become 0.

    Example:
        >>> scaled(np.array([-1.0, 1.0, 3.0])).tolist()
        [0.0, 0.5, 1.0]
    """
    heat = np.asarray(heat, np.float64)
    span = np.ptp(heat)
    return (heat - heat.min()) / (span if span > 0 else 1)


def _check(images: np.ndarray, maps: Mapping[str, np.ndarray], titles: Sequence[str]) -> None:
    """Refuse arguments that would be drawn wrongly."""
    if images.ndim != 4 or images.shape[3] != 3 or len(images) == 0:
        raise ValueError(f"images should be (k, height, width, 3), got {images.shape}; move the channels to the end")
    if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            f"images should be 0 to 1, got {images.min():.3g} to {images.max():.3g}; undo the normalisation: "
            "image * std + mean"
        )
    if not maps:
        raise ValueError("there are no maps to draw")
    if len(titles) != len(images):
        raise ValueError(f"there are {len(titles)} titles for {len(images)} images")
    for label, values in maps.items():
        if values.ndim != 3 or len(values) != len(images) or not np.isfinite(values).all():
            raise ValueError(
                f"maps {label!r} should be finite, (k, rows, columns) of {len(images)} images, got {values.shape}"
            )
