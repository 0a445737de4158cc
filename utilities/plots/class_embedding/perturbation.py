"""Figures of intact and perturbed Vision Transformers: the class in image tokens, and the model's accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utilities.analysis.class_embedding.perturbation import PERTURBATION_MEASURES, SIDES, Perturbation
from utilities.analysis.class_embedding.ranks import chance_score
from utilities.plots.captions import shared_fact
from utilities.plots.labelled_figure import colours, finish, named, new_figure, start_at_zero
from utilities.plots.paper import CURVE, FAINT, REFERENCE, TEXT_WIDTH, THICK, TICK
from utilities.plots.text_fitting import wrap

LABELS = {
    "self_only": "image tokens see\nthemselves alone",
    "no_cls": "image tokens do not see\nthe class token",
    "no_cls_unnormalised": "the same, weights not\nbrought back to sum 1",
    "no_context": "context taken out\n(of object tokens)",
    "no_class": "object taken out\n(of context tokens)",
}
SHOWN_TITLES = {
    "rate": "image tokens that put the class first (%)",
    "pooled_rate": "image tokens that put the class first (%)",
    "score": "class identifiability of image tokens",
    "pooled_score": "class identifiability of image tokens",
    "cls_rate": "class tokens that put the class first (%)",
    "accuracy": "accuracy of the model (%)",
}
AVERAGES = {"rate": "mean over images of each one's tokens", "pooled_rate": "over all tokens of all images"}
AVERAGES |= {"score": AVERAGES["rate"], "pooled_score": AVERAGES["pooled_rate"]}


def plot_perturbation(results: Mapping[str, Perturbation] | Perturbation, measure: str = "rate") -> Figure:
    """Draw the intact and perturbed value of each kind, over the same tokens, beside the model's accuracy.

    Args:
        results: Label -> result of `utilities.analysis.class_embedding.perturbation.perturb`, or one result.
        measure: Measure on the left, from `utilities.analysis.class_embedding.perturbation.PERTURBATION_MEASURES`.

    Returns:
        The figure, with one row for each model. Beside each panel stands the difference with its interval.

    Raises:
        ValueError: If the measure is unknown, or a result has several rows of one kind.
    """
    _check(measure)
    results = named(results)
    for label, result in results.items():
        if len(set(result.kinds)) < len(result.kinds):
            raise ValueError(f"{label} perturbs one block at a time; plot_perturbation_of_blocks draws that")
    rows = [len(result.kinds) for result in results.values()]
    height = 0.5 + sum(0.5 + 0.27 * count for count in rows)
    options = {"squeeze": False, "sharex": "col", "sharey": "row", "height_ratios": [count + 1 for count in rows]}
    figure, axes = new_figure(TEXT_WIDTH, height, len(rows), 2, **options)
    for row, (label, result) in zip(axes, results.items(), strict=True):
        for ax, shown in zip(row, (measure, "accuracy"), strict=True):
            _draw_pairs(ax, result, shown)
        row[0].set_title(wrap(label, 2.2))
        row[0].set_yticks(range(len(result.kinds)), [LABELS[kind] for kind in result.kinds])
        row[0].set_ylim(len(result.kinds) - 0.5, -0.5)
    for ax, shown in zip(axes[-1], (measure, "accuracy"), strict=True):
        ax.set_xlabel(SHOWN_TITLES[shown])
        if "score" not in shown:  # scores lie in a narrow range far from zero
            start_at_zero(ax, "x")
    for ax in axes.flat:
        ax.tick_params(axis="y", length=0)
    note = (
        "Open and filled dot of a row, and their difference beside them, are over the same tokens of the same images."
    )
    return finish(figure, results, f"{note} {_note(results, measure)}{_some_blocks(results)}")


def _draw_pairs(ax: Axes, result: Perturbation, measure: str) -> None:
    """Draw one row for each perturbation: an open marker for the intact model, a filled one for the perturbed."""
    scale, beside = _scale(measure), ax.get_yaxis_transform()
    digits = 1 if scale == 100 else 3
    looks = {
        "intact": ("white", "0.25", "intact"),
        "perturbed": (colours(["perturbed"])["perturbed"], None, "perturbed"),
    }
    for place in range(len(result.kinds)):
        ends = [scale * result.estimate(place, measure, side).value for side in looks]
        ax.plot(ends, [place] * 2, color=FAINT, linewidth=THICK, zorder=1, solid_capstyle="butt")
        change = [scale * value for value in result.estimate(place, measure)]
        text = f"{change[0]:+.{digits}f} ({change[2]:+.{digits}f} to {change[3]:+.{digits}f})"
        ax.text(1.02, place, text if np.isfinite(change[0]) else "", transform=beside, fontsize=TICK, va="center")
    for offset, (side, (face, edge, label)) in zip((-0.13, 0.13), looks.items(), strict=True):
        values, errors = _values(result, measure, side)
        y = np.arange(len(values)) + offset
        style = {"fmt": "o", "markersize": 4, "markerfacecolor": face, "color": edge or face, "elinewidth": REFERENCE}
        ax.errorbar(scale * values, y, xerr=scale * errors, label=label, zorder=3, **style)
    _draw_chance(ax.axvline, result, measure)


def plot_perturbation_of_blocks(results: Mapping[str, Perturbation] | Perturbation, measure: str = "rate") -> Figure:
    """Draw what remains when one block at a time is perturbed, over the block's place, beside the model's accuracy.

    Args:
        results: Label -> result of `utilities.analysis.class_embedding.perturbation.perturb_each_block`, or one result.
        measure: Measure on the left, from `utilities.analysis.class_embedding.perturbation.PERTURBATION_MEASURES`.

    Returns:
        The figure.

    Raises:
        ValueError: If the measure is unknown, or results perturb several blocks at once or in several ways.
    """
    _check(measure)
    results = named(results)
    kinds = {kind for result in results.values() for kind in result.kinds}
    if len(kinds) > 1 or any(len(blocks) > 1 for result in results.values() for blocks in result.blocks):
        raise ValueError(f"results should perturb one block at a time in one way, not {', '.join(sorted(kinds))}")
    figure, axes = new_figure(TEXT_WIDTH, 2.4, 1, 2)
    for ax, shown in zip(axes, (measure, "accuracy"), strict=True):
        scale = _scale(shown)
        for (label, result), colour in zip(results.items(), colours(list(results)).values(), strict=True):
            x = np.array([blocks[0] + 1 for blocks in result.blocks])
            values, errors = _values(result, shown, "perturbed")
            style = {"marker": "o", "markersize": 3, "linewidth": CURVE, "elinewidth": 0.7, "color": colour}
            ax.errorbar(x, scale * values, scale * errors, label=label, **style)
            ax.axhline(
                scale * _values(result, shown, "intact")[0][0], color=colour, linestyle="--", linewidth=REFERENCE
            )
            _draw_chance(ax.axhline, result, shown)
        ax.set(xlabel="perturbed block", ylabel=wrap(SHOWN_TITLES[shown], 1.6))
        if "score" not in shown:  # see plot_perturbation
            start_at_zero(ax)
        ax.xaxis.get_major_locator().set_params(integer=True)
    note = f"{LABELS[kinds.pop()]}, in one block at a time. Dashed: intact, over the same tokens.".replace("\n", " ")
    return finish(figure, results, f"{note[0].upper()}{note[1:]} {_note(results, measure)}")


def _values(result: Perturbation, measure: str, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of all rows, and how far their intervals reach down and up."""
    place = slice(None), SIDES.index(side), PERTURBATION_MEASURES.index(measure)
    values = result.values[place]
    return values, np.maximum(np.stack([values - result.low[place], result.high[place] - values]), 0)


