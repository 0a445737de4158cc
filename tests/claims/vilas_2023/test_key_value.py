"""Verdicts on key-value agreement from made-up rates."""

import dataclasses

import numpy as np
import pytest

from utilities.analysis.class_embedding.key_value import KeyValueAgreement
from utilities.claims.vilas_2023.key_value import claims_of_key_value

CHANCE = 0.03
RISING = (0.05, 0.06, 0.1, 0.2, 0.3, 0.6)
PEAKED = (0.05, 0.06, 0.1, 0.2, 0.6, 0.1)


DEFAULTS = {"rate": (RISING, PEAKED), "chance": (CHANCE,), "excess": (0.4,), "match": (RISING,), "gap": (0.2,)}


def agreement(error=0.01, **values):
    """Make a result from name -> (attention, MLP) or one for both, each of all blocks or one number for all."""
    values = DEFAULTS | {"match_chance": (0.2,)} | values
    blocks = len(values["rate"][0])
    arrays = {field.name: np.zeros((2, 2, blocks)) for field in dataclasses.fields(KeyValueAgreement)}
    for name, parts in values.items():
        both = [np.resize(part, blocks) for part in (parts[0], parts[-1])]
        arrays[name] = np.stack([both, both], 1)  # class and image tokens alike
        if f"{name}_stderr" in arrays:
            arrays[f"{name}_stderr"] = np.full((2, 2, blocks), error)
    labels = {"names": [f"blocks.{i}" for i in range(blocks)], "parts": ["attn", "mlp"], "groups": ["CLS", "image"]}
    return KeyValueAgreement(**arrays | labels | {"n_correct": 90, "n_wrong": 10, "provenance": {}})


def verdicts(**values):
    return [claim.holds for claim in claims_of_key_value({"vit": agreement(**values)})]


def test_all_hold_where_all_is_as_in_the_paper():
    assert verdicts() == [True] * 7


@pytest.mark.parametrize(
    ("values", "attention", "mlp"),
    [
        ({"excess": (0.0, 0.4)}, None, True),  # above chance by luck of the weights: the other class is so too
        ({"excess": (0.4, -0.1)}, True, False),
        ({"chance": (0.9, CHANCE)}, False, True),
        ({"chance": (0.45, CHANCE)}, None, True),  # the late mean of 0.45 exactly
        ({"error": 1.0}, None, None),
        ({"error": np.nan}, None, None),
    ],
)
def test_agreement_has_to_be_above_chance_and_above_the_other_class(values, attention, mlp):
    assert verdicts(**values)[:2] == [attention, mlp]


@pytest.mark.parametrize(
    ("rates", "attention", "mlp"),
    [
        ((RISING, PEAKED), True, True),
        ((PEAKED, RISING), False, False),
        (((*RISING[:-1], 0.31), PEAKED), None, True),  # 0.31 ± 0.01 against 0.30 ± 0.01
        ((RISING, (*PEAKED[:-1], 0.61)), True, None),
        ((RISING[:2], PEAKED[:2]), None, None),  # two blocks have no late ones
    ],
)
def test_peaks(rates, attention, mlp):
    assert verdicts(rate=rates)[2:4] == [attention, mlp]


@pytest.mark.parametrize(("match", "holds"), [(RISING, True), (RISING[::-1], False), ((0.5,) * 6, None)])
def test_compositionality_falls_where_matches_rise(match, holds):
    assert verdicts(match=(0.5, match))[4] is holds


@pytest.mark.parametrize(
    ("gap", "attention", "mlp"), [((0.2, -0.2), True, False), ((0.01, 0.5), None, True), ((np.nan,), None, None)]
)
def test_agreement_and_accuracy(gap, attention, mlp):
    claims = claims_of_key_value({"vit": agreement(gap=gap)})[5:]
    assert [claim.holds for claim in claims] == [attention, mlp]
    assert all("90 images right, 10 wrong" in claim.found for claim in claims)


def test_words_name_the_model_and_its_numbers():
    claims = claims_of_key_value({"one": agreement(), "two": agreement(error=0.02)})
    assert [claim.found.split(":")[0] for claim in claims] == ["one"] * 7 + ["two"] * 7
    assert "45.0 ± 1.0 % of image tokens agree in blocks 5 to 6, 3.0 by chance" in claims[0].found
    assert "60.0 ± 1.0 % of image tokens agree there, 30.0 ± 1.0 % in the best other one, block 5" in claims[2].found
    assert "45.0 ± 2.0 % of image tokens match in blocks 5 to 6 (20.0 by chance)" in claims[11].found
