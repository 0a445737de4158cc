"""Lanczos's method and Gauss quadrature: against known eigenvalues and moments."""

import numpy as np
import pytest
import torch

from utilities.analysis.loss.lanczos import lanczos, quadrature


def symmetric(n=40, seed=0):
    """A matrix with known eigenvalues, negative and double ones among them."""
    rng = np.random.default_rng(seed)
    vectors, _ = np.linalg.qr(rng.standard_normal((n, n)))
    values = np.sort(np.concatenate([[-3.0, 8.0, 8.0], rng.uniform(-1, 1, n - 3)]))
    return torch.tensor(vectors @ np.diag(values) @ vectors.T), values


def start(n, seed=0, dtype=torch.float64):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_all_steps_give_all_distinct_eigenvalues_each_once():
    matrix, values = symmetric()
    nodes, weights = quadrature(*lanczos(matrix.mv, start(40), 100))
    nodes, weights = nodes[weights > 1e-20], weights[weights > 1e-20]  # rounding may add a step without weight
    assert len(nodes) == 39  # of the double eigenvalue a Krylov space holds one vector
    np.testing.assert_allclose(nodes, np.unique(values.round(9)), atol=1e-8)
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert (weights >= 0).all()


def test_nodes_and_weights_have_the_moments_of_the_matrix():
    """Gauss quadrature of m nodes is exact for powers up to 2 m - 1."""
    matrix, _ = symmetric()
    v = start(40)
    v /= v.norm()
    nodes, weights = quadrature(*lanczos(matrix.mv, v, 4))
    for power in range(8):
        expected = float(v @ torch.linalg.matrix_power(matrix, power) @ v)
        assert (weights * nodes**power).sum() == pytest.approx(expected, rel=1e-10)


def test_vectors_stay_orthogonal_where_lanczos_alone_repeats_eigenvalues():
    values = np.concatenate([np.linspace(0, 1, 300), [50.0, 100.0]])
    diagonal = torch.tensor(values)
    nodes, _ = quadrature(*lanczos(lambda v: diagonal * v, start(302), 120))
    assert (nodes > 2).sum() == 2  # without orthogonalisation 50 and 100 come again and again
    np.testing.assert_allclose(nodes[-2:], [50, 100], rtol=1e-10)


def test_sums_over_many_float32_parameters_are_precise():
    n = 2_000_000
    diagonal = torch.zeros(n)
    diagonal[:3] = torch.tensor([9.0, 4.0, -2.0])
    nodes, weights = quadrature(*lanczos(lambda v: diagonal * v, start(n, dtype=torch.float32), 4))
    # Plain float32 sums over so many numbers are off by some 1e-4, and one node would be missed by as much.
    np.testing.assert_allclose(nodes, [-2, 0, 4, 9], atol=2e-5)
    assert weights.sum() == pytest.approx(1, abs=1e-12)


def test_a_matrix_of_one_eigenvalue_needs_one_step():
    alphas, betas = lanczos(lambda v: 3.0 * v, start(6), 5)
    assert alphas.tolist() == [pytest.approx(3.0)]
    assert betas.shape == (0,)
