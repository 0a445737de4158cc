"""Lanczos's method and Gauss quadrature: what a few products by a matrix tell about its whole spectrum."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal

BLOCK = 2**15  # numbers that are summed in their own type


def lanczos(
    matvec: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Make a symmetric matrix tridiagonal by Lanczos's method, with full re-orthogonalisation.

    Args:
        matvec: Multiplies the matrix by a vector.
        start: First vector, with any norm above 0, shape (n,). Its dtype and device are used for the computation.
        steps: Maximum number of steps. There are fewer if the Krylov space is exhausted, and never more than n.

    Returns:
        The diagonal, shape (steps,), and the off-diagonal, shape (steps - 1,), both float64.

    Example:
        >>> matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
        >>> alphas, betas = lanczos(matrix.mv, torch.tensor([1.0, 0.0], dtype=torch.float64), 5)
        >>> alphas.tolist(), betas.tolist()
        ([2.0, 3.0], [1.0])
    """
    basis = start.new_empty(min(steps, len(start)), len(start))
    vector, alphas, betas, scale = start / _inner(start[None], start).sqrt().to(start), [], [], 0.0
    for step in range(len(basis)):
        basis[step] = vector
        vector = matvec(vector)
        shares = _inner(basis[: step + 1], vector)
        alphas.append(float(shares[-1]))
        vector = vector - shares.to(vector) @ basis[: step + 1]
        vector = vector - _inner(basis[: step + 1], vector).to(vector) @ basis[: step + 1]  # what rounding left
        betas.append(float(_inner(vector[None], vector).sqrt()))
        scale = max(scale, abs(alphas[-1]), betas[-1])
        if betas[-1] <= 10 * torch.finfo(start.dtype).eps * scale:
            break
        vector = vector / betas[-1]
    return np.array(alphas), np.array(betas[: len(alphas) - 1])


def _inner(rows: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Multiply rows by a vector, summing in float64.

    Float32 sums over ten million numbers are off by about 1e-3.
    """
    parts = zip(rows.split(BLOCK, dim=1), vector.split(BLOCK), strict=True)
    return torch.stack([part @ own for part, own in parts]).cpu().double().sum(0)


def quadrature(alphas: np.ndarray, betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute nodes and weights of Gauss quadrature from a tridiagonal matrix (Golub and Welsch 1969).

    Args:
        alphas: Diagonal, shape (m,).
        betas: Off-diagonal, shape (m - 1,).

    Returns:
        The eigenvalues in ascending order, and the squared first components of the eigenvectors, which sum to 1.

    Example:
        >>> nodes, weights = quadrature(np.array([0.0, 0.0]), np.array([1.0]))
        >>> nodes.round(6).tolist(), weights.round(6).tolist()
        ([-1.0, 1.0], [0.5, 0.5])
    """
    nodes, vectors = eigh_tridiagonal(alphas, betas)
    return nodes, vectors[0] ** 2
