"""The other measures against brute-force twins, invariances and chance levels, in float64."""

import math
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr
from sklearn.neighbors import NearestNeighbors

from utilities.compare import measures
from utilities.compare.measures import (
    SIMILARITY_MEASURES,
    cca,
    centered,
    linear_regression,
    mutual_knn,
    procrustes,
    pwcca,
    rsa,
    svcca,
)

FUNCTIONS = {name: getattr(measures, name) for name in SIMILARITY_MEASURES}
VARIANTS = {
    **FUNCTIONS,
    "cca_mean": lambda x, y: cca(x, y, "mean"),
    "svcca_mean": lambda x, y: svcca(x, y, "mean", keep=0.8),
    "mutual_3nn": lambda x, y: mutual_knn(x, y, 3),
}
# Everything is float64 and well conditioned: rounding is some 1e-14, and 1e-10 is far below any real difference.
EXACT = 1e-10


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(n=60, p=8, q=6, seed=0):
    """Two layers that share some of their variance, with unequal variances and means."""
    x = random(n, p, seed=seed) * torch.linspace(1, 3, p) + 2
    return x, x @ random(p, q, seed=seed + 1) + 3 * random(n, q, seed=seed + 2) - 5


def rotation(p, seed=7):
    return torch.linalg.qr(random(p, p, seed=seed)).Q


def canonical(x, y):
    """Canonical correlations of x and y and unit-norm variates of x, from the generalised eigenproblem."""
    x, y = (np.asarray(z - z.mean(0)) for z in (x, y))
    cross = x.T @ y
    values, vectors = scipy.linalg.eigh(cross @ np.linalg.solve(y.T @ y, cross.T), x.T @ x)
    count = min(x.shape[1], y.shape[1])
    return np.sqrt(values[::-1][:count]), (x @ vectors)[:, ::-1][:, :count]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_layer_is_like_itself(name):
    x, y = related()
    assert VARIANTS[name](x, x) == pytest.approx(1, abs=EXACT)
    assert VARIANTS[name](x, y) < 0.95


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("seed", range(3))
def test_no_measure_sees_shift_or_scale_and_all_but_one_rotation(name, seed):
    x, y = related(seed=10 * seed)
    measure, before = VARIANTS[name], VARIANTS[name](x, y)
    turn = torch.eye(8, dtype=torch.float64)[torch.randperm(8)] if name == "pwcca" else rotation(8)
    assert measure(3.7 * x @ turn + random(8, seed=5), y) == pytest.approx(before, abs=EXACT)
    assert measure(x, 0.2 * y @ rotation(6) - random(6, seed=5)) == pytest.approx(before, abs=EXACT)


def test_projection_weights_are_of_neurons():
    x, y = related()
    assert abs(pwcca(x @ rotation(8), y) - pwcca(x, y)) > 1e-3


@pytest.mark.parametrize(
    ("name", "of_x", "of_y"),
    [
        ("cca", True, True),
        ("cca_mean", True, True),
        ("pwcca", False, True),
        ("linear_regression", False, True),
        ("procrustes", False, False),
        ("svcca_mean", False, False),
        ("rsa", False, False),
        ("mutual_knn", False, False),
    ],
)
def test_invertible_linear_maps(name, of_x, of_y):
    x, y = related()
    stretch = lambda p: rotation(p) * torch.logspace(0, 2, p, dtype=torch.float64)  # condition number 100  # noqa: E731
    before = VARIANTS[name](x, y)
    for changed, after in ((not of_x, (x @ stretch(8), y)), (not of_y, (x, y @ stretch(6)))):
        difference = abs(VARIANTS[name](*after) - before)
        assert difference > 1e-3 if changed else difference < EXACT


@pytest.mark.parametrize("name", SIMILARITY_MEASURES)
def test_symmetry_is_as_declared(name):
    x, y = related()
    difference = abs(FUNCTIONS[name](x, y) - FUNCTIONS[name](y, x))
    assert difference < EXACT if SIMILARITY_MEASURES[name].symmetric else difference > 1e-3


