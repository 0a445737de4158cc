"""Verdicts on removal curves and on where importance lies, for results made up so that each comes out."""

import numpy as np
import pytest

from utilities.analysis.class_embedding.importance import Importance
from utilities.analysis.class_embedding.removal import RemovalCurves
from utilities.claims.vilas_2023.importance import claims_of_importance, claims_of_removal

ONE = np.ones((1, 2))


TRAINED = {"weights": "trained for 9 epochs", "accuracy": 0.97}


def curves(random=0.5, n=400, noise=0.1, **maps):
    """Make a result whose areas have given means: name=(negative, positive); noise is that of the images' areas."""
    rng = np.random.default_rng(0)

    def areas(means):
        # Pairs of opposite sign: the mean over images is exact.
        half = rng.normal(size=(len(means), n // 2)) * noise
        return np.array(means)[:, None] + np.concatenate([half, -half], 1)

    count = len(maps)
    lines = np.ones((count, 2))
    parts = [areas([pair[side] for pair in maps.values()]) if maps else np.empty((0, n)) for side in (0, 1)]
    chance = areas([random] * 3) if random is not None else np.empty((0, n))
    ends = np.array([0, 4]), 4, lines, lines, np.ones((len(chance), 2)), np.zeros(2)
    return RemovalCurves(list(maps), *ends, *parts, chance, np.zeros(n), TRAINED)


@pytest.mark.parametrize(
    ("pair", "verdicts"),
    [
        ((0.7, 0.3), [True, True]),
        ((0.7, 0.5), [True, None]),
        ((0.3, 0.7), [False, False]),
        ((0.502, 0.498), [None, None]),  # the standard error of a paired difference is 0.006 here
    ],
)
def test_against_random_orders(pair, verdicts):
    claims = claims_of_removal({"vit": curves(gradient=pair)})
    assert [claim.holds for claim in claims] == verdicts
    assert f"negative curve {pair[0]:.3f}, at random 0.500" in claims[0].found
    assert "400 images" in claims[0].found


def test_images_are_paired():
    """The same noise in both is no noise of their difference."""
    result = curves(gradient=(0.502, 0.498))
    shared = np.random.default_rng(1).normal(size=400) * 0.1
    for areas, mean in ((result.negative_auc, 0.502), (result.random_auc, 0.5), (result.positive_auc, 0.498)):
        areas[:] = mean + shared
    assert [claim.holds for claim in claims_of_removal({"vit": result})] == [True, True]


@pytest.mark.parametrize(
    ("other", "noise", "verdict"),
    [((0.71, 0.29), 0.1, True), ((0.8, 0.2), 0.1, False), ((0.6, 0.4), 0.1, False), ((0.74, 0.26), 0.3, None)],
)
def test_about_as_good_as_relevance(other, noise, verdict):
    claims = claims_of_removal({"vit": curves(gradient=(0.7, 0.3), relevance=other, noise=noise)})
    assert [claim.holds for claim in claims[2:]] == [verdict, verdict]
    assert f"better by {0.7 - other[0]:+.3f} ± " in claims[2].found
    assert f"better by {other[1] - 0.3:+.3f} ± " in claims[3].found


def test_against_probes_by_any_name():
    result = curves(ours=(0.7, 0.3), probes=(0.6, 0.2))
    claims = claims_of_removal({"vit": result}, gradient="ours", probe="probes")
    assert [claim.holds for claim in claims] == [True, True, True, False]


def test_what_was_not_run_cannot_be_told():
    for result, words in (
        (curves(relevance=(0.7, 0.3)), "a map named 'gradient'"),
        (curves(None, gradient=(1, 0)), "random"),
    ):
        claims = claims_of_removal({"vit": result})
        assert [claim.holds for claim in claims] == [None, None]
        assert f"without {words}" in claims[0].found
    single = curves(gradient=(0.7, 0.3), n=2)
    for name in ("negative_auc", "positive_auc", "random_auc"):
        object.__setattr__(single, name, getattr(single, name)[:, :1])
    object.__setattr__(single, "targets", np.zeros(1))
    assert [claim.holds for claim in claims_of_removal({"vit": single})] == [None, None]  # no error, no verdict


def placed(share, n=100, masks=True):
    """Make maps with a share of their mass on an object that fills a quarter of the image."""
    wiggle = 0.05 * np.where(np.arange(n) % 2, 1, -1)[:, None]
    maps = np.concatenate([share + wiggle, (1 - share - wiggle) * np.array([[0.5, 0.3, 0.2]])], 1)
    coverage = np.tile([1.0, 0, 0, 0], (n, 1)) if masks else None
    return Importance(maps, [2, 2], np.zeros(n), "gradient", None, coverage, provenance=TRAINED)


def test_importance_on_the_object():
    results = {"on": placed(0.4), "off": placed(0.1), "chance": placed(0.255), "bare": placed(0.4, masks=False)}
    claims = claims_of_importance(results)
    assert [claim.holds for claim in claims] == [True, False, None, None]
    assert "on: 40.0 ± 0.5 % of the positive values are on the object, which fills 25.0 %" in claims[0].found
    assert "100 of 100 images" in claims[0].found
    assert "no masks" in claims[3].found
