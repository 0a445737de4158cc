"""Hessian eigenvalues of the loss on mini-batches: how sharp and how convex the loss is at the current weights.

Park & Kim 2022 (https://arxiv.org/abs/2202.06709, Figs. 1c and 4) gather the eigenvalues of largest magnitude from many
mini-batches of training images. The images are augmented as in training, and the L2 penalty is included. Two numbers
sum up the eigenvalues. The proportion of negative ones (NEP) tells how far the loss is from convex, and the average of
the positive ones (APE) how sharp it is.

Eigenvalues come from SciPy's Lanczos method on curvlinops' Hessian, each with the residual of its eigenvector. As the
selection is by magnitude, a negative eigenvalue is among the k only if it outweighs positive ones. Both algebraic ends
can therefore be requested as well.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from utilities.analysis.loss.curvature import Objective
from utilities.analysis.loss.eigenvalues import ENDS, check_ends, extreme_eigenpairs, hutchinson, shifted
from utilities.analysis.loss.mini_batches import SeededMixFunction, as_type, check_targets, image_facts, mini_batches
from utilities.datasets.naming import known_facts
from utilities.hooks.calls.options import check_number, check_options, check_whole
from utilities.hooks.calls.sharing import adding_up
from utilities.hooks.calls.weights import check_weights
from utilities.results.formatting import counted
from utilities.results.result import Result
from utilities.results.statistics import jackknife
from utilities.utils import versions

BATCH_SIZE = N_BATCHES = 16  # the paper's batch size, and a number of batches that a CPU can manage


def negative_proportion(values: np.ndarray) -> float:
    """Compute the share of eigenvalues below 0 (NEP), ignoring missing ones; NaN if all are missing.

    Example:
        >>> negative_proportion(np.array([3.0, -1.0, 2.0, np.nan, 2.0]))
        0.25
    """
    values = values[np.isfinite(values)]
    return float(np.mean(values < 0)) if values.size else float("nan")


def average_positive(values: np.ndarray) -> float:
    """Compute the mean of the eigenvalues above 0 (APE); NaN if there is none.

    Example:
        >>> average_positive(np.array([3.0, -1.0, 2.0, np.nan]))
        2.5
    """
    values = values[values > 0]
    return float(values.mean()) if values.size else float("nan")


@dataclasses.dataclass(frozen=True)
class HessianSpectra(Result):
    """Eigenvalues of the Hessians of several mini-batches.

    Attributes:
        eigenvalues: Eigenvalues with the L2 penalty included, outermost first, shape (batches, ends, k). NaN where
            Lanczos did not converge.
        residuals: |H v - lambda v| of each eigenvalue, in the same shape.
        ends: Names along the second axis: ``magnitude``, ``largest``, ``smallest``.
        traces: Hutchinson's estimates of the trace, shape (batches, probes). They exclude the penalty, whose share,
            lambda times the number of parameters, would outweigh all else.
        n_parameters: Number of rows of the Hessian.
        provenance: Model, images and all options.

    Example:
        >>> values = np.array([[[4.0, -2.0]], [[2.0, 1.0]]])
        >>> spectra = HessianSpectra(values, 0 * values, ["magnitude"], np.zeros((2, 0)), n_parameters=10)
        >>> spectra.nep, spectra.ape[0]
        ((0.25, 0.25), 2.333...)
    """

    eigenvalues: np.ndarray
    residuals: np.ndarray
    ends: list[str]
    traces: np.ndarray
    n_parameters: int
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    def of(self, end: str) -> np.ndarray:
        """Return the eigenvalues of an end, shape (batches, k).

        Raises:
            ValueError: If that end was not computed.
        """
        if end not in self.ends:
            raise ValueError(f"end {end!r} was not computed, only {', '.join(self.ends)}; add it to ends")
        return self.eigenvalues[:, self.ends.index(end)]

    @property
    def nep(self) -> tuple[float, float]:
        """Proportion of negative eigenvalues among those largest in magnitude, and its error over mini-batches."""
        return jackknife(self.of("magnitude"), negative_proportion)

    @property
    def ape(self) -> tuple[float, float]:
        """Average of the positive eigenvalues among those largest in magnitude, and its error over mini-batches."""
        return jackknife(self.of("magnitude"), average_positive)

    def mean(self, end: str) -> tuple[float, float]:
        """Return the mean eigenvalue of an end, and its standard error over mini-batches."""
        return jackknife(self.of(end), _mean)

    def outermost(self, end: str) -> tuple[float, float]:
        """Return the outermost eigenvalue averaged over mini-batches, and its standard error."""
        return jackknife(self.of(end)[:, :1], _mean)

    @property
    def trace(self) -> tuple[float, float]:
        """Trace without the penalty, and its standard error.

        The error is over mini-batches, or over the probes if there is a single mini-batch. NaN if there are no probes.
        """
        if not self.traces.size:
            return float("nan"), float("nan")
        return jackknife(self.traces.mean(1) if len(self.traces) > 1 else self.traces[0], _mean)

    def to_frame(self) -> pd.DataFrame:
        """Tabulate all eigenvalues, with columns ``batch, end, rank, eigenvalue, residual``."""
        index = pd.MultiIndex.from_product(
            [range(len(self.eigenvalues)), self.ends, range(self.eigenvalues.shape[2])], names=["batch", "end", "rank"]
        )
        columns = {"eigenvalue": self.eigenvalues.ravel(), "residual": self.residuals.ravel()}
        return pd.DataFrame(columns, index=index).reset_index()

    def summary(self) -> dict[str, float]:
        """Summarise NEP, APE, and each end's mean and outermost value with errors, plus normalised sharpness.

        ``..._per_trace`` is the eigenvalue as a share of the trace. ``..._per_parameter`` is the eigenvalue over the
        number of parameters. Neither makes models of different sizes comparable beyond doubt. The table shows whether
        the order of the models depends on the choice.
        """
        known: dict[str, tuple[float, float]] = {}
        if "magnitude" in self.ends:
            known |= {"nep": self.nep, "ape": self.ape}
        for end in self.ends:
            known |= {f"mean_{end}": self.mean(end), f"outermost_{end}": self.outermost(end)}
        known |= {"trace": self.trace} if self.traces.size else {}
        table: dict[str, float] = {"n_parameters": self.n_parameters}
        for name, (value, error) in known.items():
            table |= {name: value, f"{name}_stderr": error}
        sharpness = {name: table[name] for name in ("ape", "outermost_largest") if name in table}
        for name, value in sharpness.items():
            table[f"{name}_per_parameter"] = value / self.n_parameters
            if "trace" in table:
                table[f"{name}_per_trace"] = value / table["trace"]
        return table


def _mean(values: np.ndarray) -> float:
    """Compute the mean of the finite values; NaN if there are none."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")


