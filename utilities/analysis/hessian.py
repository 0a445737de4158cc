"""Hessian eigenvalues of the loss on mini-batches: how sharp and how convex the loss is where training is.

Park & Kim 2022 (https://arxiv.org/abs/2202.06709, Figs. 1c and 4) gather the eigenvalues of largest magnitude of many
mini-batches of training images, augmented as in training, the L2 penalty included. Two numbers sum them up: the
proportion of negative ones (NEP, the loss is not convex) and the average of the positive ones (APE, it is sharp).

Eigenvalues come from SciPy's Lanczos method on curvlinops' Hessian, each with the residual of its eigenvector. As the
selection is by magnitude, a negative eigenvalue is among the k only if it outweighs positive ones; both algebraic ends
can therefore be asked for as well.
"""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from curvlinops import HessianLinearOperator
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm.auto import tqdm

from utilities.loaders import seeded_generator
from utilities.memory import keeping_freed_memory
from utilities.precision import choose_precision
from utilities.results import Result
from utilities.utils import resolve_device, split_batch, versions

ENDS = {"magnitude": "LM", "largest": "LA", "smallest": "SA"}  # our names, and ARPACK's
MODES = ("eval", "train")
DTYPES = ("float32", "float64")
LOSSES = ("cross_entropy", "mse")
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Mix = Callable[[torch.Tensor, torch.Tensor, torch.Generator], tuple[torch.Tensor, torch.Tensor]]
Data = Iterable[tuple[torch.Tensor, torch.Tensor]]


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is differentiated twice: the loss, its L2 penalty, the parameters, and how batch norms behave.

    Attributes:
        loss: ``"cross_entropy"``, ``"mse"`` (of classes after one-hot coding), or a function of outputs and targets
            that gives the mean over the images.
        label_smoothing: Of the cross-entropy.
        weight_decay: lambda of the penalty lambda/2 |w|^2. It adds lambda to every eigenvalue, in closed form. A
            decoupled weight decay, as AdamW's, is no part of the loss; the paper counts it as if it were.
        mode: ``"eval"``: batch norms use their running statistics. ``"train"``: those of the batch at hand, through
            which is differentiated too. Dropout and stochastic depth are off in both.
        block: Glob or globs over names of parameters: the Hessian of these alone, all others fixed.
        dtype: ``"float32"`` or ``"float64"``.

    Example:
        >>> Objective(weight_decay=0.05).mode
        'eval'
    """

    loss: str | Loss = "cross_entropy"
    label_smoothing: float = 0.0
    weight_decay: float = 0.0
    mode: str = "eval"
    block: str | Sequence[str] | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name, known in {"mode": MODES, "dtype": DTYPES}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} is not known; choose from {', '.join(known)}")
        if not callable(self.loss) and self.loss not in LOSSES:
            raise ValueError(f"loss {self.loss!r} is not known; choose from {', '.join(LOSSES)} or give a function")
        if not 0 <= self.label_smoothing <= 1 or (self.label_smoothing and self.loss != "cross_entropy"):
            raise ValueError(f"label_smoothing={self.label_smoothing} should be in 0..1, and 0 without cross_entropy")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay={self.weight_decay} should be 0 or more")

    @property
    def type(self) -> torch.dtype:
        """The type of parameters, images and eigenvectors."""
        return getattr(torch, self.dtype)

    def facts(self) -> dict[str, Any]:
        """Give the choices for a result's provenance."""
        known = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if callable(self.loss):
            known["loss"] = getattr(self.loss, "__name__", type(self.loss).__name__)
        return known | {"block": None if self.block is None else list(np.atleast_1d(self.block))}

    @contextmanager
    def of(self, model: nn.Module, device: str | torch.device = "auto") -> Iterator[Callable[[Data, int], Hessian]]:
        """Make Hessians of a copy of a model; the model itself is not touched.

        Attention runs in plain products inside, as fused kernels cannot be differentiated twice, and without TF32.

        Yields:
            A function that makes the operator from (images, targets) pairs, which it reads anew for each product
            unless it is a list of one pair, and from the number of images.
        """
        parameters = self._names(model)
        target = resolve_device(device)
        twin = copy.deepcopy(model).to(target, self.type).eval().requires_grad_(False)
        for module in twin.modules():
            if self.mode == "train" and isinstance(module, _BatchNorm):
                module.training, module.track_running_stats = True, False  # normalises by the batch, updates nothing
        chosen = [p.requires_grad_(True) for name, p in twin.named_parameters() if name in parameters]
        loss = _Loss(self.loss, self.label_smoothing)

        def operator(data: Data, n: int) -> Hessian:
            return Hessian(twin, loss, chosen, data, check_deterministic=False, num_data=n)

        exact = choose_precision("exact", twin, target).running(target)
        with keeping_freed_memory(), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), exact:
            yield operator

    def _names(self, model: nn.Module) -> set[str]:
        """Name the parameters that are trained and in the block."""
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        if not names:
            raise ValueError(f"{type(model).__name__} has no parameter that requires gradients: there is no Hessian")
        if self.block is None:
            return set(names)
        chosen: set[str] = set()
        for pattern in np.atleast_1d(self.block):
            matches = fnmatch.filter(names, pattern)
            if not matches:
                raise ValueError(
                    f"block {str(pattern)!r} names no trained parameter of {type(model).__name__}; "
                    f"there are {names[0]}, ..., {names[-1]}"
                )
            chosen |= set(matches)
        return chosen


