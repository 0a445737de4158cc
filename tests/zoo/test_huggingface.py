"""Hugging Face's models by name, from folders that ``save_pretrained`` wrote."""

import json
import re
import shutil
import time

import numpy as np
import pytest
import torch
from PIL import Image

from tests import vit_twins
from utilities.cli import verbs
from utilities.compare import Similarity
from utilities.datasets import load_dataset
from utilities.datasets.folders import imagenet_classes
from utilities.zoo import create_model, family, input_options, list_models, preprocessing
from utilities.zoo.factory import check_name, split_model
from utilities.zoo.huggingface import class_names
from utilities.zoo.huggingface_preprocessing import read_preprocessor
from utilities.zoo.trained_on import refuse_other_classes

transformers = pytest.importorskip("transformers")
huggingface_hub = pytest.importorskip("huggingface_hub")
safetensors = pytest.importorskip("safetensors.torch")
SMALL = {**vit_twins.CONFIG, "intermediate_size": vit_twins.HIDDEN}
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def saved(model, folder, processor=None):
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return f"hf/{folder}"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A classifier of digits, with names of classes and preprocessing."""
    torch.manual_seed(0)
    names = dict(enumerate(load_dataset("digits", n_images=10).classes))
    config = transformers.ViTConfig(**SMALL, id2label=names, label2id={name: i for i, name in names.items()})
    processor = transformers.ViTImageProcessor(
        size={"height": 16, "width": 16}, image_mean=[0.2] * 3, image_std=[0.3] * 3
    )
    return saved(transformers.ViTForImageClassification(config), tmp_path_factory.mktemp("hf") / "vit", processor)


def test_a_classifier_gives_its_logits_under_its_own_names(digits):
    model = create_model(digits).eval()
    source = transformers.ViTForImageClassification.from_pretrained(digits[3:]).eval()
    images = vit_twins.images(3)
    with torch.no_grad():
        assert torch.equal(model(images), source(pixel_values=images).logits)
    assert list(model.state_dict()) == list(source.state_dict())
    assert [name for name, _ in model.named_modules()][1:] == [name for name, _ in source.named_modules()][1:]
    assert (model.zoo_name, model.num_classes) == (digits, 10)
    data = load_dataset("digits", n_images=10)
    assert model.trained_on.classes == tuple(data.classes)
    refuse_other_classes(model, data)


def test_weights_are_its_own_unless_random_ones_are_asked_for(digits):
    own, again, random = (
        create_model(digits),
        create_model(digits, weights="pretrained"),
        create_model(digits, 4, "random"),
    )
    assert torch.equal(own.classifier.weight, again.classifier.weight)
    assert random.num_classes == 4
    assert not hasattr(random, "trained_on")
    same = [create_model(digits, 10, "random", seed=1).classifier.weight for _ in range(2)]
    assert torch.equal(*same)
    assert (split_model(digits)[1], split_model(f"{digits}=random")[1]) == ("pretrained", "random")
    with pytest.warns(UserWarning, match="another number of classes: its classifier is newly initialised"):
        assert create_model(digits, 3).num_classes == 3
    deeper = create_model(digits, weights="random", num_hidden_layers=3)
    assert len(deeper.vit.layers) == 3
    with pytest.raises(TypeError, match="ViTConfig has no option 'depht'"):
        create_model(digits, weights="random", depht=3)


@pytest.mark.parametrize(
    ("make", "embedding"),
    [
        (lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SMALL)), "pooler_output"),
        (lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SMALL)), "pooler_output"),
        (lambda: transformers.Dinov2Model(transformers.Dinov2Config(**vit_twins.CONFIG)), "pooler_output"),
        (lambda: transformers.ViTModel(transformers.ViTConfig(**SMALL)), "last_hidden_state"),
    ],
)
def test_a_tower_gives_its_embedding(make, embedding, tmp_path):
    source = make().eval()
    model = create_model(saved(source, tmp_path / "net")).eval()
    with torch.no_grad():
        expected = getattr(source(pixel_values=vit_twins.images(2)), embedding)
        found = model(vit_twins.images(2))
    assert torch.equal(found, expected if expected.ndim == 2 else expected[:, 0])
    assert model.num_classes == 0
    with pytest.raises(ValueError, match="has no classifier, so no accuracy"):
        refuse_other_classes(model, load_dataset("digits", n_images=10))


def test_of_a_model_of_images_and_text_the_image_tower_is_taken(tmp_path):
    source = transformers.CLIPModel(transformers.CLIPConfig(text_config=TEXT, vision_config=SMALL)).eval()
    model = create_model(saved(source, tmp_path / "clip")).eval()
    with torch.no_grad():
        expected = source.vision_model(pixel_values=vit_twins.images(2)).pooler_output
        assert torch.equal(model(vit_twins.images(2)), expected)
    bert = transformers.BertConfig(**TEXT)
    with pytest.raises(ValueError, match="which does not map images to an embedding"):
        create_model(saved(transformers.BertModel(bert), tmp_path / "bert"))


PROCESSORS = [
    lambda: transformers.ViTImageProcessor(size={"height": 20, "width": 20}),
    lambda: transformers.CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 20, "width": 20}),
    lambda: transformers.SiglipImageProcessor(size={"height": 20, "width": 20}),
]


@pytest.mark.parametrize("make", PROCESSORS)
def test_images_are_prepared_as_transformers_does(make, tmp_path):
    make().save_pretrained(tmp_path)
    said = json.loads((tmp_path / "preprocessor_config.json").read_text())
    size, mean, std, transform = read_preprocessor(said, "hf/net")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    picture = Image.fromarray(pixels)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    expected = processor(picture, return_tensors="pt")["pixel_values"][0]
    assert transform(picture).shape == size == tuple(expected.shape)
    # 8-bit rounding of resized pixels, over deviations of 0.2 or more: a few levels of 1/255
    assert (transform(picture) - expected).abs().max() < 0.05
    assert (mean, std) == (tuple(processor.image_mean), tuple(processor.image_std))


def test_data_sets_use_it_without_a_word(digits, tmp_path):
    assert input_options(digits) == {"image_size": 16, "mean": (0.2,) * 3, "std": (0.3,) * 3}
    assert preprocessing(digits).input_size == preprocessing(create_model(digits)).input_size == (3, 16, 16)
    bare = saved(transformers.ViTModel(transformers.ViTConfig(**SMALL)), tmp_path / "bare")
    assert input_options(bare) == {"image_size": 16}  # nothing says how its images are normalised
    with pytest.raises(ValueError, match=r"no preprocessor_config\.json, so how its images were prepared"):
        preprocessing(bare)


def test_imagenets_classes_get_the_names_that_they_have_here():
    ours = imagenet_classes()[1]
    config = transformers.ViTConfig(id2label={i: f"{name}, another name" for i, name in enumerate(ours)})
    assert class_names(config) == tuple(ours)
    assert class_names(transformers.ViTConfig(num_labels=3)) is None


def test_names_are_checked_before_anything_is_built(tmp_path, digits):
    check_name(digits)
    for name, message in (
        ("hf/", "names no model"),
        (f"hf/{tmp_path}", "no config.json in"),
        ("hf/./nowhere", "no config.json in"),
    ):
        with pytest.raises(ValueError, match=message):
            check_name(name)
    assert list_models(f"{digits.rpartition('/')[0]}/*") == [digits]
    assert [family(name) for name in (digits, "hf/facebook/dinov2-base", "hf/microsoft/resnet-50")] == [
        "vit",
        "vit",
        "cnn",
    ]


def test_a_hub_that_does_not_answer_is_not_asked_again_and_again(monkeypatch):
    def nobody(url, timeout):
        raise OSError(f"no route to {url} within {timeout} s")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", nobody)
    asked = []
    monkeypatch.setattr(time, "sleep", asked.append)  # between two questions of the hub's library
    with pytest.raises(ConnectionError, match=r"cannot find hf/nope here or on the hub .* write hf/FOLDER"):
        create_model("hf/nope", 10)
    assert asked == []


def changed(source, folder, tensors=None, **config):
    """Copy a model's folder, with other tensors or another configuration."""
    shutil.copytree(source[3:], folder)
    if tensors is not None:
        weights = folder / "model.safetensors"
        state = safetensors.load_file(weights)
        tensors(state)
        safetensors.save_file(state, weights, metadata={"format": "pt"})
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | config))
    return f"hf/{folder}"


