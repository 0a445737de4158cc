import pickle
import warnings

import httpx
import pytest
import timm
import torch
import torchvision
from torch import nn

from utilities.zoo import comparison_layers, create_model, input_options, list_models, preprocessing
from utilities.zoo import factory as zoo


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
    assert {"pit_tiny_patch2_32", "swin_tiny_patch1_32", "mixer_tiny_patch2_32"} <= set(own)
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


def test_models_of_fixed_size_say_so():
    sizes = {name: input_options(name).get("image_size") for name in list_models("*_tiny_*") + list_models("vit_ti_*")}
    assert len(sizes) == 21
    assert all(size == int(name.rpartition("_")[2]) for name, size in sizes.items())
    assert input_options("vgg11") == input_options("resnext50") == input_options("alexnet") == {}


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


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 36),
        ("resnet34", 68),
        ("wide_resnet50", 100),
        ("vit_large_patch32_224", 219),
        ("swin_tiny_patch2_16", 49),
        ("swin_tiny_patch1_32", 95),
        ("pit_tiny_patch2_32", 115),
        ("mixer_tiny_patch2_32", 67),
        ("vgg16", 32),
    ],
)
def test_number_of_layers_to_compare(name, count):
    with torch.device("meta"):
        assert len(comparison_layers(create_model(name))) == count


def test_layers_of_a_lambda_resnet():
    with torch.device("meta"):
        names = comparison_layers(create_model("lambda_resnet26"))
    block = ["bn1", "relu1", "conv2", "bn2", "relu2", "bn3", "relu3"]
    blocks = [f"layer{stage}.{i}.{part}" for stage in (1, 2, 3, 4) for i in (0, 1) for part in block]
    assert names == ["bn1", "relu", *blocks, "avgpool", "fc"]


def test_layers_of_an_alternet():
    with torch.device("meta"):
        names = comparison_layers(create_model("alternet18"))
    convolution, attention = ["bn1", "relu1", "bn2", "relu2"], ["bn1", "gelu", "bn2", "attn"]
    blocks = [convolution, convolution] + 3 * [convolution, attention]
    expected = [f"layer{1 + i // 2}.{i % 2}.{part}" for i, block in enumerate(blocks) for part in block]
    assert names == [*expected, "bn", "relu", "avgpool", "fc"]


def test_layers_of_a_swin():
    names = comparison_layers(create_model("swin_tiny_patch2_16", depths=(1, 1)))
    block = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.act", "mlp.fc2"]
    first, second = ([f"layers.{stage}.blocks.0.{part}" for part in block] for stage in (0, 1))
    merging = ["layers.1.downsample.norm", "layers.1.downsample.reduction"]
    stem, end = ["patch_embed.proj", "patch_embed.norm"], ["norm", "head.global_pool", "head.fc"]
    assert names == [*stem, *first, *merging, *second, *end]


def torchvision_vit():
    return torchvision.models.VisionTransformer(16, 4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "lambda_resnet26",
        "alternet18",
        "alternet50",
        "vit_tiny_patch2_16",
        "swin_tiny_patch2_16",
        "torchvision",
    ],
)
def test_layers_run_in_the_order_listed(name):
    model, calls = torchvision_vit() if name == "torchvision" else create_model(name), []
    model.eval()
    names = comparison_layers(model)
    for layer in names:
        model.get_submodule(layer).register_forward_hook(lambda *_, layer=layer: calls.append(layer))
    with torch.no_grad():
        model(torch.zeros(1, 3, 16, 16))
    assert calls == names


def test_general_rule():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.GELU(), nn.MaxPool2d(2), nn.Flatten())
    model.append(nn.Linear(4, 2)).append(nn.Dropout())
    assert comparison_layers(model) == ["1", "2", "3", "5"]


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
    with pytest.raises(FileNotFoundError, match=r"'pretraind'; weights is 'random', 'pretrained'"):
        create_model("resnet18", weights="pretraind")


def test_pretrained_weights_that_do_not_exist():
    with pytest.raises(ValueError, match=r"resnet18 has no pretrained weights: .*utilities\.train"):
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


def test_preprocessing():
    vit = preprocessing("vit_large_patch32_224")
    assert (vit.input_size, vit.mean, vit.std) == ((3, 224, 224), (0.5,) * 3, (0.5,) * 3)
    image = torchvision.transforms.functional.to_pil_image(torch.full((3, 300, 250), 0.5))
    for name in ("timm/resnet10t", "torchvision/resnet18"):
        found = preprocessing(name)
        assert found.transform(image).shape == found.input_size
        assert found.mean == (0.485, 0.456, 0.406)
    by_model = preprocessing(create_model("timm/resnet10t"))
    assert by_model.mean == preprocessing(timm.create_model("resnet10t")).mean
    for model in ("resnet18", create_model("vit_tiny_patch2_16"), nn.ReLU()):
        with pytest.raises(ValueError, match="has no preprocessing of its own"):
            preprocessing(model)


def test_the_public_names_are_documented():
    for name in ("create_model", "list_models", "comparison_layers", "preprocessing", "check_name"):
        assert "Example" in getattr(zoo, name).__doc__
