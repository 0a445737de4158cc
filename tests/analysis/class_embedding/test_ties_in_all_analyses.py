"""A classifier that gives all classes the same logit is at chance in class-embedding space, whatever the labels are."""

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from utilities.analysis.class_embedding.identifiability import identifiability
from utilities.analysis.class_embedding.importance import importance
from utilities.analysis.class_embedding.key_value import key_value_agreement
from utilities.analysis.class_embedding.lens import lens
from utilities.analysis.class_embedding.perturbation import perturb
from utilities.analysis.class_embedding.ranks import chance_score
from utilities.analysis.class_embedding.removal import removal_curves
from utilities.compare.layer_matching import match_accuracy
from utilities.utils import evaluate

CLASSES, TOKENS = 6, 16
RUN = {"device": "cpu", "progress": False, "resamples": 20}


def model(classes=CLASSES, blank=True):
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=8, patch_size=2, embed_dim=16, depth=2, num_heads=2, num_classes=classes)
    if blank:
        torch.nn.init.zeros_(vit.head.weight)
        torch.nn.init.zeros_(vit.head.bias)
    return vit.eval()


def batches(label=None, n=12):
    images = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return [(images, torch.arange(n) % CLASSES if label is None else torch.full((n,), label))]


@pytest.mark.parametrize("label", [None, 0, 5])
def test_identifiability_is_at_chance(label):
    found = identifiability(model(), batches(label), **RUN)
    np.testing.assert_allclose(found.score, chance_score(CLASSES), rtol=1e-6)
    np.testing.assert_allclose(found.rate, 1 / CLASSES, rtol=1e-6)
    np.testing.assert_allclose(found.any_token, 1 - (1 - 1 / CLASSES) ** TOKENS, rtol=1e-5)
    assert found.accuracy == pytest.approx(1 / CLASSES)
    assert found.accuracy == pytest.approx(evaluate(model(), batches(label), device="cpu")["top1"])


@pytest.mark.parametrize("label", [0, 5])
def test_perturbed_tokens_are_at_chance(label):
    found = perturb(model(), batches(label), kinds=["self_only", "no_cls"], **RUN)
    for row in range(2):
        for side in ("intact", "perturbed"):
            assert found.estimate(row, "rate", side).value == pytest.approx(1 / CLASSES)
            assert found.estimate(row, "score", side).value == pytest.approx(chance_score(CLASSES))


def test_curves_of_removal_are_flat_at_chance():
    data, run = batches(0), {"device": "cpu", "progress": False}
    maps = {"random map": importance(model(blank=False), data, method="random", **run)}
    curves = removal_curves(model(), data, maps, random=1, steps=3, **run)
    for values in (curves.negative, curves.positive, curves.random):
        np.testing.assert_allclose(values, 1 / CLASSES)


def test_agreement_of_keys_and_values_is_its_chance():
    found = key_value_agreement(model(), batches(0), k=3, **RUN)
    np.testing.assert_allclose(found.rate, found.chance, atol=1e-6)
    np.testing.assert_allclose(found.match, found.match_chance, atol=1e-6)


def test_two_equal_rows_share_the_first_place():
    """Class 1 is a copy of class 0: wherever one comes first, the other does, and neither does alone."""
    twin = model(blank=False)
    with torch.no_grad():
        twin.head.weight[1], twin.head.bias[1] = twin.head.weight[0], twin.head.bias[0]
    zero, one = (identifiability(twin, batches(label), **RUN).rate[0, -1] for label in (0, 1))
    np.testing.assert_array_equal(zero, one)
    assert 0 < zero.max() <= 0.5


@pytest.mark.parametrize("analysis", [identifiability, perturb])
def test_a_single_class_is_refused(analysis):
    with pytest.raises(ValueError, match="has a single class, which comes first in every token"):
        analysis(model(1), batches(0), **RUN)
    with pytest.raises(ValueError, match="single class"):
        lens(model(1), batches(0), device="cpu")


def test_equal_similarities_match_as_often_as_by_chance():
    matrix = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    assert match_accuracy(matrix) == pytest.approx((1 / 2 + 1 / 2 + 1 / 3) / 3)