def _draw_chance(line: Callable[..., Any], result: Perturbation, measure: str) -> None:
    chance = chance_score(result.provenance["num_classes"]) if "score" in measure else result.chance
    line(_scale(measure) * chance, color="0.4", linestyle=":", linewidth=REFERENCE, zorder=0)


def _scale(measure: str) -> int:
    return 1 if "score" in measure else 100


def _check(measure: str) -> None:
    if measure not in PERTURBATION_MEASURES:
        raise ValueError(f"measure {measure!r} is not known; choose from {', '.join(PERTURBATION_MEASURES)}")


def _some_blocks(results: Mapping[str, Perturbation]) -> str:
    """State which blocks were perturbed, unless all were."""
    texts = []
    for label, result in results.items():
        blocks = result.blocks[0]
        if len(blocks) < len(result.names):
            texts.append(f" {label}: perturbed in {', '.join(result.names[i] for i in blocks)} alone.")
    return "".join(texts)


def _note(results: Mapping[str, Perturbation], measure: str) -> str:
    """Explain how to read the figure."""
    confidence = shared_fact(list(results.values()), "confidence")
    bars = f"{100 * float(confidence):g}% bootstrap intervals over images" if confidence else "bootstrap intervals"
    kind = f"Left: {AVERAGES[measure]}, after the last block, never the class token. " if measure in AVERAGES else ""
    return f"{kind}Bars: {bars}. Dotted: chance."
