"""HSIC of resampled images: against written-out sums over quadruples of different images, and without copies' bias."""

from itertools import permutations

import numpy as np
import pytest
import torch

from utilities.compare.resampled_grams import (
    Weights,
    draw_weights,
    hsic_without_each,
    resampled_sums,
    weighted_hsic,
)
from utilities.metrics import center, hsic


def grams(n, width=3, seed=0, count=2):
    """Gram matrices of random features, some of them shared, with zero diagonals."""
    generator = torch.Generator().manual_seed(seed)
    x, *others = torch.randn(count, n, width, generator=generator, dtype=torch.float64)
    found = [features @ features.T for features in (x, *(x + other for other in others))]
    return [K - K.diag().diag() for K in found]


def written_out(K, L, w):
    """The module's formula as a loop over all quadruples of different images."""
    top = bottom = 0.0
    for i, j, q, r in permutations(range(len(K)), 4):
        weight = w[i] * w[j] * w[q] * w[r]
        top += weight * K[i, j] * (L[i, j] + L[q, r] - 2 * L[i, q])
        bottom += weight
    return top / bottom


@pytest.mark.parametrize("w", [[1] * 7, [2, 1, 0, 1, 1, 2, 0], [3, 0, 0, 1, 1, 1, 1], [0.5, 1.5, 2, 1, 0.2, 0.8, 1]])
def test_it_is_the_sum_over_quadruples_of_different_images(w):
    K, L = grams(7)
    weights = torch.tensor([w], dtype=torch.float64)
    expected = written_out(*(matrix.numpy() for matrix in (K, L)), w)
    np.testing.assert_allclose(weighted_hsic(K, L, Weights.of(weights)).item(), expected, rtol=1e-12)


def test_with_equal_weights_it_is_the_debiased_hsic():
    K, L = grams(40)
    ones = Weights.of(torch.ones(1, 40, dtype=torch.float64))
    np.testing.assert_allclose(weighted_hsic(K, L, ones).item(), hsic(K, L), rtol=1e-12)
    np.testing.assert_allclose(weighted_hsic(center(K), center(L), ones).item(), hsic(K, L), rtol=1e-12)


def test_centring_changes_nothing_whatever_the_weights():
    K, L = grams(25)
    weights = Weights.of(draw_weights([25], 20)[0])
    shift = torch.randn(25, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moved = K + shift[:, None] + shift
    moved = moved - moved.diag().diag()
    expected = weighted_hsic(K, L, weights)
    for other in (moved, center(K)):  # 1e-10: sums of some thousand products of numbers around 10
        np.testing.assert_allclose(weighted_hsic(other, L, weights), expected, rtol=0, atol=1e-10)


def test_without_each_image_it_is_the_hsic_of_the_others():
    K, L = grams(9)
    keep = [torch.arange(9) != i for i in range(9)]
    expected = [hsic(K[one][:, one], L[one][:, one]) for one in keep]
    np.testing.assert_allclose(hsic_without_each(K, L), expected, rtol=1e-12)


def test_resamples_of_unrelated_wide_features_stay_at_zero_where_pairs_of_copies_would_bring_a_bias():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 40, 200, generator=generator, dtype=torch.float64)
    K, L = x @ x.T, y @ y.T
    drawn = draw_weights([40], 200)[0]
    values, _ = resampled_sums({"x": [center(K)], "y": [center(L)]}, [("x", "y"), ("x", "x"), ("y", "y")], [drawn])
    found = values["x", "y"] / np.sqrt(values["x", "x"] * values["y", "y"])
    copies = [torch.repeat_interleave(torch.arange(40), w.long()) for w in drawn[1:50]]
    naive = [hsic(K[i][:, i], L[i][:, i]) / (hsic(K[i][:, i], K[i][:, i]) * hsic(L[i][:, i], L[i][:, i])) ** 0.5
             for i in copies]  # fmt: skip
    assert abs(found[1:].mean()) < 0.02
    assert np.mean(naive) > 0.5


def test_sums_run_over_batches_and_leave_each_image_out_of_its_own():
    first, second = grams(20, seed=0), grams(24, seed=1)
    layers = {"x": [first[0], second[0]], "y": [first[1], second[1]]}
    values, without = resampled_sums(layers, [("x", "y")], draw_weights([20, 24], 3))
    weight = [n * (n - 3) for n in (20, 24)]
    parts = [weight[0] * hsic(*first), weight[1] * hsic(*second)]
    np.testing.assert_allclose(values["x", "y"][0], sum(parts), rtol=1e-12)
    left = [K[1:, 1:] for K in second]
    np.testing.assert_allclose(without["x", "y"][20], parts[0] + 23 * 20 * hsic(*left), rtol=1e-12)
    assert without["x", "y"].shape == (44,)


def test_parts_of_the_resamples_are_put_together(monkeypatch):
    K, L = (center(matrix) for matrix in grams(20))
    pairs, weights = [("x", "y"), ("x", "x")], draw_weights([20], 50)
    whole, _ = resampled_sums({"x": [K], "y": [L]}, pairs, weights)
    monkeypatch.setattr("utilities.compare.resampled_grams.HELD", 2 * 2 * 20 * 7)
    parts, _ = resampled_sums({"x": [K], "y": [L]}, pairs, weights)
    for pair in pairs:
        np.testing.assert_allclose(parts[pair], whole[pair], rtol=1e-12)


def test_draws_keep_batches_at_their_sizes_and_depend_on_the_seed():
    one, other = draw_weights([20, 30], 10, seed=0), draw_weights([20, 30], 10, seed=1)
    assert [drawn.sum(1).unique().tolist() for drawn in one] == [[20], [30]]
    assert (one[0][0] == 1).all()
    assert not torch.equal(one[0], other[0])