def hessian_spectra(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    k: int = 5,
    batch_size: int = BATCH_SIZE,
    n_batches: int | None = N_BATCHES,
    ends: Sequence[str] = tuple(ENDS),
    chunk: int | None = None,
    tolerance: float = 1e-2,
    lanczos_vectors: int | None = None,
    restarts: int = 30,
    trace_probes: int = 0,
    mix: SeededMixFunction | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
    **objective: Any,
) -> HessianSpectra:
    """Compute the outermost Hessian eigenvalues of the loss on each of several mini-batches.

    The paper's setting is k = 5 by magnitude and the loss with its L2 penalty, on mini-batches of 16 training images.
    They are augmented as in training (by the loader) and mixed as in training (by ``mix``). One mini-batch of many
    images, read in chunks, gives the Hessian of the mean loss over all of them.

    Args:
        model: Maps images to logits. The Hessian covers its trained parameters, those that require gradients. The
            model is not touched.
        loader: Yields images with labels, see `mini_batches`.
        k: Number of eigenvalues at each end.
        batch_size: Images in a mini-batch.
        n_batches: Number of mini-batches; None is all that the loader fills.
        ends: Any of ``"magnitude"``, ``"largest"`` and ``"smallest"``; NEP and APE need ``"magnitude"``.
        chunk: Images processed at once; None is the whole mini-batch. Chunks give the same result with less memory,
            but more slowly.
        tolerance: See `extreme_eigenpairs`.
        lanczos_vectors: See `extreme_eigenpairs`. Each vector takes 4 bytes per parameter in float32.
        restarts: See `extreme_eigenpairs`.
        trace_probes: Number of vectors in Hutchinson's estimate of the trace, for each mini-batch; 0 for no estimate.
        mix: Mixes each mini-batch as training does. Called as (images, labels, generator); returns images and
            probabilities.
        seed: Seed of starting vectors, probes and ``mix``.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts about model and images to keep with the result.
        **objective: See `Objective`: ``loss, label_smoothing, weight_decay, mode, block, dtype``.

    Returns:
        The spectra. Eigenvalues that have not converged are NaN, and a warning states how many.

    Raises:
        ValueError: If an option is out of range, labels are missing, or there are too few images.
        FloatingPointError: If the loss has no finite second derivatives.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> images = torch.rand(8, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> batch = images, torch.tensor([0, 1] * 4)
        >>> spectra = hessian_spectra(model, [batch], k=2, batch_size=4, n_batches=2, device="cpu")
        >>> spectra.eigenvalues.shape, spectra.nep  # the loss of a linear classifier is convex
        ((2, 3, 2), (0.0, 0.0))
    """
    check_options(hessian_spectra, objective, Objective)
    goal = Objective(**objective)
    check_ends(k, ends)
    _check(chunk, goal.mode, tolerance, restarts, trace_probes)
    check_weights(model)
    check_whole("seed", seed, 0)
    batches = mini_batches(loader, batch_size, n_batches, mix=mix, seed=seed)
    check_targets(model, batches[0][0], [targets for _, targets in batches], goal, device, loader)
    settings = {"tolerance": tolerance, "lanczos_vectors": lanczos_vectors, "restarts": restarts}
    by_batch: dict[int, tuple[Any, ...]] = {}
    with goal.of(model, device) as make, adding_up(by_batch, "Hessian") as processes:
        own = range(len(batches))[processes.rank :: processes.count]
        quiet = not progress or processes.rank > 0
        for number in tqdm(own, desc="Hessian", delay=2, leave=False, disable=quiet):
            images, targets = as_type(*batches[number], goal.type)
            parts = zip(*(t.split(chunk or batch_size) for t in (images, targets)), strict=True)
            loss = shifted(make(list(parts), batch_size).to_scipy(np.dtype(goal.dtype)))
            operator = shifted(loss, goal.weight_decay)
            pairs = extreme_eigenpairs(operator, k, ends, seed=[seed, number], **settings)
            values = {end: (one.values, one.residuals) for end, one in pairs.items()}
            by_batch[number] = values, hutchinson(loss, trace_probes, [seed, number, 1]), operator.shape[0]
    found, traces, rows = zip(*(by_batch[number] for number in range(len(batches))), strict=True)
    eigenvalues, residuals = (np.array([[pairs[end][i] for end in ends] for pairs in found]) for i in (0, 1))
    _warn_of_missing(eigenvalues, settings)
    known = {"seed": seed} | known_facts(provenance, loader) | goal.facts() | settings
    known |= {"k": k, "batch_size": batch_size, "n_batches": len(batches), "n": len(batches) * batch_size}
    known |= {"chunk": chunk, "hessian_seed": seed, **image_facts(loader, mix), "versions": versions()}
    return HessianSpectra(eigenvalues, residuals, list(ends), np.array(traces), rows[0], known)