def test_procrustes_is_one_less_half_the_squared_distance():
    x, y = related(q=8)
    unit = [(z - z.mean(0)) / (z - z.mean(0)).norm() for z in (x, y)]
    turn, _ = scipy.linalg.orthogonal_procrustes(*(z.numpy() for z in unit))
    distance = (unit[0] @ torch.from_numpy(turn) - unit[1]).norm()
    assert procrustes(x, y) == pytest.approx(1 - distance.item() ** 2 / 2, abs=EXACT)


@pytest.mark.parametrize(("p", "q"), [(8, 6), (4, 6), (1, 3)])
def test_cca_solves_the_generalised_eigenproblem(p, q):
    x, y = related(p=p, q=q)
    correlations, _ = canonical(x, y)
    assert cca(x, y, "mean") == pytest.approx(correlations.mean(), abs=EXACT)
    assert cca(x, y) == pytest.approx((correlations**2).mean(), abs=EXACT)


def test_cca_is_the_cosines_of_the_angles_between_subspaces():
    x, y = related()
    angles = scipy.linalg.subspace_angles((x - x.mean(0)).numpy(), (y - y.mean(0)).numpy())
    assert cca(x, y, "mean") == pytest.approx(np.cos(angles).mean(), abs=EXACT)


@pytest.mark.parametrize("keep", [0.3, 0.8, 0.99])
def test_svcca_is_cca_of_the_leading_components(keep):
    x, y = related(p=12, q=10)
    leading = []
    for z in (x, y):
        values, vectors = np.linalg.eigh(np.cov(z.numpy().T))
        values, vectors = values[::-1], vectors[:, ::-1]
        kept = next(k for k in range(1, 13) if values[:k].sum() >= keep * values.sum())
        leading.append(z @ torch.from_numpy(vectors[:, :kept].copy()))
    assert keep == 0.99 or leading[0].shape[1] < 12
    assert svcca(x, y, keep=keep) == pytest.approx(cca(*leading), abs=EXACT)
    assert svcca(x, y, "mean", keep) == pytest.approx(cca(*leading, "mean"), abs=EXACT)


def test_svcca_that_keeps_everything_is_cca():
    x, y = related()
    assert svcca(x, y, keep=1) == pytest.approx(cca(x, y), abs=EXACT)


@pytest.mark.parametrize(("p", "q"), [(8, 6), (4, 6)])
def test_pwcca_is_the_weighted_loop(p, q):
    x, y = related(p=p, q=q)
    correlations, variates = canonical(x, y)
    neurons = (x - x.mean(0)).numpy()
    total = weights = 0.0
    for correlation, variate in zip(correlations, variates.T, strict=True):
        weight = sum(abs(float(variate @ neuron)) for neuron in neurons.T)
        total, weights = total + weight * correlation, weights + weight
    assert pwcca(x, y) == pytest.approx(total / weights, abs=EXACT)
    assert abs(pwcca(x, y) - cca(x, y, "mean")) > 1e-3  # the weights do matter here


def test_linear_regression_is_r_squared_of_least_squares():
    x, y = related()
    design, target = np.column_stack([np.ones(60), y]), x.numpy()
    residual = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    expected = 1 - (residual**2).sum() / ((target - target.mean(0)) ** 2).sum()
    assert linear_regression(x, y) == pytest.approx(expected, abs=EXACT)


def test_rsa_is_spearman_of_distances():
    x, y = related()
    assert rsa(x, y) == pytest.approx(spearmanr(pdist(x), pdist(y)).statistic, abs=EXACT)


