"""Figures of what images add to a similarity: the images on which layers agree most and least, and what is left."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from utilities.plots.captions import describe_models, measure_of
from utilities.plots.labelled_figure import finish, new_figure
from utilities.plots.paper import CURVE, PALETTE, REFERENCE, SMALLEST, TEXT_WIDTH
from utilities.plots.text_fitting import wrap
from utilities.results.image_contributions import ImageContributions
from utilities.results.images import describe_images

UNITS = {"shares": "share", "agreement": "cosine"}


def plot_extremes(
    result: ImageContributions,
    most: np.ndarray,
    least: np.ndarray,
    *,
    pair: int | None = 0,
    by: str = "shares",
    classes: Sequence[str] | None = None,
) -> Figure:
    r"""Draw the images on which a pair of layers agrees most, and those on which it agrees least.

    Args:
        result: Shares of images.
        most: The images of ``result.most(k, pair, by)``, (k, height, width, 3), values 0 to 1.
        least: The images of ``result.least(k, pair, by)``, the same.
        pair: See `ImageContributions.scores`.
        by: ``"shares"``, or ``"agreement"``, which does not grow with the lengths of features.
        classes: Names of the classes, by label; None shows the labels.

    Returns:
        The figure. Above each image stand its label and its number.

    Raises:
        ValueError: If the numbers of images differ, or values are out of range.

    Example:
        >>> shares, none = np.array([[0.5, 0.1]]), np.zeros(1)
        >>> result = ImageContributions([["a", "b"]], shares, shares, np.arange(2), np.array([7, 8]), none, none, none)
        >>> figure = plot_extremes(result, np.zeros((1, 4, 4, 3)), np.ones((1, 4, 4, 3)))
        >>> [ax.get_title() for ax in figure.axes]
        ['7\n0.5000', '8\n0.1000']
    """
    most, least = np.asarray(most), np.asarray(least)
    if most.shape != least.shape or most.ndim != 4 or not len(most):
        raise ValueError(f"most and least should be (k, height, width, 3) alike, not {most.shape} and {least.shape}")
    if min(most.min(), least.min()) < 0 or max(most.max(), least.max()) > 1:
        raise ValueError("images should have values from 0 to 1, without normalisation")
    count, cell = len(most), TEXT_WIDTH / len(most)
    figure, axes = new_figure(TEXT_WIDTH, 2 * cell + 1.0, 2, count, squeeze=False)
    scores, kinds = result.scores(pair, by), ("most", "least")
    for row, images, kind in zip(axes, (most, least), kinds, strict=True):
        places = getattr(result, kind)(count, pair, by)
        row[0].set_ylabel(f"agree {kind}")
        for ax, image, place in zip(row, images, places, strict=True):
            ax.imshow(image, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.set_title(f"{_label(result, place, classes, cell)}{scores[place]:.4f}", fontsize=SMALLEST)
    of = f"the mean of {len(result.pairs)} pairs of layers" if pair is None else " and ".join(result.pairs[pair])
    note = f"{UNITS[by].capitalize()} of each image in the {_measure(result)} of {of}, within batches."
    if by == "shares":
        note += f" All shares sum to {scores.sum():.3f}; their mean is {scores.mean():.4f}."
    _finish(figure, result, note, legend=False)
    for ax in axes.flat:
        ax.title.set_size(SMALLEST)
        ax.spines[:].set_visible(False)
    return figure


def plot_without(result: ImageContributions) -> Figure:
    """Draw the similarity of each pair of layers without the most dominant images.

    Args:
        result: Shares of images.

    Returns:
        The figure. Dashed lines: the similarity of all images, without each layer's first principal component.

    Example:
        >>> result = ImageContributions(
        ...     [["a", "b"]], np.ones((1, 4)), np.ones((1, 4)), np.arange(4), np.zeros(4), np.array([0, 1]),
        ...     np.array([[0.9, 0.8]]), np.array([0.5]),
        ... )
        >>> [line.get_ydata().tolist() for line in plot_without(result).axes[0].lines]
        [[0.9, 0.8], [0.5, 0.5]]
    """
    figure, ax = new_figure(TEXT_WIDTH, 3.2)
    places = np.arange(len(result.removed))
    colours = sns.color_palette(PALETTE, len(result.pairs))
    for pair, values, plain, colour in zip(result.pairs, result.without, result.without_top_pc, colours, strict=True):
        ax.plot(places, values, marker="o", markersize=3, color=colour, linewidth=CURVE, label=" x ".join(pair))
        ax.plot(places[[0, -1]], [plain, plain], color=colour, linewidth=REFERENCE, linestyle="--")
    ax.set_xticks(places, [f"{count:,}" for count in result.removed])
    shown = np.append(result.without.ravel(), result.without_top_pc)
    ax.set(xlabel=f"images removed, of {result.n:,}", ylabel=_measure(result))
    ax.set_ylim(min(0.0, np.nanmin(shown) - 0.02), max(1.0, np.nanmax(shown) + 0.02))
    note = (
        "Without the images of the largest absolute shares. Dashed: all images, without each layer's first principal "
        "component within a batch."
    )
    return _finish(figure, result, note)


def _finish(figure: Figure, result: ImageContributions, note: str, legend: bool = True) -> Figure:
    facts = result.provenance
    models = ". ".join([*describe_models(facts, "first", "second"), describe_images(facts, result.n)])
    finish(figure, {"": SimpleNamespace(provenance=facts | {"n": result.n})}, legend=legend)
    figure.caption = f"{models}. {note}"
    return figure


def _measure(result: ImageContributions) -> str:
    return measure_of([result])


def _label(result: ImageContributions, place: int, classes: Sequence[str] | None, width: float) -> str:
    """Name an image's class above a picture of some width, in inches."""
    label = int(result.labels[place])
    if label < 0:
        return f"image {result.places[place]}\n"
    return wrap(str(label) if classes is None else classes[label], width, points=SMALLEST) + "\n"
