"""Figures of key-value agreement, compositionality of memories, and agreement and accuracy (Vilas et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from utilities.analysis.class_embedding.key_value import KeyValueAgreement
from utilities.claims.claim import BRANCHES
from utilities.plots.labelled_figure import colours, draw_with_band, finish, named, new_figure, twins_of
from utilities.plots.paper import BOLD, CURVE, DARK, GREY, HAIRLINE, REFERENCE, TEXT_WIDTH
from utilities.plots.text_fitting import wrap
from utilities.results.statistics import LEVEL

Results = Mapping[str, KeyValueAgreement] | KeyValueAgreement

TWIN = "untrained"
DEFINITIONS = {
    "code": "the {k} memories that add most to the class's logit",
    "text": "those that have the class among the {k} they add most to",
}


def plot_key_value_agreement(results: Results, random: Results | None = None, group: str = "image") -> Figure:
    """Draw the key-value agreement rate over blocks, attention beside MLP, with one row for each model.

    Args:
        results: Label -> result, or one result.
        random: Results of untrained models under the same labels; drawn dashed.
        group: Group of tokens: ``"image"`` or ``"CLS"``.

    Returns:
        The figure.

    Raises:
        ValueError: If a model has no such tokens, or an untrained model has no trained partner.
    """
    results = named(results)
    twins = twins_of(results, random)
    figure, axes = new_figure(TEXT_WIDTH, 0.5 + 1.8 * len(results), len(results), 2, sharey=True, squeeze=False)
    for row, (label, result) in zip(axes, results.items(), strict=True):
        for ax, (part, name) in zip(row, BRANCHES.items(), strict=True):
            _draw_rates(ax, result, twins.get(label), part, group)
            ax.set_title(wrap(f"{label}: {name}", 3))
        row[0].set_ylabel(f"agreement of {_tokens(group)}\n(% of tokens)")
    for ax in axes[-1]:
        ax.set_xlabel("block")
    first = next(iter(results.values())).provenance
    belonging = DEFINITIONS[first.get("definition", "code")].format(k=first.get("k", 5))
    note = (
        f"A token agrees if, of the {first.get('k', 5)} memories with its largest coefficients, one is among "
        f"{belonging}. Line: mean over images, with its {_percent(first)} interval; dots: classes (moved sideways). "
        "Other class: one drawn for each image; bars: one standard error. Chance: memories drawn without looking."
    )
    return finish(figure, _all(results, twins), note)


def _draw_rates(ax: Axes, result: KeyValueAgreement, twin: KeyValueAgreement | None, part: str, group: str) -> None:
    """Draw one panel: classes, mean, other class, chance, and the untrained model."""
    palette = colours(["mean", "other", "twin"])
    x = _blocks(ax, result)

    def get(value: str) -> np.ndarray:
        return 100 * result.of(value, part, group)

    classes = get("class_rate")[:, result.class_count > 0]
    aside = np.random.default_rng(0).uniform(-0.25, 0.25, classes.shape)
    look = {"s": 5 if classes.shape[1] <= 100 else 2, "alpha": 0.35, "linewidths": 0, "rasterized": True}
    ax.scatter(x[:, None] + aside, classes, color=palette["mean"], label="one class", zorder=1, **look)
    look = {"color": palette["mean"], "marker": "o", "linewidth": BOLD, "label": "class of the image"}
    draw_with_band(ax, x, get("rate"), [get("rate_low"), get("rate_high")], alpha=0.3, **look)
    ax.errorbar(
        x,
        get("control"),
        get("control_stderr"),
        color=palette["other"],
        marker="s",
        ms=2,
        lw=REFERENCE,
        label="other class",
    )
    if twin is not None:
        rate = 100 * twin.of("rate", part, group)
        ax.plot(x, rate, color=palette["twin"], marker="v", markersize=2, ls="--", lw=REFERENCE, label=TWIN)
    ax.plot(x, get("chance"), color=DARK, ls=":", lw=CURVE, label="chance")
    ax.set_ylim(-3, 103)


def plot_compositionality(results: Results, random: Results | None = None, group: str = "image") -> Figure:
    """Draw how often a single one of the strongest memories agrees with the layer, with one panel for each model.

    Args:
        results: Label -> result, or one result.
        random: Results of untrained models under the same labels; drawn dashed.
        group: Group of tokens: ``"image"`` or ``"CLS"``.

    Returns:
        The figure.

    Raises:
        ValueError: If a model has no such tokens, or an untrained model has no trained partner.
    """
    results = named(results)
    twins, palette = twins_of(results, random), colours(list(BRANCHES))
    figure, axes = _grid(len(results))
    for ax, (label, result) in zip(axes, results.items(), strict=True):
        x = _blocks(ax, result)
        for part, name in BRANCHES.items():
            share, *ends, chance = (
                100 * result.of(v, part, group) for v in ("match", "match_low", "match_high", "match_chance")
            )
            look = {"color": palette[part], "marker": "o", "linewidth": BOLD, "label": name}
            draw_with_band(ax, x, share, ends, alpha=0.25, **look)
            ax.plot(x, chance, color=palette[part], ls=":", lw=CURVE)
            if label in twins:
                other = 100 * twins[label].of("match", part, group)
                ax.plot(x, other, color=palette[part], marker="v", markersize=2, ls="--", lw=REFERENCE)
        ax.set(ylim=(-3, 103), xlabel="block")
        ax.set_title(wrap(label, 2))
    for style, name in ((":", "chance"), ("--", TWIN))[: 1 + bool(twins)]:
        axes[0].plot([], [], color=DARK, ls=style, lw=CURVE, label=name)
    _label_rows(axes, f"match of {_tokens(group)}\n(% of tokens)")
    first = next(iter(results.values())).provenance
    note = (
        f"Match: the class that attention or MLP says first is the strongest class of one of the {first.get('k', 5)} "
        f"memories with the largest coefficients; a high share is a low compositionality. Bands: {_percent(first)} "
        "intervals over images. Chance: memories drawn without looking, for the classes that were said."
    )
    return finish(figure, _all(results, twins), note)


def plot_agreement_and_accuracy(results: Results, group: str | None = None) -> Figure:
    """Draw the agreement on correctly classified images minus that on the others, with one panel for each model.

    Args:
        results: Label -> result, or one result.
        group: Group of tokens: ``"image"`` or ``"CLS"``. None takes ``CLS`` where there is one, as in the paper.

    Returns:
        The figure.

    Raises:
        ValueError: If a model has no such tokens.
    """
    results, palette = named(results), colours(list(BRANCHES))
    figure, axes = _grid(len(results))
    for ax, (label, result) in zip(axes, results.items(), strict=True):
        x, tokens = _blocks(ax, result), group or result.groups[0]
        for shift, (part, name) in zip((-0.1, 0.1), BRANCHES.items(), strict=True):
            gap, error = (100 * result.of(value, part, tokens) for value in ("gap", "gap_stderr"))
            starred = result.of("gap_p", part, tokens) < LEVEL
            ax.errorbar(
                x + shift, gap, error, color=palette[part], marker="o", ms=3, lw=CURVE, elinewidth=REFERENCE, label=name
            )
            top = (gap + np.nan_to_num(error))[starred]
            ax.scatter((x + shift)[starred], top + 4, marker="*", s=14, color=palette[part], linewidths=0)
        ax.axhline(0, color=GREY, linewidth=HAIRLINE, zorder=1)
        ax.set_xlabel("block")
        ax.set_title(wrap(f"{label}\n{tokens}: {result.n_correct:,} right, {result.n_wrong:,} wrong", 1.9))
    _label_rows(axes, "agreement, right less\nwrong images (% points)")
    note = (
        "Rate of key-value agreement on images that the model classifies correctly less that on the others. Bars: one "
        f"standard error over images; stars: one-sided p < {LEVEL} of a permutation of images between the two groups, "
        "which may hold other shares of the classes."
    )
    return finish(figure, results, note)


def _grid(panels: int) -> tuple[Figure, list[Axes]]:
    """Make a figure with at most three panels per row."""
    columns = min(panels, 3)
    rows = -(-panels // columns)
    width = max(4.5, 0.5 + 2.0 * columns)
    figure, axes = new_figure(width, 0.5 + 2.0 * rows, rows, columns, squeeze=False, sharey=True)
    for ax in axes.flat[panels:]:
        ax.remove()
    return figure, list(axes.flat[:panels])


def _label_rows(axes: list[Axes], text: str) -> None:
    """Label the first panel of each row."""
    for ax in axes[::3]:
        ax.set_ylabel(text)


def _blocks(ax: Axes, result: KeyValueAgreement) -> np.ndarray:
    """Number the blocks from 1 along an axis."""
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    ax.set_xlim(0.5, len(result.names) + 0.5)
    return np.arange(1, len(result.names) + 1)


def _all(results: Mapping[str, Any], twins: Mapping[str, Any]) -> dict[str, Any]:
    return {**results, **{f"{label} ({TWIN}, dashed)": twin for label, twin in twins.items()}}


def _tokens(group: str) -> str:
    return "the class token" if group == "CLS" else "image tokens"


def _percent(facts: Mapping[str, Any]) -> str:
    return f"{100 * facts.get('confidence', 0.95):g} %"
