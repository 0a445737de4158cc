import pickle
import warnings

import httpx
import pytest
import timm
import torch
import torchvision

from utilities.zoo import comparison_layers, create_model, list_models, preprocessing
from utilities.zoo.factory import check_name


def saved(tmp_path, model=None, **extra):
    model = model or create_model("vit_tiny_patch2_16", num_classes=4, seed=1)
    path = tmp_path / "model.pt"
    torch.save({"model": model.state_dict(), **extra} if extra else model.state_dict(), path)
    return model, path


def test_names_of_every_kind():
    own = list_models()
    assert {"resnet101", "lambda_resnet38", "vit_large_patch32_224", "vit_tiny_patch4_32"} <= set(own)
    assert {"wide_resnet50", "swin_tiny_patch2_16", "resnext50", "vgg16", "alexnet", "vit_ti_patch2_32"} <= set(own)
    assert {f"{family}{depth}" for family in ("alternet", "preact_resnet") for depth in (18, 34, 50, 101, 152)} <= set(
        own
    )
    assert {"pit_tiny_patch2_32", "swin_tiny_patch1_32", "mixer_tiny_patch2_32", "mixer_tiny_patch2_16"} <= set(own)
    assert not any("/" in name for name in own)
    assert "timm/vit_base_patch16_224" in list_models("timm/vit_base*")
    assert "torchvision/vgg11" in list_models("torchvision/*")
    assert not any("rcnn" in name for name in list_models("torchvision/*"))


@pytest.mark.parametrize(
    "name", ["resnet18", "alternet18", "preact_resnet18", "vit_tiny_patch2_16", "swin_tiny_patch2_16"]
)
def test_own_models_are_built(name):
    model = create_model(name, num_classes=6, in_channels=1).eval()
    assert model(torch.zeros(1, 1, 16, 16)).shape == (1, 6)


@pytest.mark.parametrize("name", list_models())
def test_own_models_refuse_options_that_they_do_not_have(name):
    with pytest.raises(TypeError, match="no_such_option"):
        create_model(name, no_such_option=1)


@pytest.mark.parametrize("name", ["timm/resnet10t", "torchvision/squeezenet1_1"])
def test_library_models_are_built(name):
    model = create_model(name, num_classes=6).eval()
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 6)
    assert create_model(name, num_classes=None).eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("resnt18", "resnet18"),
        ("squeezenet1_1", "torchvision/squeezenet1_1"),
        ("timm/vit_bse_patch16_224", "timm/vit_base_patch16_224"),
    ],
)
def test_unknown_names_list_close_ones(name, close):
    with pytest.raises(ValueError, match=rf"unknown model '{name}'; close: .*{close}.*list_models"):
        create_model(name)


@pytest.mark.parametrize("name", ["timm/vit_large_patch32_224.no_such_tag", "tmm/resnet18", "torchvision/x", ""])
def test_other_unknown_names(name):
    with pytest.raises(ValueError, match="unknown model"):
        create_model(name)


