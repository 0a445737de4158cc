"""Figures of class identifiability over depth: scores, changes, composition, context (Vilas et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from utilities.analysis.class_embedding.composition import SOURCES
from utilities.analysis.class_embedding.identifiability import Identifiability
from utilities.claims.claim import BRANCHES
from utilities.plots.labelled_figure import colours, draw_with_band, finish, marker, named, new_figure, twins_of
from utilities.plots.paper import DARK, EDGE, GREY, HEADLINE, PALETTE, REFERENCE, TEXT_WIDTH, THIN
from utilities.plots.text_fitting import wrap
from utilities.results.statistics import LEVEL

Results = Mapping[str, Identifiability] | Identifiability

TOKENS = {"CLS": "[CLS]", "image": "image tokens"}
FROM = ("block before", "attention", "MLP", "several of them", "none of them")  # labels of `SOURCES`
SCORE = "class identifiability\n(1 - rank / classes)"
REFERENCES = {"input": "the block's input", "own": "its own input"}


def plot_evolution(
    results: Results, random: Mapping[str, Identifiability] | None = None, *, part: str = "block"
) -> Figure:
    """Draw the mean score over depth, with one panel for the class token and one for image tokens.

    Args:
        results: Label -> result, or one result.
        random: Label -> result of the untrained twin, for some of the labels.
        part: Part whose scores are drawn: ``"block"``, ``"attn"`` or ``"mlp"``.

    Returns:
        The figure.

    Raises:
        ValueError: If a label of ``random`` does not occur among the results, or no result has the part.
    """
    results = {label: result for label, result in named(results).items() if part in result.parts}
    if not results:
        raise ValueError(f"part {part!r} was read of no model; parts are block, attn and mlp, of CNNs block alone")
    twins = twins_of(results, random or None)
    groups, place = _groups(results), _places(results)
    figure, axes = new_figure(TEXT_WIDTH, 2.4, 1, len(groups), squeeze=False, sharey=True)
    for label, colour in colours(list(results)).items():
        look = {"color": colour, "marker": _marker(label, results[label])}
        axes[0, 0].plot([], [], markersize=3, label=label, **look)
        for ax, group in zip(axes[0], groups, strict=True):
            for result, style in ((results[label], "-"), (twins.get(label), "--")):
                if result is not None and group in result.groups:
                    p, g = result.parts.index(part), result.groups.index(group)
                    score, ends = result.score[p, :, g], result.score_interval[:, p, :, g]
                    draw_with_band(ax, place(result), score, ends, linestyle=style, **look)
    if twins:
        axes[0, 0].plot([], [], color=DARK, linestyle="--", label="untrained")
    for ax, group in zip(axes[0], groups, strict=True):
        _dotted(ax, sorted({result.chance for result in results.values()}))
        _depth_axis(ax, results)
        ax.set_title(TOKENS[group])
    axes[0, 0].plot([], [], color=GREY, linestyle=":", label="chance")
    axes[0, 0].set_ylabel(SCORE if part == "block" else f"{SCORE}\nof {BRANCHES[part]} alone")
    note = f"Bands: {_interval(results)}. Chance: 0.5 + 1 / (2 classes), the mean over ranks at random."
    return finish(figure, results | {f"{label}, untrained": twin for label, twin in twins.items()}, note)


def plot_distribution(results: Results) -> Figure:
    """Draw the spread of the score over images in each block, with one panel for each model.

    Args:
        results: Label -> result, or one result.

    Returns:
        The figure.
    """
    results, looks = named(results), colours(list(TOKENS))
    figure, axes = new_figure(TEXT_WIDTH, 1.8 * len(results), len(results), 1, squeeze=False, sharey=True)
    for ax, (label, result) in zip(axes[:, 0], results.items(), strict=True):
        width = 0.7 / len(result.groups)
        for g, group in enumerate(result.groups):
            shift = (g - (len(result.groups) - 1) / 2) * width
            _boxes(ax, result.image_score[..., g], shift, 0.85 * width, looks[group])
        _dotted(ax, [result.chance])
        _block_axis(ax, result)
        ax.set_title(wrap(label, 5))
        ax.set_ylabel(SCORE)
    for group in _groups(results):
        axes[0, 0].bar([1], [0], color=looks[group], alpha=0.8, label=TOKENS[group])
    axes[0, 0].plot([], [], color=GREY, linestyle=":", label="chance")
    lowest = min(np.percentile(result.image_score, 5, axis=0).min() for result in results.values())
    axes[0, 0].set_ylim(max(0.0, lowest - 0.05), 1.03)
    note = "Mean over the tokens of each image. Boxes: quartiles and median over images; whiskers: 5% to 95%."
    return finish(figure, results, note)


def plot_changes(results: Results) -> Figure:
    """Draw how often blocks, attention and MLP raise the similarity with the class, with one row for each model.

    Args:
        results: Label -> result, or one result.

    Returns:
        The figure.
    """
    results, looks = named(results), colours(["block", *BRANCHES.values()])
    figure, axes, panels = _panels(results)
    for ax, result, g in panels:
        rates = {"block": (result.change[:, g], result.change_interval[..., g])}
        for i, layer in enumerate(result.parts[1:]):
            rates[BRANCHES[layer]] = result.layer_change[i, :, g], result.layer_change_interval[:, i, :, g]
        for name, (values, ends) in rates.items():
            draw_with_band(ax, _blocks(result), 100 * values, 100 * ends, color=looks[name], marker=".")
        _dotted(ax, [50])
        ax.set_ylim(-3, 103)
    for row in axes:
        row[0].set_ylabel("tokens whose class\nlogit is raised (%)")
    for name, colour in looks.items():
        axes[0, 0].plot([], [], color=colour, label=name)
    against = " or ".join(sorted({REFERENCES[r.provenance.get("reference", "input")] for r in results.values()}))
    note = (
        "Block: the logit of the class after it against that before it. Attention: that of its output, read alone, "
        f"against that of the block's input; MLP: against {against}. Bands: {_interval(results)}. Dotted: 50%."
    )
    return finish(figure, results, note)


def plot_composition(results: Results) -> Figure:
    """Draw where each block's first class comes from, as bars that add up to 100 %, with one row for each model.

    Args:
        results: Label -> result, or one result. CNNs are left out, because they have no attention and MLP to read.

    Returns:
        The figure.

    Raises:
        ValueError: If all models are CNNs or have only one block.
    """
    results = {label: r for label, r in named(results).items() if len(r.parts) > 1 and len(r.names) > 1}
    if not results:
        raise ValueError("composition needs a transformer of two blocks or more among the results")
    style = {"edgecolor": "0.4", "linewidth": EDGE}
    looks = ["0.6", *sns.color_palette(PALETTE, 3), "0.93"]
    figure, axes, panels = _panels(results)
    for ax, result, g in panels:
        shares = 100 * result.composition[1:, g]
        ends = shares.cumsum(1)
        for s in range(len(SOURCES)):
            ax.bar(_blocks(result)[1:], shares[:, s], 0.85, ends[:, s] - shares[:, s], color=looks[s], **style)
        ax.set_ylim(0, 100)
    for row in axes:
        row[0].set_ylabel("tokens (%)")
    for source, colour in zip(FROM, looks, strict=True):
        axes[0, 0].bar([2], [0], color=colour, label=source, **style)
    note = (
        "Whose first class is that of the token after the block: the block before's, that of what attention or the MLP "
        "add, read alone, several of these, or none. Each token counts once; means over images."
    )
    return finish(figure, results, note)


def plot_context(results: Results) -> Figure:
    """Draw the scores of object tokens and context tokens over depth, with one row for each model.

    Args:
        results: Label -> result, or one result. Results on images without masks are left out.

    Returns:
        The figure. It states if no images had masks.
    """
    everything = named(results)
    results = {label: result for label, result in everything.items() if result.n_masked}
    if not results:
        figure, ax = new_figure(TEXT_WIDTH, 0.6)
        ax.set_axis_off()
        ax.set_title("no masks: tokens of object and context cannot be told apart in these images")
        return finish(figure, everything, legend=False)
    looks = colours(["object", "context", *BRANCHES.values()])
    figure, axes = new_figure(TEXT_WIDTH, 2.1 * len(results), len(results), 2, squeeze=False)
    for (left, right), (label, result) in zip(axes, results.items(), strict=True):
        for i, name in enumerate(("object", "context")):
            ends = result.place_score_interval[..., i]
            draw_with_band(left, _blocks(result), result.place_score[:, i], ends, color=looks[name], marker=".")
        _dress(left, result, f"{label}: score", result.chance, {"0.2": result.place_p})
        left.set_ylabel(SCORE)
        layers = [BRANCHES[layer] for layer in result.parts[1:]]
        if not layers:
            right.remove()
            continue
        for i, name in enumerate(layers):
            values, ends = result.place_layer_difference[i], result.place_layer_difference_interval[:, i]
            draw_with_band(right, _blocks(result), values, ends, color=looks[name], marker=".")
        stars = {looks[name]: p for name, p in zip(layers, result.place_layer_p, strict=True)}
        _dress(right, result, f"{label}: object less context", 0, stars)
        right.set_ylabel("difference of the\nchange in class logit")
    for name, colour in looks.items():
        axes[0, 0].plot([], [], color=colour, label=name)
    return finish(figure, results, _context_note(results))


def _context_note(results: Mapping[str, Identifiability]) -> str:
    fractions = sorted({f"{100 * r.provenance.get('threshold', 0.5):g}%" for r in results.values()})
    counts = sorted({f"{result.n_masked:,}" for result in results.values()})
    return (
        f"Object: tokens whose patch it covers to {' or '.join(fractions)} at least; {' or '.join(counts)} images have "
        f"tokens of both kinds. Bands: {_interval(results)}. *: object above context, p < {LEVEL}, flipping signs of "
        "images at random, as both are of the same images; one test for each block, not corrected for their number. "
        "Right: the logit of the class in what attention or the MLP add, less that before. Dotted: chance, and 0."
    )


def _dress(ax: Axes, result: Identifiability, title: str, level: float, p_values: Mapping[Any, np.ndarray]) -> None:
    """Add title, level, stars and axis to a panel of `plot_context`."""
    _dotted(ax, [level])
    _stars(ax, p_values)
    _block_axis(ax, result)
    ax.set_title(wrap(title, 2.7))


def _panels(results: Mapping[str, Identifiability]) -> tuple[Figure, np.ndarray, list[tuple[Axes, Any, int]]]:
    """Make a row of panels for each model, one per token group: figure, axes, list of (axes, result, group)."""
    columns = max(len(result.groups) for result in results.values())
    figure, axes = new_figure(TEXT_WIDTH, 1.9 * len(results), len(results), columns, squeeze=False, sharey=True)
    panels = []
    for row, (label, result) in zip(axes, results.items(), strict=True):
        for ax in row[len(result.groups) :]:
            ax.remove()
        for g, group in enumerate(result.groups):
            row[g].set_title(f"{wrap(label, 2.3)}, {TOKENS[group]}")
            _block_axis(row[g], result, first=2)
            panels.append((row[g], result, g))
    return figure, axes, panels


def _groups(results: Mapping[str, Identifiability]) -> list[str]:
    return [group for group in TOKENS if any(group in result.groups for result in results.values())]


def _marker(label: str, result: Identifiability) -> str:
    return marker(result.provenance.get("model", label))


def _blocks(result: Identifiability) -> np.ndarray:
    return np.arange(1, len(result.names) + 1)


def _places(results: Mapping[str, Identifiability]) -> Any:
    """Return how to place blocks: by number, or by share of the depth if models differ in depth."""
    if len({tuple(result.depth) for result in results.values()}) == 1:
        return _blocks
    return lambda result: result.depth


def _depth_axis(ax: Axes, results: Mapping[str, Identifiability]) -> None:
    if _places(results) is _blocks:
        _block_axis(ax, next(iter(results.values())))
    else:
        ax.set(xlabel="relative depth (1: after the last block)", xlim=(0, 1.03))


def _block_axis(ax: Axes, result: Identifiability, first: int = 1) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
    ax.set(xlabel="block", xlim=(first - 0.6, max(first, len(result.names)) + 0.6))


def _dotted(ax: Axes, values: Sequence[float]) -> None:
    for value in values:
        ax.axhline(value, color=GREY, linewidth=REFERENCE, linestyle=":", zorder=1)


def _stars(ax: Axes, p_values: Mapping[Any, np.ndarray]) -> None:
    """Mark blocks with a significant test by stars, in one row for each test above the curves."""
    low, high = ax.get_ylim()
    for row, (colour, p) in enumerate(p_values.items()):
        for block in np.flatnonzero(p < LEVEL) + 1:
            y = high + (0.02 + 0.08 * row) * (high - low)
            ax.text(block, y, "*", color=colour, ha="center", va="center", fontsize=HEADLINE)
    ax.set_ylim(low, high + 0.09 * len(p_values) * (high - low))


def _boxes(ax: Axes, values: np.ndarray, shift: float, width: float, colour: Any) -> None:
    """Draw a box for each block: (images, blocks)."""
    thin = {"linewidth": THIN}
    ax.boxplot(
        values,
        positions=np.arange(1, values.shape[1] + 1) + shift,
        widths=width,
        whis=(5, 95),
        showfliers=False,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": colour, "alpha": 0.8, **thin},
        medianprops={"color": "black"},
        whiskerprops=thin,
        capprops=thin,
    )


def _interval(results: Mapping[str, Identifiability]) -> str:
    """Explain what the bands show."""
    levels = sorted({f"{100 * result.provenance.get('confidence', 0.95):g}%" for result in results.values()})
    return f"{' or '.join(levels)} bootstrap interval of the mean over images"
