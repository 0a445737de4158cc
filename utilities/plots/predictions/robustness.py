"""Figures of robustness to common corruptions: curves over severity, bars by type, errors, example pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utilities.analysis.predictions.robustness import ALEXNET_ERRORS, Robustness
from utilities.datasets.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, corrupt
from utilities.datasets.corruptions.parameters import FAMILIES
from utilities.datasets.loaders import Loader
from utilities.datasets.pixels import normalisation, to_pixels
from utilities.plots.captions import caption_figure
from utilities.plots.labelled_figure import colours, finish, marker, named, new_figure
from utilities.plots.paper import CURVE, DARK, DENSE, HAIRLINE, LABEL, REFERENCE, TEXT_WIDTH, THIN, TICK
from utilities.plots.text_fitting import wrap
from utilities.results.formatting import percent, with_error

AXIS_LABELS = {"accuracy": "accuracy (%)", "nll": "negative log-likelihood (nats)", "ece": "calibration error (%)"}


def plot_severity(results: Mapping[str, Robustness] | Robustness) -> Figure:
    """Draw accuracy, NLL and calibration error over severity: their mean and spread over types.

    Args:
        results: Label -> result, or one result.

    Returns:
        The figure, with one panel for each measure. Severity 0 stands for the clean images.

    Example:
        >>> zeros = np.zeros(3)
        >>> result = Robustness(np.diag([8, 4, 2]), zeros, zeros, zeros, ["fog"], [1, 2], 10)
        >>> plot_severity(result).axes[0].lines[0].get_xydata()[:, 1].tolist()
        [80.0, 40.0, 20.0]
    """
    results = named(results)
    figure, axes = new_figure(TEXT_WIDTH, 2.3, 1, len(AXIS_LABELS))
    for label, colour in colours(list(results)).items():
        result = results[label]
        tables = {
            "accuracy": 100 * np.diagonal(result.both_right) / result.n,
            "nll": result.nll,
            "ece": 100 * result.ece,
        }
        look = {"marker": marker(result.provenance.get("model", label)), "markersize": 3, "linewidth": CURVE}
        for ax, name in zip(axes, AXIS_LABELS, strict=True):
            clean, grid = tables[name][0], result.grid(tables[name])
            severities = [0, *result.severities]
            error = 100 * np.append(result.clean_stderr, result.by_severity()[1]) if name == "accuracy" else None
            ax.errorbar(
                severities, [clean, *grid.mean(0)], error, color=colour, label=label, elinewidth=REFERENCE, **look
            )
            ax.plot(
                severities, np.vstack([np.full(len(grid), clean), grid.T]), color=colour, linewidth=HAIRLINE, alpha=0.3
            )
            ax.set(xlabel="severity (0: clean)", ylabel=AXIS_LABELS[name], xticks=severities)
    note = f"Lines: mean over {_types(results)}, accuracy with one standard error over images. Thin: each type."
    return finish(figure, results, note=f"{note} {_errors(results)}")


def plot_kinds(results: Mapping[str, Robustness] | Robustness) -> Figure:
    """Draw the mean accuracy over severities for each corruption type, models side by side, types by family.

    Args:
        results: Label -> result, or one result. All must have the same types.

    Returns:
        The figure, with error bars of one standard error to each side. Dashes are the accuracies on clean images.

    Raises:
        ValueError: If the types of a result differ from the first one's.

    Example:
        >>> zeros = np.zeros(3)
        >>> result = Robustness(np.diag([8, 4, 2]), zeros, zeros, zeros, ["fog", "snow"], [1], 10)
        >>> [round(bar.get_height()) for bar in plot_kinds(result).axes[0].patches]
        [20, 40]
    """
    results = named(results)
    drawn = _shared_kinds(results)
    families = {family: [kind for kind in kinds if kind in drawn] for family, kinds in FAMILIES.items()}
    families = {family: kinds for family, kinds in families.items() if kinds}
    starts = np.cumsum([0, *(len(kinds) + 0.6 for kinds in families.values())])
    places = {
        kind: start + i for start, kinds in zip(starts, families.values(), strict=False) for i, kind in enumerate(kinds)
    }
    figure, ax = new_figure(TEXT_WIDTH, 2.7)
    width = 0.8 / len(results)
    for number, (label, colour) in enumerate(colours(list(results)).items()):
        result = results[label]
        value, error = (dict(zip(result.kinds, 100 * x, strict=True)) for x in result.by_kind())
        x = [place + (number - (len(results) - 1) / 2) * width for place in places.values()]
        heights, errors = ([table[kind] for kind in places] for table in (value, error))
        bars = {"color": colour, "error_kw": {"linewidth": THIN}}
        ax.bar(x, heights, width, yerr=errors, label=label, **bars)
        ax.axhline(100 * result.clean_accuracy, color=colour, linewidth=REFERENCE, linestyle="--", zorder=0)
    ax.set_xticks(list(places.values()), [kind.replace("_", " ") for kind in places], rotation=45, ha="right")
    ax.set(ylabel="accuracy (%)", ylim=(0, 104), xlim=(-0.7, max(places.values()) + 0.7))
    for start, (family, kinds) in zip(starts, families.items(), strict=False):
        ax.text(start + (len(kinds) - 1) / 2, 105, family, fontsize=LABEL, ha="center", va="bottom")
    note = f"Mean over severities {_severities(results)}, with one standard error over images; dashed: clean images."
    return finish(figure, results, note=f"{note} {_errors(results)}")


def plot_mce(results: Mapping[str, Robustness], reference: str | Robustness | Mapping[str, float]) -> Figure:
    """Draw a table of corruption errors in percent of a reference's, for each type and their mean.

    Args:
        results: Label -> result.
        reference: Label of one of the results, another result, or errors such as
            `utilities.analysis.predictions.robustness.ALEXNET_ERRORS`.

    Returns:
        The figure. A dash marks a type for which the reference makes no error.

    Raises:
        ValueError: If the reference is not among the results or does not match, or the types of a result differ from
            the first one's.

    Example:
        >>> zeros = np.zeros(2)
        >>> one, two = (Robustness(np.diag([8, n]), zeros, zeros, zeros, ["fog"], [1], 10) for n in (4, 7))
        >>> [text.get_text() for text in plot_mce({"a": one, "b": two}, "a").axes[0].texts][-2:]
        ['50 ± 29', '50 ± 29']
    """
    results = named(results)
    if isinstance(reference, str) and reference not in results:
        raise ValueError(f"reference {reference!r} is none of {', '.join(results)}")
    other = results[reference] if isinstance(reference, str) else reference
    rows = ["", *(kind.replace("_", " ") for kind in _shared_kinds(results)), "mean (mCE)"]
    figure, ax = new_figure(2.2 + 0.9 * len(results), 0.14 * len(rows) + 0.1)
    ax.set(xlim=(-1.4, len(results) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    ax.axis("off")
    _column(ax, rows, -1.35, "left")
    for place, (label, result) in enumerate(results.items()):
        pairs = zip(*map(np.append, result.corruption_errors(other), result.mce(other)), strict=True)
        cells = ["-" if np.isnan(value) else with_error(value, error, ".0f", unknown="") for value, error in pairs]
        _column(ax, [wrap(label, 0.9, points=TICK), *cells], place + 0.3, "right")
    for y in (0.5, len(rows) - 1.5):
        ax.axhline(y, color=DARK, linewidth=THIN)
    name = "AlexNet" if reference is ALEXNET_ERRORS else reference if isinstance(reference, str) else "the reference"
    note = f"Errors of all severities in percent of those of {name}, with standard errors; lower is more robust."
    return finish(figure, results, note=note)


def _column(ax: Axes, texts: Sequence[str], x: float, side: str) -> None:
    for y, text in enumerate(texts):
        weight = "bold" if y in (0, len(texts) - 1) else "normal"
        ax.text(x, y, text, fontsize=DENSE, ha=side, va="center", weight=weight)


def plot_examples(loader: Loader, index: int = 0, severity: int = 3, seed: int = 0) -> Figure:
    """Draw one image as it is and under each corruption.

    Args:
        loader: Loader made by `utilities.datasets.make_loader`; see
            `utilities.analysis.predictions.robustness.robustness`.
        index: Index of the image in the data set.
        severity: Severity of the corruptions, from 1 to 5.
        seed: Seed of the random corruptions.

    Returns:
        The figure.

    Example:
        >>> from utilities.datasets import load_dataset
        >>> from utilities.datasets.factory import make_loader
        >>> figure = plot_examples(make_loader(load_dataset("digits"), 20))
        >>> figure.axes[0].get_title(), len([ax for ax in figure.axes if ax.images])
        ('clean', 20)
    """
    images = loader.dataset.batch([index])[0]
    pixels = to_pixels(images, *normalisation(loader))
    kinds = (*CORRUPTIONS, *EXTRA_CORRUPTIONS)
    shown = {"clean": pixels} | {kind: corrupt(pixels, kind, severity, seed=seed) for kind in kinds}
    figure, axes = new_figure(TEXT_WIDTH, 6.5 / 7 * 3 + 0.5, 3, 7)
    for ax in axes.flat:
        ax.axis("off")
    for ax, (kind, picture) in zip(axes.flat, shown.items(), strict=False):
        ax.imshow(_upright(picture))
        ax.set_title(kind.replace("_", " "), fontsize=DENSE, pad=2)
    size = " x ".join(map(str, pixels.shape[-2:]))
    text = f"{loader.dataset}, image {index}, {size} pixels, each corruption at severity {severity}"
    caption_figure(figure, f"{text}.", text)
    return figure


def _upright(pixels: torch.Tensor) -> np.ndarray:
    return pixels[0].permute(1, 2, 0).numpy()


def _shared_kinds(results: Mapping[str, Robustness]) -> list[str]:
    """Return the corruption types of the results, and refuse results whose types differ."""
    first, *_ = (result.kinds for result in results.values())
    for label, result in results.items():
        if result.kinds != first:
            raise ValueError(f"{label} was evaluated on other types of corruption than the first: evaluate all alike")
    return first


def _types(results: Mapping[str, Any]) -> str:
    counts = {len(result.kinds) for result in results.values()}
    return f"{counts.pop()} types of corruption" if len(counts) == 1 else "types of corruption"


def _severities(results: Mapping[str, Any]) -> str:
    values = sorted({severity for result in results.values() for severity in result.severities})
    return ", ".join(map(str, values))


def _errors(results: Mapping[str, Robustness]) -> str:
    """State where the corruptions come from, and the mean accuracies over all sets with their errors."""
    made = ", ".join(dict.fromkeys(str(result.provenance.get("corruptions", "")) for result in results.values()))
    pairs = {label: result.mean_accuracy() for label, result in results.items()}
    texts = [f"{label} {percent(value, error)}" for label, (value, error) in pairs.items()]
    return f"{f'Corruptions {made}. ' if made else ''}Mean accuracy over all corrupted sets: {', '.join(texts)}."