def test_rsa_gives_ties_their_average_rank_also_after_a_rotation():
    """Most distances between integers and binary codes are ties, which centring and rotating break by rounding."""
    x, y = (random(40, 5).abs() * 1.5).round(), (random(40, 7, seed=1) > 0).double()
    assert len(np.unique(pdist(y))) < 9
    expected = spearmanr(pdist(x), pdist(y)).statistic
    assert rsa(x, y) == pytest.approx(expected, abs=EXACT)
    assert rsa(x @ rotation(5) + 0.1, y @ rotation(7) / 3) == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_mutual_knn_is_the_overlap_of_neighbours(k):
    x, y = related()
    found = [NearestNeighbors(n_neighbors=k).fit(z).kneighbors(return_distance=False) for z in (x, y)]
    shared = [len(set(a) & set(b)) for a, b in zip(*found, strict=True)]
    assert mutual_knn(x, y, k) == pytest.approx(np.mean(shared) / k, abs=EXACT)


def test_an_image_is_not_its_own_neighbour():
    """Images that occur twice are each other's nearest, so unrelated features agree; distance 0 is no exception."""
    x, y = random(20, 3).repeat(2, 1), random(20, 5, seed=1).repeat(2, 1)
    assert mutual_knn(x, y, 1) == pytest.approx(1, abs=EXACT)


def test_equally_near_images_count_by_the_share_of_draws_they_are_in():
    x = torch.tensor([[0.0], [1.0], [-1.0], [10.0]])  # 1 and -1 are equally near to 0
    y = torch.tensor([[0.0], [1.0], [5.0], [10.0]])
    # In y the nearest are 1, 0, 1 and 5. In x, 1 or -1 by halves, 0, 0 and 1, in whatever order the images come.
    assert mutual_knn(x, y, 1) == pytest.approx(1.5 / 4, abs=EXACT)
    assert mutual_knn(x[[0, 2, 1, 3]], y[[0, 2, 1, 3]], 1) == pytest.approx(1.5 / 4, abs=EXACT)


def test_ties_do_not_make_unrelated_features_agree():
    """Images fall into two halves, drawn for x and y independently; all of one's own half are equally near.

    A neighbour of x is one of y's 10 out of a half with probability 1/2 * 10 / 149.5, and so on: 10 / 299 by chance.
    Taking the first of them in both gave about a half.
    """
    halves = [torch.rand(300, generator=torch.Generator().manual_seed(seed)).argsort() % 2 for seed in (0, 1)]
    x, y = (half[:, None].double() for half in halves)
    assert mutual_knn(x, y, 10) == pytest.approx(10 / 299, abs=0.004)


@pytest.mark.parametrize(("p", "q"), [(20, 20), (10, 40)])
def test_chance_levels_of_independent_features(p, q):
    n, draws = 300, 12
    pairs = [(random(n, p, seed=s), random(n, q, seed=s + 100)) for s in range(draws)]
    mean = {name: np.mean([measure(x, y) for x, y in pairs]) for name, measure in VARIANTS.items()}
    # Single values spread by some 0.005 (CCA), 0.002 (kNN) and 0.025 (RSA): these are over three standard errors.
    level = max(p, q) / (n - 1)
    assert mean["cca"] == pytest.approx(level, abs=0.006)
    assert mean["linear_regression"] == pytest.approx(q / (n - 1), abs=0.008)
    assert mean["mutual_knn"] == pytest.approx(10 / (n - 1), abs=0.003)
    assert mean["mutual_3nn"] == pytest.approx(3 / (n - 1), abs=0.006)
    assert mean["rsa"] == pytest.approx(0, abs=0.025)
    assert mean["pwcca"] == pytest.approx(mean["cca_mean"], abs=0.01)
    assert level < mean["cca_mean"] < level**0.5
    if p == q:
        assert mean["procrustes"] == pytest.approx(0.85 * (p / n) ** 0.5, abs=0.01)


def test_chance_of_svcca_depends_on_the_components_kept():
    a, b, n = 30, 12, 200
    draws = [
        svcca(random(n, a, seed=s) @ random(a, 500, seed=s + 50), random(n, b, seed=s + 90), keep=1) for s in range(8)
    ]
    assert np.mean(draws) == pytest.approx(a / (n - 1), abs=0.02)  # single values spread by 0.013


def test_procrustes_of_wide_independent_features_goes_to_one():
    assert procrustes(random(40, 4000), random(40, 4000, seed=1)) > 0.97


