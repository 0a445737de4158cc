"""Which layers a comparison takes where none are named, and which it leaves out."""

import warnings
from collections import OrderedDict

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrizations

from utilities.compare import compare
from utilities.hooks import Recorder, select_layers
from utilities.zoo import create_model


def default_layers(model, images, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return compare(model, model, [images], device="cpu", progress=False, **options).layers1


def names_of(*parts):
    return nn.Sequential(OrderedDict(parts))


def test_what_changes_nothing_in_eval_mode_is_no_layer():
    """More than half of the leaves of a ViT of timm are dropout, identities and the like."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=10)
    leaves = [name for name, module in model.named_modules() if not list(module.children())]
    nothing = [name for name in leaves if "drop" in name or isinstance(model.get_submodule(name), nn.Identity)]
    assert len(nothing) > len(leaves) / 2
    layers = default_layers(model, torch.randn(16, 3, 32, 32))
    assert sorted(layers) == sorted(set(leaves) - set(nothing))


def test_flattening_and_in_place_layers_stay():
    model = names_of(
        ("conv", nn.Conv2d(3, 4, 3)), ("relu", nn.ReLU(inplace=True)), ("drop", nn.Dropout(0.5, inplace=True)),
        ("flat", nn.Flatten()), ("again", nn.Flatten()), ("fc", nn.Linear(144, 3)),
    )  # fmt: skip
    assert default_layers(model, torch.randn(8, 3, 8, 8)) == ["conv", "relu", "flat", "fc"]
    with torch.inference_mode():
        assert default_layers(model, torch.randn(8, 3, 8, 8)) == ["conv", "relu", "flat", "fc"]


def test_layers_that_are_alike_for_all_images_leave_the_others_as_they_are():
    """Windows that are constant are looked at again, with more images; dropout stays none."""

    class Constant(nn.Module):
        def forward(self, x):
            return torch.zeros(3 * len(x), 2)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.drop, self.windows = nn.Linear(4, 4), nn.Dropout(), Constant()

        def forward(self, x):
            return self.drop(self.fc(x)) + self.windows(x).sum()

    with Recorder(Net(), innermost=True) as recorder:
        recorder.run(torch.randn(20, 4))
    assert recorder.layers == ["fc", "windows"]


def test_a_model_that_changes_nothing_keeps_its_layers():
    assert default_layers(names_of(("a", nn.Identity()), ("b", nn.Dropout())), torch.randn(8, 4)) == ["a", "b"]


def test_a_parametrised_module_is_a_layer_and_its_parametrisation_is_none():
    model = names_of(("conv", parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))), ("relu", nn.ReLU()))
    assert default_layers(model, torch.randn(8, 3, 8, 8)) == ["conv", "relu"]
    assert select_layers(model) == ["conv", "relu"]


def test_a_quantised_linear_is_a_layer_and_its_output_is_dequantised():
    torch.manual_seed(0)
    linear = names_of(("one", nn.Linear(8, 6)), ("two", nn.Linear(6, 4)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates its own quantisation
        dynamic = torch.ao.quantization.quantize_dynamic(linear, {nn.Linear}, dtype=torch.qint8)
        static = names_of(("into", torch.ao.nn.quantized.Quantize(0.05, 128, torch.quint8)), ("back", nn.Sequential()))
    x = torch.randn(64, 8)
    assert default_layers(dynamic, x) == ["one", "two"]
    with Recorder(static, "into") as recorder:
        static(x)
    torch.testing.assert_close(recorder.activations["into"], x.clamp(-6.4, 6.35), atol=0.0251, rtol=0)


def test_an_attention_with_a_helper_inside_is_a_layer():
    class Attention(nn.Module):
        """All is computed here but for dropout and a table of positions, which belongs to no image."""

        def __init__(self):
            super().__init__()
            self.qkv = nn.Parameter(torch.randn(8, 24) / 3)
            self.drop, self.positions = nn.Dropout(0.1), nn.Embedding(10, 10)

        def forward(self, x):
            q, k, v = (x @ self.qkv).chunk(3, -1)
            bias = self.positions(torch.arange(10))
            return self.drop((q @ k.mT + bias).softmax(-1)) @ v

    torch.manual_seed(0)
    model, x = names_of(("norm", nn.LayerNorm(8)), ("attn", Attention())), torch.randn(16, 10, 8)
    with pytest.warns(UserWarning, match=r"left out: attn.positions \(has no row for each image"):
        result = compare(model, model, [x], device="cpu", progress=False)
    assert result.layers1 == ["norm", "attn"]
    with pytest.raises(ValueError, match=r"'attn.positions' has no row for each image"):
        compare(model, model, [x], layers1=["norm", "attn.positions"], device="cpu", progress=False)


def test_an_attention_with_weights_of_its_own_is_a_layer_beside_its_softmax():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.softmax = nn.Parameter(torch.randn(8, 24) / 3), nn.Softmax(-1)

        def forward(self, x):
            q, k, v = (x @ self.weight).chunk(3, -1)
            return self.softmax(q @ k.mT) @ v

    model = names_of(("stem", nn.Linear(8, 8)), ("attn", Attention()), ("head", nn.Linear(8, 2)))
    assert default_layers(model, torch.randn(8, 5, 8)) == ["stem", "attn.softmax", "attn", "head"]


def test_a_norm_that_ends_with_its_activation_is_one_layer():
    model = names_of(("conv", nn.Conv2d(3, 4, 3)), ("norm", timm.layers.BatchNormAct2d(4)))
    assert default_layers(model, torch.randn(8, 3, 8, 8)) == ["conv", "norm.act"]


def test_multihead_attention_is_a_layer_whose_projection_never_runs():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    layers = default_layers(names_of(("block", layer)), torch.randn(8, 5, 8))
    assert layers == ["block.self_attn", "block.norm1", "block.linear1", "block.linear2", "block.norm2"]


def test_experts_get_rows_that_belong_to_no_image():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.router, self.one, self.two = nn.Linear(6, 2), nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            first, out = self.router(x).argmax(-1) == 0, torch.empty_like(x)
            out[first], out[~first] = self.one(x[first]), self.two(x[~first])
            return out

    torch.manual_seed(0)
    model = names_of(("stem", nn.Linear(6, 6)), ("experts", Experts()))
    with pytest.warns(UserWarning, match=r"left out: experts.one.*experts.two"):
        result = compare(model, model, [torch.randn(32, 5, 6)], device="cpu", progress=False)
    assert result.layers1 == ["stem", "experts.router"]


def test_globs_that_begin_with_an_exclamation_mark_take_away():
    model, images = create_model("resnet18", 10), torch.randn(8, 3, 8, 8)
    layers = default_layers(model, images)
    assert default_layers(model, images, layers1="!*.downsample.*") == [x for x in layers if "downsample" not in x]
    assert select_layers(model, ["layer1.*", "!*bn*", "!*.relu?", "!layer1.?"]) == [
        "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer1.1.conv2",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="layer 'lawyer' is not in ResNet; close: layer4"):
        select_layers(model, "!lawyer")
    with pytest.raises(ValueError, match="taken away again"):
        select_layers(model, ["fc", "!fc"])


def test_a_view_that_a_default_layer_does_not_have_leaves_it_out():
    model, images = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3), torch.randn(8, 3, 32, 32)
    with pytest.warns(UserWarning, match=r"left out: patch_embed.proj.* \(view 'cls': .*holds no class token"):
        result = compare(model, model, [images], view="cls", device="cpu", progress=False)
    assert "blocks.0.mlp.fc1" in result.layers1
    with pytest.raises(ValueError, match=r"layer 'patch_embed\.proj': view 'cls'"):
        compare(model, model, [images], layers1="patch_embed.proj", view="cls", device="cpu", progress=False)


def test_layers_of_one_side_alone_may_be_named():
    torch.manual_seed(0)
    model, x = names_of(("a", nn.Linear(6, 6)), ("drop", nn.Dropout()), ("b", nn.Linear(6, 3))), torch.randn(16, 6)
    result = compare(model, model, [x], layers2="b", device="cpu", progress=False)
    assert (result.layers1, result.layers2) == (["a", "b"], ["b"])
    assert result.matrix[1, 0] == pytest.approx(1, abs=1e-6)


def test_layers_that_are_named_and_not_strict_are_left_out_with_a_warning():
    model = names_of(("a", nn.Linear(6, 6)), ("table", Table()))
    with pytest.warns(UserWarning, match="left out: table.rows"):
        result = compare(
            model, model, [torch.randn(16, 6)], layers1=["a", "table", "table.rows"], strict=False, device="cpu"
        )
    assert result.layers1 == ["a", "table"]
    assert np.isfinite(result.matrix).all()


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows = nn.Embedding(4, 6)

    def forward(self, x):
        return x + self.rows(torch.arange(4)).sum(0)


def test_a_layer_that_changes_something_in_one_of_its_calls_is_a_layer():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.flat = nn.Linear(6, 6), nn.Flatten()

        def forward(self, x):
            return self.flat(self.flat(self.fc(x)).unflatten(1, (2, 3)))

    assert default_layers(Twice(), torch.randn(8, 6)) == ["fc", "flat", "flat#2"]
