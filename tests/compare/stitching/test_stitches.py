"""Stitching against an independent twin in float64, on its known cases, and what it leaves untouched."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from utilities.compare import stitch
from utilities.results.stitching import Stitching
from utilities.study.stitching import rotated_copy
from utilities.zoo.layers import known_blocks
from utilities.zoo.plain_cnn import PlainCNN
from utilities.zoo.vit import vit_tiny_patch4_16

QUIET = {"device": "cpu", "progress": False}


def chain(*widths, seed=0):
    """A small CNN whose every layer can be run by hand; layers 1 and 3 put out maps of 8 and of 4 pixels a side."""
    torch.manual_seed(seed)
    one, two = widths
    return nn.Sequential(
        *(nn.Conv2d(3, one, 3, padding=1), nn.ReLU(), nn.Conv2d(one, two, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(two, 4)),
    ).eval()


class Residual(nn.Module):
    """Two narrow blocks with shortcuts, under the names of a ResNet."""

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x):
            return self.relu(self.bn1(self.conv1(x)) + x)

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.layer1 = nn.Sequential(*(self.Block(8) for _ in range(3)))
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.layer1(self.stem(x)).mean((2, 3)))


def split(model, n=60, size=8, batch=20, seed=0):
    """Training and test images with the model's own predictions for labels, so that it is always right."""
    images = torch.randn(2 * n, 3, size, size, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        labels = model(images).argmax(1)
    batches = list(zip(images.split(batch), labels.split(batch), strict=True))
    return batches[: n // batch], batches[n // batch :]


def rows_of(model, upto, batches):
    """Features of all positions, and the images, in float64: (images, channels, height, width)."""
    images = torch.cat([one for one, _ in batches])
    with torch.no_grad():
        return model[:upto](images).double(), torch.cat([labels for _, labels in batches])


def test_it_is_what_an_explicit_design_matrix_gives():
    a, b = chain(5, 7), chain(6, 9, seed=1)
    train, test = split(b)
    found = stitch(a, b, train, test, pairs=[("1", "3"), ("3", "1"), ("4", "4")], penalty=1e-3, **QUIET)
    for (one, two), resize in {
        (1, 3): lambda x: F.avg_pool2d(x, 2),
        (3, 1): lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        (4, 4): lambda x: x,
    }.items():
        x, y = (rows_of(m, k + 1, train)[0] for m, k in ((a, one), (b, two)))
        x = resize(x)
        x, y = (z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]).numpy() for z in (x, y))
        n, width = x.shape
        strength = 1e-3 * np.square(x - x.mean(0)).sum() / width
        design = np.block([[x, np.ones((n, 1))], [np.sqrt(strength) * np.eye(width), np.zeros((width, 1))]])
        solution = np.linalg.lstsq(design, np.vstack([y, np.zeros((width, y.shape[1]))]), rcond=None)[0]
        x, labels = rows_of(a, one + 1, test)
        made = torch.einsum("cd,nchw->ndhw", torch.from_numpy(solution[:-1]), resize(x))
        made = made + torch.from_numpy(solution[-1])[:, None, None]
        with torch.no_grad():
            logits = copy.deepcopy(b)[two + 1 :].double()(made)
        i, j = found.layers1.index(str(one)), found.layers2.index(str(two))
        right = (logits.argmax(1) == labels).double()
        assert found.accuracy[0, i, j] == pytest.approx(right.mean().item())
        assert found.accuracy_stderr[0, i, j] == pytest.approx(right.std().item() / np.sqrt(len(right)))
        assert found.agreement[0, i, j] == found.accuracy[0, i, j]  # labels are the model's own predictions
        # The second model runs on in float32.
        assert found.cross_entropy[0, i, j] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
        own = rows_of(b, two + 1, test)[0]
        spread = (own - own.mean((0, 2, 3), keepdim=True)).square().sum()
        assert found.r2[0, i, j] == pytest.approx(1 - ((own - made).square().sum() / spread).item(), abs=1e-5)
    assert found.own[1] == 1.0
    assert np.isnan(found.accuracy[0]).sum() == 6  # nine cells, three pairs


