"""One check of labels and logits, wherever accuracies and losses are made, and ties at their expected value."""

import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from utilities.analysis.blocks.lesion import lesions
from utilities.analysis.loss.hessian import hessian_spectra, over_training
from utilities.analysis.loss.landscape import loss_landscape
from utilities.analysis.loss.spectral_density import spectral_density
from utilities.analysis.predictions.adversarial import adversarial
from utilities.analysis.predictions.classification import classify
from utilities.analysis.predictions.consistency import consistency
from utilities.analysis.predictions.noise_frequency import noise_frequency
from utilities.analysis.predictions.robustness import robustness
from utilities.hooks.calls.labels import BatchCheck, as_labels, check_batch, check_labels, classes_of, hits
from utilities.training.augmentation import MixupCutmix
from utilities.training.distillation import distillation_loss
from utilities.training.recipes import Recipe
from utilities.training.trainer import Trainer
from utilities.utils import evaluate
from utilities.zoo.plain_cnn import PlainCNN
from utilities.zoo.vit import vit_tiny_patch2_16

CLASSES = 4
QUIET = {"device": "cpu", "progress": False}
IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
GOOD = torch.tensor([0, 1, 2, 3, 0, 1])


class Data(list):
    """Batches that also have what a training asks a loader for."""

    epoch, seed, dataset, augment = 0, 0, range(6), None


def linear(classes=CLASSES):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, classes))


def vit(classes=CLASSES):
    torch.manual_seed(0)
    return vit_tiny_patch2_16(classes, depth=1, embed_dim=12, num_heads=3)


def train(model, loader, recipe=None):
    recipe = recipe or Recipe(epochs=1, batch_size=6)
    return Trainer(model, recipe.resolved("linear"), loader, loader, device="cpu").run_epoch(progress=False)


USES = {
    "evaluate": (linear, lambda model, loader: evaluate(model, loader, device="cpu")),
    "classify": (linear, lambda model, loader: classify(model, loader, **QUIET)),
    "training": (linear, train),
    "lesions": (vit, lambda model, loader: lesions(model, loader, **QUIET)),
    "robustness": (
        linear,
        lambda model, loader: robustness(
            model, loader, kinds=["contrast"], severities=[1], mean=(0.5,) * 3, std=(0.5,) * 3, **QUIET
        ),
    ),
    "noise": (linear, lambda model, loader: noise_frequency(model, loader, bands=2, **QUIET)),
    "attack": (
        linear,
        lambda model, loader: adversarial(
            model, loader, attack="fgsm", radii=[1], mean=(0.5,) * 3, std=(0.5,) * 3, **QUIET
        ),
    ),
    "landscape": (linear, lambda model, loader: loss_landscape(model, loader, points=3, report=None, **QUIET)),
    "hessian": (
        linear,
        lambda model, loader: hessian_spectra(model, loader, k=1, batch_size=3, n_batches=2, ends=["largest"], **QUIET),
    ),
    "density": (linear, lambda model, loader: spectral_density(model, loader, n_vectors=1, steps=2, **QUIET)),
}


def batch(labels):
    pixels = (IMAGES.clamp(-1, 1) * 127 + 128).round()  # 8 bits, of mean and deviation 1/2
    return Data([((pixels / 255 - 0.5) / 0.5, labels)])


