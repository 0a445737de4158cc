"""Corrected variances: against known ones, and against rsatoolbox's dual bootstrap."""

import numpy as np
import pytest
import torch
from scipy import stats

from utilities.compare.resampled_grams import draw_weights, weighted_pairs
from utilities.results.resampling import (
    as_normal,
    as_t,
    corrected_variance,
    dual_variance,
    largest_of,
    satterthwaite,
    stratified_jackknife,
)


def test_the_jackknife_of_a_mean_in_batches_is_its_usual_variance():
    values = np.random.default_rng(0).normal(size=12)
    parts, whole = np.split(values, [5]), values.sum()
    without = np.concatenate([  # a batch weighs its number of images, whichever is left out
        (whole - part.sum() + len(part) * (part.sum() - part) / (len(part) - 1)) / 12 for part in parts
    ])  # fmt: skip
    expected = sum(len(part) * part.var(ddof=1) for part in parts) / 12**2
    np.testing.assert_allclose(stratified_jackknife(without, [5, 7]), expected, rtol=1e-12)


def test_jackknife_and_bootstrap_overstate_a_statistic_of_pairs_by_two_and_three_and_the_correction_undoes_it():
    """U = mean of x_i · x_j over pairs, of mean 0: its variance 2p/(n(n-1)) comes from pairs alone."""
    n, rng = 100, np.random.default_rng(0)
    weights = draw_weights([n], 200)[0]
    found = []
    for _ in range(150):
        x = rng.normal(size=(n, 20))
        M = torch.from_numpy(x @ x.T * (1 - np.eye(n)))
        pairs = weights.sum(1) ** 2 - (weights**2).sum(1)
        drawn = (weighted_pairs(M, weights) / pairs).numpy()[1:]
        without = (M.sum() - 2 * M.sum(1)).numpy() / ((n - 1) * (n - 2))
        found.append([drawn.var(ddof=1), stratified_jackknife(without, [n])])
    bootstrap, jackknife = np.mean(found, 0) * n * (n - 1) / 40
    np.testing.assert_allclose([bootstrap, jackknife], [3, 2], rtol=0.12)  # to the order of 1/n, and of 150 samples
    corrected = corrected_variance(*np.transpose(found)).mean() * n * (n - 1) / 40
    # Its lower bound, a third of a bootstrap of few resamples, lifts the mean a little.
    np.testing.assert_allclose(corrected, 1.2, rtol=0.2)


def test_the_correction_stays_between_a_third_and_all_of_the_bootstrap():
    found = corrected_variance(np.array([3.0, 1.0, 1.0]), np.array([0.1, 2.0, 0.8]))
    np.testing.assert_allclose(found, [1.0, 1.0, 0.6])


def test_dual_variance_is_a_sum_where_nothing_interacts_and_counts_an_interaction_once():
    assert float(dual_variance(np.array(3.0), np.array(1.0), np.array(2.0), 10**12, 10**12)) == pytest.approx(3.0)
    # With an interaction of variance 1, resampling both shows it three times and each alone once: 1 + 1, 2 + 1, 3 + 3.
    assert float(dual_variance(np.array(6.0), np.array(2.0), np.array(3.0), 10**12, 10**12)) == pytest.approx(4.0)


def test_models_alone_have_their_whole_variance_however_few_they_are():
    values = np.array([0.1, 0.5, 0.2])  # three models, images without any variance
    spread = np.array(values.var() / 3)  # of the mean over resamples of all 27 draws
    np.testing.assert_allclose(dual_variance(spread, np.array(0.0), spread, 100, 3), values.var(ddof=1) / 3)


def test_freedom_adds_up_for_equal_parts_and_is_that_of_the_part_that_rules():
    assert satterthwaite([np.array([1.0, 0.0]), np.array([1.0, 5.0])], [4, 9]) == pytest.approx([4 * 9 / 6.5 * 2, 9.0])


def test_normal_and_t_values_that_are_as_rare_belong_together():
    t, freedom = np.array([0.0, 1.0, 5.0]), np.array([3.0, 30.0, 7.0])
    np.testing.assert_allclose(as_t(as_normal(t, freedom), freedom), t, atol=1e-9)
    assert as_normal(np.array([1e4]), np.array([500.0])) == [1e4]