@pytest.mark.parametrize("make", [Residual, lambda: vit_tiny_patch4_16(depth=2, num_classes=4)])
def test_nothing_is_lost_to_oneself_or_to_a_rotated_copy(make):
    torch.manual_seed(0)
    model = make().eval()
    train, test = split(model, n=120, size=16, batch=40)  # more images than a token has channels
    turned = rotated_copy(model, test[0][0][:4])
    with torch.no_grad():
        taken = [_taken(one, known_blocks(model)[0], test[0][0]) for one in (model, turned)]
    assert not torch.allclose(*taken, atol=0.1)  # without a map that turns them back, features are others
    for first in (model, turned):
        found = stitch(first, model, train, test, depths=3, **QUIET)
        drops, agreement = (np.array([v[i, j] for i, j in found.places]) for v in (found.drop(), found.agreement[0]))
        np.testing.assert_array_equal(drops, 0)
        np.testing.assert_array_equal(agreement, 1)
        shown = found.cross_entropy[np.isfinite(found.cross_entropy)]
        np.testing.assert_allclose(shown, found.own_cross_entropy[1], rtol=1e-3)


def _taken(model, layer, images):
    taken = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, args, output: taken.append(output.clone()))
    model(images)
    handle.remove()
    return taken[0]


def test_too_few_positions_for_the_channels_are_said():
    """The map is then not determined, and even to oneself something may be lost."""
    model = chain(5, 30)
    train, test = split(model)
    with pytest.warns(UserWarning, match="fewer samples than channels.*: 5 -> 5 .20 for 30."):
        stitch(model, model, train[:1], test, pairs=[("5", "5")], **QUIET)


def test_batches_do_not_matter():
    a, b = chain(5, 7), chain(6, 9, seed=1)
    results = [
        stitch(a, b, *split(b, batch=batch), layers1=["1", "3"], layers2=["1", "3"], pairs="all", **QUIET)
        for batch in (20, 12)
    ]
    for name in ("accuracy", "accuracy_stderr", "agreement", "penalty"):
        np.testing.assert_allclose(*(getattr(one, name) for one in results), rtol=1e-9)
    for name in ("cross_entropy", "r2", "r2_fit"):  # forward passes differ by float32's rounding
        np.testing.assert_allclose(*(getattr(one, name) for one in results), rtol=1e-4, atol=1e-5)


def test_a_cnn_into_a_vit_and_back():
    torch.manual_seed(0)
    cnn, vit = PlainCNN(4, (4, 6, 8)).eval(), vit_tiny_patch4_16(depth=2, num_classes=4).eval()
    train, test = split(vit, n=40, size=16)
    there = stitch(cnn, vit, train, test, depths=2, **QUIET)
    assert there.parts == ["positions", "class token"]
    assert np.isfinite(there.r2).sum() == 4  # two pairs, a map for positions and one for the class token
    assert "class token from the mean over positions" in there.adapted["block1 -> blocks.0"]
    back = stitch(vit, cnn, train, test, depths=2, **QUIET)
    assert back.parts == ["positions"]
    assert np.isnan(back.own[0]) is np.False_  # both tell four classes
    assert "prefix tokens unused" in next(iter(back.adapted.values()))


def test_images_may_be_prepared_in_two_ways():
    a, b = chain(5, 7), chain(6, 9, seed=1)
    train, test = split(b)
    small = [[(F.avg_pool2d(images, 2), labels) for images, labels in batches] for batches in (train, test)]
    found = stitch(
        a, b, train, test, *[[(2 * x, y) for x, y in one] for one in (train, test)], pairs=[("1", "1")], **QUIET
    )
    assert found.own[0] != found.own[1] or found.own[1] < 1  # the second model sees other numbers
    tiny = stitch(a, b, small[0], small[1], train, test, pairs=[("1", "1")], **QUIET)
    assert tiny.adapted == {"1 -> 1": "4x4 interpolated to 8x8"}
    assert tiny.own[1] == 1