WRONG = {
    "one-hot": (torch.eye(CLASSES)[GOOD], "one-hot or soft labels take the class by labels.argmax"),
    "one-hot, integers": (torch.eye(CLASSES).long()[GOOD], "take the class by labels.argmax"),
    "floats": (GOOD.float(), r"integers of shape \(6,\), got float32"),
    "column": (GOOD[:, None], r"take labels.squeeze\(1\)"),
    "ignored": (GOOD - 100 * (GOOD == 0), "label -100: an ignore_index is not supported"),
    "negative": (GOOD - 1, "label -1 is none of the model's 4 classes"),
    "beyond": (GOOD + 3, r"label [456] is none of the model's 4 classes, 0 to 3"),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("wrong", WRONG)
def test_labels_that_are_no_classes_are_refused_everywhere(use, wrong):
    labels, message = WRONG[wrong]
    if use in ("hessian", "density", "landscape") and wrong in ("one-hot", "floats"):
        message = "probabilities of shape"  # which a loss may have as its targets
        labels = labels[:, 1:] if wrong == "one-hot" else labels
    make, run = USES[use]
    with pytest.raises(ValueError, match=message):
        run(make(), batch(labels))


@pytest.mark.parametrize("use", ["evaluate", "classify", "training", "lesions", "robustness", "noise"])
@pytest.mark.parametrize("kind", [list, np.asarray, torch.Tensor.int, torch.Tensor.byte])
def test_lists_arrays_and_small_integers_are_labels(use, kind):
    make, run = USES[use]
    labels = kind(GOOD.tolist()) if kind is list else kind(GOOD)
    one, two = (run(make(), batch(each)) for each in (labels, GOOD))
    if use in ("evaluate", "training"):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}
    else:
        assert one.to_frame().equals(two.to_frame())


@pytest.mark.parametrize("use", ["hessian", "density", "landscape"])
@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "uint8", "uint16", "bool"])
def test_a_loss_takes_whole_numbers_of_any_width(use, kind):
    make, run = USES[use]
    labels = GOOD.clamp(max=1)
    one, two = (run(make(), batch(each)) for each in (labels.to(getattr(torch, kind)), labels))
    assert one.to_frame().equals(two.to_frame())


@pytest.mark.parametrize("kind", ["int16", "int32"])
def test_losses_and_mixing_of_ones_own_get_classes_as_int64(kind):
    """As torch's own losses want them; booleans stay, which are masks."""
    kinds = []

    def seen(outputs, targets):
        kinds.append(targets.dtype)
        return nn.functional.cross_entropy(outputs, targets.long(), reduction="none")

    def mix(images, labels, generator=None):
        kinds.append(labels.dtype)
        return images, labels

    options = {"points": 3, "report": None, **QUIET}
    data = batch(GOOD.to(getattr(torch, kind)))
    loss_landscape(linear(), data, loss=seen, mix=mix, **options)
    spectral_density(linear(), data, loss=lambda *pair: seen(*pair).mean(), mix=mix, n_vectors=1, steps=2, **QUIET)
    assert set(kinds) == {torch.int64}
    kinds.clear()
    loss_landscape(linear(), batch(GOOD > 1), loss=seen, **options)
    assert set(kinds) == {torch.bool}


@pytest.mark.parametrize("use", [use for use in USES if use not in ("training", "landscape")])
def test_features_are_not_taken_for_logits(use):
    make, run = USES[use]
    model = make()
    model.num_classes = 0  # as timm says that a model has no classifier
    with pytest.raises(ValueError, match="has no classifier"):
        run(model, batch(GOOD))


def test_answers_of_a_model_without_a_classifier_do_not_flip():
    model = linear()
    model.num_classes = 0
    with pytest.raises(ValueError, match="has no classifier"):
        consistency(model, batch(GOOD), kinds=["tilt"], mean=(0.5,) * 3, std=(0.5,) * 3, **QUIET)


@pytest.mark.parametrize("use", USES)
def test_weights_of_nan_are_refused_before_the_work(use):
    make, run = USES[use]
    model = make()
    name, parameter = list(model.named_parameters())[-1]
    parameter.data.view(-1)[0] = float("nan")
    with pytest.raises(ValueError, match=f"parameter '{name}'"):
        run(model, batch(torch.zeros(6, dtype=torch.long)))


