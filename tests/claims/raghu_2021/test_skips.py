"""Each verdict on skip connections comes out where the numbers say so."""

import numpy as np
import pytest

from utilities.analysis.blocks.skip_ratios import SkipRatios
from utilities.claims.claim import state_claims
from utilities.claims.raghu_2021.skips import claims_of_skips

FACTS = {"weights": "trained for 9 epochs", "accuracy": 0.9, "num_classes": 10}


def made(ratio, cosine=None, kinds=None, n=60, spread=0.05):
    """Make a result with these values, (branches, groups): CLS and image tokens, or positions alone."""
    ratio = np.array(ratio, float)
    cosine = 1 - 0.1 / ratio if cosine is None else np.array(cosine, float)
    rng, (count, groups) = np.random.default_rng(0), ratio.shape

    def around(values):
        noise = spread * rng.standard_normal((n // 2, count, groups))
        return values * np.exp(np.concatenate([noise, -noise]))  # so that means are what they are said to be

    tokens = np.ones((count, 3))
    return SkipRatios(
        [f"branch{i}" for i in range(count)],
        kinds or ["msa", "mlp"] * (count // 2),
        ["CLS", "spatial"][-groups:],
        np.full(count, groups - 1),
        np.ones((count, 2)),
        around(ratio),
        around(cosine),
        *[tokens] * 4,
        *[np.zeros(count)] * 2,
        np.full(count, 3 * n),
        FACTS | {"n": n},
    )


def verdicts(**results):
    return [claim.holds for claim in claims_of_skips(results)]


HIGH, LOW = (4.0, 1.5), (1.5, 4.0)


@pytest.mark.parametrize(
    ("halves", "verdict"),
    [((HIGH, LOW), True), ((LOW, HIGH), False), ((HIGH, HIGH), False), ((HIGH, (2.0, 2.0)), None)],
)
def test_the_transition_in_ratios_and_cosines(halves, verdict):
    first, second = halves
    found = verdicts(vit_tiny=made([first] * 4 + [second] * 4))
    assert found == [verdict] * 4  # attention and MLP, ratio and cosine


def test_attention_and_mlp_are_judged_apart():
    rows = [HIGH, LOW, HIGH, LOW, LOW, HIGH, LOW, HIGH]  # the MLP is the other way round
    assert verdicts(vit_tiny=made(rows)) == [True, True, False, False]


@pytest.mark.parametrize(("cnn", "verdict"), [(1.0, True), (2.0, False), (1.5, None)])
def test_above_the_cnn_at_every_depth(cnn, verdict):
    resnet = made([[cnn]] * 5, kinds=["conv"] * 5)
    assert verdicts(vit_tiny=made([HIGH] * 4), resnet18=resnet)[-1] is verdict


def test_few_images_and_no_class_token():
    assert verdicts(vit_tiny=made([HIGH, HIGH, LOW, LOW], n=10)) == [None] * 4
    claims = claims_of_skips({"resnet18": made([[2.0]] * 4, kinds=["conv"] * 4)})
    assert [(claim.holds, claim.found) for claim in claims] == [(None, "no model with a class token was run")]


def test_numbers_are_in_the_text():
    text = state_claims(claims_of_skips({"vit_tiny": made([HIGH, HIGH, LOW, LOW])})).replace("\n       ", " ")
    assert "first half: ratio 4.0" in text
    assert "second half: ratio 1.5" in text
    assert "below 0 in 1 of 1 blocks" in text


def test_one_block_makes_no_transition():
    """The mean of the first half has the sign, by one block of four."""
    first = [(400.0, 1.0), (1.0, 2.0), (1.0, 2.0), (1.0, 2.0)]
    ratio = [pair for pair in [*first, *[LOW] * 4] for _ in ("msa", "mlp")]
    assert verdicts(vit_tiny=made(ratio, np.ones((16, 2))))[0] is None