def without(*words):
    def change(state):
        for key in [key for key in state if any(word in key for word in words)]:
            del state[key]

    return change


def test_tensors_that_would_be_random_are_refused_by_name(digits, tmp_path):
    lost = changed(digits, tmp_path / "lost", without("layer.1.intermediate.dense.weight", "layers.1.mlp.fc1.weight"))
    for classes, first in ((None, "vit."), (4, "vit."), (0, "")):  # its own classifier, a new one, none
        with pytest.raises(ValueError, match=rf"lost lack .* random: {first}layers\.1\.mlp\.fc1\.weight; mend"):
            create_model(lost, classes)
    assert create_model(lost, 4, "random").num_classes == 4
    deeper = changed(digits, tmp_path / "deeper", num_hidden_layers=3)
    with pytest.raises(ValueError, match=r"random: vit\.layers\.2\.attention\.k_proj\.bias, .* and 11 more"):
        create_model(deeper)
    beheaded = changed(digits, tmp_path / "beheaded", without("classifier"))
    with pytest.raises(ValueError, match=r"random: classifier\.bias, classifier\.weight"):
        create_model(beheaded)
    wider = changed(digits, tmp_path / "wider", hidden_size=48)
    for classes in (None, 4):
        with pytest.raises(
            ValueError, match=r"wider have other shapes .*vit\.embeddings\.cls_token \(1, 1, 24\) instead"
        ):
            create_model(wider, classes)