def _check(chunk: int | None, mode: str, tolerance: float, restarts: int, trace_probes: int) -> None:
    """Refuse options out of range."""
    if chunk is not None:
        check_whole("chunk", chunk, 1)
    if chunk is not None and mode == "train":
        raise ValueError(f"chunk={chunk} should be None in mode 'train': chunks differ in statistics")
    check_number("tolerance", tolerance, above=0)
    check_whole("restarts", restarts, 1)
    check_whole("trace_probes", trace_probes, 0)


def _warn_of_missing(eigenvalues: np.ndarray, settings: Mapping[str, Any]) -> None:
    missing = np.isnan(eigenvalues)
    if missing.any():
        batches = ", ".join(map(str, np.flatnonzero(missing.any((1, 2)))))
        warnings.warn(
            f"{missing.sum()} of {missing.size} eigenvalues did not converge to tolerance {settings['tolerance']:g} in "
            f"{settings['restarts']} restarts and are missing (NaN), in mini-batches {batches}; raise lanczos_vectors, "
            "restarts or tolerance",
            stacklevel=3,
        )


def over_training(
    models: Mapping[int, nn.Module],
    loader: Iterable[Any],
    *,
    provenance: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[int, HessianSpectra]:
    """Compute the spectra of several snapshots of a training run on the same mini-batches.

    Args:
        models: Epoch -> model, as returned by `utilities.study.study.Study.snapshots`.
        loader: See `hessian_spectra`. It is read once.
        provenance: Facts about model and images to keep with the result; ``weights`` and ``epoch`` are added.
        **options: Options of `hessian_spectra`.

    Returns:
        Epoch -> spectra.

    Raises:
        ValueError: If there is no model, or for the reasons given at `hessian_spectra`.

    Example:
        >>> models = {epoch: nn.Sequential(nn.Flatten(), nn.Linear(4, 2)) for epoch in (0, 3)}
        >>> batch = torch.ones(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])
        >>> history = over_training(models, [batch], k=1, batch_size=4, n_batches=1, device="cpu")
        >>> [spectra.provenance["weights"] for spectra in history.values()]
        ['after 0 epochs', 'after 3 epochs']
    """
    if not models:
        raise ValueError("there are no snapshots")
    for model in models.values():
        check_weights(model)
    facts = {
        epoch: {**(provenance or {}), "weights": f"after {counted(epoch, 'epoch')}", "epoch": epoch} for epoch in models
    }
    images = _KeptBatches(loader, options.get("batch_size", BATCH_SIZE), options.get("n_batches", N_BATCHES))
    return {
        epoch: hessian_spectra(model, images, provenance=facts[epoch], **options) for epoch, model in models.items()
    }


class _KeptBatches(list):
    """The mini-batches of a loader, read once, so that a shuffling loader serves the same ones to each snapshot."""

    def __init__(self, loader: Iterable[Any], batch_size: int, n_batches: int | None) -> None:
        super().__init__(mini_batches(loader, batch_size, n_batches))
        if hasattr(loader, "augment"):
            self.augment = loader.augment  # for the provenance
        self.dataset = getattr(loader, "dataset", None)  # for its classes


def after_start(history: Mapping[str, Mapping[int, HessianSpectra]]) -> dict[str, HessianSpectra]:
    """Select each model's first snapshot after the start, which is the end of the warm-up if there is one.

    Args:
        history: Name of the model -> epoch -> spectra.

    Returns:
        Name of the model -> spectra. Models without a snapshot between start and end are left out.

    Example:
        >>> values = np.ones((1, 1, 1))
        >>> spectra = [HessianSpectra(values, values, ["largest"], values[0], n_parameters=i) for i in (1, 2, 3)]
        >>> after_start({"cnn": dict(zip((0, 2, 6), spectra))})["cnn"].n_parameters
        2
    """
    between = {label: sorted(snapshots)[:-1] for label, snapshots in history.items()}
    first = {label: next((epoch for epoch in epochs if epoch > 0), None) for label, epochs in between.items()}
    return {label: history[label][epoch] for label, epoch in first.items() if epoch is not None}