def test_training_goes_on_from_the_closed_form_and_leaves_the_models_alone():
    a, b = chain(2, 3), chain(6, 9, seed=1)
    train, test = split(b, n=100)
    state = {k: [t.clone() for t in m.state_dict().values()] for k, m in enumerate((a, b))}
    b.train()
    found = stitch(a, b, train, test, pairs=[("3", "3")], epochs=15, learning_rate=0.03, **QUIET)
    assert found.fits == ["closed form", "trained"]
    # Two channels cannot carry nine: what the second model needs of them is not what explains most of their variance.
    assert found.cross_entropy[1, 0, 0] < found.cross_entropy[0, 0, 0]
    assert found.accuracy[1, 0, 0] >= found.accuracy[0, 0, 0]
    for k, model in enumerate((a, b)):
        assert all(torch.equal(*pair) for pair in zip(state[k], model.state_dict().values(), strict=True))
        assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(module.training for module in b.modules())
    assert not any(module.training for module in a.modules())


def test_no_step_of_training_is_the_closed_form():
    a, b = chain(5, 7), chain(6, 9, seed=1)
    found = stitch(a, b, *split(b), pairs=[("1", "3")], epochs=1, learning_rate=1e-12, **QUIET)
    np.testing.assert_allclose(found.cross_entropy[1], found.cross_entropy[0], rtol=1e-4)