def test_what_was_never_saved_is_newly_initialised_with_a_warning(tmp_path, digits, recwarn):
    config = transformers.BeitConfig(**SMALL, use_mask_token=True)
    source = transformers.BeitForMaskedImageModeling(config)
    with pytest.warns(UserWarning, match=r"saved without pooler\.layernorm\.bias, pooler\.layernorm\.weight: newly"):
        model = create_model(saved(source, tmp_path / "beit"))
    assert torch.equal(model.embeddings.cls_token, source.beit.embeddings.cls_token)
    tower = saved(transformers.Dinov2Model(transformers.Dinov2Config(**vit_twins.CONFIG)), tmp_path / "tower")
    with pytest.warns(UserWarning, match="have no classifier: its classifier is newly initialised"):
        assert create_model(tower, 4).num_classes == 4
    recwarn.clear()
    create_model(changed(tower, tmp_path / "unmasked", without("mask_token")))  # no image passes it
    whole = transformers.CLIPModel(transformers.CLIPConfig(text_config=TEXT, vision_config=SMALL))
    create_model(saved(whole, tmp_path / "clip"))  # the tower for texts is left out on purpose
    create_model(digits, 0)  # and so is the classifier
    assert [str(one.message) for one in recwarn] == []


def test_tensors_without_a_place_are_named(digits, tmp_path):
    extra = changed(digits, tmp_path / "extra", lambda state: state.update(foo=torch.ones(3)))
    with pytest.warns(UserWarning, match="no place for some tensors of .*extra: foo$"):
        create_model(extra)
    with pytest.warns(UserWarning, match=r"no place for some tensors of .*: vit\.layers\.1\.attention.* and 11 more"):
        create_model(digits, num_hidden_layers=1)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("model.safetensors", lambda whole: whole[:2000], "invalid header length"),
        ("model.safetensors", lambda whole: whole[:-100], "not fully covered"),
        ("model.safetensors", None, "no file named model.safetensors"),
        ("pytorch_model.bin", lambda _: b"", "EOFError"),
        ("pytorch_model.bin", lambda _: b"PK\x03\x04 and no more", "PytorchStreamReader failed"),
        ("pytorch_model.bin", lambda _: b"version https://", "Weights only load failed"),
        ("config.json", lambda _: b"{", "config.json' is not a valid JSON"),
        ("config.json", lambda _: b'{"model_type": "vit", "hidden_size": "x"}', "'hidden_size' expected int"),
    ],
)
def test_files_cut_short_are_named_with_the_remedy(digits, tmp_path, file, content, reason):
    name = changed(digits, tmp_path / "broken")
    path = tmp_path / "broken" / file
    whole = path.read_bytes() if path.exists() else b""
    if content is None or file == "pytorch_model.bin":
        (tmp_path / "broken" / "model.safetensors").unlink()
    if content is not None:
        path.write_bytes(content(whole))
    with pytest.raises(
        ValueError, match=rf"files of {re.escape(name)} cannot be read \(.*{reason}.*copy all its files"
    ):
        create_model(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model_type": "quantumvit"}, r"is of the type 'quantumvit', which transformers .* pip install --upgrade"),
        ({}, r"names no model_type; write the folder again"),
    ],
)
def test_a_type_that_transformers_does_not_know_is_named(tmp_path, content, message):
    (tmp_path / "config.json").write_text(json.dumps(content))
    for read in (create_model, input_options):
        with pytest.raises(ValueError, match=message):
            read(f"hf/{tmp_path}")


def test_preprocessing_that_is_no_json_is_named(digits, tmp_path):
    name = changed(digits, tmp_path / "broken")
    (tmp_path / "broken" / "preprocessor_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"preprocessor_config\.json is not valid JSON"):
        input_options(name)


def test_the_commands_take_it(digits, tmp_path, capsys):
    common = ["--dataset", "digits", "--n-images", "20", "--device", "cpu"]
    verbs.main(["compare", digits, *common, "--out", str(tmp_path / "r.npz")])
    result = Similarity.load(tmp_path / "r")
    assert result.layers1[:2] == ["vit.embeddings.patch_embeddings.projection", "vit.layers.0.layernorm_before"]
    assert result.provenance["weights"] == "pretrained"
    verbs.main(["evaluate", digits, *common])
    verbs.main(["analyse", "identifiability", digits, *common, "--out", str(tmp_path / "i.npz")])
    verbs.main(["models", f"{digits.rpartition('/')[0]}/*"])
    assert digits in capsys.readouterr().out
    verbs.main(["layers", digits, "--main"])
    assert "vit.layers.1.mlp.fc2" in capsys.readouterr().out