@pytest.mark.parametrize("use", ["evaluate", "classify", "training", "robustness", "noise"])
def test_a_single_class_is_refused(use):
    _, run = USES[use]
    with pytest.raises(ValueError, match="2 classes or more"):
        run(linear(1), batch(torch.zeros(6, dtype=torch.long)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("use", ["evaluate", "classify"])
def test_logits_that_are_no_numbers_are_refused(use, bad):
    class Overflow(nn.Flatten):
        def forward(self, images):
            return torch.where(images > 0, bad, super().forward(images))

    images = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    with pytest.raises(ValueError, match="1 of 3 images of a batch have logits of NaN or infinity"):
        USES[use][1](Overflow(), [(images, torch.tensor([0, 0, 1]))])


def test_the_logarithm_of_zero_is_a_logit():
    assert check_batch(torch.tensor([[0.0, -torch.inf]]), torch.tensor([0])).tolist() == [0]


def test_labels_that_are_no_numbers_are_refused():
    names = ["cat", "dog"]
    for given in (names, tuple(names), np.array(names), np.array(names, dtype=object)):
        with pytest.raises(TypeError, match=r"got strings such as 'cat': give .* classes.index\(name\)"):
            as_labels(given)
    with pytest.raises(TypeError, match="got a list"):
        as_labels([None, None])
    with pytest.raises(ValueError, match="got int64 of shape"):
        check_labels(torch.tensor(3), 4)


def test_a_label_of_minus_100_does_not_halve_the_loss():
    """With every label the same, half of them left out would leave the mean over all images at half its value."""
    logits = torch.zeros(4, 2)
    assert evaluate(nn.Flatten(), [(logits, torch.zeros(4).long())], device="cpu")["loss"] == pytest.approx(np.log(2))
    with pytest.raises(ValueError, match="ignore_index"):
        evaluate(nn.Flatten(), [(logits, torch.tensor([0, 0, -100, -100]))], device="cpu")


@pytest.mark.parametrize("use", [use for use in USES if use not in ("training", "lesions")])
def test_a_model_of_many_more_classes_is_worth_one_warning(use):
    data = Data(batch(GOOD % 3) * 2)
    data.dataset = type("Three", (), {"classes": ["a", "b", "c"], "dataset": None})()
    with pytest.warns(UserWarning, match="the model has 1,000 classes, and the data set has 3") as caught:
        USES[use][1](linear(1000), data)
    assert [Path(one.filename).name for one in caught] == [Path(__file__).name]
    data.dataset.classes = list("abcd")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        USES[use][1](linear(), data)


def test_labels_alone_tell_of_fewer_classes_once_they_are_many():
    def found(outputs, count, highest):
        check = BatchCheck([])
        check(torch.zeros(count, outputs), torch.full((count,), highest))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check.finish()
        return len(caught)

    assert found(1000, 12, 2) == 1
    assert found(1000, 1, 2) == 0  # one image may be of class 2
    assert found(1000, 50, 940) == 0
    assert found(10, 50, 1) == 0


@pytest.mark.parametrize("use", ["hessian", "density", "landscape"])
def test_losses_on_labels_of_few_classes_alone_are_warned_of_too(use):
    with pytest.warns(UserWarning, match="the model has 1,000 classes, and labels reach 2 only"):
        USES[use][1](linear(1000), batch(GOOD % 3))


def test_snapshots_and_mixed_targets_are_warned_of_by_the_classes_of_the_set():
    data = batch(GOOD % 3)
    data.dataset = type("Three", (), {"classes": ["a", "b", "c"]})()

    def mix(images, labels, generator=None):
        return images, nn.functional.one_hot(labels, 1000).float()

    options = {"k": 1, "batch_size": 6, "n_batches": 1, "ends": ["largest"], **QUIET}
    with pytest.warns(UserWarning, match="the model has 1,000 classes, and the data set has 3"):
        over_training({1: linear(1000)}, data, mix=mix, **options)
    with pytest.warns(UserWarning, match="the model has 1,000 classes, and the data set has 3"):
        loss_landscape(linear(1000), data, mix=mix, points=3, report=None, **QUIET)


def test_classes_are_those_of_the_innermost_set_that_names_them():
    whole = torch.utils.data.TensorDataset(IMAGES, GOOD)
    loader = torch.utils.data.DataLoader(torch.utils.data.Subset(whole, [0, 1]))
    assert classes_of(loader) is None
    whole.classes = ["a", "b"]
    assert classes_of(loader) == 2


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_hits_are_the_mean_over_all_orders_of_equal_logits(k):
    generator = torch.Generator().manual_seed(k)
    logits = torch.randint(0, 3, (40, 4), generator=generator).float()
    labels = torch.randint(0, 4, (40,), generator=generator)
    expected = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        # The order of classes decides between equal ones: over all orders, the share in which the label is in front.
        orders = [sorted(order, key=lambda c, row=row: -row[c]) for order in itertools.permutations(range(4))]
        expected.append(np.mean([label in order[:k] for order in orders]))
    assert hits(logits, labels, k).tolist() == pytest.approx(expected, abs=1e-12)


def test_a_logit_of_nan_is_no_hit_and_one_elsewhere_is_above():
    logits = torch.tensor([[float("nan"), 0.0, 1.0], [float("nan"), 1.0, 0.0]])
    assert hits(logits, torch.tensor([0, 1])).tolist() == [0, 0]


@pytest.mark.parametrize("label", [0, 3])
def test_a_classifier_that_says_nothing_is_at_chance_whatever_the_labels_are(label):
    model, data = linear(), batch(torch.full((6,), label))
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    found = evaluate(model, data, device="cpu", topk=(1, 2, 5))
    assert (found["top1"], found["top2"], found["top5"]) == (0.25, 0.5, 1.0)
    result = classify(model, data, **QUIET)
    assert (result.accuracy, result.top5) == (0.25, 1.0)
    assert robustness(
        model, data, kinds=["contrast"], severities=[1], mean=(0.5,) * 3, std=(0.5,) * 3, **QUIET
    ).clean_accuracy == pytest.approx(0.25)
    assert noise_frequency(model, data, bands=2, **QUIET).clean_accuracy == pytest.approx(0.25)
    assert loss_landscape(model, data, points=3, report=None, **QUIET).accuracy[1, 1] == 0.25
    blank = vit()
    nn.init.zeros_(blank.head.weight)
    nn.init.zeros_(blank.head.bias)
    assert lesions(blank, data, **QUIET).accuracy == 0.25


def test_training_rows_are_means_over_the_images_that_were_trained_on():
    """Four of five images are served: of a model that is always right, all of them, not 80 %."""
    images = torch.eye(5)[:, None]
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 5, bias=False))
    model[1].weight.data = 50 * torch.eye(5)
    loader = Data([(images[:2], torch.tensor([0, 1])), (images[2:4], torch.tensor([2, 3]))])
    loader.dataset = range(5)
    row = train(model, loader, Recipe(epochs=1, batch_size=2, learning_rate=1e-9, optimizer="sgd"))
    assert (row["train_top1"], row["train_top5"], row["top1"]) == (1.0, 1.0, 1.0)
    assert row["train_loss"] == pytest.approx(row["loss"], abs=1e-6)


@pytest.mark.parametrize("labels", [[0, -100], [0, 7]])
def test_labels_that_cannot_be_mixed_are_named(labels):
    batch = [(IMAGES[:2], torch.tensor(labels))]
    with pytest.raises(ValueError, match=f"label {labels[1]}"):
        hessian_spectra(linear(), batch, k=1, batch_size=2, n_batches=1, mix=MixupCutmix(CLASSES, mixup=1.0), **QUIET)
    with pytest.raises(ValueError, match=f"label {labels[1]}"):
        loss_landscape(linear(), batch, points=3, report=None, mix=MixupCutmix(CLASSES, mixup=1.0), **QUIET)


def test_teachers_of_other_classes_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 3\), the teacher's \(2, 1\)"):
        distillation_loss(torch.zeros(2, 3), torch.zeros(2, 1), torch.tensor([0, 1]))


def test_plain_cnns_train_on_labels_of_their_classes_alone():
    model = PlainCNN(CLASSES) if PlainCNN.__init__.__code__.co_argcount > 1 else PlainCNN()
    with pytest.raises(ValueError, match="label 200 is none of the model's"):
        train(model, Data([(torch.randn(2, 3, 32, 32), torch.tensor([0, 200]))]))
