"""The blocks on the Hessian's diagonal, one for each layer: trace and largest eigenvalue, for all layers in one call.

One product of the whole Hessian H with a vector z of random signs gives an estimate for every layer at once: signs of
different parameters are independent, so the sum over a layer's own entries of z (H z) has the expectation tr(H_ll)
(Hutchinson 1989, https://doi.org/10.1080/03610918908812806). All traces cost what one does. The blocks off the diagonal
cancel on average only, and add to the estimate's variance, which is

    2 (|H_ll|^2 - |diag H_ll|^2) + sum over m != l of |H_lm|^2

in Frobenius norms. The largest eigenvalue cannot be shared in this way: it takes products with vectors that are zero
outside the layer. Such a product is a backward pass of that layer's gradient alone.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse.linalg import LinearOperator
from torch import nn
from tqdm.auto import tqdm

from utilities.analysis.loss.curvature import Objective, has_batch_norm
from utilities.analysis.loss.eigenvalues import extreme_eigenpairs, hutchinson, shifted
from utilities.analysis.loss.mini_batches import SeededMixFunction, check_targets, image_facts
from utilities.analysis.loss.parameter_groups import ParameterGroup, parameter_groups
from utilities.analysis.loss.repeated_passes import RepeatedPasses
from utilities.datasets.naming import known_facts
from utilities.hooks.calls.options import check_number, check_options, check_whole
from utilities.hooks.calls.sharing import adding_up
from utilities.hooks.calls.weights import check_weights
from utilities.results.result import Result
from utilities.results.statistics import mean_and_stderr
from utilities.utils import versions


@dataclasses.dataclass(frozen=True)
class LayerHessians(Result):
    """Trace and largest eigenvalue of each layer's block on the Hessian's diagonal.

    Attributes:
        names: Names of the layers, in the order in which they are registered.
        kinds: Kind of each, one of `utilities.analysis.loss.parameter_groups.KINDS`.
        counts: Number of parameters of each layer, (layers,).
        traces: Estimates of each layer's trace, (probes, layers). They exclude the penalty, whose share, lambda times
            the number of parameters, would outweigh all else.
        eigenvalues: Largest eigenvalue of each block, with the penalty included, (layers,). NaN where Lanczos did not
            converge, or none was asked for.
        residuals: |H_ll v - lambda v| of each eigenvalue, (layers,).
        provenance: Model, images and all options.

    Example:
        >>> result = LayerHessians(["a"], ["linear"], np.array([4]), np.array([[2.0], [4.0]]), np.ones(1), np.zeros(1))
        >>> result.trace, result.trace_per_parameter[0]
        ((array([3.]), array([1.])), array([0.75]))
    """

    names: list[str]
    kinds: list[str]
    counts: np.ndarray
    traces: np.ndarray
    eigenvalues: np.ndarray
    residuals: np.ndarray
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def trace(self) -> tuple[np.ndarray, np.ndarray]:
        """Trace of each layer, and its standard error over the probes, each (layers,)."""
        return mean_and_stderr(self.traces)

    @property
    def trace_per_parameter(self) -> tuple[np.ndarray, np.ndarray]:
        """Trace over the number of parameters, the mean eigenvalue of the block, and its standard error."""
        trace, error = self.trace
        return trace / self.counts, error / self.counts

    @property
    def whole_trace(self) -> tuple[float, float]:
        """Trace of the whole Hessian, the sum over layers, and its standard error over the probes."""
        mean, error = mean_and_stderr(self.traces.sum(1))
        return float(mean), float(error)

    def to_frame(self) -> pd.DataFrame:
        """Tabulate the layers, a row each."""
        columns: dict[str, Any] = {"layer": self.names, "kind": self.kinds, "n_parameters": self.counts}
        for name in ("trace", "trace_per_parameter"):
            columns[name], columns[f"{name}_stderr"] = getattr(self, name)
        return pd.DataFrame(columns | {"eigenvalue": self.eigenvalues, "residual": self.residuals})


def layer_hessians(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    by: str = "module",
    trace_probes: int = 32,
    shared: bool = True,
    eigenvalues: bool = True,
    tolerance: float = 1e-2,
    lanczos_vectors: int = 8,
    restarts: int = 30,
    mix: SeededMixFunction | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
    **objective: Any,
) -> LayerHessians:
    """Compute trace and largest eigenvalue of every layer's Hessian of the mean loss over all images of a loader.

    A layer's Hessian H_ll holds the second derivatives by its own parameters, all others fixed. All traces together
    take one product with the whole Hessian for each probe. Each eigenvalue takes some ten to thirty products with its
    own block. Every product is a pass over the loader. For images in a single batch, gradients are computed once for
    many products, which is several times as fast.

    Args:
        model: See `utilities.analysis.loss.hessian.hessian_spectra`.
        loader: Yields the same images with labels in every pass, see
            `utilities.analysis.loss.spectral_density.spectral_density`.
        by: What a layer is: ``"module"`` with parameters of its own, ``"block"``, or ``"parameter"``; see
            `utilities.analysis.loss.parameter_groups.parameter_groups`.
        trace_probes: Number of vectors of random signs; errors are over these, and need two.
        shared: Whether all layers share the product of each probe. If not, each layer has products of its own, as many
            as there are probes. The blocks off the diagonal then add no variance.
        eigenvalues: Whether largest eigenvalues are computed; traces alone are quick.
        tolerance: See `utilities.analysis.loss.eigenvalues.extreme_eigenpairs`.
        lanczos_vectors: See `utilities.analysis.loss.eigenvalues.extreme_eigenpairs`; few are enough for one value.
        restarts: See `utilities.analysis.loss.eigenvalues.extreme_eigenpairs`.
        mix: See `utilities.analysis.loss.hessian.hessian_spectra`. It is called on each batch of the loader.
        seed: Seed of probes, starting vectors and ``mix``.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts about model and images to keep with the result.
        **objective: See `utilities.analysis.loss.curvature.Objective`.

    Returns:
        Traces and eigenvalues. A warning names layers whose eigenvalue has not converged.

    Raises:
        ValueError: If an option is out of range, labels are missing or not classes of the model, the blocks of the
            model are not known, or the images change from pass to pass.
        FloatingPointError: If the loss has no finite second derivatives.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
        >>> images = torch.rand(8, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> result = layer_hessians(model, [(images, torch.tensor([0, 1] * 4))], device="cpu", progress=False)
        >>> result.names, result.counts.tolist(), bool((result.eigenvalues > 0).all())
        (['1', '3'], [15, 8], True)
    """
    check_options(layer_hessians, objective, Objective)
    goal, lanczos = Objective(**objective), {"tolerance": tolerance, "restarts": restarts}
    lanczos |= {"lanczos_vectors": lanczos_vectors}
    check_whole("trace_probes", trace_probes, 1)
    check_whole("seed", seed, 0)
    _check(**lanczos)
    check_weights(model)
    groups = parameter_groups(model, goal.names(model), by)
    data = RepeatedPasses(loader, goal.type, mix, seed, together=goal.mode == "train" and has_batch_norm(model))
    check_targets(model, data.first, data.targets, goal, device, loader)
    images = list(data) if data.count == 1 else data
    traces: dict[int, np.ndarray] = {}  # of all layers by probe, or of all probes by layer
    pairs: dict[int, tuple[float, float]] = {}
    with goal.of(model, device) as make, adding_up((traces, pairs), "layers' Hessians") as processes:

        def operator(names: Sequence[str]) -> LinearOperator:
            return shifted(make(images, data.n, names).to_scipy(np.dtype(goal.dtype)))

        steps = [("probe", number) for number in range(trace_probes if shared else 0)]
        steps += [("layer", number) for number in range(len(groups) if eigenvalues or not shared else 0)]
        whole = operator([name for group in groups for name in group.parameters])
        quiet = not progress or processes.rank > 0
        own = steps[processes.rank :: processes.count]
        for what, number in tqdm(own, desc="layers' Hessians", delay=2, leave=False, disable=quiet):
            if what == "probe":
                traces[number] = layer_traces(whole, [group.count for group in groups], [seed, number])
                continue
            whole, block = None, operator(groups[number].parameters)  # the whole one's graph is freed
            if not shared:
                traces[number] = hutchinson(block, trace_probes, [seed, number])
            if eigenvalues:
                pairs[number] = _largest(block, lanczos, [seed, number, 1])
    found = np.array([pairs.get(number, (np.nan, np.nan)) for number in range(len(groups))])
    if eigenvalues:
        _warn_of_missing(groups, found[:, 0], lanczos)
    known = {"seed": seed} | known_facts(provenance, loader) | goal.facts()
    known |= {"n": data.n, "by": by, "trace_probes": trace_probes, "shared": shared, **lanczos}
    known |= {"hessian_seed": seed, **image_facts(loader, mix)}
    return LayerHessians(
        [group.name for group in groups],
        [group.kind for group in groups],
        np.array([group.count for group in groups]),
        np.stack([traces[number] for number in range(len(traces))], 0 if shared else 1),
        found[:, 0] + goal.weight_decay,  # the penalty shifts all eigenvalues
        found[:, 1],
        known | {"versions": versions()},
    )


def layer_traces(operator: LinearOperator, counts: Sequence[int], seed: int | Sequence[int] = 0) -> np.ndarray:
    """Estimate the traces of all blocks on an operator's diagonal from one product with a vector of random signs.

    Args:
        operator: Symmetric operator.
        counts: Number of rows of each block; they follow each other, and make up the operator.
        seed: Seed of the signs.

    Returns:
        The sum of z (H z) over each block's rows, unbiased estimates, (blocks,).

    Example:
        >>> from scipy.sparse.linalg import aslinearoperator
        >>> layer_traces(aslinearoperator(np.diag([1.0, 2.0, 4.0])), [2, 1]).tolist()
        [3.0, 4.0]
    """
    signs = np.random.default_rng(seed).integers(2, size=operator.shape[0]).astype(operator.dtype) * 2 - 1
    products = (signs * operator.matvec(signs)).astype(np.float64)
    return np.add.reduceat(products, np.cumsum([0, *counts[:-1]]))


def _largest(operator: LinearOperator, lanczos: Mapping[str, Any], seed: Sequence[int]) -> tuple[float, float]:
    """Find the largest eigenvalue and its residual."""
    start = np.random.default_rng(seed).standard_normal(operator.shape[0]).astype(operator.dtype)
    if not operator.matvec(start).any():  # the loss is linear in these parameters, and a Krylov space ends at once
        return 0.0, 0.0
    found = extreme_eigenpairs(operator, 1, ("largest",), seed=seed, **lanczos)["largest"]
    return float(found.values[0]), float(found.residuals[0])


def _check(tolerance: float, lanczos_vectors: int, restarts: int) -> None:
    """Refuse options out of range."""
    check_whole("restarts", restarts, 1)
    check_whole("lanczos_vectors", lanczos_vectors, 2)
    check_number("tolerance", tolerance, above=0)


def _warn_of_missing(groups: Sequence[ParameterGroup], values: np.ndarray, lanczos: Mapping[str, Any]) -> None:
    names = [group.name for group, value in zip(groups, values, strict=True) if np.isnan(value)]
    if names:
        warnings.warn(
            f"the largest eigenvalue of {', '.join(names)} did not converge to tolerance {lanczos['tolerance']:g} in "
            f"{lanczos['restarts']} restarts and is missing (NaN); raise lanczos_vectors, restarts or tolerance",
            stacklevel=3,
        )
