"""Figure of the change in accuracy over the frequency of the noise, as Fig. 2b of Park and Kim 2022."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from utilities.analysis.predictions.noise_frequency import NoiseFrequency
from utilities.plots.labelled_figure import colours, finish, marker, named, new_figure
from utilities.plots.paper import CURVE, LIGHT, THIN


def plot_noise_frequency(results: Mapping[str, NoiseFrequency] | NoiseFrequency) -> Figure:
    r"""Draw the effect of noise in each band on the accuracy, with bands of one standard error to each side.

    Args:
        results: Label -> result, or one result.

    Returns:
        The figure.

    Example:
        >>> import numpy as np
        >>> counts = np.array([[8, 6, 4], [6, 6, 3], [4, 3, 4]])
        >>> figure = plot_noise_frequency(NoiseFrequency(counts, np.array([0, 0.5, 1]), 10))
        >>> figure.axes[0].lines[1].get_ydata().tolist()
        [-20.0, -40.0]
    """
    results = named(results)
    figure, ax = new_figure(4.6, 2.9)
    ax.axhline(0, color=LIGHT, linewidth=THIN)
    for label, colour in colours(list(results)).items():
        result = results[label]
        x, y, error = result.centres, result.change, result.stderr
        look = {"marker": marker(result.provenance.get("model", label)), "markersize": 3.5, "linewidth": CURVE}
        ax.plot(x, y, color=colour, label=f"{label} ({100 * result.clean_accuracy:.1f}% without noise)", **look)
        ax.fill_between(x, y - error, y + error, color=colour, alpha=0.25, linewidth=0)
    ax.set(xlim=(0, 1), ylabel="change in accuracy (percentage points)")
    ax.set_xlabel(r"frequency of the noise ($\pi$ rad / pixel)")
    return finish(figure, results, note=_note(results))


def _note(results: Mapping[str, NoiseFrequency]) -> str:
    """State what noise was added, and what the bands show."""
    texts = []
    for result in results.values():
        facts, edges = result.provenance, result.edges
        size = "root mean square of each band" if facts.get("equal_energy", True) else "before it is filtered"
        amplitude = f" of {facts['eps']:g} ({size}, normalised images)" if "eps" in facts else ""
        kind = f"{facts['noise']} noise" if "noise" in facts else "noise"
        texts.append(
            f"Each point: {kind}{amplitude} in the ring max(|fx|, |fy|) of its frequency; {len(edges) - 1} rings from "
            f"{edges[0]:.3g} to {edges[-1]:.3g}. Bands: one standard error over images, each its own control."
        )
    return " ".join(dict.fromkeys(texts))
