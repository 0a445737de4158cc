"""Statistics over images: against closed forms, enumeration and SciPy."""

from itertools import combinations, product

import numpy as np
import pytest
from scipy import stats

from utilities.results import statistics
from utilities.results.moments import Moments
from utilities.results.statistics import (
    block_jackknife,
    bootstrap_interval,
    count,
    jackknife,
    mean_and_stderr,
    paired_p,
    stderr_of_mean,
    stderr_of_share,
    unpaired_p,
    wilson,
)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_mean_and_stderr_leave_out_images_without_a_value():
    values = draw(9, 2, 3)
    values[2, 0, 1] = values[5, 0, 1] = np.nan
    mean, stderr = mean_and_stderr(values)
    for i, j in product(range(2), range(3)):
        column = values[:, i, j][~np.isnan(values[:, i, j])]
        assert count(values)[i, j] == len(column) == (7 if (i, j) == (0, 1) else 9)
        np.testing.assert_allclose(mean[i, j], column.mean(), rtol=1e-13)
        np.testing.assert_allclose(stderr[i, j], stats.sem(column), rtol=1e-13)


def test_too_few_values_are_nan_without_a_warning(recwarn):
    values = np.array([[1.0, np.nan, 2.0], [np.nan, np.nan, 3.0]])
    mean, stderr = mean_and_stderr(values)
    np.testing.assert_array_equal(mean, [1.0, np.nan, 2.5])
    np.testing.assert_array_equal(stderr, [np.nan, np.nan, 0.5])
    low, high = bootstrap_interval(values)
    np.testing.assert_array_equal(np.isnan([low, high]), [[True, True, False]] * 2)
    np.testing.assert_array_equal(paired_p(values), [0.5, np.nan, 0.25])
    np.testing.assert_array_equal(unpaired_p(values, values[:1]), [1.0, np.nan, 2 / 3])
    for empty in (np.zeros((0, 2)), np.zeros((5, 0))):
        shapes = {mean_and_stderr(empty)[0].shape, bootstrap_interval(empty)[0].shape, paired_p(empty).shape}
        assert shapes == {empty.shape[1:]}
    assert not recwarn


def test_paired_p_is_exact_for_few_images():
    values = draw(7, 3) + 0.3
    flips = np.array(list(product((1, -1), repeat=7)))
    expected = (flips @ values >= values.sum(0) - 1e-12).mean(0)
    np.testing.assert_allclose(paired_p(values, resamples=128), expected, rtol=1e-13)
    assert (paired_p(values, resamples=127) != expected).any()  # drawn at random where there are more flips


def test_unpaired_p_is_exact_for_few_images():
    one, two = draw(4, 2) + 0.5, draw(5, 2, seed=1)
    pooled, observed = np.concatenate([one, two]), one.mean(0) - two.mean(0)
    differences = []
    for chosen in combinations(range(9), 4):
        first = np.isin(np.arange(9), chosen)
        differences.append(pooled[first].mean(0) - pooled[~first].mean(0))
    expected = (np.array(differences) >= observed - 1e-12).mean(0)
    np.testing.assert_allclose(unpaired_p(one, two), expected, rtol=1e-13)


def test_random_resampling_agrees_with_scipy():
    # 4000 draws each: standard error of p below 0.008, of the difference of two below 0.012; 4 of these.
    one, two = draw(30) + 0.3, draw(25, seed=1)
    options = {"n_resamples": 4000, "alternative": "greater", "rng": np.random.default_rng(7)}
    theirs = stats.permutation_test((one,), np.mean, permutation_type="samples", **options).pvalue
    assert paired_p(one, resamples=4000) == pytest.approx(theirs, abs=0.05)
    theirs = stats.permutation_test((one, two), lambda a, b: a.mean() - b.mean(), **options).pvalue
    assert unpaired_p(one, two, resamples=4000) == pytest.approx(theirs, abs=0.05)
    interval = stats.bootstrap((one,), np.mean, n_resamples=4000, method="percentile", rng=options["rng"])
    # The 2.5 % quantile of 4000 normal draws has a standard error of 0.042 of their spread, here 0.18: 4 times that.
    np.testing.assert_allclose(bootstrap_interval(one, resamples=4000), interval.confidence_interval, atol=0.045)


