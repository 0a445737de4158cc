"""Outermost eigenvalues of an operator with residuals, its trace, and errors of statistics over samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

ENDS = {"magnitude": "LM", "largest": "LA", "smallest": "SA"}  # our names -> ARPACK's


def shifted(operator: LinearOperator, shift: float = 0.0) -> LinearOperator:
    """Add a multiple of the identity to an operator, and refuse products that are not finite.

    Args:
        operator: Symmetric operator.
        shift: Number added to every eigenvalue.

    Raises:
        FloatingPointError: If a product is not finite. The error comes from the product, not from this call.

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
    """Eigenvalues of one end of the spectrum, with their eigenvectors.

    Attributes:
        values: Eigenvalues, outermost first, shape (k,); NaN where the method did not converge.
        residuals: |H v - lambda v| of each pair, shape (k,).
        vectors: Eigenvectors as orthonormal columns, shape (parameters, k).
    """

    values: np.ndarray
    residuals: np.ndarray
    vectors: np.ndarray

    def pick(self, end: str, k: int) -> Eigenpairs:
        """Select the k outermost pairs of an end, with missing ones last."""
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

    Several ends are found together in one Krylov space. The k largest in magnitude are among the k largest and the k
    smallest. If that run does not converge, each end gets a run of its own. Operators with few rows are made dense.

    Args:
        operator: Symmetric operator. Its dtype is used for the computation.
        k: Number of eigenvalues at each end.
        ends: Any of ``"magnitude"``, ``"largest"``, ``"smallest"``.
        tolerance: Tolerance of the residual, relative to the eigenvalue. The eigenvalue's own error is at most the
            residual, and of the order of the residual squared over the distance to the next eigenvalue. A loose
            tolerance may miss an eigenvalue among others of nearly the same size.
        lanczos_vectors: Vectors in memory at once; None is SciPy's choice, 20 or one more than twice those sought.
        restarts: Maximum number of restarts. Eigenvalues that have not converged by then are NaN.
        seed: Seed of the starting vector.

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
    """Refuse unknown ends, an empty list, a bare name in place of a list, and k below 1."""
    if isinstance(ends, str):
        raise TypeError(f"ends should be a list such as ['{ends}'], got the text {ends!r}")
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
    """Run ARPACK, leaving out what did not converge."""
    try:
        _, vectors = eigsh(operator, count, which=which, **options)
    except ArpackNoConvergence as error:
        vectors = error.eigenvectors
    pairs = [_refined(operator, vector) for vector in vectors.T]
    values, residuals = (np.array([pair[i] for pair in pairs], np.float64) for i in (0, 1))
    return Eigenpairs(values, residuals, vectors)


def _refined(operator: LinearOperator, vector: np.ndarray) -> tuple[float, float]:
    """Compute an eigenvector's Rayleigh quotient and residual, summed in float64.

    Float32 sums over ten million parameters, such as ARPACK's, are off by about 1e-4.
    """
    image, vector = operator.matvec(vector).astype(np.float64), vector.astype(np.float64)
    value = vector @ image / (vector @ vector)
    return value, float(np.linalg.norm(image - value * vector) / np.linalg.norm(vector))


def hutchinson(operator: LinearOperator, probes: int, seed: int | Sequence[int] = 0) -> np.ndarray:
    """Estimate the trace as z'Hz, once for each vector z of random signs (Hutchinson 1989).

    Args:
        operator: Symmetric operator.
        probes: Number of vectors.
        seed: Seed of the signs.

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
