"""Figures of Hessian spectra: both signs as in Park & Kim 2022, the whole density, NEP and APE along training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from utilities.analysis.loss.hessian import HessianSpectra
from utilities.analysis.loss.spectral_density import SpectralDensity, smoothed
from utilities.plots.labelled_figure import colours, finish, marker, named, new_figure
from utilities.plots.paper import CURVE, FAINT, LABEL, TEXT_WIDTH, THIN

POINTS = 400  # number of points of a curve
WIDTH = 0.1  # width in decades of the Gaussian about an eigenvalue
MODES = {"eval": "running statistics", "train": "the batch's statistics"}


def plot_spectra(results: Mapping[str, HessianSpectra] | HessianSpectra, end: str = "magnitude") -> Figure:
    """Draw the density of all mini-batches' eigenvalues, negative ones on the left, positive ones on the right.

    The axes are logarithmic, because models differ by orders of magnitude; those of the paper are linear.

    Args:
        results: Label -> spectra, or one result.
        end: End of the spectrum that the eigenvalues are taken from.

    Returns:
        The figure. Areas are shares of all eigenvalues of a model, so the area on the left is the NEP. Ticks mark the
        eigenvalues.

    Example:
        >>> values = np.array([[[4.0, -2.0]], [[2.0, 1.0]]])
        >>> figure = plot_spectra(HessianSpectra(values, 0 * values, ["magnitude"], np.zeros((2, 0)), 10))
        >>> sorted(figure.axes[1].lines[-1].get_xdata().tolist())
        [1.0, 2.0, 4.0]
    """
    results = named(results)
    found = {label: result.of(end)[np.isfinite(result.of(end))] for label, result in results.items()}
    sizes = np.abs(np.concatenate([values[values != 0] for values in found.values()]))
    low, high = (np.log10([sizes.min(), sizes.max()]) if sizes.size else np.zeros(2)) + [-4 * WIDTH, 4 * WIDTH]
    grid = np.linspace(low, high, POINTS)
    figure, axes = new_figure(TEXT_WIDTH, 2.5, 1, 2)
    for ax, sign, side in ((axes[0], -1, "negative"), (axes[1], 1, "positive")):
        for row, (label, colour) in enumerate(colours(list(results)).items()):
            part = np.abs(found[label][sign * found[label] > 0])
            name = f"{label} ({_summed_up(results[label])})" if end == "magnitude" else label
            curve = smoothed(np.log10(part), np.full(len(part), 1 / max(len(found[label]), 1)), grid, WIDTH)
            ax.plot(10**grid, curve, color=colour, linewidth=CURVE, label=name)
            style = {"marker": "|", "linestyle": "none", "markersize": 5, "markeredgewidth": THIN, "color": colour}
            height = np.full(len(part), 0.02 + 0.05 * row)
            ax.plot(part, height, transform=ax.get_xaxis_transform(), label="_", **style)
        ax.set_xscale("log")
        ax.set(xlim=(10**low, 10**high), xlabel=f"{side} eigenvalues", ylabel="density per decade")
        ax.set_ylim(bottom=0)
        if not any((sign * values > 0).any() for values in found.values()):
            ax.text(0.5, 0.5, "there are none", transform=ax.transAxes, ha="center", fontsize=LABEL)
            ax.set(yticks=[], ylim=(0, 1))
    axes[0].invert_xaxis()
    axes[0].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"$-10^{{{np.log10(value):.0f}}}$"))
    axes[0].xaxis.set_minor_formatter(NullFormatter())
    note = f"Curves: Gaussians of {WIDTH:g} decades about each eigenvalue; areas are shares. Ticks: eigenvalues. "
    return finish(figure, results, note=note + _note(results, end))


def _summed_up(result: HessianSpectra) -> str:
    (nep, nep_error), (ape, ape_error) = result.nep, result.ape
    return f"NEP {_with_error(nep, nep_error)}, APE {_with_error(ape, ape_error)}"


def _with_error(value: float, error: float) -> str:
    text = f"{float(f'{value:.3g}'):g}"
    return text if np.isnan(error) else f"{text} ± {float(f'{error:.2g}'):g}"


def _note(results: Mapping[str, HessianSpectra], end: str) -> str:
    """State which Hessians the eigenvalues belong to; once if it is the same for all."""
    texts = []
    which = {"magnitude": "largest in magnitude", "largest": "largest", "smallest": "smallest"}[end]
    for result in results.values():
        facts, count = result.provenance, result.of(end).shape
        missing = int(np.isnan(result.of(end)).sum())
        images = f" of {facts['batch_size']} images" if "batch_size" in facts else ""
        text = f"The {count[1]} {which} of each of {count[0]} mini-batches{images}"
        text += f"; {missing} did not converge" if missing else ""
        texts.append(f"{text}. {describe_loss(facts)}".strip())
    errors = ["Errors: jackknife over mini-batches."] if end == "magnitude" else []
    return " ".join([*dict.fromkeys(texts), *errors])


def describe_loss(facts: Mapping[str, object]) -> str:
    """Describe the loss, as far as it is known."""
    known = []
    if "augmentation" in facts and "augmented" not in str(facts.get("dataset")):
        known.append("images not augmented" if facts["augmentation"] is None else "images augmented as in training")
    if "weight_decay" in facts:
        decay = facts["weight_decay"]
        known.append(f"loss with L2 penalty, lambda = {decay:g}" if decay else "loss without L2 penalty")
    if "mode" in facts:
        known.append(f"batch norms on {MODES[str(facts['mode'])]}")
    if facts.get("block"):
        known.append(f"parameters {', '.join(facts['block'])} alone")
    text = ", ".join(known)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def plot_spectral_density(results: Mapping[str, SpectralDensity] | SpectralDensity) -> Figure:
    """Draw the density of all eigenvalues on a logarithmic axis.

    Args:
        results: Label -> density, or one result.

    Returns:
        The figure.

    Example:
        >>> nodes = np.array([[-1.0, 3.0]])
        >>> grid = np.linspace(-2, 4, 7)
        >>> figure = plot_spectral_density(SpectralDensity(nodes, nodes**0 / 2, grid, np.exp(-grid**2), 0.1, 4))
        >>> figure.axes[0].lines[0].get_xdata().tolist()
        [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0]
    """
    results = named(results)
    figure, ax = new_figure(5.4, 2.9)
    for label, colour in colours(list(results)).items():
        low, high = results[label].range
        name = f"{label} (from {low:.3g} to {high:.3g})"
        ax.plot(results[label].grid, results[label].density, color=colour, linewidth=CURVE, label=name)
    # Lower end of the axis: a tenth of the height of the Gaussian of a single eigenvalue. Nothing is visible below it.
    single = min(1 / (result.n_parameters * result.width * np.sqrt(2 * np.pi)) for result in results.values())
    ax.set_yscale("log")
    ax.set_ylim(single / 10, 3 * max(float(result.density.max()) for result in results.values()))
    ax.axvline(0, color=FAINT, linewidth=THIN, zorder=0)
    ax.set(xlabel="eigenvalue", ylabel="density of all eigenvalues")
    widths = ", ".join(f"{label} {result.width:.2g}" for label, result in results.items())
    texts = [_vectors(result) for result in results.values()]
    note = " ".join([*dict.fromkeys(texts), f"Widths of the Gaussians: {widths}."])
    return finish(figure, results, note=note)


def _vectors(result: SpectralDensity) -> str:
    count, steps = result.nodes.shape
    text = f"Stochastic Lanczos quadrature, {steps} steps from {count} random vector{'s' * (count > 1)}."
    return f"{text} {describe_loss(result.provenance)}".strip()


def plot_over_training(history: Mapping[str, Mapping[int, HessianSpectra]]) -> Figure:
    """Draw NEP and APE of several snapshots over the completed share of the training.

    Args:
        history: Label -> epoch -> spectra, as returned by `utilities.analysis.loss.hessian.over_training`.

    Returns:
        The figure. Bars are standard errors over mini-batches; a single mini-batch has none.

    Raises:
        ValueError: If there is nothing to draw.

    Example:
        >>> values = np.array([[[4.0, -2.0]], [[2.0, 1.0]]])
        >>> spectra = HessianSpectra(values, 0 * values, ["magnitude"], np.zeros((2, 0)), 10)
        >>> figure = plot_over_training({"cnn": {0: spectra, 4: spectra}})
        >>> figure.axes[0].lines[0].get_xdata().tolist()
        [0.0, 1.0]
    """
    if not history or not all(history.values()):
        raise ValueError("there are no snapshots to draw")
    figure, axes = new_figure(TEXT_WIDTH, 2.4, 1, 2)
    for label, colour in colours(list(history)).items():
        snapshots = dict(sorted(history[label].items()))
        last = max(snapshots) or 1
        model = next(iter(snapshots.values())).provenance.get("model", label)
        style = {"color": colour, "marker": marker(model), "markersize": 3.5, "linewidth": CURVE, "capsize": 2}
        for ax, of in zip(axes, ("nep", "ape"), strict=True):
            values = np.array([getattr(result, of) for result in snapshots.values()])
            ax.errorbar([epoch / last for epoch in snapshots], values[:, 0], values[:, 1], label=label, **style)
    axes[0].set(ylabel="negative proportion (NEP)", ylim=(-0.03, None))
    axes[1].set(ylabel="average positive eigenvalue (APE)")
    axes[1].set_yscale("log", nonpositive="clip")
    for ax in axes:
        ax.set(xlabel="share of the training's epochs that is done")
    finals = {label: snapshots[max(snapshots)] for label, snapshots in history.items()}
    epochs = "; ".join(f"{label} {', '.join(map(str, sorted(of)))}" for label, of in history.items())
    note = f"After epochs: {epochs}. The facts on models are those of the last one. {_note(finals, 'magnitude')}"
    return finish(figure, finals, note=note)
