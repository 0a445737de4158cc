import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from utilities.analysis.predictions.adversarial import Adversarial, adversarial
from utilities.analysis.predictions.attacks import climb, norm_of, project, random_start, steepest
from utilities.datasets import load_dataset
from utilities.datasets.factory import make_loader
from utilities.plots.predictions.adversarial import plot_adversarial

QUIET = {"device": "cpu", "progress": False}
SCALE = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.5)}
NORMS = pytest.mark.parametrize("norm", ["linf", "l2"])
KINDS = pytest.mark.parametrize("attack", ["fgsm", "pgd"])
DUAL = {"linf": lambda w: w.abs().sum(), "l2": lambda w: w.norm()}


class Linear(nn.Module):
    """Classify by the sign of w x + b, of normalised images; the margin is the difference of two logits."""

    def __init__(self, weight, bias=0.0):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), bias

    def forward(self, x):
        margin = (x * self.weight).sum((1, 2, 3)) + self.bias
        return torch.stack([margin / 2, -margin / 2], 1)


def drawn(n=60, size=4, spread=0.1):
    """Draw images far from black and white, normalised, with a linear model that some of them are close to."""
    generator = torch.Generator().manual_seed(0)
    pixels = 0.5 + spread * (2 * torch.rand((n, 3, size, size), generator=generator) - 1)
    mean, std = (torch.tensor(SCALE[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    weight = torch.randn((1, 3, size, size), generator=generator)
    images = (pixels - mean) / std
    model = Linear(weight)
    with torch.no_grad():
        margins = (images * weight).sum((1, 2, 3))
        model.bias = -float(margins.sort().values[n // 2 - 1 : n // 2 + 1].mean())  # none lies on the border
    labels = (margins + model.bias < 0).long()
    labels[::10] = 1 - labels[::10]  # some are wrong from the start
    return model, images, labels, pixels


@NORMS
@KINDS
def test_a_linear_classifiers_margin_falls_by_the_dual_norm(norm, attack):
    """The margin's slope by pixels is w / std; a radius r takes r ||w / std|| off it, and nothing is clipped."""
    model, images, labels, _ = drawn()
    radii = {"linf": [0, 0.25, 0.5, 1, 2], "l2": [0, 0.25, 1, 2, 4]}[norm]
    climb = {"steps": 60, "step_size": 0.25}  # along a sphere, what is left of the way shrinks by 1.25 in a step
    result = adversarial(model, [(images, labels)], attack=attack, norm=norm, radii=radii, **climb, **SCALE, **QUIET)
    with torch.no_grad():
        own = (1 - 2 * labels) * ((images * model.weight).sum((1, 2, 3)) + model.bias)
    slope = DUAL[norm](model.weight.detach() / torch.tensor(SCALE["std"]).view(1, 3, 1, 1))
    left = own[:, None] - torch.tensor(radii) / 255 * slope
    expected = (left > 0).double().mean(0)
    np.testing.assert_array_equal(result.accuracies[1:], expected)
    assert len(set(expected.tolist())) > 3, "the example can tell"
    # float32: sums of 48 terms; PGD ends on the ball's surface up to rounding
    np.testing.assert_allclose(result.nll[1:], nn.functional.softplus(-left).mean(0), rtol=1e-4)


def test_a_very_sure_answer_is_attacked_along_its_own_weights_too():
    """With logits (20, 0, 0), 1 - p is 4e-9, which float32 rounds to 0: the gradient would lose the first row."""
    weight = torch.tensor([[-2.0, 1.0, 1.0], [0.5, 1.0, -1.0], [0.5, -1.0, 1.0]])
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    model[2].weight.data, model[2].bias.data = weight, torch.tensor([20.0, 0.0, 0.0])
    images, labels, scale = torch.full((1, 3, 2, 2), 128 / 255), torch.tensor([0]), {"mean": 0.0, "std": 1.0}
    result = adversarial(model, [(images, labels)], attack="fgsm", norm="linf", radii=[0, 25.5], **scale, **QUIET)
    # Both other classes are equally likely, so that the gradient points along w_1 + w_2 - 2 w_0 = (5, -2, -2).
    shift = torch.tensor([0.1, -0.1, -0.1])
    logits = (torch.full((3,), 128 / 255) + shift) @ weight.T + torch.tensor([20.0, 0.0, 0.0])
    expected = nn.functional.cross_entropy(logits[None].double(), labels)
    assert result.nll[-1] == pytest.approx(float(expected), rel=1e-4)  # float32 logits of 20


@NORMS
@KINDS
def test_radius_0_is_the_clean_accuracy(norm, attack):
    model, images, labels, _ = drawn()
    result = adversarial(model, [(images, labels)], attack=attack, norm=norm, radii=[0], **SCALE, **QUIET)
    assert result.clean_accuracy == 0.9
    assert result.accuracies.tolist() == [0.9, 0.9]
    assert result.nll[0] == result.nll[1]


@NORMS
def test_fgsm_is_pgd_of_one_full_step_without_start(norm):
    weight = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    pixels = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    found = climb(lambda delta: weight, pixels, 0.3, norm, 1, 0.3)
    way = weight.sign() if norm == "linf" else weight / weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(pixels + found, (pixels + 0.3 * way).clamp(0, 1), rtol=0, atol=1e-6)


class Recording(nn.Module):
    """A small network that keeps what it is given."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.seen, self.layers = [], nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.Tanh(), nn.Linear(8, 10))

    def forward(self, images):
        self.seen.append(images.detach().clone())
        return self.layers(images)


@pytest.fixture(scope="module")
def data():
    return load_dataset("digits", n_images=30)


@NORMS
@KINDS
def test_all_images_lie_in_the_ball_and_between_black_and_white(data, norm, attack):
    model, radius = Recording(), {"linf": 30, "l2": 500}[norm]
    adversarial(model, make_loader(data, 30), attack=attack, norm=norm, radii=[radius], steps=4, **QUIET)
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (data.mean, data.std))
    clean, *visited = (images * std + mean for images in model.seen)
    assert len(visited) == {"fgsm": 2, "pgd": 5}[attack]
    for pixels in visited:
        assert pixels.min() > -1e-6
        assert pixels.max() < 1 + 1e-6
        assert (norm_of(pixels - clean, norm) <= radius / 255 + 1e-5).all()
    moved = norm_of(visited[-1] - clean, "linf")
    assert (moved > 0.01).all()


@NORMS
def test_more_steps_find_a_higher_loss_than_one(data, norm):
    model, options = Recording(), {"norm": norm, "radii": [{"linf": 20.0, "l2": 250.0}[norm]], **QUIET}
    weak = adversarial(model, make_loader(data, 30), attack="fgsm", **options)
    strong = adversarial(model, make_loader(data, 30), steps=20, **options)
    assert strong.nll[1] > weak.nll[1] > weak.nll[0] == strong.nll[0]


@pytest.mark.parametrize("batch_size", [1, 7])
def test_independent_of_batches_and_repeatable(data, batch_size):
    whole, split = (
        adversarial(Recording(), make_loader(data, size), radii=[4, 16], steps=3, **QUIET) for size in (30, batch_size)
    )
    np.testing.assert_array_equal(split.both_right, whole.both_right)
    np.testing.assert_allclose(split.nll, whole.nll, rtol=1e-5)  # float32 products of other batch sizes
    other = adversarial(Recording(), make_loader(data, 30), radii=[4, 16], steps=3, seed=1, **QUIET)
    assert (other.nll[1:] != whole.nll[1:]).any()


@NORMS
def test_starts_fill_the_ball(norm):
    """Uniform in a ball of d dimensions: the share within r^(1/d) of the radius is r; each image has its own."""
    shape, radius = torch.Size([4000, 1, 1, 2]), 0.25
    starts = random_start(shape, radius, norm, 0, 0)
    inside = (norm_of(starts, norm).flatten() / radius) ** 2
    assert inside.max() <= 1 + 1e-6
    for share in (0.2, 0.5, 0.8):
        assert abs((inside < share).double().mean() - share) < 4 * math.sqrt(share * (1 - share) / 4000)
    assert abs(starts.mean()) < 4 * radius / math.sqrt(8000)


@NORMS
def test_projection_keeps_what_lies_inside(norm):
    pixels = torch.full((1, 3, 2, 2), 0.5)
    small = 0.01 * torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(project(small, pixels, 0.2, norm), small)
    large = project(100 * small, pixels, 0.2, norm)
    assert norm_of(large, norm).item() == pytest.approx(0.2, rel=1e-6)
    outside = torch.tensor([1 + 1e-7, -1e-7, 0.0]).view(1, 3, 1, 1)  # by rounding
    assert torch.equal(project(torch.zeros_like(outside), outside, 0.1, norm), torch.zeros_like(outside))
    assert torch.equal(steepest(torch.zeros(1, 2), norm), torch.zeros(1, 2))


def test_models_stay_as_they_were():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 10))
    model.train()
    model[3].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    adversarial(model, make_loader(load_dataset("digits", n_images=10), 10), radii=[2], steps=2, **QUIET)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model] == [True, True, True, False, True]
    assert all(one.grad is None and one.requires_grad for one in model.parameters())


def test_images_without_gradient_are_counted():
    class Flat(nn.Module):
        def forward(self, x):
            return torch.stack([x.mean((1, 2, 3)).round(), torch.zeros(len(x))], 1) * 0 + x.sum() * 0

    _, images, labels, _ = drawn()
    with pytest.warns(UserWarning, match="60 of 60 images gave no gradient"):
        result = adversarial(Flat(), [(images, labels)], radii=[1], **SCALE, **QUIET)
    assert result.provenance["no_gradient"] == 60

    class Cut(nn.Module):
        def forward(self, x):
            return x.detach().mean((2, 3))

    with pytest.raises(ValueError, match="logits of Cut have no gradient"):
        adversarial(Cut(), [(images, labels)], radii=[1], **SCALE, **QUIET)


def test_a_wrong_normalisation_is_refused():
    model, images, labels, _ = drawn(spread=0.5)
    with pytest.raises(ValueError, match="does not say how its images were normalised"):
        adversarial(model, [(images, labels)], **QUIET)
    with pytest.raises(ValueError, match="undoing mean"):
        adversarial(model, [(images, labels)], mean=0.0, std=5.0, **QUIET)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"attack": "cw"}, "fgsm, pgd"),
        ({"norm": "l1"}, "linf, l2"),
        ({"radii": []}, "one or more"),
        ({"radii": [-1]}, "at least 0"),
        ({"radii": [math.nan]}, "at least 0"),
        ({"radii": [2, 1]}, "rise"),
        ({"steps": 2.5}, "steps=2.5 should be a whole number"),
        ({"step_size": 0}, "step_size"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_options_are_refused(data, options, word):
    with pytest.raises(ValueError, match=word):
        adversarial(Recording(), make_loader(data, 30), **{**QUIET, **options})


def test_result_saves_tabulates_and_averages(tmp_path):
    right = (torch.rand(4, 50, generator=torch.Generator().manual_seed(0)) < torch.rand(50)).long().numpy()
    zeros = np.zeros(4)
    result = Adversarial(right @ right.T, zeros, zeros, np.array([1.0, 2, 4]), "linf", 50, {"attack": "fgsm"})
    again = Adversarial.load(result.save(tmp_path / "a"))
    np.testing.assert_array_equal(again.both_right, result.both_right)
    assert again.norm == "linf"
    table = again.to_frame()
    assert table.radius.tolist() == [0, 1, 2, 4]
    np.testing.assert_allclose(table.accuracy, right.mean(1))
    mean = right[1:].mean(0)
    assert result.mean_accuracy() == pytest.approx((mean.mean(), mean.std(ddof=1) / math.sqrt(50)))
    lost = right[0] - mean
    assert result.drop() == pytest.approx((lost.mean(), lost.std(ddof=1) / math.sqrt(50)))


def test_figure_shows_the_result_and_refuses_two_norms(data):
    one = adversarial(Recording(), make_loader(data, 30), radii=[2, 8], steps=2, **QUIET)
    figure = plot_adversarial({"net": one})
    (line,) = figure.axes[0].lines
    np.testing.assert_allclose(line.get_xydata(), np.stack([[0, 2, 8], 100 * one.accuracies], 1))
    assert "PGD of 2 steps from a random start" in figure.caption
    plt.close(figure)
    other = adversarial(Recording(), make_loader(data, 30), norm="l2", radii=[8], steps=2, **QUIET)
    with pytest.raises(ValueError, match="l2 and linf are no common axis"):
        plot_adversarial({"a": one, "b": other})
