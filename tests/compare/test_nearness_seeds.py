"""Several seeds of the shared model too: the mean over pairs, what one seed cannot tell, and what is refused."""

import numpy as np
import pytest
import torch

from tests.compare.test_nearness import QUIET, loader, net, similarity
from utilities.compare import compare_similarities
from utilities.compare.gram_differences import difference_of_grams
from utilities.metrics import center


def test_similarities_are_means_over_pairs_with_seeds_of_the_shared_model():
    models, first, second = [net(), net(6)], [net(1), net(2)], net(3)
    found = compare_similarities(models, first, second, loader(), **QUIET)
    pairs = [similarity(one, two, found.layers, found.layers).matrix.diagonal() for one in models for two in first]
    np.testing.assert_allclose(found.similarity1, np.mean(pairs, 0), atol=1e-10)
    assert found.provenance["models_of_side"] == [2, 2, 1]


def grams_of(shares, seed=0):
    """Seeds of A, each between the features of B and those of C: share 1 is nearest to B, -1 to C."""
    generator = torch.Generator().manual_seed(seed)
    one, two, *noise = torch.randn(2 + len(shares), 60, 6, generator=generator, dtype=torch.float64)
    own = [(1 + s) * one + (1 - s) * two + 0.3 * x for s, x in zip(shares, noise, strict=True)]
    features = {(0, k): x for k, x in enumerate(own)} | {(1, 0): one, (2, 0): two}
    return {(*key, "a"): [center(x @ x.T)] for key, x in features.items()}


def test_what_one_seed_tells_the_others_may_take_back():
    shares = (0.5, -0.4, 0.4, -0.5)  # by chance nearer to either
    single = difference_of_grams(grams_of(shares[:1]), resamples=200)
    several = difference_of_grams(grams_of(shares), resamples=200)
    assert single.nearer == 1
    assert several.nearer == 0
    assert several.stderr[0] > 2 * single.stderr[0]


def test_what_all_seeds_agree_on_is_found():
    found = difference_of_grams(grams_of((0.5, 0.45, 0.4, 0.55)), resamples=200)
    assert found.nearer == 1
    assert found.low[0] > 0


def test_more_seeds_bring_the_error_of_seeds_down_as_their_root():
    """The variance is that of a mean, spread / number of seeds, where seeds differ far more than images tell."""
    rng = np.random.default_rng(0)
    shares = rng.uniform(-0.8, 0.8, 8)
    found = difference_of_grams(grams_of(shares), resamples=400)
    singles = [difference_of_grams(grams_of(shares[k : k + 1]), resamples=100).difference[0] for k in range(8)]
    expected = np.std(singles, ddof=1) / np.sqrt(8)
    assert found.stderr[0] == pytest.approx(expected, rel=0.2)  # 400 resamples know a deviation to 4%; images add


def test_whole_matrices_take_seeds_too():
    models, first, second = [net(), net(6)], net(1), net(3)
    matrix = compare_similarities(models, first, second, loader(), match="all", **QUIET)
    curve = compare_similarities(models, first, second, loader(), **QUIET)
    for name in ("difference", "stderr", "low", "p_value"):
        np.testing.assert_allclose(getattr(matrix, name).diagonal(), getattr(curve, name), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_model_on_two_sides_is_refused_where_there_are_seeds(place):
    shared = net()
    sides = [[shared, net(1)], [net(2), shared], net(3)]
    sides = sides[-place:] + sides[:-place]
    with pytest.raises(ValueError, match="a model is on two sides"):
        compare_similarities(*sides, loader(), **QUIET)
