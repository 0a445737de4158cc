import math

import pytest
import torch
from torch import nn

from utilities.analysis.blocks.fourier import fourier
from utilities.analysis.predictions.classification import classify
from utilities.analysis.predictions.uncertainty import with_dropout
from utilities.hooks import blocks
from utilities.resnet import BasicBlock, ResNet, resnet18
from utilities.zoo import comparison_layers, create_model, list_models
from utilities.zoo.alternet import alternet18, pattern
from utilities.zoo.build_up import build_up
from utilities.zoo.plain_cnn import PlainCNN
from utilities.zoo.preact_resnet import PreActBlock, PreActResNet
from utilities.zoo.smoothing import SpatialSmoothing, box_blur, smoothing_layers, with_smoothing

PADDINGS = pytest.mark.parametrize("padding", ["reflect", "circular"])


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@PADDINGS
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 2), (5, 8)])
def test_constant_maps_stay_as_they_are(padding, size):
    x = torch.full((2, 3, *size), 0.1)  # not exact in binary: halves of doubles are
    assert torch.equal(box_blur(x, padding), x)


@PADDINGS
@pytest.mark.parametrize("axis", ["rows", "columns", "both"])
def test_the_highest_frequency_vanishes_everywhere(padding, axis):
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(8), indexing="ij")
    place = {"rows": rows, "columns": columns, "both": rows + columns}[axis]
    wave = 1.7 * (1 - 2 * (place % 2)).double()
    assert torch.equal(box_blur(wave, padding), torch.zeros(6, 8, dtype=torch.float64))


def test_each_frequency_is_multiplied_by_its_cosines():
    x = noise(2, 6, 9)
    y, x_ = (math.pi * torch.fft.fftfreq(size, dtype=torch.float64) for size in (6, 9))  # half of each frequency
    expected = torch.fft.fft2(x).abs() * (y.cos()[:, None] * x_.cos()).abs()
    found = torch.fft.fft2(box_blur(x, "circular")).abs()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_mean_of_four_places_written_out():
    x = noise(3, 5, 4)
    found = box_blur(x)
    for row in range(5):
        for column in range(4):
            below, right = (row + 1 if row < 4 else 3), (column + 1 if column < 3 else 2)
            four = x[:, row, column] + x[:, below, column] + x[:, row, right] + x[:, below, right]
            torch.testing.assert_close(found[:, row, column], four / 4, rtol=0, atol=1e-15)


def test_it_moves_with_its_maps():
    x = noise(1, 2, 7, 6)
    smooth, shifts = SpatialSmoothing(padding="circular"), {"shifts": (3, 2), "dims": (2, 3)}
    assert torch.equal(smooth(x.roll(**shifts)), smooth(x).roll(**shifts))
    inner = SpatialSmoothing()(x.roll(**shifts))[..., 3:-1, 2:-1]  # away from the border, with any padding
    assert torch.equal(inner, SpatialSmoothing()(x)[..., :-4, :-3])


def test_maps_are_bounded_rectified_and_then_blurred():
    x = 30 * noise(2, 3, 4, 4)
    found = SpatialSmoothing(temperature=5.0)(x)
    torch.testing.assert_close(found, box_blur((5 * (x / 5).tanh()).clamp(min=0)), rtol=0, atol=0)
    assert found.min() >= 0
    assert found.max() <= 5
    assert (SpatialSmoothing()(x) - box_blur(x.clamp(min=0))).abs().max() > 1  # the bound matters here
    small = 1e-4 * x
    torch.testing.assert_close(SpatialSmoothing()(small), box_blur(small.clamp(min=0)), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("option", "word"), [({"temperature": 0}, "above 0"), ({"padding": "zeros"}, "'reflect'")])
def test_bad_options_are_refused(option, word):
    with pytest.raises(ValueError, match=word):
        SpatialSmoothing(**option)


@pytest.mark.parametrize("name", [name for name in list_models("*_smooth") if "lambda" not in name])
def test_state_dictionaries_are_those_of_the_twin(name):
    with torch.device("meta"):
        plain, smooth = create_model(name.removesuffix("_smooth"), 10), create_model(name, 10)
    shapes = [[(key, value.shape) for key, value in model.state_dict().items()] for model in (plain, smooth)]
    assert shapes[0] == shapes[1]
    assert not smoothing_layers(plain)
    stages = {
        "resnet": 4,
        "wide": 4,
        "se": 4,
        "cbam": 4,
        "preact": 3,
        "alternet": 3,
        "vgg": 4,
        "alexnet": 2,
        "plain": 2,
    }
    kind = next(kind for kind in stages if name.startswith(kind) or (kind == "resnet" and name.startswith("resnext")))
    assert len(smoothing_layers(smooth)) == stages[kind]


