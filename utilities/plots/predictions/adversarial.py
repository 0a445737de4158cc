"""Figure of accuracy over the radius of an adversarial attack."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from utilities.analysis.predictions.adversarial import Adversarial
from utilities.plots.labelled_figure import colours, finish, marker, named, new_figure
from utilities.plots.paper import CURVE

LABELS = {"linf": r"radius ($\ell_\infty$, levels of 0 to 255)", "l2": r"radius ($\ell_2$, levels of 0 to 255)"}


def plot_adversarial(results: Mapping[str, Adversarial] | Adversarial) -> Figure:
    """Draw accuracy over the radius of the attack, with bands of one standard error to each side.

    Args:
        results: Label -> result, or one result; all of one norm.

    Returns:
        The figure. Radius 0 stands for the clean images.

    Raises:
        ValueError: If the results are of several norms, whose radii are no common axis.

    Example:
        >>> import numpy as np
        >>> counts = np.array([[8, 6, 4], [6, 6, 4], [4, 4, 4]])
        >>> figure = plot_adversarial(Adversarial(counts, np.zeros(3), np.zeros(3), np.array([1.0, 2.0]), "linf", 10))
        >>> figure.axes[0].lines[0].get_xydata().tolist()
        [[0.0, 80.0], [1.0, 60.0], [2.0, 40.0]]
    """
    results = named(results)
    norms = {result.norm for result in results.values()}
    if len(norms) > 1:
        raise ValueError(f"radii of {' and '.join(sorted(norms))} are no common axis; draw a figure for each norm")
    figure, ax = new_figure(4.6, 2.9)
    for label, colour in colours(list(results)).items():
        result = results[label]
        x, y, error = [0, *result.radii], 100 * result.accuracies, 100 * result.stderr
        look = {"marker": marker(result.provenance.get("model", label)), "markersize": 3.5, "linewidth": CURVE}
        ax.plot(x, y, color=colour, label=label, **look)
        ax.fill_between(x, y - error, y + error, color=colour, alpha=0.25, linewidth=0)
    ax.set(xlim=(0, None), ylim=(0, 100), xlabel=LABELS[norms.pop()], ylabel="accuracy under attack (%)")
    return finish(figure, results, note=_note(results))


def _note(results: Mapping[str, Adversarial]) -> str:
    """State what attack it was, and what the bands show."""
    texts = []
    for result in results.values():
        facts = result.provenance
        steps = f" of {facts['steps']} steps from a random start" if facts.get("attack") == "pgd" else ""
        kind = f"{str(facts['attack']).upper()}{steps}" if "attack" in facts else "an attack"
        texts.append(
            f"{kind}; an image counts as right where the model is right on it and on every image that the attack "
            "visits: a bound from above. Bands: one standard error over images."
        )
    return " ".join(dict.fromkeys(texts))
