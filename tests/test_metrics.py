"""Kernels, HSIC and CKA against closed forms, brute-force twins and invariances, in float64."""

import itertools
import math

import numpy as np
import pytest
import torch

from utilities.metrics import center, centered_gram, cka, gram, hsic


def song_hsic(K, L):
    """Song 2012 as the average over all ordered quadruples of different images: slow, and needs no centring."""
    n = len(K)
    total = 0.0
    for i, j, q, r in itertools.permutations(range(n), 4):
        total += K[i, j] * (L[i, j] + L[q, r] - 2 * L[i, q])
    return total / math.perm(n, 4)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_debiased_hsic_is_the_average_over_quadruples():
    K, L = gram(random(7, 3)), gram(random(7, 2, seed=1))
    assert hsic(K, L) == pytest.approx(float(song_hsic(K, L)), rel=1e-12)


def test_biased_hsic_is_the_trace_formula():
    K, L = gram(random(9, 3)), gram(random(9, 4, seed=1))
    H = torch.eye(9, dtype=torch.float64) - 1 / 9
    assert hsic(K, L, "biased") == pytest.approx(torch.trace(K @ H @ L @ H).item() / 64, rel=1e-12)


def test_debiased_hsic_is_unbiased_for_a_covariance():
    # x = y of one dimension: HSIC of the population is var(x)² = 1; the mean over 4000 draws of n=5 has a standard
    # error of about 0.06.
    draws = [hsic(gram(x), gram(x)) for x in random(4000, 5, 1)]
    assert np.mean(draws) == pytest.approx(1.0, abs=4 * np.std(draws) / 4000**0.5)


def test_zeroing_the_diagonal_is_not_subtracting_a_row():
    """A public port computes K - diag(K), which subtracts a row vector and makes the self-HSIC negative."""
    K = gram(random(50, 20))
    assert hsic(K, K) > 0


def test_linear_cka_equals_the_feature_space_identity():
    x, y = random(40, 5), random(40, 7, seed=1)
    x, y = x + 3, y - 2
    xc, yc = x - x.mean(0), y - y.mean(0)
    expected = (yc.T @ xc).square().sum() / ((xc.T @ xc).norm() * (yc.T @ yc).norm())
    assert cka(x, y, estimator="biased") == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("estimator", ["debiased", "biased"])
@pytest.mark.parametrize("seed", range(3))
def test_cka_does_not_see_rotation_shift_or_scale(kernel, estimator, seed):
    x, y = random(30, 8, seed=seed), random(30, 6, seed=seed + 10)
    rotation = torch.linalg.qr(random(8, 8, seed=seed + 20)).Q
    before = cka(x, y, kernel, estimator)
    assert cka(3.7 * x @ rotation + random(8, seed=5), y, kernel, estimator) == pytest.approx(before, abs=1e-10)
    assert cka(x, x @ rotation, kernel, estimator) == pytest.approx(1, abs=1e-12)


def test_linear_cka_sees_other_linear_maps():
    x = random(200, 5)
    assert cka(x, x * torch.tensor([100.0, 1, 1, 1, 1])) < 0.6


@pytest.mark.parametrize("n", [64, 256])
@pytest.mark.parametrize("p", [16, 256])
def test_independent_features(n, p):
    """Biased: sqrt(pq / ((n+p)(n+q))), which grows with width; debiased: 0."""
    pairs = [(random(n, p, seed=s), random(n, p, seed=s + 100)) for s in range(8)]
    # Over 8 draws the standard error is below 0.004 in the worst of these cases (n=64, p=16).
    assert np.mean([cka(x, y, estimator="biased") for x, y in pairs]) == pytest.approx(p / (n + p), abs=0.012)
    assert np.mean([cka(x, y) for x, y in pairs]) == pytest.approx(0, abs=0.02)