@pytest.mark.parametrize("name", ["resnet18", "alternet18_msa1", "preact_resnet18", "vgg11", "alexnet", "plain_cnn8"])
def test_the_layers_act_where_stages_end(name):
    plain, smooth = (create_model(one, 10, seed=0).eval() for one in (name, f"{name}_smooth"))
    images = noise(2, 3, 32, 32).float()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), smooth.parameters(), strict=True))
    assert not torch.allclose(plain(images), smooth(images))
    for layer in smoothing_layers(smooth):
        holder = smooth.get_submodule(layer.rpartition(".")[0])
        holder.smooth = nn.Identity()
    assert torch.equal(plain(images), smooth(images))


def test_checkpoints_load_both_ways_and_say_so(tmp_path):
    for one, other in (("resnet18", "resnet18_smooth"), ("resnet18_smooth", "resnet18")):
        model = create_model(one, 5, seed=1)
        torch.save({"name": one, "num_classes": 5, "model": model.state_dict()}, tmp_path / "a.pth")
        with pytest.warns(UserWarning, match=f"is of {one}, and {other} has not learnt with it"):
            found = create_model(other, 5, weights=tmp_path / "a.pth")
        assert torch.equal(found.fc.weight, model.fc.weight)
        assert bool(smoothing_layers(found)) == other.endswith("_smooth")
    with pytest.raises(ValueError, match="name is 'resnet18_smooth' in the file, 'resnet34_smooth' was asked"):
        create_model("resnet34_smooth", 5, weights=tmp_path / "a.pth")


def test_blocks_lists_the_blurs_and_spectra_show_them():
    model = with_smoothing(ResNet(BasicBlock, (1, 1, 1, 1), 4), padding="circular").eval()
    sequence = blocks(model)
    sequence.check(noise(2, 3, 16, 16).float())
    assert [block.kind for block in sequence if block.name.endswith("smooth")] == ["blur"] * 4
    result = fourier(model, [(noise(4, 3, 16, 16).float(),)], device="cpu", path="paper")
    before, after = (result.delta[result.names.index(name)] for name in ("layer1.0", "layer1.smooth"))
    step = 2 * torch.cos(math.pi * torch.arange(8) / 16).log()  # of both axes, on the diagonal
    found = torch.as_tensor(after - before).float()
    assert (found - step).abs().max() < 0.5  # but for the bound: maps of an untrained network stay well below it


def test_all_that_is_compared_runs_in_order():
    model, calls = create_model("resnet18_smooth", 5, seed=0).eval(), []
    names = comparison_layers(model)
    assert [name for name in names if name.endswith("smooth")] == smoothing_layers(model)
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
    model(noise(1, 3, 16, 16).float())
    assert calls == names


def test_dropout_and_smoothing_go_together():
    model = with_dropout(with_smoothing(ResNet(BasicBlock, (1, 1, 1, 1), 4)), 0.3).eval()
    batch = [(noise(6, 3, 16, 16).float(), torch.arange(6) % 4)]
    result = classify(model, batch, passes=2, device="cpu")
    assert result.provenance["dropout"] == [f"layer{stage}.0.relu1.1" for stage in (1, 2, 3, 4)]


def test_build_up_keeps_the_smoothing_of_its_base():
    base = with_smoothing(PreActResNet(PreActBlock, (1, 2, 2, 2), 3))
    models = build_up(base)
    assert [pattern(model) for model in models] == ["C/CC/CC/CC", "C/CC/CC/CA", "C/CC/CA/CA", "C/CA/CA/CA"]
    layers = ["layer1.smooth", "layer2.smooth", "layer3.smooth"]
    assert all(smoothing_layers(model) == layers for model in models)
    with torch.device("meta"):
        assert pattern(with_smoothing(alternet18())) == pattern(create_model("alternet18_smooth")) == "CC/CA/CA/CA"


def test_what_cannot_be_smoothed_is_refused_and_models_stay_as_they_were():
    with torch.device("meta"):
        model = resnet18(5)
        smooth = with_smoothing(model)
        assert not smoothing_layers(model)
        with pytest.raises(ValueError, match=r"is smooth already: layer1\.smooth"):
            with_smoothing(smooth)
        with pytest.raises(ValueError, match="stages of a Linear are not known"):
            with_smoothing(nn.Linear(1, 1))
    assert smoothing_layers(with_smoothing(PlainCNN(3, (4, 4, 8)))) == ["block1.smooth", "block2.smooth"]