class _Loss(nn.Module):
    """The loss as curvlinops wants it: a module that says that it is a mean over images."""

    reduction = "mean"

    def __init__(self, loss: str | Loss, label_smoothing: float) -> None:
        super().__init__()
        self.loss, self.label_smoothing = loss, label_smoothing

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if callable(self.loss):
            return self.loss(outputs, targets)
        if self.loss == "mse":
            if not targets.is_floating_point():
                targets = F.one_hot(targets, outputs.shape[1]).to(outputs.dtype)
            return F.mse_loss(outputs, targets)
        return F.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)


class Hessian(HessianLinearOperator):
    """curvlinops' operator with products by a backward pass through the graph of the gradient.

    The base class takes products under `torch.vmap`, whose rule for the backward pass of layer norm, and of batch norm
    on the statistics of the batch, is wrong (https://github.com/pytorch/functorch/issues/534): the products are then
    off by some per cent, and not even symmetric. Of a single batch of data the graph is made once and kept.
    """

    @cached_property
    def _kept(self) -> list[torch.Tensor]:
        ((images, targets),) = self._loop_over_data()
        return self._gradient(images, targets)

    def _gradient(self, images: torch.Tensor, targets: torch.Tensor) -> list[torch.Tensor]:
        with torch.enable_grad():
            loss = self._loss_func(self._model_func(images), targets)
            return list(torch.autograd.grad(loss, self._params, create_graph=True, materialize_grads=True))

    def _matmat_batch(self, X: torch.Tensor, y: torch.Tensor, M: list[torch.Tensor]) -> list[torch.Tensor]:
        single = isinstance(self._data, list) and len(self._data) == 1
        gradient = self._kept if single else self._gradient(X, y)
        columns = [[part[..., column] for part in M] for column in range(M[0].shape[-1])]
        products = [self._product(gradient, column) for column in columns]
        return [torch.stack(parts, -1) for parts in zip(*products, strict=True)]

    def _product(self, gradient: Sequence[torch.Tensor], vector: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        pairs = [(g, v) for g, v in zip(gradient, vector, strict=True) if g.requires_grad]
        if not pairs:  # the loss is linear in the parameters
            return [torch.zeros_like(v) for v in vector]
        outputs, weights = zip(*pairs, strict=True)
        return torch.autograd.grad(outputs, self._params, weights, retain_graph=True, materialize_grads=True)


def shifted(operator: LinearOperator, shift: float = 0.0) -> LinearOperator:
    """Add a multiple of the identity to an operator, and refuse products that are not finite.

    Args:
        operator: Symmetric.
        shift: What is added to every eigenvalue.

    Raises:
        FloatingPointError: On a product, not here.

    Example:
        >>> from scipy.sparse.linalg import aslinearoperator
        >>> (shifted(aslinearoperator(np.diag([1.0, 2.0])), 0.5) @ np.ones(2)).tolist()
        [1.5, 2.5]
    """

    def product(vector: np.ndarray) -> np.ndarray:
        vector = vector.ravel()
        image = operator.matvec(vector)
        if not np.isfinite(np.linalg.norm(image)):
            raise FloatingPointError(
                "the Hessian times a vector is not finite; look at the model's loss, or use float64"
            )
        return image + operator.dtype.type(shift) * vector if shift else image

    return LinearOperator(operator.shape, matvec=product, dtype=operator.dtype)


@dataclasses.dataclass(frozen=True)
class Eigenpairs:
    """Eigenvalues of one end with their eigenvectors.

    Attributes:
        values: Shape (k,), the outermost first; NaN where the method did not converge.
        residuals: |H v - lambda v| of each.
        vectors: Orthonormal columns, shape (parameters, k).
    """

    values: np.ndarray
    residuals: np.ndarray
    vectors: np.ndarray

    def pick(self, end: str, k: int) -> Eigenpairs:
        """Take the k outermost of an end, missing ones last."""
        key = {"magnitude": -np.abs(self.values), "largest": -self.values, "smallest": self.values}[end]
        order, missing = np.argsort(key)[:k], (0, max(0, k - len(self.values)))
        values, residuals = (np.pad(x[order], missing, constant_values=np.nan) for x in (self.values, self.residuals))
        vectors = np.pad(self.vectors[:, order], ((0, 0), missing), constant_values=np.nan) if missing[1] else None
        return Eigenpairs(values, residuals, self.vectors[:, order] if vectors is None else vectors)


def extreme_eigenpairs(
    operator: LinearOperator,
    k: int,
    ends: Sequence[str] = tuple(ENDS),
    *,
    tolerance: float = 1e-2,
    lanczos_vectors: int | None = None,
    restarts: int = 30,
    seed: int | Sequence[int] = 0,
) -> dict[str, Eigenpairs]:
    """Find the outermost eigenvalues of a symmetric operator by ARPACK's implicitly restarted Lanczos method.

    Several ends are found in one go, in one Krylov space: the k largest in magnitude are among the k largest and the k
    smallest. If that does not converge, each end gets a run of its own. Operators of few rows are made dense.

    Args:
        operator: Symmetric; its type is that of the computation.
        k: How many of each end.
        ends: Of ``"magnitude"``, ``"largest"``, ``"smallest"``.
        tolerance: Of the residual, relative to the eigenvalue; the eigenvalue's own error is at most the residual,
            and of the order of its square over the distance to the next eigenvalue.
        lanczos_vectors: Vectors in memory at once; None is SciPy's choice, 20 or one more than twice those sought.
        restarts: After so many, what has not converged is NaN.
        seed: Of the starting vector.

    Returns:
        End -> eigenpairs.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> from scipy.sparse.linalg import aslinearoperator
        >>> found = extreme_eigenpairs(aslinearoperator(np.diag([5.0, -7.0, 1.0, 2.0])), 2)
        >>> {end: pairs.values.tolist() for end, pairs in found.items()}
        {'magnitude': [-7.0, 5.0], 'largest': [5.0, 2.0], 'smallest': [-7.0, 1.0]}
    """
    n, sought = operator.shape[0], 2 * k if len(ends) > 1 else k
    check_ends(k, ends)
    if k > n:
        raise ValueError(f"k={k}: there are {n} eigenvalues")
    size = max(2 * sought + 1, 20) if lanczos_vectors is None else lanczos_vectors
    if size <= sought:
        raise ValueError(f"lanczos_vectors={size} should be above {sought}, the number of eigenvalues found at once")
    start = np.random.default_rng(seed).standard_normal(n).astype(operator.dtype)
    options = {"ncv": size, "tol": tolerance, "maxiter": restarts, "v0": start}
    if n <= size:
        every = _dense(operator)
        return {end: every.pick(end, k) for end in ends}
    if len(ends) > 1:
        both = _lanczos(operator, sought, "BE", options)
        if len(both.values) == sought:
            return {end: both.pick(end, k) for end in ends}
    return {end: _lanczos(operator, k, ENDS[end], options).pick(end, k) for end in ends}


def check_ends(k: int, ends: Sequence[str]) -> None:
    """Refuse unknown ends, none at all, and k below 1."""
    if k < 1:
        raise ValueError(f"k={k} should be 1 or more")
    for end in ends or ("",):
        if end not in ENDS:
            raise ValueError(f"end {end!r} is not known; choose from {', '.join(ENDS)}")


def _dense(operator: LinearOperator) -> Eigenpairs:
    matrix = operator @ np.eye(operator.shape[0], dtype=operator.dtype)
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return Eigenpairs(values.astype(np.float64), np.linalg.norm(matrix @ vectors - vectors * values, axis=0), vectors)


def _lanczos(operator: LinearOperator, count: int, which: str, options: dict[str, Any]) -> Eigenpairs:
    """Run ARPACK; what did not converge is left out."""
    try:
        _, vectors = eigsh(operator, count, which=which, **options)
    except ArpackNoConvergence as error:
        vectors = error.eigenvectors
    pairs = [_refined(operator, vector) for vector in vectors.T]
    values, residuals = (np.array([pair[i] for pair in pairs], np.float64) for i in (0, 1))
    return Eigenpairs(values, residuals, vectors)


def _refined(operator: LinearOperator, vector: np.ndarray) -> tuple[float, float]:
    """Give an eigenvector's Rayleigh quotient and residual, summed in float64.

    Float32 sums over ten million parameters, as ARPACK's, are off by some 1e-4.
    """
    image, vector = operator.matvec(vector).astype(np.float64), vector.astype(np.float64)
    value = vector @ image / (vector @ vector)
    return value, float(np.linalg.norm(image - value * vector) / np.linalg.norm(vector))


def hutchinson(operator: LinearOperator, probes: int, seed: int | Sequence[int] = 0) -> np.ndarray:
    """Estimate the trace, once for each vector z of random signs, as z'Hz (Hutchinson 1989).

    Args:
        operator: Symmetric.
        probes: How many vectors.
        seed: Of the signs.

    Returns:
        Unbiased estimates, shape (probes,).

    Example:
        >>> from scipy.sparse.linalg import aslinearoperator
        >>> hutchinson(aslinearoperator(np.diag([1.0, 2.0])), 2).tolist()
        [3.0, 3.0]
    """
    rng = np.random.default_rng(seed)
    signs = [rng.integers(2, size=operator.shape[0]).astype(operator.dtype) * 2 - 1 for _ in range(probes)]
    return np.array([np.sum(z * operator.matvec(z), dtype=np.float64) for z in signs])


def negative_proportion(values: np.ndarray) -> float:
    """Give the share of eigenvalues below 0 (NEP), missing ones left out; NaN if there is none.

    Example:
        >>> negative_proportion(np.array([3.0, -1.0, 2.0, np.nan, 2.0]))
        0.25
    """
    values = values[np.isfinite(values)]
    return float(np.mean(values < 0)) if values.size else float("nan")


def average_positive(values: np.ndarray) -> float:
    """Give the mean of the eigenvalues above 0 (APE); NaN if there is none.

    Example:
        >>> average_positive(np.array([3.0, -1.0, 2.0, np.nan]))
        2.5
    """
    values = values[values > 0]
    return float(values.mean()) if values.size else float("nan")


def jackknife(values: np.ndarray, statistic: Callable[[np.ndarray], float]) -> tuple[float, float]:
    """Give a statistic of all batches, and its standard error from leaving out one batch at a time.

    Args:
        values: Shape (batches, ...).
        statistic: Of an array of any number of batches, such as a ratio of sums over them.

    Returns:
        The statistic and its error; of a single batch the error is NaN.

    Example:
        >>> jackknife(np.array([1.0, 2.0, 3.0]), np.mean)  # the usual error of a mean, 1 / sqrt(3)
        (2.0, 0.577...)
    """
    n = len(values)
    if n < 2:
        return float(statistic(values)), float("nan")
    without = np.array([statistic(np.delete(values, i, axis=0)) for i in range(n)])
    return float(statistic(values)), float(np.sqrt((n - 1) * np.mean((without - without.mean()) ** 2)))


@dataclasses.dataclass(frozen=True)
class HessianSpectra(Result):
    """Eigenvalues of the Hessians of several mini-batches.

    Attributes:
        eigenvalues: Shape (batches, ends, k), the outermost first, the L2 penalty included; NaN where Lanczos did not
            converge.
        residuals: |H v - lambda v| of each.
        ends: What the second axis is: ``magnitude``, ``largest``, ``smallest``.
        traces: Hutchinson's estimates, shape (batches, probes).
        n_parameters: Rows of the Hessian.
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
        """Give the eigenvalues of an end, shape (batches, k).

        Raises:
            ValueError: If that end was not asked for.
        """
        if end not in self.ends:
            raise ValueError(f"end {end!r} was not computed, only {', '.join(self.ends)}; add it to ends")
        return self.eigenvalues[:, self.ends.index(end)]

    @property
    def nep(self) -> tuple[float, float]:
        """Negative proportion of the eigenvalues largest in magnitude, and its standard error over mini-batches."""
        return jackknife(self.of("magnitude"), negative_proportion)

    @property
    def ape(self) -> tuple[float, float]:
        """Average of the positive ones among them, and its standard error over mini-batches."""
        return jackknife(self.of("magnitude"), average_positive)

    def mean(self, end: str) -> tuple[float, float]:
        """Give the mean eigenvalue of an end, and its standard error over mini-batches."""
        return jackknife(self.of(end), _mean)

    def outermost(self, end: str) -> tuple[float, float]:
        """Give the mean over mini-batches of each one's outermost eigenvalue, and its standard error."""
        return jackknife(self.of(end)[:, :1], _mean)

    @property
    def trace(self) -> tuple[float, float]:
        """Trace and its standard error: over mini-batches, or over probes of a single one; NaN without probes."""
        if not self.traces.size:
            return float("nan"), float("nan")
        return jackknife(self.traces.mean(1) if len(self.traces) > 1 else self.traces[0], _mean)

    def to_frame(self) -> pd.DataFrame:
        """Tabulate all eigenvalues: ``batch, end, rank, eigenvalue, residual``."""
        index = pd.MultiIndex.from_product(
            [range(len(self.eigenvalues)), self.ends, range(self.eigenvalues.shape[2])], names=["batch", "end", "rank"]
        )
        columns = {"eigenvalue": self.eigenvalues.ravel(), "residual": self.residuals.ravel()}
        return pd.DataFrame(columns, index=index).reset_index()

    def summary(self) -> dict[str, float]:
        """Sum up: NEP and APE, each end's mean and outermost value, with errors; sharpness per trace and parameter.

        ``..._per_trace`` is a share of the trace. ``..._per_parameter`` is the eigenvalue over the number of
        parameters. Neither makes models of different sizes comparable beyond doubt; the table shows whether the order
        depends on it.
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
    """Mean of what is there; NaN if nothing is."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")


