"""Each verdict on class-value agreement comes out where the numbers say so."""

import dataclasses

import numpy as np
import pytest

from utilities.analysis.class_embedding.agreement import ClassValueAgreement
from utilities.claims.vilas_2023.class_value import claims_of_class_value

NOISE = 0.01
ARRAYS = ("scores", "chance", "random_scores", "p")


def result(excess, classes=100, twin=True, noise=NOISE, seed=0):
    """Make scores of the MLP above 0.3 by so much in each block, with noise among classes."""
    rng, shape = np.random.default_rng(seed), (1, len(excess), classes)
    random = 0.3 + noise * rng.normal(size=shape)
    scores = random + np.array(excess)[:, None] + noise * rng.normal(size=shape)
    return ClassValueAgreement(
        scores=scores,
        chance=np.full(shape[:2], 0.3),
        random_scores=random if twin else np.full(shape, np.nan),
        p=np.where(np.array(excess)[None] > 0, 0.001, 0.5) if twin else np.full(shape[:2], np.nan),
        parts=["mlp"],
        names=[f"blocks.{i}" for i in range(len(excess))],
        provenance={"weights": "trained for 9 epochs", "accuracy": 0.97},
    )


def verdicts(*arguments, **options):
    return [claim.holds for claim in claims_of_class_value({"vit": result(*arguments, **options)})]


@pytest.mark.parametrize(
    ("excess", "expected"),
    [
        ((0, 0, 0.01, 0.1, 0.2, 0.1), [True, True, True]),  # as in the paper
        ((0.1, 0.1, 0.1, 0.1, 0.2, 0.1), [True, False, True]),  # above everywhere, as small models are
        ((0.1, 0.2, 0.1, 0.1, 0.05, 0.1), [True, False, False]),  # the best comes early
        ((-0.1, -0.1, 0, 0.1, 0.2, 0.2), [True, False, True]),  # below the untrained model is not at its level
        ((0, 0, 0, 0, 0, 0), [None, None, None]),
        ((0, 0, 0, 0, -0.1, -0.1), [False, None, False]),
        ((0.02, 0.02, 0.1, 0.2, 0.2, 0.1), [True, None, None]),  # just the share that counts as little; a tie
    ],
)
def test_verdicts(excess, expected):
    assert verdicts(excess) == expected


def test_noise_is_seldom_taken_for_an_effect():
    # By two standard errors, 2.5 % of verdicts are True by accident, and as many False; 40 models, 4 of these errors.
    found = np.array([verdicts((0,) * 6, classes=30, seed=seed) for seed in range(40)])
    assert ((found == True).mean(0) < 0.12).all()  # noqa: E712 - None stands beside them
    assert ((found == False).mean(0) < 0.12).all()  # noqa: E712
    assert verdicts((0, 0, 0.01, 0.1, 0.2, 0.1), classes=1) == [None, None, None]


def test_without_an_untrained_model_chance_takes_its_place():
    claims = claims_of_class_value({"vit": result((0, 0, 0, 0.1, 0.2, 0.1), twin=False)})
    assert [claim.holds for claim in claims] == [True, True, True]
    assert "above chance (no untrained model was given)" in claims[0].found
    assert "p <" not in claims[0].found


def test_numbers_are_those_of_the_result():
    made = result((0, 0, 0, 0.1, 0.2, 0.1))
    late = (made.scores - made.random_scores)[0, 4:].mean(0)
    found = [claim.found for claim in claims_of_class_value({"vit": made})]
    numbers = f"{late.mean():.3g} ± {late.std(ddof=1) / 10:.2g}"
    assert found[0] == f"vit, mlp: blocks 5 to 6 score {numbers} above the untrained model's; p < 0.05 in 2 of 2"
    assert found[1].startswith("vit, mlp: blocks 1 to 2 score")
    assert "the best block, 5, 0.2" in found[1]
    assert (
        f"the best late block, 5, scores {made.mean[0, 4]:.3f}, the best before, 4, {made.mean[0, 3]:.3f}" in found[2]
    )


def test_each_model_and_part_has_its_claims():
    one = result((0, 0, 0.2))
    both = dataclasses.replace(
        one, parts=["attn", "mlp"], **{name: np.concatenate([getattr(one, name)] * 2) for name in ARRAYS}
    )
    claims = claims_of_class_value({"a": both, "b": one})
    assert [claim.found[:7] for claim in claims] == ["a, attn"] * 3 + ["a, mlp:"] * 3 + ["b, mlp:"] * 3
    assert [claim.holds for claim in claims] == [True] * 9
    assert "attention's" in claims[0].claim


def test_one_block_or_missing_scores_tell_nothing():
    assert verdicts((0.1,)) == [True, None, None]
    made = result((0.1, 0.1, 0.2))
    made.scores[0, 2] = made.random_scores[0, 2] = np.nan
    assert [claim.holds for claim in claims_of_class_value({"vit": made})] == [None, False, None]
