"""The figure of measures in tests with known answers."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
from matplotlib.figure import Figure

from utilities.plots.labelled_figure import colours, finish, new_figure
from utilities.plots.paper import LABEL, LIGHT, REFERENCE, TEXT_WIDTH, THIN
from utilities.plots.text_fitting import wrap
from utilities.results.formatting import counted
from utilities.results.measure_tests import MeasureTests

MARKERS = "Dso^v"
ROUNDING = 1e-9


def plot_measure_tests(result: MeasureTests, tests: Sequence[str] | None = None, columns: int = 4) -> Figure:
    """Draw the score of each measure in each test, a panel for each test and a colour for each kind of model.

    Args:
        result: The scores.
        tests: Some of the tests; None draws all.
        columns: Number of panels in a row, at most.

    Returns:
        The figure. Bars are one standard error, and end where scores end. Dashed is what a measure that says nothing
        scores.

    Raises:
        ValueError: For an unknown test.

    Example:
        >>> scores = np.array([[[0.9, 0.5], [0.7, 0.6]]])
        >>> names = (["CNN"], ["cka", "rsa"], ["order", "labels"])
        >>> result = MeasureTests(*names, scores, scores / 10, np.array([0.5, 0.3]))
        >>> [ax.get_title() for ax in plot_measure_tests(result).axes]
        ['order', 'labels']
    """
    shown = list(result.tests if tests is None else tests)
    unknown = [test for test in shown if test not in result.tests]
    if unknown or not shown:
        raise ValueError(f"test {', '.join(unknown) or '(none)'} is not known; choose from {', '.join(result.tests)}")
    across = min(columns, len(shown))
    rows = -(-len(shown) // across)
    height = 0.5 + rows * (0.45 + 0.17 * len(result.measures))
    figure, axes = new_figure(TEXT_WIDTH, height, rows, across, squeeze=False, sharey=True)
    places = np.arange(len(result.measures))
    shift = np.linspace(-0.22, 0.22, len(result.kinds)) if len(result.kinds) > 1 else np.zeros(1)
    colour = colours(result.kinds)
    for ax, test in zip(axes.flat, shown, strict=False):
        column = result.tests.index(test)
        ax.axvline(result.chance[column], color=LIGHT, linewidth=REFERENCE, linestyle="--")
        for i, kind in enumerate(result.kinds):
            scores = result.scores[i, :, column]
            ax.errorbar(
                scores, places + shift[i], xerr=_within(scores, result.stderr[i, :, column], result.chance[column]),
                label=kind, color=colour[kind], fmt=MARKERS[i % len(MARKERS)], markersize=3, elinewidth=THIN,
            )  # fmt: skip
        ax.set_title(wrap(test, TEXT_WIDTH / across * 0.75, points=LABEL), fontsize=LABEL)
        ax.set_yticks(places, [name.replace("_", " ") for name in result.measures])
    axes[0, 0].invert_yaxis()
    for ax in axes.flat[len(shown) :]:
        ax.remove()
    facts = result.provenance
    finish(figure, {"": SimpleNamespace(provenance=facts)})
    figure.caption = (
        f"{', '.join(f'{kind}: {model}' for kind, model in facts.get('models', {}).items())}. "
        f"{counted(facts.get('seeds', 0), 'model')} for each way of training, on {facts.get('dataset', '')} of "
        f"{facts.get('image_size', '')} pixels, n = {facts.get('n', '')} images. Bars: one standard error, drawn as "
        f"far as scores go.{_without_bars(result, shown)} Dashed: chance."
    )
    return figure


def _within(scores: np.ndarray, stderr: np.ndarray, chance: float) -> np.ndarray:
    """Return the lengths of bars to the left and right, (2, measures), ended where a score ends.

    Shares go from 0 to 1. Correlations go from -1 to 1; a measure that says nothing has one of 0. Where scores lie
    beyond, they are of another kind, and bars are left as they are.
    """
    low = 0.0 if chance > 0 else -1.0
    known = scores[np.isfinite(scores)]
    if (known < low - ROUNDING).any() or (known > 1 + ROUNDING).any():
        return np.stack([stderr, stderr])
    return np.stack([np.minimum(stderr, (scores - low).clip(0)), np.minimum(stderr, (1 - scores).clip(0))])


def _without_bars(result: MeasureTests, shown: Sequence[str]) -> str:
    """Say which tests have no bars, and why."""
    bare = [test for test in shown if np.isnan(result.stderr[..., result.tests.index(test)]).all()]
    if not bare:
        return ""
    seeds = result.provenance.get("seeds")
    why = "the only pair of two models leaves no spread to compute one from" if seeds == 2 else "it is not known"
    return f" None for {', '.join(bare)}: {why}."
