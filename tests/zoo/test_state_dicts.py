"""Checkpoints as training scripts and wrappers save them load by name, to the same logits."""

import argparse
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from utilities.zoo import create_model
from utilities.zoo.state_dicts import fitted, state_of

NAME = "plain_cnn8"


def trained(classes=4):
    model = create_model(NAME, classes, seed=1).eval()
    with torch.no_grad():
        for value in model.buffers():
            if value.is_floating_point():
                value.add_(0.5)
    return model


def agrees(path, model, **options):
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    loaded = create_model(NAME, None, weights=path, **options).eval()
    with torch.no_grad():
        return torch.equal(loaded(images), model(images))


@pytest.mark.parametrize("holder", ["state_dict", "model", "model_state_dict", "net", "params", "generator", ""])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.model.", "net."]
)
def test_holders_and_prefixes(tmp_path, holder, prefix):
    model = trained()
    state = {prefix + key: value for key, value in model.state_dict().items()}
    other = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(other.parameters(), 0.1, momentum=0.9)
    other(torch.zeros(1, 2)).sum().backward()
    optimizer.step()  # now it has momentum buffers, tensors too
    torch.save({holder: state, "epoch": 3, "optimizer": optimizer.state_dict()} if holder else state, tmp_path / "a.pt")
    assert agrees(tmp_path / "a.pt", model)


def test_what_training_scripts_save_beside_the_weights(tmp_path):
    model = trained()
    beside = {"args": argparse.Namespace(lr=0.1, out=Path("runs")), "best": np.float64(0.9), "model": {"depth": 8}}
    torch.save({"state_dict": model.state_dict(), **beside, "curve": np.zeros(3)[0]}, tmp_path / "a.pt")
    assert agrees(tmp_path / "a.pt", model)


def test_an_attribute_of_a_lightning_module_and_what_lies_beside_it(tmp_path):
    model = trained()
    state = {f"backbone.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state | {"criterion.weight": torch.ones(4)}, "epoch": 3}, tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match=r"1 entries of .*a\.ckpt lie outside the model: criterion\.weight"):
        assert agrees(tmp_path / "a.ckpt", model)


def test_counters_of_batches_may_be_missing(tmp_path):
    model = trained()
    state = {key: value for key, value in model.state_dict().items() if "num_batches_tracked" not in key}
    assert len(state) < len(model.state_dict())
    torch.save(state, tmp_path / "a.pt")
    assert agrees(tmp_path / "a.pt", model)
    del state[next(key for key in state if "running_var" in key)]
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"2 missing keys: .*running_var.*num_batches_tracked"):
        create_model(NAME, None, weights=tmp_path / "a.pt")


def test_safetensors(tmp_path):
    model = trained()
    save_file({f"module.{key}": value for key, value in model.state_dict().items()}, tmp_path / "a.safetensors")
    assert agrees(tmp_path / "a.safetensors", model)


def test_an_average_of_the_weights_is_not_taken_in_silence(tmp_path):
    model, average = trained(), create_model(NAME, 4, seed=2)
    torch.save({"model": model.state_dict(), "model_ema": average.state_dict()}, tmp_path / "a.pt")
    with pytest.warns(UserWarning, match="'model' is taken, not the average in 'model_ema'"):
        assert agrees(tmp_path / "a.pt", model)
    torch.save({"state_dict_ema": average.state_dict()}, tmp_path / "a.pt")
    assert agrees(tmp_path / "a.pt", average.eval())


def test_several_models_in_a_file_are_not_chosen_from(tmp_path):
    state = trained().state_dict()
    torch.save({"student": state, "teacher": state}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="several state dictionaries, student, teacher; save the one"):
        create_model(NAME, 4, weights=tmp_path / "a.pt")
    both = {f"{prefix}.{key}": value for prefix in ("encoder_q", "encoder_k") for key, value in state.items()}
    torch.save({"state_dict": both}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"after any of encoder_q\., encoder_k\."):
        create_model(NAME, 4, weights=tmp_path / "a.pt")
    both = {f"{prefix}.{key}": value for prefix in ("ema_model", "model") for key, value in state.items()}
    torch.save({"state_dict": both}, tmp_path / "a.pt")
    with pytest.warns(UserWarning, match=r"lie outside the model: ema_model\."):
        assert agrees(tmp_path / "a.pt", trained())


def test_a_pickled_model_is_refused_with_what_to_do(tmp_path):
    torch.save(trained(), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"objects \(.*\) other than .*can run code.*save model\.state_dict\(\)"):
        create_model(NAME, 4, weights=tmp_path / "a.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is giving TorchScript up
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "b.pt")
    with pytest.raises(ValueError, match=r"b\.pt cannot be read as weights: .*save model\.state_dict\(\)"):
        create_model(NAME, 4, weights=tmp_path / "b.pt")
    (tmp_path / "a.pt").write_bytes(b"PK cut")
    with pytest.raises(ValueError, match=r"damaged, cut short or no checkpoint .*; copy or make it again"):
        create_model(NAME, 4, weights=tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (NAME, {}),
        ("vit_tiny_patch2_16", {}),
        ("swin_tiny_patch2_16", {}),
        ("lambda_resnet26", {}),
        ("timm/resnet10t", {}),
        ("torchvision/squeezenet1_1", {}),
        ("resnet18", {"in_channels": 1}),
    ],
)
def test_the_number_of_classes_is_the_files(tmp_path, name, options):
    torch.save({"net": create_model(name, 7, **options).state_dict()}, tmp_path / "a.pt")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model = create_model(name, None, weights=tmp_path / "a.pt", seed=0, **options)
    assert torch.equal(torch.get_rng_state(), before)
    size = 64 if "/" in name else 16
    assert model.eval()(torch.zeros(1, options.get("in_channels", 3), size, size)).shape == (1, 7)
    assert model.trained_on.num_classes == 7


@pytest.mark.parametrize("line", ["", "    assert float(net[1].weight.sum()) != 3\n", "    assert num_classes < 100\n"])
def test_the_number_of_classes_of_ones_own_model(tmp_path, line):
    """Builders that compute with what they make, and that refuse a number of classes, are asked no more than once."""
    build = "def make(num_classes):\n    net = nn.Sequential(nn.Flatten(), nn.Linear(12, num_classes))\n"
    (tmp_path / "own.py").write_text(f"from torch import nn\n\n\n{build}{line}    return net\n")
    torch.save({"model_state_dict": nn.Sequential(nn.Flatten(), nn.Linear(12, 7)).state_dict()}, tmp_path / "a.pt")
    name, number = f"{tmp_path / 'own.py'}:make", 7 if "100" in line else None
    model = create_model(name, number, weights=tmp_path / "a.pt")
    assert model(torch.zeros(1, 3, 2, 2)).shape == (1, 7)


def test_a_number_that_was_asked_for_holds(tmp_path):
    torch.save(trained(4).state_dict(), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"other shapes: .*num_classes=None for the file's own number"):
        create_model(NAME, 5, weights=tmp_path / "a.pt")


def test_a_model_without_a_classifier(tmp_path):
    model = create_model("timm/resnet10t", 0)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    assert create_model("timm/resnet10t", None, weights=tmp_path / "a.pt").num_features == model.num_features


def test_states_without_tensors_inside_and_other_models_stay_as_they_are():
    assert state_of({"a": 1, "b": {"lr": 0.1}}) == {"a": 1, "b": {"lr": 0.1}}
    state = {"other.0.weight": 1, "other.0.bias": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fitted(state, {key: torch.zeros(1) for key in ("weight", "x.weight", "y.weight")}) == (state, [])