@pytest.mark.parametrize("name", SIMILARITY_MEASURES)
def test_all_pairs_equal_each_pair(name):
    """Layers of several widths at once; those of n features and more come as principal-component scores."""
    n, measure = 40, SIMILARITY_MEASURES[name]
    latent = random(n, 5, seed=9)

    def scores(x):
        x = x - x.mean(0)
        left, values, _ = torch.linalg.svd(x, full_matrices=False)
        return x if x.shape[1] < n else left * values

    features, prepared = {"row": [], "column": []}, {}
    for side, prepare, seed in (("row", measure.prepare_row, 200), ("column", measure.prepare_column, 400)):
        for p in (1, 7, 38, 39, 40, 130):
            if measure.check(n, p, side) is None:
                # The first units vary most: of 40 images, 99% of a flat spectrum might take every component.
                x = latent @ random(5, p, seed=p) + random(n, p, seed=p + seed)
                features[side].append(x / (1 + torch.arange(p)) + 3)
        assert [scores(x).shape[1] for x in features[side] if x.shape[1] >= n] in ([], [n, n])
        prepared[side] = [prepare(scores(x)) for x in features[side]]
    table = measure.pairs(prepared["row"], prepared["column"])
    assert table.dtype == torch.float64
    expected = [[FUNCTIONS[name](x, y) for y in features["column"]] for x in features["row"]]
    torch.testing.assert_close(table, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=EXACT)
    assert table.shape == {"cca": (3, 3), "pwcca": (3, 3), "linear_regression": (6, 3)}.get(name, (6, 6))


@pytest.mark.parametrize("name", VARIANTS)
def test_no_variance_is_missing_with_a_warning(name):
    x, constant = related()[0], torch.full((60, 3), 0.1)
    tenth = torch.full((60, 3), 0.1, dtype=torch.float64)
    assert (tenth - tenth.mean(0)).any()  # the mean is rounded, which is no variance either
    for pair in ((constant, x), (x, constant), (constant, constant), (tenth, x), (x, tenth)):
        with pytest.warns(UserWarning, match="no variance"):
            assert math.isnan(VARIANTS[name](*pair))


@pytest.mark.parametrize("name", SIMILARITY_MEASURES)
def test_no_variance_is_missing_in_its_row_and_column_only(name):
    measure = SIMILARITY_MEASURES[name]
    layers = [centered(random(60, 5)), torch.zeros(60, 3, dtype=torch.float64), centered(random(60, 9, seed=1))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = measure.pairs([measure.prepare_row(x) for x in layers], [measure.prepare_column(x) for x in layers])
    missing = torch.zeros(3, 3, dtype=torch.bool)
    missing[1] = missing[:, 1] = True
    assert torch.equal(table.isnan(), missing)


def test_equal_distances_have_no_rank_correlation():
    with pytest.warns(UserWarning, match="distances"):
        assert math.isnan(rsa(torch.eye(10), random(10, 3)))


def test_wide_features_are_rotated_and_narrow_ones_kept():
    wide, narrow = random(20, 50) + 3, random(20, 19) + 3
    scores = centered(wide)
    assert scores.shape == (20, 20)
    difference = wide - wide.mean(0)
    torch.testing.assert_close(scores @ scores.T, difference @ difference.T, rtol=0, atol=EXACT)
    assert torch.equal(centered(narrow), narrow - narrow.mean(0))


def test_dead_and_repeated_units_are_no_directions():
    """Also where float32 keeps them apart by its rounding only."""
    x, y = (z.float() for z in related())
    more = torch.cat([x, torch.zeros(60, 2), x[:, :3] * 1.7, x.sum(1, keepdim=True)], dim=1)
    for measure in (cca, linear_regression):
        # Their least direction of variance is some tenth of the largest: float32 rounding, 1e-7, moves it by 1e-6.
        assert measure(y, more) == pytest.approx(measure(y, x), abs=1e-5)
    assert cca(more, y) == pytest.approx(cca(x, y), abs=1e-5)
    assert cca(more, x) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("p", "q", "name"), [(39, 5, "x"), (5, 39, "y"), (200, 5, "x"), (5, 40, "y")])
