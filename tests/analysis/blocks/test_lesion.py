"""Removing a unit: what must cost nothing, what must not be used, and what is removed."""

import numpy as np
import pytest
import torch
from torch import nn

from utilities.analysis.blocks.lesion import Lesions, find_units, lesions
from utilities.hooks import blocks
from utilities.utils import evaluate
from utilities.zoo import create_model

IMAGES = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def data(model, flipped=3):
    """Label the images as the model itself sees them, but for a few."""
    with torch.no_grad():
        labels = model.eval()(IMAGES).argmax(1)
    labels[:flipped] = (labels[:flipped] + 1) % 5
    return [(IMAGES, labels)]


@pytest.fixture
def vit():
    return create_model("vit_tiny_patch2_16", 5, seed=0).eval()


@pytest.fixture
def resnet():
    model = create_model("resnet18", 5, seed=0)
    with torch.no_grad():
        model.train()(IMAGES)
    return model.eval()


def test_units_are_branches_of_a_vit_and_spatial_convolutions_of_a_resnet(vit, resnet):
    names = [unit.name for unit in find_units(blocks(vit), IMAGES[:1])]
    assert names == [f"blocks.{i}.{part}" for i in range(6) for part in ("attn", "mlp")]
    names = [unit.name for unit in find_units(blocks(resnet), IMAGES[:1])]
    # Eight blocks of two convolutions, less the first one of the three blocks that halve the resolution.
    assert len(names) == 13
    assert "layer2.0.conv1" not in names
    assert "layer2.0.conv2" in names
    whole = [unit.name for unit in find_units(blocks(resnet), IMAGES[:1], whole=True)]
    assert whole == ["layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]


def test_lambda_layers_are_attention_units():
    units = find_units(blocks(create_model("lambda_resnet26", 5, r=7).eval()), IMAGES[:1])
    assert {unit.kind for unit in units} == {"msa"}
    assert all(unit.name.endswith("conv2") for unit in units)


def test_alternets_attention_is_removed_as_a_whole_branch():
    model = create_model("alternet18", 5, seed=0).eval()
    units = {unit.name: unit.kind for unit in find_units(blocks(model), IMAGES[:1])}
    assert [name for name, kind in units.items() if kind == "msa"] == ["layer2.1", "layer3.1", "layer4.1"]
    assert units["layer1.0.conv1"] == "conv"
    with torch.no_grad():
        model.layer3[1].attn.proj.weight.zero_()
        model.layer3[1].attn.proj.bias.zero_()
    result = lesions(model, data(model), device="cpu")
    assert result.loss[result.names.index("layer3.1")] == 0
    assert result.loss[result.names.index("layer2.1")] != 0


def test_a_branch_without_output_costs_exactly_nothing(vit):
    with torch.no_grad():
        for part in (vit.blocks[1].attn.proj, vit.blocks[4].mlp.fc2):
            part.weight.zero_()
            part.bias.zero_()
    result = lesions(vit, data(vit), device="cpu")
    silent = [result.names.index(name) for name in ("blocks.1.attn", "blocks.4.mlp")]
    assert (result.drop[silent] == 0).all()
    assert (result.loss[silent] == 0).all()
    others = np.delete(np.arange(len(result.names)), silent)
    assert (result.loss[others] != 0).all()


def test_the_drop_is_that_of_a_model_edited_by_hand(vit, resnet):
    for model, name, edit in (
        (vit, "blocks.2.attn", lambda: nn.init.zeros_(vit.blocks[2].attn.proj.weight)),
        (resnet, "layer3.1.conv2", lambda: nn.init.dirac_(resnet.layer3[1].conv2.weight)),
    ):
        loader = data(model)
        result = lesions(model, loader, device="cpu")
        before = evaluate(model, loader, device="cpu")
        with torch.no_grad():
            edit()
            if model is vit:
                vit.blocks[2].attn.proj.bias.zero_()
        after = evaluate(model, loader, device="cpu")
        place = result.names.index(name)
        assert result.accuracy == pytest.approx(before["top1"])
        assert result.drop[place] == pytest.approx(before["top1"] - after["top1"], abs=1e-9)
        assert result.loss[place] == pytest.approx(after["loss"] - before["loss"], abs=1e-5)


def test_a_removed_unit_is_not_used(resnet):
    """Whatever its weights are, the result without it is the same."""
    loader = data(resnet)
    place = lesions(resnet, loader, device="cpu").names.index("layer1.1.conv1")
    for ablation in ("identity", "zero"):
        values = []
        for factor in (1.0, 100.0):
            with torch.no_grad():
                resnet.layer1[1].conv1.weight.mul_(factor)
            result = lesions(resnet, loader, ablation=ablation, device="cpu")
            with torch.no_grad():
                intact = nn.functional.cross_entropy(resnet(IMAGES), loader[0][1]).item()
            values.append(result.loss[place] + intact)
        # The rise of a loss near 1,000, in float32, is exact to 1e-4.
        assert values[0] == pytest.approx(values[1], abs=1e-3)


def test_ablations_are_what_they_say(resnet):
    """Zero: as if the weights were zero; mean: as if the layer gave its average output, which needs no input."""
    loader = data(resnet)
    zero, mean = (lesions(resnet, loader, ablation=ablation, device="cpu") for ablation in ("zero", "mean"))
    place = zero.names.index("layer2.1.conv1")
    conv = resnet.layer2[1].conv1
    outputs = []
    handle = conv.register_forward_hook(lambda module, args, output: outputs.append(output))
    with torch.no_grad():
        intact = nn.functional.cross_entropy(resnet(IMAGES), loader[0][1])
        handle.remove()
        for result, output in ((zero, torch.zeros(1)), (mean, outputs[0].mean(0, keepdim=True))):
            handle = conv.register_forward_hook(lambda module, args, out, output=output: output.expand_as(out))
            expected = nn.functional.cross_entropy(resnet(IMAGES), loader[0][1]) - intact
            handle.remove()
            assert result.loss[place] == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("name", ["vit_tiny_patch2_16", "lambda_resnet26"])
def test_of_a_branch_mean_keeps_its_average(name):
    model = create_model(name, 5, seed=0).eval()
    one = [(IMAGES[:1], torch.zeros(1, dtype=torch.long))]
    result = lesions(model, one, ablation="mean", device="cpu")
    # Over a single image the mean is the output itself: nothing is lost.
    np.testing.assert_allclose(result.loss, 0, atol=1e-5)


def test_result_does_not_depend_on_batches_and_the_model_is_left_as_it_was(vit):
    ((images, labels),) = data(vit)
    state = {name: value.clone() for name, value in vit.state_dict().items()}
    for ablation in ("identity", "mean"):
        whole = lesions(vit, [(images, labels)], ablation=ablation, device="cpu")
        parts = lesions(vit, [(images[:5], labels[:5]), (images[5:], labels[5:])], ablation=ablation, device="cpu")
        np.testing.assert_allclose(whole.drop, parts.drop, atol=1e-12)
        np.testing.assert_allclose(whole.loss, parts.loss, atol=1e-5)
        np.testing.assert_allclose(whole.loss_stderr, parts.loss_stderr, atol=1e-5)
    assert all(torch.equal(value, state[name]) for name, value in vit.state_dict().items())
    assert not any(module._forward_hooks for module in vit.modules())


def test_errors_are_paired_over_images(vit):
    loader = data(vit)
    result = lesions(vit, loader, device="cpu")
    singles = [
        lesions(vit, [(image[None], label[None])], device="cpu") for image, label in zip(*loader[0], strict=True)
    ]
    for value, error in (("drop", "drop_stderr"), ("loss", "loss_stderr")):
        table = np.stack([getattr(single, value) for single in singles])
        np.testing.assert_allclose(getattr(result, value), table.mean(0), atol=1e-5)
        np.testing.assert_allclose(getattr(result, error), table.std(0, ddof=1) / len(table) ** 0.5, atol=1e-5)


def test_files_and_bad_input(tmp_path, vit):
    result = lesions(vit, data(vit), device="cpu")
    assert Lesions.load(result.save(tmp_path / "a")).to_frame().equals(result.to_frame())
    assert result.provenance["n"] == 12
    with pytest.raises(ValueError, match="ablation 'noise'"):
        lesions(vit, data(vit), ablation="noise", device="cpu")
    with pytest.raises(ValueError, match="units 'head'"):
        lesions(vit, data(vit), units="head", device="cpu")
    with pytest.raises(ValueError, match="labels"):
        lesions(vit, [IMAGES], device="cpu")
    with pytest.raises(ValueError, match="sequence"):
        find_units(blocks(vit, {"blocks.0": "msa"}), IMAGES)


def test_a_unit_that_passes_its_input_on_anyway_costs_nothing(resnet):
    """No removal is no loss: of a convolution that is the identity, identity ablation changes nothing."""
    with torch.no_grad():
        nn.init.dirac_(resnet.layer1[1].conv1.weight)
    result = lesions(resnet, data(resnet), device="cpu")
    place = result.names.index("layer1.1.conv1")
    assert result.drop[place] == 0
    assert result.loss[place] == pytest.approx(0, abs=1e-6)


def test_units_are_removed_one_at_a_time_in_whatever_order(resnet, monkeypatch):
    loader = data(resnet)
    forward = lesions(resnet, loader, device="cpu")
    original = find_units
    monkeypatch.setattr("utilities.analysis.blocks.lesion.find_units", lambda *a, **k: original(*a, **k)[::-1])
    backward = lesions(resnet, loader, device="cpu")
    assert backward.names == forward.names[::-1]
    np.testing.assert_array_equal(backward.loss[::-1], forward.loss)
    assert len(forward.names) == len(original(blocks(resnet.eval()), IMAGES[:1]))


def test_loaders_that_can_be_read_once_and_labels_that_are_no_classes_are_refused(vit):
    ((images, labels),) = data(vit)
    with pytest.raises(TypeError, match="reads the images twice"):
        lesions(vit, iter([(images, labels)]), ablation="mean", device="cpu")
    with pytest.raises(ValueError, match="label 5 is none of the model's 5 classes"):
        lesions(vit, [(images, labels.clamp(max=0) + 5)], device="cpu")
    with pytest.raises(ValueError, match="integers"):
        lesions(vit, [(images, labels.float())], device="cpu")


def same_units(named, known):
    """Compare what both results know of the same units."""
    places = [known.names.index(name) for name in named.names]
    np.testing.assert_allclose(named.drop, known.drop[places], atol=1e-12)
    np.testing.assert_allclose(named.loss, known.loss[places], atol=1e-6)
    np.testing.assert_allclose(named.loss_stderr, known.loss_stderr[places], atol=1e-6)
    assert named.kinds == [known.kinds[place] for place in places]
    assert named.accuracy == known.accuracy


@pytest.mark.parametrize("ablation", ["identity", "zero", "mean"])
def test_named_layers_are_removed_as_known_units_are(resnet, ablation):
    loader = [tuple(part[:4] for part in data(resnet)[0])]
    known = lesions(resnet, loader, ablation=ablation, device="cpu")
    layers = dict.fromkeys(known.names[::4], "conv")
    named = lesions(resnet, loader, ablation=ablation, layers=layers, device="cpu")
    assert named.names == known.names[::4]
    same_units(named, known)
    assert (named.depth[0], named.depth[-1]) == (0, 1)
    known = lesions(resnet, loader, units="block", ablation=ablation, device="cpu")
    with pytest.warns(UserWarning, match=r"not removed, .*: layer2\.0, layer3\.0, layer4\.0"):
        named = lesions(resnet, loader, ablation=ablation, layers={"layer?.?": "conv"}, device="cpu")
    assert named.names == known.names
    same_units(named, known)


def test_named_branches_leave_their_shortcut_at_zero(vit):
    loader = data(vit)
    named = lesions(vit, loader, ablation="zero", layers={"blocks.?.attn": "msa", "blocks.?.mlp": "mlp"}, device="cpu")
    known = lesions(vit, loader, device="cpu")
    assert named.names == known.names
    same_units(named, known)


class Attentive(nn.Module):
    """A model whose blocks nobody knows, with a layer that gives a tuple and one that takes keywords."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mix = nn.ModuleDict({"linear": nn.Linear(8, 8), "unused": nn.Linear(8, 8)})
        self.head = nn.Linear(8, 5)

    def forward(self, images):
        x = self.patches(images).flatten(2).mT
        x = x + self.attention(query=x, key=x, value=x)[0]
        return self.head(x + self.mix["linear"](input=x)).mean(1)


@pytest.mark.parametrize("ablation", ["identity", "zero", "mean"])
def test_a_model_of_unknown_blocks_takes_layers(ablation):
    model = Attentive().eval()
    loader = data(model)
    layers = {"attention": "msa", "mix.linear": "mlp"}
    result = lesions(model, loader, ablation=ablation, layers=layers, device="cpu")
    with torch.no_grad():
        x = model.patches(IMAGES).flatten(2).mT
        given = model.attention(x, x, x)[0]
        given = {"identity": x, "zero": 0 * x, "mean": given.mean(0).expand_as(x)}[ablation]
        x = x + given
        logits = model.head(x + model.mix["linear"](x)).mean(1)
        cut, whole = (nn.functional.cross_entropy(y, loader[0][1]).item() for y in (logits, model(IMAGES)))
    assert result.names == ["attention", "mix.linear"]
    assert result.loss[0] == pytest.approx(cut - whole, abs=1e-6)
    assert not model.attention._forward_hooks
    assert not model.attention._forward_pre_hooks


def test_layers_that_cannot_be_removed_are_refused():
    model = Attentive().eval()
    for layers, match in (
        ({"head": "conv"}, "head: none has an input of the shape of its output"),
        ({"mix.unused": "mlp"}, "layers that did not run: mix.unused"),
        ({"patch": "conv"}, "layer 'patch' is not in Attentive; close: patches"),
        ({"attention": "attn"}, "kind 'attn' is not known"),
        ({"attention": "msa", "head": "classifier"}, "layer 'head' of kind 'classifier' is no unit"),
    ):
        with pytest.raises(ValueError, match=match):
            lesions(model, data(model), layers=layers, device="cpu")
    with pytest.raises(ValueError, match="layers={'NAME': 'conv'}".replace("{", r"\{")):
        lesions(model, data(model), device="cpu")