def mini_batches(
    loader: Iterable[Any],
    batch_size: int,
    n_batches: int | None = None,
    *,
    mix: Mix | None = None,
    seed: int = 0,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Cut the images of a loader, in its order and as augmented by it, into mini-batches of one size.

    Args:
        loader: Yields images with labels in batches of any size. A loader of `utilities.loaders.make_loader` is given
            back at its epoch, so that a second call gets the same images.
        batch_size: Images in a mini-batch; a smaller rest is left out, as eigenvalues depend on the size.
        n_batches: How many; None is all.
        mix: Called as (images, labels, generator), gives images and probabilities, see `hessian_spectra`.
        seed: Of ``mix``.

    Raises:
        ValueError: If there are too few images, or no labels.

    Example:
        >>> loader = [(torch.zeros(5, 1, 2, 2), torch.arange(5)), (torch.zeros(2, 1, 2, 2), torch.arange(2))]
        >>> [labels.tolist() for _, labels in mini_batches(loader, 3)]
        [[0, 1, 2], [3, 4, 0]]
    """
    if batch_size < 1 or (n_batches is not None and n_batches < 1):
        raise ValueError(f"batch_size={batch_size} and n_batches={n_batches} should be 1 or more")
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    images: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    count = 0
    for batch in reading(loader):
        images, labels = [*images, batch[0]], [*labels, batch[1]]
        count += len(batch[0])
        full = sum(map(len, images)) // batch_size * batch_size
        if full:
            parts = [torch.cat(part) for part in (images, labels)]
            found += zip(*(part[:full].split(batch_size) for part in parts), strict=True)
            images, labels = ([part[full:]] for part in parts)
        if n_batches is not None and len(found) >= n_batches:
            break
    if len(found) < (n_batches or 1):
        raise ValueError(
            f"{n_batches or 1} mini-batches of {batch_size} images were asked for, but the loader has {count} images; "
            "ask for fewer, or smaller ones"
        )
    return [mixed(*batch, mix, seed, number) for number, batch in enumerate(found[:n_batches])]


def reading(loader: Iterable[Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Read (images, labels), and leave a loader of this package at the epoch that it was at.

    Raises:
        ValueError: If there are no labels.
    """
    epoch = getattr(loader, "epoch", None)
    try:
        for batch in loader:
            images, labels = split_batch(batch)
            if labels is None:
                raise ValueError("a Hessian needs a loss: the loader should yield (images, labels)")
            yield images, labels
    finally:
        if epoch is not None:
            loader.epoch = epoch


def mixed(
    images: torch.Tensor, targets: torch.Tensor, mix: Mix | None, seed: int, number: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix the images and labels of a batch, which depends on the seed and the number of the batch alone."""
    return (images, targets) if mix is None else mix(images, targets, seeded_generator(seed, number))


def said_of_images(loader: Iterable[Any], mix: Mix | None) -> dict[str, str | None]:
    """Say how images are augmented, where the loader tells, and mixed, for a result's provenance."""
    augment = getattr(loader, "augment", "as the caller's loader does")
    mix_name = None if mix is None else getattr(mix, "__name__", repr(mix))
    return {"augmentation": augment if augment is None or isinstance(augment, str) else repr(augment), "mix": mix_name}


def as_type(images: torch.Tensor, targets: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Bring images, and targets that are no classes, to a type."""
    return images.to(dtype), targets.to(dtype) if targets.is_floating_point() else targets


def hessian_spectra(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    k: int = 5,
    batch_size: int = 16,
    n_batches: int | None = 16,
    ends: Sequence[str] = tuple(ENDS),
    chunk: int | None = None,
    tolerance: float = 1e-2,
    lanczos_vectors: int | None = None,
    restarts: int = 30,
    trace_probes: int = 0,
    mix: Mix | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
    **objective: Any,
) -> HessianSpectra:
    """Compute the outermost Hessian eigenvalues of the loss on each of several mini-batches.

    The paper's setting is k = 5 by magnitude, mini-batches of 16 training images with the augmentation of training
    (which the loader does) and its mixing (``mix``), and the loss with its L2 penalty. One mini-batch of many images,
    read in chunks, gives the Hessian of the mean loss over all of them.

    Args:
        model: Maps images to logits. Its trained parameters (those that require gradients) are counted; it is not
            touched.
        loader: Yields images with labels, see `mini_batches`.
        k: Eigenvalues of each end.
        batch_size: Images in a mini-batch.
        n_batches: How many mini-batches; None is all that the loader fills.
        ends: Of ``"magnitude"``, ``"largest"`` and ``"smallest"``; NEP and APE need ``"magnitude"``.
        chunk: Images at once; None is the whole mini-batch. The result is the same, with less memory, but slower.
        tolerance: See `extreme_eigenpairs`.
        lanczos_vectors: See there. They take 4 bytes a parameter each in float32.
        restarts: See there.
        trace_probes: Vectors of Hutchinson's estimate of the trace, for each mini-batch; 0 for none.
        mix: Mixes each mini-batch, as training does: called as (images, labels, generator), gives images and
            probabilities.
        seed: Of starting vectors, probes and ``mix``.
        device: See `utilities.utils.resolve_device`.
        progress: Whether there is a bar.
        provenance: What is known of model and images.
        **objective: See `Objective`: ``loss, label_smoothing, weight_decay, mode, block, dtype``.

    Returns:
        The spectra. Eigenvalues that have not converged are NaN, and a warning says how many.

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
    goal = Objective(**objective)
    check_ends(k, ends)
    if chunk is not None and (chunk < 1 or goal.mode == "train"):
        raise ValueError(f"chunk={chunk} should be 1 or more, and None in mode 'train': chunks differ in statistics")
    if not tolerance > 0 or restarts < 1 or trace_probes < 0:
        given = f"{tolerance}, {restarts} and {trace_probes}"
        raise ValueError(f"tolerance should be above 0, restarts 1 or more, trace_probes 0 or more; got {given}")
    batches = mini_batches(loader, batch_size, n_batches, mix=mix, seed=seed)
    settings = {"tolerance": tolerance, "lanczos_vectors": lanczos_vectors, "restarts": restarts}
    found, traces = [], []
    with goal.of(model, device) as make:
        for number, batch in enumerate(tqdm(batches, desc="Hessian", delay=2, leave=False, disable=not progress)):
            parts = zip(*(t.split(chunk or batch_size) for t in as_type(*batch, goal.type)), strict=True)
            operator = shifted(make(list(parts), batch_size).to_scipy(np.dtype(goal.dtype)), goal.weight_decay)
            found.append(extreme_eigenpairs(operator, k, ends, seed=[seed, number], **settings))
            traces.append(hutchinson(operator, trace_probes, [seed, number, 1]))
            found[-1] = {end: (pairs.values, pairs.residuals) for end, pairs in found[-1].items()}
    eigenvalues, residuals = (np.array([[pairs[end][i] for end in ends] for pairs in found]) for i in (0, 1))
    _warn_of_missing(eigenvalues, settings)
    known = {"seed": seed, **(provenance or {}), **goal.facts(), **settings, "k": k, "batch_size": batch_size}
    known |= {"n_batches": len(batches), "n": len(batches) * batch_size, "chunk": chunk, "hessian_seed": seed}
    known |= {**said_of_images(loader, mix), "versions": versions()}
    return HessianSpectra(eigenvalues, residuals, list(ends), np.array(traces), operator.shape[0], known)


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
    """Compute the spectra of several snapshots of a training on the same mini-batches.

    Args:
        models: Epoch -> model, as of `utilities.study.Study.snapshots`.
        loader: See `hessian_spectra`; one whose images change from pass to pass should be of this package.
        provenance: What is known of model and images; ``weights`` and ``epoch`` are added.
        **options: Of `hessian_spectra`.

    Returns:
        Epoch -> spectra.

    Raises:
        ValueError: If there is no model, or as `hessian_spectra` does.

    Example:
        >>> models = {epoch: nn.Sequential(nn.Flatten(), nn.Linear(4, 2)) for epoch in (0, 3)}
        >>> batch = torch.ones(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])
        >>> history = over_training(models, [batch], k=1, batch_size=4, n_batches=1, device="cpu")
        >>> [spectra.provenance["weights"] for spectra in history.values()]
        ['after 0 epochs', 'after 3 epochs']
    """
    if not models:
        raise ValueError("there are no snapshots")
    facts = {epoch: {**(provenance or {}), "weights": f"after {epoch} epochs", "epoch": epoch} for epoch in models}
    return {
        epoch: hessian_spectra(model, loader, provenance=facts[epoch], **options) for epoch, model in models.items()
    }


def after_start(history: Mapping[str, Mapping[int, HessianSpectra]]) -> dict[str, HessianSpectra]:
    """Take of each model the first snapshot after the start: where there is a warm-up, that at its end.

    Args:
        history: Name of the model -> epoch -> spectra.

    Returns:
        Name of the model -> spectra; models without a snapshot between start and end are left out.

    Example:
        >>> values = np.ones((1, 1, 1))
        >>> spectra = [HessianSpectra(values, values, ["largest"], values[0], n_parameters=i) for i in (1, 2, 3)]
        >>> after_start({"cnn": dict(zip((0, 2, 6), spectra))})["cnn"].n_parameters
        2
    """
    between = {label: sorted(snapshots)[:-1] for label, snapshots in history.items()}
    first = {label: next((epoch for epoch in epochs if epoch > 0), None) for label, epochs in between.items()}
    return {label: history[label][epoch] for label, epoch in first.items() if epoch is not None}