def test_hooks_are_gone_and_modes_restored_after_an_error():
    model = chain(5, 7).train()
    train, test = split(chain(5, 7))
    bad = [(images.where(images < 2, torch.nan), labels) for images, labels in test]
    with pytest.raises(ValueError, match="NaN"):
        stitch(model, model, train, bad, pairs=[("1", "1")], **QUIET)
    assert all(part.training for part in model.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_a_layer_with_a_shortcut_around_it_is_refused():
    torch.manual_seed(0)
    model = Residual().eval()
    train, test = split(model)
    with pytest.raises(ValueError, match=r"'layer1\.1\.conv1' does not cut Residual in two.*; take layer1\.1$"):
        stitch(model, model, train, test, pairs=[("layer1.0", "layer1.1.conv1")], **QUIET)
    stitch(model, model, train, test, pairs=[("layer1.1.conv1", "layer1.1")], **QUIET)  # it may well be read


def test_features_without_positions_are_refused_or_left_out():
    model = chain(5, 7)
    train, test = split(model)
    with pytest.raises(
        ValueError, match="5 -> 1 cannot be stitched: 7 features without positions tell nothing of where"
    ):
        stitch(model, model, train, test, pairs=[("5", "1")], **QUIET)
    with pytest.warns(UserWarning, match="1 pairs cannot be stitched"):
        found = stitch(model, model, train, test, layers1=["1", "5"], layers2=["1"], pairs="all", **QUIET)
    assert list(found.refused) == ["5 -> 1"]
    assert found.places == [(0, 0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": "diagonal"}, "choose 'matched', 'all' or pairs"),
        ({"pairs": [("1", "9")]}, "layer '9' is not in Sequential"),
        ({"pairs": [("1", "1")], "layers1": ["1"]}, "leave layers1= and layers2= out"),
        ({"depths": 0}, "depths=0 should be a whole number, 1 or more"),
        ({"epochs": -1}, "epochs=-1"),
        ({"penalty": 0.0}, "penalty=0.0 should be a number above 0"),
        ({}, "layers1= and layers2= name the layers"),
        ({"pairs": [("1", "1")], "memory_limit": 10.0}, "the sums of 1 stitches take"),
    ],
)
def test_what_is_wrong_is_said(options, message):
    model = chain(5, 7)
    with pytest.raises(ValueError, match=message):
        stitch(model, model, *split(model), **options, **QUIET)


def test_a_second_model_without_a_classifier_is_refused():
    model = chain(5, 7)
    model.num_classes = 0  # as timm says it
    with pytest.raises(ValueError, match="Sequential has no classifier"):
        stitch(chain(5, 7), model, *split(model), pairs=[("1", "1")], **QUIET)
    with pytest.raises(TypeError, match="a model should be a torch module, not a str"):
        stitch("resnet18", model, *split(model), pairs=[("1", "1")], **QUIET)


def test_test_images_are_others():
    model = chain(5, 7)
    train, _ = split(model)
    with pytest.raises(ValueError, match="on which stitches look better than they are"):
        stitch(model, model, train, train, pairs=[("1", "1")], **QUIET)


def test_it_saves_and_tabulates(tmp_path):
    a, b = chain(5, 7), chain(6, 9, seed=1)
    found = stitch(a, b, *split(b), layers1=["1", "3"], layers2=["1", "3"], provenance={"model1": "a"}, **QUIET)
    loaded = Stitching.load(found.save(tmp_path / "x"))
    np.testing.assert_array_equal(loaded.accuracy, found.accuracy)
    assert loaded.provenance == found.provenance
    table = found.to_frame()
    assert list(table["layer1"]) == ["1", "3"]
    np.testing.assert_allclose(table["drop"], found.own[1] - table["accuracy"])
    assert found.matched
    assert found.provenance["n_train"] == 60
    with pytest.raises(ValueError, match="maps were not fitted as 'trained'"):
        found.drop("trained")


class Unsized:
    """A loader that can be read again, of a length that is not known."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def test_loaders_of_both_models_serve_the_same_images():
    model = chain(5, 7)
    train, test = split(model)
    fewer = [(images[:10], labels[:10]) for images, labels in train]
    layers = {"layers1": "1", "layers2": "1"}
    for loaders, message in (
        ({"train_loader2": train[:1]}, "the loaders have 3 and 1 batches: they should serve the same images"),
        ({"test_loader2": test[:2]}, "the loaders have 3 and 2 batches: they should serve the same images"),
        ({"train_loader2": fewer}, "paired batches differ in size: 20 and 10 images: they should serve the same"),
        ({"train_loader2": Unsized(train[:2])}, "one loader has more batches than the other: they should"),
    ):
        with pytest.raises(ValueError, match=message):
            stitch(model, model, train, test, **loaders, **layers, **QUIET)


def test_labels_of_both_loaders_agree_batch_by_batch():
    model = chain(5, 7)
    train, test = split(model)
    images, labels = test[1]
    flipped = [test[0], (images, labels.flip(0)), test[2]]
    assert (labels != labels.flip(0)).any()
    with pytest.raises(ValueError, match="the labels of batch 1 differ between both loaders"):
        stitch(model, model, train, test, None, flipped, layers1="1", layers2="1", **QUIET)
    bare = [images for images, _ in test]  # no labels, so nothing to tell
    one, two = (
        stitch(model, model, train, test, None, other, layers1="1", layers2="1", **QUIET) for other in (None, bare)
    )
    assert one.accuracy.tolist() == two.accuracy.tolist()


def with_ones(x):
    return torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)


def spread(y):
    return (y - y.mean(0)).square().sum()


def test_r2_is_measured_against_the_mean_of_the_images_it_is_computed_on():
    """Positions have one mean, over images and places; scikit-learn's r2_score is defined so too."""
    a, b = chain(5, 7), chain(6, 9, seed=1)
    train, test = split(b)
    test = [(images + 1, labels) for images, labels in test]  # so that both sets have means far apart
    result = stitch(a, b, train, test, pairs=[("1", "1")], penalty=1e-6, **QUIET)
    x, y, x_test, y_test = (
        rows_of(model, 2, batches)[0].movedim(1, -1).flatten(0, 2) for batches in (train, test) for model in (a, b)
    )
    found = torch.linalg.lstsq(with_ones(x), y, driver="gelsd").solution
    left = (y_test - with_ones(x_test) @ found).square().sum()
    r2, r2_fit = 1 - left / spread(y_test), 1 - (y - with_ones(x) @ found).square().sum() / spread(y)
    np.testing.assert_allclose([result.r2.item(), result.r2_fit.item()], [r2, r2_fit], atol=1e-4)
    against_training = 1 - left / (y_test - y.mean(0)).square().sum()
    assert abs(against_training - result.r2.item()) > 0.02
