"""Each verdict on receptive fields comes out where the numbers say so."""

import numpy as np
import pytest

from utilities.analysis.blocks.receptive_field import ReceptiveField
from utilities.claims.claim import state_claims
from utilities.claims.raghu_2021.receptive_field import claims_of_receptive_field

FACTS = {"weights": "trained for 9 epochs", "accuracy": 0.9, "num_classes": 10}


def made(radius, before=None, share=0.3, before_share=0.3, kinds=None, stages=None, n=60, spread=0.01):
    """Make a result with these radii, relative to a flat map's of 80 pixels."""
    rng, count = np.random.default_rng(0), len(radius)

    def around(values):
        values = np.broadcast_to(np.nan if values is None else values, count)
        noise = spread * rng.standard_normal((n // 2, count))
        return values * (1 + np.concatenate([noise, -noise]))  # so that means are what they are said to be

    maps = np.ones((count, 2, 2))
    return ReceptiveField(
        [f"block{i}" for i in range(count)],
        kinds or ["stem"] + ["msa"] * (count - 1),
        stages or [0] + [1] * (count - 1),
        [224, 224],
        *(np.ones((count, 2)) for _ in range(3)),
        maps,
        maps,
        80 * around(radius),
        around(before),
        around(share),
        around(before_share),
        np.full(count, 80.0),
        FACTS | {"n": n},
    )


def verdicts(cnn, vit=None):
    results = {"resnet18": cnn} if vit is None else {"resnet18": cnn, "vit_tiny_patch2_16": vit}
    return {claim.claim.partition(":")[0]: claim.holds for claim in claims_of_receptive_field(results)}


LOCAL, SLOW = "the receptive fields of a CNN's first half are local", "the receptive fields of a CNN grow slowly"
EARLY = "early in the network, the receptive fields of a ViT are larger than those of a CNN"
GLOBAL = "in the middle of a ViT the receptive fields are global"
PEAK = "before the residual sum, a ViT's attention has far less of a peak at its own patch than after it"
SHRINKS = "the branch of the first block of a ResNet's stage sees less than the branch before it"
CNN = (0.01, 0.1, 0.2, 0.3, 0.4, 0.5)


def test_as_in_the_paper():
    found = verdicts(made(CNN), made((0.1, 0.8, 0.9, 0.9, 0.9, 0.9), before_share=0.05))
    assert found == dict.fromkeys([LOCAL, SLOW, EARLY, GLOBAL, PEAK], True)


def test_the_other_way_round():
    found = verdicts(made((0.1, 0.8, 0.9, 0.9, 0.9, 0.9)), made(CNN, before_share=0.2))
    assert found == dict.fromkeys([LOCAL, SLOW, EARLY, GLOBAL, PEAK], False)


def test_within_the_errors_and_of_few_images():
    found = verdicts(made(CNN), made(CNN, before_share=0.15))
    assert found[EARLY] is found[SLOW] is found[PEAK] is None
    assert verdicts(made(CNN, n=10))[LOCAL] is None


@pytest.mark.parametrize(
    ("before", "verdict"),
    [((np.nan, 4, 6, 5, 9, 7), True), ((np.nan, 4, 6, 7, 9, 9.5), False), ((np.nan, 4, 6, 5, 9, 9), None)],
)
def test_branches_that_shrink_where_a_stage_begins(before, verdict):
    assert verdicts(made(CNN, before, stages=[0, 1, 1, 2, 2, 3]))[SHRINKS] is verdict


def test_without_branches_at_the_starts_of_stages_there_is_no_such_claim():
    gaps = (np.nan, 4, 6, np.nan, 9, np.nan)
    assert SHRINKS not in verdicts(made(CNN, gaps, stages=[0, 1, 1, 2, 2, 3]))


def test_numbers_are_in_the_text_and_nothing_run_is_no_claim():
    text = state_claims(claims_of_receptive_field({"resnet18": made(CNN)})).replace("\n       ", " ")
    assert "within 0.150 ± 0.000 of a flat map's radius" in text
    assert [claim.holds for claim in claims_of_receptive_field({})] == [None]
