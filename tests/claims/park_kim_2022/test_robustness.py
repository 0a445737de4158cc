import dataclasses

import numpy as np
import pytest

from utilities.analysis.predictions.noise_frequency import NoiseFrequency
from utilities.analysis.predictions.robustness import Robustness
from utilities.claims.claim import state_claims
from utilities.claims.park_kim_2022.noise_frequency import claims_of_noise_frequency
from utilities.claims.park_kim_2022.robustness import claims_of_robustness

IMAGES = 400
CNN, VIT = "resnet18", "vit_tiny_patch2_16"


def right(*accuracies):
    """Tables of right answers: images that stay right under much noise are right under little, as in practice."""
    return (np.arange(IMAGES)[None] < IMAGES * np.array(accuracies)[:, None]).astype(np.int64)


def corrupted(clean, *accuracies):
    table = right(clean, *accuracies)
    zeros = np.zeros(len(table))
    return Robustness(table @ table.T, zeros, zeros, zeros, ["fog"], list(range(1, len(table))), IMAGES)


def noisy(*accuracies):
    """Clean, 0.1, 0.3, 0.5, 0.7, 0.9 pi."""
    table = right(*accuracies)
    return NoiseFrequency(table @ table.T, np.arange(0, 1.1, 0.2), IMAGES)


def verdicts(claims):
    return [claim.holds for claim in claims]


@pytest.mark.parametrize(
    ("cnn", "vit", "expected"),
    [
        ((0.9, 0.5, 0.3), (0.9, 0.7, 0.6), [True, True]),
        ((0.9, 0.7, 0.6), (0.9, 0.5, 0.3), [False, False]),
        ((0.9, 0.5, 0.3), (0.6, 0.45, 0.33), [None, True]),  # as good on corrupted images, from a lower start
        ((0.9, 0.5, 0.3), (0.9, 0.51, 0.3), [None, None]),  # a difference of 0.5 points, errors of about 3
    ],
)
def test_robustness(cnn, vit, expected):
    assert verdicts(claims_of_robustness({CNN: corrupted(*cnn), VIT: corrupted(*vit)})) == expected


def test_robustness_states_its_numbers():
    accuracy, drop = claims_of_robustness({CNN: corrupted(0.9, 0.5, 0.3), VIT: corrupted(0.9, 0.7, 0.6)})
    assert "2 sets of 400 images: CNN 40.0 ± " in accuracy.found
    assert "CNN 50.0 ± " in drop.found
    assert "ViT 25.0 ± " in drop.found
    assert "clean, CNN 90.0%" in drop.found


def test_robustness_needs_both_families_and_the_same_corruptions():
    one = corrupted(0.9, 0.5)
    assert verdicts(claims_of_robustness({CNN: one, "alternet18": one})) == [None, None]
    assert "no ViT was compared" in claims_of_robustness({CNN: one})[0].found
    assert "no CNN and no ViT" in claims_of_robustness({"alternet18": one})[0].found
    other = dataclasses.replace(one, kinds=["snow"])
    assert "other corruptions" in claims_of_robustness({CNN: one, VIT: other})[0].found


def test_noise_as_in_the_papers_figure():
    """Values read off Fig. 2b: ResNet -5, -12.7, -10.3, -9.7, -15.4; ViT -5.5, -14.9, -11.6, -6.3, -4.9 points."""
    cnn = noisy(0.9, 0.85, 0.773, 0.797, 0.803, 0.746)
    vit = noisy(0.9, 0.845, 0.751, 0.784, 0.837, 0.851)
    # The mean changes at low frequency are -9.3 and -10.7: within two errors of 400 images.
    assert verdicts(claims_of_noise_frequency({CNN: cnn, VIT: vit})) == [True, None, True, True]


@pytest.mark.parametrize(
    ("cnn", "vit", "expected"),
    [
        ((0.9, 0.8, 0.8, 0.8, 0.5, 0.5), (0.9, 0.5, 0.5, 0.5, 0.8, 0.8), [True, True, True, True]),
        ((0.9, 0.5, 0.5, 0.5, 0.8, 0.8), (0.9, 0.8, 0.8, 0.8, 0.5, 0.5), [False, False, False, False]),
        ((0.9,) * 6, (0.9,) * 6, [None] * 4),
    ],
)
def test_noise_either_way(cnn, vit, expected):
    claims = claims_of_noise_frequency({CNN: noisy(*cnn), VIT: noisy(*vit)})
    assert verdicts(claims) == expected
    assert "CNN -40.0" in claims[0].found or expected[0] is not True


def test_noise_without_a_family_or_without_high_frequencies():
    one = noisy(0.9, 0.8, 0.8, 0.8, 0.5, 0.5)
    assert verdicts(claims_of_noise_frequency({CNN: one})) == [None, None, True, None]
    low = dataclasses.replace(one, edges=np.arange(6) / 10)
    assert verdicts(claims_of_noise_frequency({CNN: low, VIT: one}))[::2] == [None, None]


def test_claims_are_sentences():
    one = noisy(0.9, 0.8, 0.8, 0.8, 0.5, 0.5)
    text = state_claims(claims_of_noise_frequency({CNN: one, VIT: one}))
    assert text.count("Paper: ") == text.count("The claim ") == 4