def test_seed_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, c = (create_model("vit_tiny_patch2_16", num_classes=4, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a.head.weight, b.head.weight)
    assert not torch.equal(a.head.weight, c.head.weight)


@pytest.mark.parametrize("extra", [{}, {"name": "vit_tiny_patch2_16", "num_classes": 4, "epoch": 3}])
def test_checkpoints_load(tmp_path, extra):
    model, path = saved(tmp_path, **extra)
    before = torch.get_rng_state()
    loaded = create_model("vit_tiny_patch2_16", num_classes=4, weights=path, seed=7)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_checkpoints_of_compiled_parallel_models_load(tmp_path):
    model = create_model("vit_tiny_patch2_16", num_classes=4, seed=1)
    state = {f"_orig_mod.module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "model.pt")
    loaded = create_model("vit_tiny_patch2_16", num_classes=4, weights=str(tmp_path / "model.pt"))
    assert torch.equal(loaded.head.weight, model.head.weight)


def test_checkpoints_that_do_not_fit(tmp_path):
    _, path = saved(tmp_path, name="vit_tiny_patch2_16", num_classes=4)
    with pytest.raises(
        ValueError, match=r"model\.pt does not fit.*num_classes is 4 in the file, 5 was asked.*"
    ) as error:
        create_model("vit_tiny_patch2_16", num_classes=5, weights=path)
    assert "head.weight [4, 96] in the file, [5, 96] in the model" in str(error.value)
    with pytest.raises(ValueError, match="name is 'vit_tiny_patch2_16' in the file, 'resnet18' was asked") as error:
        create_model("resnet18", num_classes=4, weights=path)
    assert "122 missing keys: conv1.weight, bn1.weight" in str(error.value)
    assert "unexpected keys: cls_token, pos_embed" in str(error.value)


class Hostile:
    def __reduce__(self):
        return (print, ("code of the file was run",))


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 cut", pickle.dumps(Hostile(), 2)], ids=range(4))
def test_damaged_and_hostile_files(tmp_path, content, capsys):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.pt cannot be read as weights"):
        create_model("resnet18", weights=path)
    assert "was run" not in capsys.readouterr().out


def test_truncated_pickled_missing_and_other_files(tmp_path):
    model, path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="cannot be read as weights"):
        create_model("vit_tiny_patch2_16", weights=path)
    torch.save(model, path)  # a whole model: objects
    with pytest.raises(ValueError, match="can run code"):
        create_model("vit_tiny_patch2_16", weights=path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="holds a list, not a state dictionary"):
        create_model("vit_tiny_patch2_16", weights=path)
    with pytest.raises(FileNotFoundError, match=r"'pretraind'; weights are 'random', 'pretrained'"):
        create_model("resnet18", weights="pretraind")


@pytest.mark.parametrize("weights", [None, True, {}])
def test_weights_that_are_neither_a_word_nor_a_path(weights):
    with pytest.raises(TypeError, match=r"weights=.*: choose 'random', 'pretrained', 'wheel' or the path"):
        create_model("resnet18", weights=weights)


def test_pretrained_weights_that_do_not_exist():
    with pytest.raises(ValueError, match=r"resnet18 has no pretrained weights: .*utilities train"):
        create_model("resnet18", weights="pretrained")
    with pytest.raises(ValueError, match=r"timm/vit_large_patch14_224 has no pretrained weights"):
        create_model("timm/vit_large_patch14_224", weights="pretrained")


def test_no_connection(monkeypatch):
    def refuse(*_, **__):
        raise httpx.ConnectError("no route")

    monkeypatch.setattr(timm, "create_model", refuse)
    url = "https://huggingface.co/timm/vit_large_patch32_224.orig_in21k/resolve/main/model.safetensors"
    with pytest.raises(ConnectionError, match=rf"in21k \(no route\); download {url} elsewhere.*overlay"):
        create_model("vit_large_patch32_224", weights="pretrained")
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "no_such_folder")
    monkeypatch.setattr(torch.hub.os, "makedirs", lambda *_, **__: None)
    with pytest.raises(ConnectionError, match=r"alexnet.*copy it to no_such_folder/checkpoints/alexnet"):
        create_model("torchvision/alexnet", weights="pretrained")


def test_timm_weights_from_a_file(tmp_path):
    source = timm.create_model("resnet10t", num_classes=1000)
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    overlay = {"file": str(tmp_path / "weights.pt")}
    with pytest.warns(UserWarning, match="for 1000 classes: its classifier is newly initialised"):
        model = create_model("timm/resnet10t", 7, "pretrained", pretrained_cfg_overlay=overlay)
    assert torch.equal(model.layer1[0].conv1.weight, source.layer1[0].conv1.weight)
    assert model.fc.out_features == 7


def test_torchvision_weights_with_another_classifier(monkeypatch):
    source = torchvision.models.squeezenet1_1()
    weights = torchvision.models.SqueezeNet1_1_Weights
    monkeypatch.setattr(weights, "get_state_dict", lambda *_, **__: source.state_dict())
    with pytest.warns(UserWarning, match="squeezenet1_1 are for 1000 classes"):
        model = create_model("torchvision/squeezenet1_1", 7, "pretrained")
    assert torch.equal(model.features[0].weight, source.features[0].weight)
    assert model.classifier[1].out_channels == 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        create_model("torchvision/squeezenet1_1", 1000, "pretrained")


def test_the_public_names_are_documented():
    for function in (create_model, list_models, comparison_layers, preprocessing, check_name):
        assert "Example" in function.__doc__