@pytest.mark.parametrize("test", [paired_p, lambda x, **options: unpaired_p(x[:18], x[18:], **options)])
def test_p_is_uniform_where_there_is_no_effect(test):
    # One column an experiment; the distance of 600 uniform values from their law exceeds 0.066 once in 100 seeds.
    p = test(draw(40, 600), resamples=200)
    assert stats.kstest(p, "uniform").statistic < 0.066
    assert p.min() > 0
    effect = draw(40, 600)
    effect[:18] += 2.0
    assert (test(effect, resamples=200) < 0.05).mean() > 0.95


def test_bootstrap_is_as_wide_as_the_standard_error_says():
    values = draw(400, 5)
    mean, stderr = mean_and_stderr(values)
    low, high = bootstrap_interval(values)
    np.testing.assert_allclose(high - low, 2 * 1.96 * stderr, rtol=0.15)
    assert ((low < mean) & (mean < high)).all()
    narrow = bootstrap_interval(values, confidence=0.5)
    assert (narrow[1] - narrow[0] < 0.5 * (high - low)).all()


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    # 500 experiments: standard error of a coverage of 0.95 below 0.01; the percentile interval is a little narrow.
    low, high = bootstrap_interval(draw(60, 500, seed=3))
    assert ((low < 0) & (high > 0)).mean() == pytest.approx(0.94, abs=0.03)


def test_order_of_images_does_not_matter():
    values, order = draw(50, 2) + 0.2, np.random.default_rng(1).permutation(50)
    np.testing.assert_allclose(mean_and_stderr(values[order]), mean_and_stderr(values), rtol=1e-12)
    # Random draws pick other images: p differs by its Monte-Carlo error, below 0.012 each with 2000 draws.
    options = {"resamples": 2000}
    np.testing.assert_allclose(paired_p(values[order], **options), paired_p(values, **options), atol=0.06)
    spread = mean_and_stderr(values)[1].max()
    np.testing.assert_allclose(bootstrap_interval(values[order]), bootstrap_interval(values), atol=0.4 * spread)
    few = values[:8]
    np.testing.assert_allclose(paired_p(few[::-1]), paired_p(few), rtol=1e-12)


def test_seed_fixes_the_draws_and_chunks_do_not_change_them(monkeypatch):
    values = draw(30, 3)
    results = [(paired_p(values, seed=s), unpaired_p(values[:9], values[9:], seed=s)) for s in (0, 0, 1)]
    np.testing.assert_array_equal(results[0], results[1])
    assert (results[0][0] != results[2][0]).any()
    interval = bootstrap_interval(values)
    monkeypatch.setattr(statistics, "CHUNK", 30 * 70)
    np.testing.assert_array_equal(paired_p(values), results[0][0])
    np.testing.assert_array_equal(unpaired_p(values[:9], values[9:]), results[0][1])
    np.testing.assert_allclose(bootstrap_interval(values), interval, rtol=1e-12)


def test_copies_of_tokens_do_not_make_errors_smaller():
    # Tokens of an image share its value. Averaged within the image first, copies of them change nothing, and the
    # error is that of the images; taken as independent they would shrink it and find an effect where there is none.
    images = draw(20, 1, seed=5)
    tokens = images + 0.01 * draw(20, 16, seed=6)
    copies = np.tile(tokens, (1, 10))
    by_image = [mean_and_stderr(x.mean(1))[1] for x in (tokens, copies)]
    np.testing.assert_allclose(by_image[0], by_image[1], rtol=1e-10)
    np.testing.assert_allclose(by_image[0], stats.sem(images[:, 0]), rtol=0.02)
    assert mean_and_stderr(copies.reshape(-1))[1] < 0.1 * by_image[0]
    np.testing.assert_allclose(paired_p(tokens.mean(1)), paired_p(copies.mean(1)), rtol=1e-10)