@pytest.mark.parametrize("columns", [1, 10])
def test_the_largest_of_independent_values_has_its_known_quantile_and_of_equal_ones_that_of_one(columns):
    draws = np.random.default_rng(0).normal(size=(20_000, columns))
    expected = stats.norm.isf((1 - 0.95 ** (1 / columns)) / 2)
    assert np.quantile(largest_of(draws), 0.95) == pytest.approx(expected, abs=0.04)
    same = np.repeat(draws[:, :1], 5, 1)
    assert np.quantile(largest_of(3 * same + 1), 0.95) == pytest.approx(1.96, abs=0.05)


def test_rsatoolbox_draws_and_combines_the_same(monkeypatch):
    """Two models' dissimilarities against those of six others: pairs of copies left out, variances combined."""
    rsa = pytest.importorskip("rsatoolbox")
    from rsatoolbox.inference import evaluate
    from rsatoolbox.util.inference_util import extract_variances

    n, several, resamples = 14, 6, 60
    rng = np.random.default_rng(0)
    points = rng.normal(size=(n, 4))

    def distances(x):
        return ((x[:, None] - x) ** 2).sum(-1)

    data = np.stack([distances(points + rng.normal(size=points.shape)) for _ in range(several)])
    two = [distances(points + s * rng.normal(size=points.shape)) for s in (0.5, 1.5)]
    upper = np.triu_indices(n, 1)
    rdms = rsa.rdm.RDMs(np.stack([one[upper] for one in data]))
    models = [rsa.model.ModelFixed(str(k), rsa.rdm.RDMs(one[upper][None])) for k, one in enumerate(two)]
    drawn, draw = [], evaluate.bootstrap_sample

    def recorded(*arguments, **options):
        drawn.append(draw(*arguments, **options))
        return drawn[-1]

    monkeypatch.setattr(evaluate, "bootstrap_sample", recorded)
    np.random.seed(0)  # noqa: NPY002  rsatoolbox draws from it
    reference = evaluate.eval_dual_bootstrap(models, rdms, method="cosine", N=resamples)
    images = torch.from_numpy(np.stack([np.bincount(i, minlength=n) for _, _, i in drawn]).astype(float))
    seeds = np.stack([np.bincount(k, minlength=several) / several for _, k, _ in drawn])

    def cosines(weights):
        def pairs(one, other):
            return weighted_pairs(torch.from_numpy(one * other), weights).numpy()

        return np.stack([
            [pairs(one, other) / np.sqrt(pairs(one, one) * pairs(other, other)) for other in two] for one in data
        ])  # fmt: skip

    resampled, plain = cosines(images), cosines(torch.ones_like(images))  # (several, two, resamples)
    values = [np.einsum("smb,bs->bm", resampled, seeds), np.einsum("smb,bs->bm", plain, seeds), resampled.mean(0).T]
    for own, theirs in zip(values, np.moveaxis(reference.evaluations[:, :, 0, 0], -1, 0), strict=True):
        np.testing.assert_allclose(own, theirs, atol=1e-12)
    both, models_alone, images_alone = (np.var(own[:, 0] - own[:, 1], ddof=1) for own in values)
    _, difference, _ = extract_variances(reference.variances, True, several, n)
    ours = dual_variance(both, images_alone, models_alone, n, several)
    np.testing.assert_allclose(min(ours, both), difference[0], rtol=1e-10)  # its bound is both


@pytest.mark.parametrize("variances", [(3.3, 1.0, 2.0), (9.0, 2.0, 3.0), (2.9, 1.0, 2.0), (3.2, 0.1, 3.0)])
def test_variances_are_combined_as_by_rsatoolbox_below_its_bound(variances):
    pytest.importorskip("rsatoolbox")
    from rsatoolbox.util.inference_util import extract_variances

    both, images, models = map(np.array, variances)
    stacked = np.array([both, models, images])[:, None, None] * np.eye(2)
    own, _, _ = extract_variances(stacked, False, 30, 50)
    ours = dual_variance(both, images, models, 50, 30)
    np.testing.assert_allclose(min(ours, both), own[0], rtol=1e-12)