@pytest.mark.parametrize("measure", [cca, pwcca])
def test_too_wide_for_cca(measure, p, q, name):
    """At n-1 features every correlation is 1 already, as centred features have no more dimensions."""
    reason = rf"^{name}: with {max(p, q)} features of 40 images every .* is 1 .*theorem 1.*SVCCA"
    with pytest.raises(ValueError, match=reason):
        measure(random(40, p), random(40, q, seed=1))


def test_refusal_begins_where_the_value_says_nothing():
    x, y = random(40, 39), random(40, 3, seed=1)
    correlations = scipy.linalg.subspace_angles((x - x.mean(0)).numpy(), (y - y.mean(0)).numpy())
    assert np.abs(correlations).max() < 1e-6  # of two independent layers
    assert cca(x[:, :38], y) < 0.999


def test_too_wide_to_regress_from_but_not_to_predict():
    wide, narrow = random(40, 100), random(40, 5, seed=1)
    with pytest.raises(ValueError, match=r"^y: with 100 features of 40 images .*perfectly.*fewer features"):
        linear_regression(narrow, wide)
    assert 0 < linear_regression(wide, narrow) < 0.3
    assert SIMILARITY_MEASURES["linear_regression"].check(40, 100, "row") is None


def test_too_many_components_for_svcca():
    wide = random(40, 1000)
    with pytest.raises(ValueError, match=r"^y: 0\.99 of the variance takes 39 components.*40 images"):
        svcca(random(40, 3), wide)
    with pytest.raises(ValueError, match=r"^x: 1 of the variance takes 39"):
        svcca(wide, random(40, 3), keep=1)
    assert 0 < svcca(wide, random(40, 3), keep=0.5) < 1


@pytest.mark.parametrize("name", SIMILARITY_MEASURES)
def test_checks_name_a_reason_or_nothing(name):
    measure = SIMILARITY_MEASURES[name]
    assert measure.check(100, 5, "row") is None
    assert measure.check(100, 5, "column") is None
    assert "images" in measure.check(1, 5, "column")
    assert measure.title
    assert measure.chance


@pytest.mark.parametrize("name", SIMILARITY_MEASURES)
def test_numpy_and_maps_are_taken(name):
    x = np.random.default_rng(0).normal(size=(40, 2, 3, 3)).astype("float32")
    assert FUNCTIONS[name](x, x.reshape(40, -1)) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("name", SIMILARITY_MEASURES)
def test_errors_name_the_offender(name):
    measure = FUNCTIONS[name]
    with pytest.raises(ValueError, match="20 and 19 rows"):
        measure(random(20, 2), random(19, 2))
    with pytest.raises(ValueError, match=r"^y holds NaN or infinite values in 20"):
        measure(random(20, 2), random(20, 2) / 0)
    with pytest.raises(ValueError, match=r"^x should .*shape \(n, features\)"):
        measure(random(20), random(20, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: cca(x, x, "median"), "'median' is not known"),
        (lambda x: svcca(x, x, "median"), "'median' is not known"),
        (lambda x: svcca(x, x, keep=0), "keep=.* should be a number above 0 and at most 1, a share"),
        (lambda x: svcca(x, x, keep=99), "keep=.* should be a number above 0 and at most 1, a share"),
        (lambda x: mutual_knn(x, x, 0), "k must be 1 or more"),
        (lambda x: mutual_knn(x, x, 20), "20 neighbours of 20 images"),
        (lambda x: mutual_knn(x, x, 19), "19 neighbours of 20 images"),
        (lambda x: rsa(x[:2], x[:2]), "at least 3 images are needed, not 2"),
        (lambda x: procrustes(x[:1], x[:1]), "at least 2 images are needed, not 1"),
    ],
)
def test_errors_of_options(call, message):
    with pytest.raises(ValueError, match=message):
        call(random(20, 2))
