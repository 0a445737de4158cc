import dataclasses

import numpy as np
import pytest
import torch

from utilities.analysis.loss.hessian import HessianSpectra
from utilities.analysis.predictions.adversarial import Adversarial
from utilities.analysis.predictions.calibration import score
from utilities.analysis.predictions.classification import Classification
from utilities.analysis.predictions.robustness import Robustness
from utilities.claims.park_kim_2022.smoothing import (
    claims_of_adversarial,
    claims_of_smooth_hessian,
    claims_of_smooth_robustness,
    claims_of_smoothing,
    twins,
)

IMAGES = 400
PLAIN, SMOOTH = "resnet18", "resnet18_smooth"
FACTS = {"weights": "trained for 4 epochs on digits, seed 0", "accuracy": 0.9}


def counts(*accuracies):
    right = (np.arange(IMAGES)[None] < IMAGES * np.array(accuracies)[:, None]).astype(np.int64)
    return right @ right.T


def attacked(*accuracies, **facts):
    zeros, radii = np.zeros(len(accuracies)), np.arange(1.0, len(accuracies))
    facts = FACTS | {"attack": "pgd", "steps": 10, "step": 0.25} | facts
    return Adversarial(counts(*accuracies), zeros, zeros, radii, "linf", IMAGES, facts)


def corrupted(*accuracies):
    zeros = np.zeros(len(accuracies))
    severities = list(range(1, len(accuracies)))
    return Robustness(counts(*accuracies), zeros, zeros, zeros, ["fog"], severities, IMAGES, FACTS)


def classified(accuracy, sure=2.0):
    """Right on the first images, and equally sure of all answers."""
    labels = torch.zeros(IMAGES, dtype=torch.long)
    right = torch.arange(IMAGES) < accuracy * IMAGES
    logits = sure * torch.where(right[:, None], torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    return Classification(**score(logits, labels), num_classes=2, provenance=FACTS)


@pytest.mark.parametrize(
    ("plain", "smooth", "holds"),
    [
        ((0.9, 0.5, 0.3), (0.9, 0.7, 0.6), True),
        ((0.9, 0.7, 0.6), (0.9, 0.5, 0.3), False),
        ((0.9, 0.5, 0.3),) * 2 + (None,),
    ],
)
@pytest.mark.parametrize("make", [attacked, corrupted])
def test_robustness_of_twins(make, plain, smooth, holds):
    claims_of = claims_of_adversarial if make is attacked else claims_of_smooth_robustness
    (claim,) = claims_of({SMOOTH: make(*smooth), PLAIN: make(*plain), "vit_tiny_patch2_16": make(0.9, 0.9, 0.9)})
    assert claim.holds is holds
    mean = 100 * np.mean(plain[1:])
    assert f"{mean:.1f} ± " in claim.found
    assert "90.0% and 90.0% on the images as they are" in claim.found


@pytest.mark.parametrize(("plain", "smooth", "holds"), [(0.7, 0.9, True), (0.9, 0.7, False), (0.8, 0.8, None)])
def test_smoothing_needs_accuracy_and_likelihood(plain, smooth, holds):
    (claim,) = claims_of_smoothing({PLAIN: classified(plain), SMOOTH: classified(smooth)})
    assert claim.holds is holds
    assert f"{100 * (smooth - plain):+.1f} ± " in claim.found
    (unsure,) = claims_of_smoothing({PLAIN: classified(0.7, 0.9), SMOOTH: classified(0.9, 30.0)})
    assert unsure.holds is False, "more right, but a worse likelihood"
    averaged = claims_of_smoothing({PLAIN: classified(plain), SMOOTH: classified(smooth)}, ", over masks")[0]
    assert (averaged.holds, averaged.found) == (claim.holds, claim.found)
    assert "uncertainty, over masks: more right" in averaged.claim


def curved(*eigenvalues):
    values = np.array(eigenvalues, dtype=float)[:, None, None]
    return HessianSpectra(values, 0 * values, ["magnitude"], np.zeros((len(values), 0)), 10, FACTS)


# Of five mini-batches each: means 10 and 2 with errors below 1, then means that differ by less than their errors.
@pytest.mark.parametrize(
    ("plain", "smooth", "holds"),
    [
        ((9, 10, 11, 10, 10), (2, 1, 3, 2, 2), True),
        ((2, 1, 3, 2, 2), (9, 10, 11, 10, 10), False),
        ((5, 10, 15, 8, 12), (6, 11, 13, 9, 12), None),
    ],
)
def test_smoothing_flattens_where_eigenvalues_are_smaller(plain, smooth, holds):
    (claim,) = claims_of_smooth_hessian({SMOOTH: curved(*smooth), PLAIN: curved(*plain)})
    assert claim.holds is holds
    assert f"APE: the plain twin {np.mean(plain):g} ± " in claim.found
    assert f", the smooth twin {np.mean(smooth):g} ± " in claim.found


def test_without_a_twin_nothing_is_told():
    alone = {PLAIN: classified(0.9), "resnet34_smooth": classified(0.9)}
    assert twins(alone) is None
    several = (claims_of_smoothing, claims_of_smooth_hessian, claims_of_adversarial, claims_of_smooth_robustness)
    for claims_of in several:
        (claim,) = claims_of(alone)
        assert claim.holds is None
        assert "beside its twin" in claim.found


def test_other_attacks_and_corruptions_are_not_compared():
    one = attacked(0.9, 0.5)
    for other in (attacked(0.9, 0.5, steps=20), dataclasses.replace(one, norm="l2"), attacked(0.9, 0.5, 0.4)):
        assert "other attacks" in claims_of_adversarial({PLAIN: one, SMOOTH: other})[0].found
    snow = dataclasses.replace(corrupted(0.9, 0.5), kinds=["snow"])
    assert "other corruptions" in claims_of_smooth_robustness({PLAIN: corrupted(0.9, 0.5), SMOOTH: snow})[0].found
