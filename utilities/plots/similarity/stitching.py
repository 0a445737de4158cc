"""Figures of stitched networks: accuracy over depth beside its baselines, and of all pairs of layers."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utilities.plots.captions import describe_models
from utilities.plots.labelled_figure import finish, new_figure, start_at_zero
from utilities.plots.layer_ticks import fit_layers
from utilities.plots.paper import CURVE, DARK, GREY, LIGHT, PALETTE, REFERENCE, THIN, TICK, PaperFigure
from utilities.plots.similarity.heatmap import plot_similarity
from utilities.plots.text_fitting import wrap
from utilities.results.formatting import counted
from utilities.results.images import describe_images
from utilities.results.similarity import Similarity
from utilities.results.stitching import Stitching

Results = Mapping[str, Stitching]
ACROSS = 3  # panels in a row
UNTRAINED, OWN, CHANCE = "untrained first model", "second model alone", "chance"


def plot_stitching(results: Results | Stitching, controls: Results | Stitching | None = None) -> Figure:
    """Draw the accuracy of stitched networks over depth, a panel for each pair of models.

    Args:
        results: Label -> result of matched pairs, or one result.
        controls: The same labels, as far as there are any, with the first model untrained.

    Returns:
        The figure. Dashed: the second model by itself; dotted: chance. Bars are one standard error over test images.

    Raises:
        ValueError: If there is no result, a label of ``controls`` is none of the results', or a result has a layer
            that is in several pairs.

    Example:
        >>> one, none = np.array([[[0.7]]]), np.zeros((1, 1, 1))
        >>> two = np.array([0.9, 0.8])
        >>> result = Stitching(["a"], ["b"], ["closed form"], *[one] * 6, ["x"], none, none, none, two, two, two)
        >>> plot_stitching(result).axes[0].get_ylabel()
        'accuracy (%)'
    """
    results = _labelled(results)
    controls = {} if controls is None else _labelled(controls, next(iter(results)))
    _check(results, controls)
    across = min(ACROSS, len(results))
    down = -(-len(results) // across)
    width = 4.6 if across == 1 else 0.7 + 1.95 * across
    figure, axes = new_figure(width, 0.5 + 1.9 * down, down, across, sharey=True, squeeze=False)
    for ax, (label, result) in zip(axes.flat, results.items(), strict=False):
        _draw(ax, result, controls.get(label), names=len(results) == 1)
        ax.set_title(wrap(label, 0.95 * width / across, points=TICK))
    start_at_zero(axes[0, 0])
    for ax in axes.flat[len(results) :]:
        ax.set_axis_off()
    for ax in axes[:, 0]:
        ax.set_ylabel("accuracy (%)")
    _legend_of_all(axes)
    finish(figure, {"": SimpleNamespace(provenance=_facts(next(iter(results.values()))))})
    figure.caption = f"{_caption(results)} Bars: one standard error over test images."
    if controls:
        figure.caption += " Grey: the first model untrained, in closed form."
    if len(results) == 1:
        fit_layers(axes[0, 0].xaxis, [" to ".join(pair) for pair in result.pairs])
    return figure


def plot_stitching_matrix(result: Stitching, fit: int | str = -1) -> PaperFigure:
    """Draw the accuracy of each pair of layers as a heatmap: from chance to that of the second model by itself.

    So untrained models, which are hardly above chance, fill the scale too; the caption states where it begins and ends.

    Args:
        result: The result; the layers of the first model form the vertical axis.
        fit: See `Stitching.drop`.

    Returns:
        The figure. Pairs that were not stitched are grey.
    """
    place = result.place_of(fit)
    own, best = float(result.own[1]), float(np.nanmax(result.accuracy[place]))
    top = max(own, best)
    low = min(result.chance, 0.99 * top)
    ends = "chance" if low == result.chance else f"{low:.2f}", "the second model" if own >= best else "the highest"
    facts = result.provenance | {"measure": f"accuracy of the stitched network, from {ends[0]} to {ends[1]}"}
    whole = Similarity(
        result.accuracy[place], result.layers1, result.layers2, result.n, stderr=result.accuracy_stderr[place],
        provenance=facts,
    )  # fmt: skip
    title = None if "model1" in facts or "model" in facts else "stitched network"
    figure = plot_similarity(whole, title=title, vmin=low, vmax=top)
    begin = f"chance, {low:.1%}," if low == result.chance else f"{low:.1%}"
    end = "the accuracy of the second model by itself" if own >= best else "the highest accuracy of a stitched network"
    figure.caption = f"{_caption({'': result})} The scale runs from {begin} to {end}, {top:.1%}, and not from 0 to 1."
    return figure


def _labelled(results: Results | Stitching, label: str | None = None) -> dict[str, Stitching]:
    if isinstance(results, Mapping):
        if not results:
            raise ValueError("there are no results to draw")
        return dict(results)
    facts = results.provenance
    names = [str(facts.get(key) or facts.get("model") or key) for key in ("model1", "model2")]
    return {label or " into ".join(names): results}


def _check(results: Results, controls: Results) -> None:
    unknown = [label for label in controls if label not in results]
    if unknown:
        raise ValueError(f"the control {unknown[0]!r} is of none of {', '.join(results)}")
    many = next((label for label, one in results.items() if not one.matched), None)
    if many is not None:
        raise ValueError(f"{many}: a layer is in several pairs, which curves cannot show; take plot_stitching_matrix")


def _draw(ax: Axes, result: Stitching, control: Stitching | None, names: bool) -> None:
    """Draw one pair of models."""
    colours = sns.color_palette(PALETTE, 3)
    for k, fit in enumerate(result.fits):
        look = {"color": colours[k], "marker": "o", "label": f"stitched, {fit}"}
        _curve(ax, result, k, names, **look)
    if control is not None:
        _curve(ax, control, 0, names, color=GREY, marker="x", label=UNTRAINED)
    ax.axhline(100 * result.own[1], color=DARK, linewidth=REFERENCE, linestyle="--", label=OWN, zorder=1)
    ax.axhline(100 * result.chance, color=LIGHT, linewidth=REFERENCE, linestyle=":", label=CHANCE, zorder=1)
    if names:
        ax.tick_params(axis="x", labelrotation=90)
    else:
        ax.set_xlabel("relative depth")
        ax.set_xlim(-0.06, 1.06)


def _curve(ax: Axes, result: Stitching, fit: int, names: bool, **look: object) -> None:
    rows, columns = np.array(result.places).T
    x = np.arange(len(rows)) if names else np.linspace(0, 1, len(rows))
    mean, error = (100 * values[fit, rows, columns] for values in (result.accuracy, result.accuracy_stderr))
    ax.errorbar(x, mean, np.nan_to_num(error), markersize=3, linewidth=CURVE, elinewidth=THIN, **look)


def _legend_of_all(axes: np.ndarray) -> None:
    """Let the first panel, which the legend is made from, name curves that only other panels show."""
    drawn = axes.flat[0].get_legend_handles_labels()[1]
    for ax in axes.flat[1:]:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            if label not in drawn:
                line = handle[0]
                look = {"color": line.get_color(), "marker": line.get_marker(), "linewidth": CURVE, "markersize": 3}
                axes.flat[0].plot([], [], label=label, **look)
                drawn.append(label)


def _facts(result: Stitching) -> dict[str, object]:
    return result.provenance | {"n": result.n}


def _caption(results: Results) -> str:
    """State the models once, the images, and how the maps were fitted."""
    found = list(results.values())
    models = [text for one in found for text in describe_models(one.provenance, "first", "second")]
    if len(found) > 1:
        models = [text.partition(": ")[2] if text.startswith(("first: ", "second: ")) else text for text in models]
    penalty = found[0].provenance.get("penalty")
    how = "chosen on a fifth of these" if penalty is None else f"{penalty:g} of the mean variance"
    train = found[0].provenance.get("n_train")
    fitted = (
        f"Affine maps fitted to {counted(train, 'other image')} by ridge regression, penalty {how}" if train else ""
    )
    epochs = found[0].provenance.get("epochs")
    fitted += f", then trained for {counted(epochs, 'epoch')}" if fitted and epochs else ""
    images = describe_images(found[0].provenance, found[0].n)
    profile = found[0].provenance.get("profile")
    parts = [*dict.fromkeys(models), images + (f", {profile} profile" if profile else ""), fitted]
    return ". ".join(part for part in parts if part) + "."
