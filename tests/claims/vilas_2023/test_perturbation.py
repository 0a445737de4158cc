"""Verdicts on perturbations: each comes out where the numbers say so, and none where they cannot tell."""

import numpy as np
import pytest

from utilities.analysis.class_embedding.perturbation import PERTURBATION_MEASURES, Perturbation
from utilities.claims.vilas_2023.perturbation import claims_of_perturbation

CHANCE = 0.1


def result(kind, intact, perturbed, error=0.01, blocks=(0, 1), images=100):
    """A result of one kind, with standard errors all the same and intervals of two of them."""
    values = np.full((1, 3, len(PERTURBATION_MEASURES)), np.nan)  # other measures than the rate should not be looked at
    values[0, :, 0] = intact, perturbed, perturbed - intact
    errors = np.full_like(values, error)
    ends = values - 2 * error, values + 2 * error
    counts = np.array([images]), np.array([images * 36])
    facts = {"num_classes": round(1 / CHANCE), "confidence": 0.95}
    names = ["blocks.0", "blocks.1"]
    p = np.full((1, len(PERTURBATION_MEASURES)), np.nan)
    return Perturbation([kind], [list(blocks)], names, values, errors, *ends, p, *counts, facts)


def verdict(kind, *numbers, **options):
    claims = claims_of_perturbation({"vit": result(kind, *numbers, **options)})
    assert len(claims) == 4
    (claim,) = (claim for claim in claims if "was not run" not in claim.found)
    assert claim.found.startswith(f"vit, {kind}: ")
    return claim.holds


@pytest.mark.parametrize(
    ("numbers", "holds"),
    [
        ((0.6, 0.1), True),
        ((0.6, 0.05), True),  # below chance
        ((0.6, 0.13, 0.005), True),  # at most (0.14 - 0.1) / 0.5 = 8 % of it is left
        ((0.6, 0.15), None),  # 6 % to 14 %
        ((0.6, 0.3), False),
        ((0.11, 0.1), None),  # there was nothing to lose
    ],
)
def test_image_tokens_alone(numbers, holds):
    assert verdict("self_only", *numbers) is holds


@pytest.mark.parametrize("kind", ["no_cls", "no_cls_unnormalised"])
@pytest.mark.parametrize(
    ("numbers", "holds"),
    [
        ((0.6, 0.6, 0.005), True),
        ((0.6, 0.595, 0.002), True),  # a difference, but of less than a point
        ((0.6, 0.6, 0.02), None),  # it may be 4 points
        ((0.6, 0.55, 0.01), False),
        ((0.6, 0.65, 0.01), False),  # a rise is a change too
        ((0.1, 0.1, 0.005), None),
    ],
)
def test_hidden_class_token(kind, numbers, holds):
    assert verdict(kind, *numbers) is holds


@pytest.mark.parametrize(
    ("numbers", "holds"),
    [
        ((0.7, 0.4), True),
        ((0.7, 0.69), None),
        ((0.7, 0.75), False),  # it rises
        ((0.7, 0.11), None),  # lower, but chance or not cannot be told
        ((0.7, 0.05), False),  # below chance
    ],
)
def test_context_taken_out(numbers, holds):
    assert verdict("no_context", *numbers) is holds


@pytest.mark.parametrize(
    ("numbers", "holds"), [((0.5, 0.1), True), ((0.5, 0.49), None), ((0.5, 0.6), False), ((0.1, 0.05), None)]
)
def test_object_taken_out(numbers, holds):
    assert verdict("no_class", *numbers) is holds


def test_without_errors_nothing_can_be_told():
    for kind in ("self_only", "no_cls", "no_context", "no_class"):
        assert verdict(kind, 0.6, 0.1, np.nan) is None
    assert verdict("no_class", np.nan, np.nan, np.nan, images=0) is None


def test_perturbations_of_some_blocks_alone_are_not_what_is_claimed():
    claims = claims_of_perturbation({"vit": result("self_only", 0.6, 0.1, blocks=(1,))})
    assert [claim.holds for claim in claims] == [None] * 4
    assert claims[0].found == "self_only in all blocks was not run"


def test_every_model_has_its_own_verdict_with_its_numbers():
    claims = claims_of_perturbation({"a": result("self_only", 0.6, 0.1), "b": result("self_only", 0.6, 0.5)})
    assert [claim.holds for claim in claims[:2]] == [True, False]
    assert "60.0% (95% interval 58.0 to 62.0) of the same tokens intact, 10.0% (8.0 to 12.0)" in claims[0].found
    assert "-10.0 (-12.0 to -8.0) points; chance is 10.0%; 100 images" in claims[1].found