def test_an_outlier_dominates():
    """One of 1000 points moved far away: known values, 0.70 and 0.91 at distance 100, 0.02 and 0.21 at 1000."""
    x = random(1000, 100)
    direction = torch.nn.functional.normalize(random(100, seed=1), dim=0)
    for distance, biased, debiased in [(100, 0.70, 0.91), (1000, 0.02, 0.21)]:
        moved = x.clone()
        moved[0] += distance * direction
        assert cka(x, moved, estimator="biased") == pytest.approx(biased, abs=0.03)
        assert cka(x, moved) == pytest.approx(debiased, abs=0.05)


def test_rbf_width_is_a_fraction_of_the_median_distance():
    x = random(21, 4)
    distance = torch.pdist(x).median()
    expected = torch.exp(-torch.cdist(x, x).square() / (2 * (0.4 * distance) ** 2))
    torch.testing.assert_close(gram(x, "rbf", bandwidth=0.4), expected)
    torch.testing.assert_close(gram(x, "rbf", sigma=0.4 * distance.item()), expected)
    torch.testing.assert_close(gram(5 * x, "rbf", bandwidth=0.4), expected)


def test_wide_rbf_tends_to_linear():
    """exp(-d²/2σ²) ≈ 1 - d²/2σ²; what is left is of order (median/σ)² = 10⁻⁶."""
    x, y = random(30, 5), random(30, 5, seed=1) + random(30, 5)
    assert cka(x, y, "rbf", bandwidth=1000) == pytest.approx(cka(x, y), abs=1e-5)


def test_ill_conditioned_features():
    """Means 10⁴ times the spread: an uncentred float32 Gram has lost everything, ours loses only input rounding."""
    x = random(64, 32)
    far = (x + 1e4).float()
    assert cka(far, x) == pytest.approx(1, abs=1e-6)
    shrunk = centered_gram(far) - centered_gram(x.float())
    assert shrunk.abs().max() < 0.05  # 32 products of values with a rounding of 5e-4


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_no_variance_is_missing_with_a_warning(kernel):
    with pytest.warns(UserWarning, match="no variance"):
        assert math.isnan(cka(torch.full((10, 3), 0.1), random(10, 3), kernel))


def test_rounding_noise_is_no_variance():
    x = torch.full((64, 10), 1234.5678)
    x[::2] += 0.0001  # half a unit in the last place of float32
    assert not centered_gram(x).any()


def test_centred_rows_sum_to_zero():
    K = center(torch.stack([gram(random(11, 3)), gram(random(11, 30))]))
    assert K.sum(-1).abs().max() < 1e-12
    assert not K.diagonal(dim1=1, dim2=2).any()


def test_numpy_and_maps_are_taken():
    x = np.random.default_rng(0).normal(size=(20, 2, 3, 3)).astype("float32")
    assert cka(x, x.reshape(20, -1)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cka(random(10, 2), random(9, 2)), "10 and 9 rows"),
        (lambda: cka(random(3, 2), random(3, 2)), "at least 4 images, not 3"),
        (lambda: cka(random(10), random(10)), r"shape \(n, features\)"),
        (lambda: cka(random(10, 2) / 0, random(10, 2)), "NaN or infinite"),
        (lambda: cka(random(10, 2), random(10, 2), "cosine"), "'cosine' is not known"),
        (lambda: cka(random(10, 2), random(10, 2), estimator="unbiased"), "'unbiased' is not known"),
        (lambda: gram(random(10, 2), "rbf", bandwidth=0), "bandwidth=0 should be a number above 0"),
        (lambda: gram(random(10, 2), "rbf", sigma=-1.0), r"sigma=-1\.0 should be a number above 0"),
        (lambda: gram([[0.0]] * 9 + [[1.0]], "rbf"), "give sigma"),
        (lambda: hsic(random(5, 4), random(5, 4)), "square"),
    ],
)
def test_errors_name_the_offender(call, message):
    with pytest.raises(ValueError, match=message):
        call()
