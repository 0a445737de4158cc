"""Each verdict on class identifiability comes out where the numbers say so."""

import dataclasses

import numpy as np
import pytest

from utilities.analysis.class_embedding.identifiability import AXES, Identifiability
from utilities.claims.vilas_2023.identifiability import claims_of_identifiability

BLOCKS, CLASSES, IMAGES = 6, 10, 50
SIZES = {"part": 3, "layer": 2, "block": BLOCKS, "group": 2, "source": 5, "overlap": 4, "place": 2}
RISING = np.linspace(0.55, 0.95, BLOCKS)


def made(cls=RISING, image=RISING - 0.02, error=0.001, **changes):
    """A result whose scores are given, with hardly any spread over images."""
    arrays = {}
    for name, axes in AXES.items():
        shape = tuple(SIZES[axis] for axis in axes)
        arrays |= {name: np.full(shape, 0.5), f"{name}_stderr": np.full(shape, error)}
        arrays |= {f"{name}_interval": np.zeros((2, *shape))}
    score = np.stack([np.broadcast_to(values, BLOCKS) for values in (cls, image)], 1)
    arrays["score"] = np.stack([score] * 3)
    noise = np.random.default_rng(0).normal(size=(IMAGES, BLOCKS, 2))
    one = Identifiability(
        names=[f"blocks.{b}" for b in range(BLOCKS)],
        depth=np.arange(1, BLOCKS + 1) / BLOCKS,
        parts=["block", "attn", "mlp"],
        groups=["CLS", "image"],
        **arrays,
        place_p=np.zeros(BLOCKS),
        place_layer_p=np.zeros((2, BLOCKS)),
        image_score=score + error * np.sqrt(IMAGES) * (noise - noise.mean(0)),
        labels=np.arange(IMAGES) % CLASSES,
        n=IMAGES,
        image_tokens=4,
        n_masked=40,
        num_classes=CLASSES,
        accuracy=0.5,
        class_token_decides=True,
    )
    return dataclasses.replace(one, **changes)


def verdict(text, *results, random=None):
    """What is said of the one claim whose text holds some words."""
    named = {f"vit{i}": result for i, result in enumerate(results)}
    twins = None if random is None else {"vit0": random}
    [claim] = [claim for claim in claims_of_identifiability(named, twins) if text in claim.claim]
    return claim.holds


def test_without_results_nothing_is_told():
    claims = claims_of_identifiability({})
    assert len(claims) == 10
    assert {claim.holds for claim in claims} == {None}


def test_accuracy_is_the_class_tokens_rate():
    assert verdict("is the accuracy", made()) is True
    assert verdict("is the accuracy", made(accuracy=0.52)) is False  # one image of fifty
    assert verdict("is the accuracy", made(accuracy=0.52, class_token_decides=False)) is None


@pytest.mark.parametrize(
    ("cls", "image", "holds"),
    [(RISING, RISING, True), (RISING, RISING[::-1], False), (0.6, 0.6, None), (RISING, 0.6, None)],
)
def test_rises(cls, image, holds):
    assert verdict("rises", made(cls, image)) is holds


@pytest.mark.parametrize(("lead", "holds"), [(0.1, True), (-0.1, False), (0.0, None)])
def test_class_token_leads(lead, holds):
    assert verdict("better than image tokens", made(0.6 + lead, 0.6)) is holds


def test_one_model_that_fails_decides_and_those_that_cannot_tell_are_left_out():
    leads, lags = made(0.7, 0.6), made(0.6, 0.7)
    no_class_token = dataclasses.replace(leads, groups=["image"], image_score=leads.image_score[..., :1])
    assert verdict("better than image tokens", leads, lags) is False
    assert verdict("better than image tokens", leads, made(0.6, 0.6)) is None
    assert verdict("better than image tokens", leads, no_class_token) is True


@pytest.mark.parametrize(("score", "error", "holds"), [(0.55, 0.001, True), (0.75, 0.001, False), (0.55, 0.1, None)])
def test_untrained_models_at_chance(score, error, holds):
    """Errors that hide a difference are no proof of chance."""
    assert verdict("at chance", made(), random=made(score, score, error)) is holds
    assert verdict("at chance", made()) is None


@pytest.mark.parametrize(("blocks", "holds"), [(6, True), (4, None), (1, False)])
def test_training_raises_it_in_most_blocks(blocks, holds):
    scores = np.where(np.arange(BLOCKS) >= BLOCKS - blocks, 0.9, 0.4)
    assert verdict("training raises", made(scores, scores), random=made(0.55, 0.55)) is holds
    other = made(labels=np.zeros(IMAGES, int))
    with pytest.raises(ValueError, match="other labels"):
        verdict("training raises", made(), random=other)


@pytest.mark.parametrize(("rate", "twin", "holds"), [(0.5, 0.1, True), (0.05, 0.1, False), (0.5, 0.6, False)])
def test_image_tokens_identify(rate, twin, holds):
    rates = [np.full((3, BLOCKS, 2), x) for x in (rate, twin)]
    trained, random = (made(rate=x) for x in rates)
    assert verdict("more than chance", trained, random=random) is holds


@pytest.mark.parametrize(
    ("share", "twin", "tokens", "holds"),
    [
        (0.98, None, 4, True),  # chance is 34 %
        (0.98, None, 36, None),  # chance is 98 %
        (0.98, 0.2, 36, True),
        (0.98, 0.99, 36, None),
        (0.5, 0.2, 36, False),
        (0.9, 0.2, 36, None),
    ],
)
def test_nearly_every_image(share, twin, tokens, holds):
    trained, *random = [made(any_token=np.full(BLOCKS, x), image_tokens=tokens) for x in (share, twin) if x is not None]
    assert verdict("nearly every", trained, random=random[0] if random else None) is holds


@pytest.mark.parametrize(
    ("differences", "middle", "everywhere"),
    [
        ([0.1] * 6, True, True),
        ([0.1, 0.1, 0.1, 0.1, 0.1, -0.1], True, False),
        ([0.1, 0.1, -0.1, 0.1, 0.1, 0.1], False, False),
        ([0.0, 0.1, 0.1, 0.1, 0.1, 0.1], True, None),
    ],
)
def test_object_and_context(differences, middle, everywhere):
    result = made(place_difference=np.array(differences))
    assert verdict("every middle block", result) is middle
    assert verdict("context, in every block", result) is everywhere
    assert verdict("context, in every block", dataclasses.replace(result, n_masked=0)) is None


@pytest.mark.parametrize(("attn", "holds"), [(0.8, True), (0.3, False), (0.5, None)])
def test_attention_before_the_late_blocks(attn, holds):
    change = np.full((2, BLOCKS, 2), 0.5)
    change[0, 1:5], change[:, 0] = attn, np.nan
    change[1, 5] = 0.99  # the last block does not count
    assert verdict("attention raises", made(layer_change=change)) is holds
    cnn = made(layer_change=np.empty((0, BLOCKS, 2)))
    assert verdict("attention raises", cnn) is None


def test_sentences_name_models_and_numbers():
    claims = claims_of_identifiability({"vit": made()}, {"vit": made(0.55, 0.55)})
    found = {claim.claim: claim.found for claim in claims}
    assert all(text.startswith("vit: ") for text in found.values())
    assert "rate 50.00%, accuracy 50.00%" in " ".join(found.values())
    assert "class token 0.550 to 0.950 (+0.400 ± 0.002)" in " ".join(found.values())