def test_p_of_unpaired_groups_keeps_the_sizes_of_those_with_a_value():
    one, two = draw(6, 2), draw(40, 2, seed=1)
    two[6:, 1] = np.nan
    p = unpaired_p(one, two)
    assert p[0] == unpaired_p(one[:, 0], two[:, 0])
    assert p[1] == unpaired_p(one[:, 1], two[:6, 1])


def test_ties_count_against_the_effect():
    assert paired_p(np.zeros(20)) == unpaired_p(np.ones(20), np.ones(15)) == 1
    # Thirds do not add up exactly: rounding must not tell equal sums apart.
    assert paired_p(np.full(3, 1 / 3)) == 1 / 8
    assert unpaired_p([1 / 3, 0.1, 0.2], [0.2, 0.1, 1 / 3]) == pytest.approx(share_of_thirtieths())


def share_of_thirtieths():
    pooled = [10, 3, 6, 6, 3, 10]  # the same values in thirtieths, as whole numbers
    sums = [sum(c) for c in combinations(pooled, 3)]
    return np.mean([total >= 19 for total in sums])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_p([1.0, np.inf]), "1 values are infinite"),
        (lambda: mean_and_stderr(3.0), "an entry for each image"),
        (lambda: paired_p([1.0], resamples=0), "resamples should be a whole number of at least 1, got 0"),
        (lambda: paired_p([1.0], seed=-1), "seed should be a whole number of at least 0, got -1"),
        (lambda: bootstrap_interval([1.0], confidence=95), "confidence should be between 0 and 1.*got 95"),
        (lambda: unpaired_p(np.zeros((3, 2)), np.zeros((3, 1))), r"got \(3, 2\) and \(3, 1\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_wilson_interval_solves_its_quadratic_equation():
    """Its ends are the shares p for which (hits / n - p)^2 = p (1 - p) / n."""
    hits, count = np.array([0.0, 3.0, 20.0]), np.array([5.0, 7.0, 20.0])
    for end in wilson(hits, count):
        np.testing.assert_allclose((hits / count - end) ** 2, end * (1 - end) / count, atol=1e-12)
    assert np.isnan(wilson(np.array([0.0]), np.array([0.0]))).all()


def test_errors_of_a_mean_and_of_a_share_are_one_formula():
    values = np.random.default_rng(0).random((20, 3)).round()
    moments = Moments()
    moments.add(values)
    for error in (stderr_of_mean(values), stderr_of_share(values.mean(0), 20), moments.stderr):
        np.testing.assert_allclose(error, mean_and_stderr(values)[1], rtol=1e-12)
    assert np.isnan([*stderr_of_mean(values[:1]), *stderr_of_share(values[0], 1)]).all()


def test_jackknife_of_blocks_is_that_of_images_where_blocks_are_equal():
    values = np.random.default_rng(0).random(12)

    def ratio(x):
        return (x**2).mean() / x.mean()

    whole, error = jackknife(values, ratio)
    without = np.array([ratio(np.delete(values, i)) for i in range(12)])
    assert block_jackknife(whole, without, np.ones(12)) == pytest.approx(error, rel=1e-12)


def test_jackknife_of_unequal_blocks_of_a_mean_in_closed_form():
    sizes = np.array([1, 2, 5])
    blocks = [np.random.default_rng(i).random(n) for i, n in enumerate(sizes)]
    values = np.concatenate(blocks)
    without = np.array([np.concatenate(blocks[:i] + blocks[i + 1 :]).mean() for i in range(3)])
    means = np.array([block.mean() for block in blocks])  # their pseudo-values, with weights n - size
    expected = np.sqrt(((means - values.mean()) ** 2 * sizes / (sizes.sum() - sizes)).mean())
    assert block_jackknife(values.mean(), without, sizes) == pytest.approx(expected, rel=1e-12)
