"""The paper's models: names, files in the published layouts on small models, preprocessing, random twins."""

import re
import warnings

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models.vision_transformer import ResPostBlock, VisionTransformer

from utilities.analysis.class_embedding.spaces import class_space
from utilities.datasets.masks import refuse_random_transform, transformed_mask
from utilities.zoo import create_model, preprocessing
from utilities.zoo import vilas_2023 as class_models
from utilities.zoo.old_checkpoints import without_block_heads
from utilities.zoo.vilas_2023 import PAPER_MODELS, load_paper_model, paper_preprocessing, warn_if_degenerate

SMALL = {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 32}
FROM_FILES = ("vit_cifar_16", "deit_ensemble_16")
OPTIONS = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}


def small(key, checkpoint=None, pretrained=True, seed=None, **options):
    return class_models._load(key, checkpoint, pretrained, seed, {**SMALL, **options})


def trained(key):
    """A small model of the paper's kind whose entries differ from those of a new one."""
    model = create_model(PAPER_MODELS[key].zoo, PAPER_MODELS[key].classes, seed=1, **SMALL)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def same(one, other):
    theirs = other.state_dict()
    return theirs.keys() == one.state_dict().keys() and all(
        torch.equal(v, theirs[k]) for k, v in one.state_dict().items()
    )


def refined(model, heads=2):
    """The state with a module after each of the first blocks: a convolution, its norm and a linear layer."""
    state = dict(model.state_dict())
    for index in range(heads):
        parts = {
            "conv.weight": torch.randn(32, 32, 3, 3),
            **{f"bn.{name}": torch.randn(32) for name in ("weight", "bias", "running_mean", "running_var")},
            "bn.num_batches_tracked": torch.tensor(7),
            "token_fc.weight": torch.randn(32, 32),
            "token_fc.bias": torch.randn(32),
        }
        state |= {f"transformerheads.{index}.{name}": value for name, value in parts.items()}
    return state


def test_the_seven_models():
    assert list(PAPER_MODELS) == [
        "vit_b_32",
        "vit_b_16",
        "vit_large_16",
        "vit_miil_16",
        "vit_cifar_16",
        "deit_ensemble_16",
        "vit_gap_16",
    ]
    with pytest.raises(TypeError):
        PAPER_MODELS["vit_b_32"] = None
    for key, paper in PAPER_MODELS.items():
        assert bool(paper.source) == (key in FROM_FILES)
        assert paper.classes == (100 if key == "vit_cifar_16" else 1000)


@pytest.mark.parametrize("key", [key for key in PAPER_MODELS if key not in FROM_FILES])
def test_weights_of_the_hub_are_pinned_to_a_tag_that_is_there(key):
    """Without the tag, timm gives other weights of B/16, and 11,221 classes of MIIL."""
    library, _, name = PAPER_MODELS[key].zoo.partition("/")
    assert library == "timm"
    assert "." in name
    assert timm.list_pretrained(name) == [name]
    assert timm.get_pretrained_cfg(name).num_classes == PAPER_MODELS[key].classes


@pytest.mark.parametrize(
    ("key", "tokens", "width", "depth", "heads"),
    [
        ("vit_b_32", 50, 768, 12, 12),
        ("vit_b_16", 197, 768, 12, 12),
        ("vit_large_16", 197, 1024, 24, 16),
        ("vit_miil_16", 197, 768, 12, 12),
        ("vit_cifar_16", 197, 768, 12, 12),
        ("deit_ensemble_16", 197, 768, 12, 12),
        ("vit_gap_16", 196, 768, 12, 12),
    ],
)
def test_sizes_are_the_papers(key, tokens, width, depth, heads):
    with torch.device("meta"):
        model = create_model(PAPER_MODELS[key].zoo, PAPER_MODELS[key].classes)
    assert (len(model.blocks), model.embed_dim, model.blocks[0].attn.num_heads) == (depth, width, heads)
    assert model.patch_embed.num_patches + model.num_prefix_tokens == tokens
    assert (model.head.out_features, model.global_pool) == (
        PAPER_MODELS[key].classes,
        "avg" if key == "vit_gap_16" else "token",
    )
    assert class_space(model).class_token == (key != "vit_gap_16")


@pytest.mark.parametrize("wrap", [dict, lambda state: {"state_dict": state, "epoch": 3}])
def test_the_cifar_file(tmp_path, wrap):
    model = trained("vit_cifar_16")
    torch.save(wrap({f"model.{key}": value for key, value in model.state_dict().items()}), tmp_path / "vit.pt")
    loaded = small("vit_cifar_16", tmp_path / "vit.pt")
    assert same(loaded, model)
    assert loaded.head.out_features == 100


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_refined_file_loses_the_added_modules_and_nothing_else(tmp_path, prefix):
    model = trained("deit_ensemble_16")
    state = {prefix + key: value for key, value in refined(model).items()}
    content = {"epoch": 12, "arch": "base", "state_dict": state, "best_acc1": 76.5, "optimizer": {"param_groups": []}}
    torch.save(content, tmp_path / "deit.pth")
    message = r"16 entries of .*deit.pth were left out.*: all of transformerheads.0, transformerheads.1$"
    with pytest.warns(UserWarning, match=message):
        loaded = small("deit_ensemble_16", tmp_path / "deit.pth")
    assert same(loaded, model)
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(loaded.eval()(images), model.eval()(images))


def test_what_is_left_out_is_what_was_added():
    state = {"head.weight": 1, "transformerheads.0.conv.weight": 2, "blocks.0.transformerheads.0.x": 3}
    state |= {"transformerheads.weight": 4, "transformerheads.10.bn.bias": 5}
    kept, extra = without_block_heads(state)
    assert list(kept) == ["head.weight", "blocks.0.transformerheads.0.x", "transformerheads.weight"]
    assert extra == ["transformerheads.0.conv.weight", "transformerheads.10.bn.bias"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("norm.bias"), "1 missing keys: norm.bias"),
        (lambda state: state.update({"head_dist.bias": torch.zeros(3)}), "1 unexpected keys: head_dist.bias"),
        (
            lambda state: state.update({"head.weight": torch.zeros(10, 32)}),
            r"head.weight \[10, 32\] in the file, \[1000, 32\]",
        ),
    ],
)
def test_any_other_misfit_is_refused(tmp_path, change, message):
    state = refined(trained("deit_ensemble_16"))
    change(state)
    torch.save({"state_dict": state}, tmp_path / "deit.pth")
    with (
        pytest.warns(UserWarning, match="were left out"),
        pytest.raises(ValueError, match=f"does not fit deit_ensemble_16: .*{message}"),
    ):
        small("deit_ensemble_16", tmp_path / "deit.pth")


def test_added_modules_are_left_out_of_that_model_alone(tmp_path):
    torch.save(refined(trained("vit_b_16")), tmp_path / "vit.pth")
    with pytest.raises(ValueError, match=r"does not fit vit_b_16: 16 unexpected keys: transformerheads.0.conv.weight"):
        small("vit_b_16", tmp_path / "vit.pth")


@pytest.mark.parametrize("key", ["vit_b_32", "vit_miil_16", "vit_gap_16"])
def test_files_of_the_hub_load_from_disk(tmp_path, key):
    from safetensors.torch import save_file

    model = trained(key)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    assert same(small(key, str(tmp_path / "model.safetensors")), model)


@pytest.mark.parametrize("key", FROM_FILES)
def test_weights_to_be_fetched_by_hand_are_named(key):
    with pytest.raises(
        ValueError, match=f"the weights of {key} are not timm's; fetch .*https://github.com/.*checkpoint"
    ):
        load_paper_model(key)


def test_weights_of_the_hub_that_cannot_be_fetched(monkeypatch):
    def fail(name, classes, weights):
        assert (name, classes, weights) == ("timm/vit_base_patch32_224.augreg_in21k_ft_in1k", 1000, "pretrained")
        raise ConnectionError("no network")

    monkeypatch.setattr(class_models, "create_model", fail)
    address = "https://huggingface.co/timm/vit_base_patch32_224.augreg_in21k_ft_in1k/resolve/main/model.safetensors"
    with pytest.raises(ConnectionError, match=f"weights of vit_b_32; download {re.escape(address)} .*as checkpoint"):
        load_paper_model("vit_b_32")


def test_bad_calls(tmp_path):
    with pytest.raises(ValueError, match="unknown model 'vit_b_8'; the paper's are vit_b_32, vit_b_16"):
        load_paper_model("vit_b_8")
    with pytest.raises(ValueError, match="unknown model 'vit_b_32_random'"):
        paper_preprocessing("vit_b_32_random")
    with pytest.raises(ValueError, match="is not wanted with pretrained=False"):
        load_paper_model("vit_b_32", "a.pth", pretrained=False)
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        load_paper_model("vit_cifar_16", tmp_path / "absent.pth")


@pytest.mark.parametrize("key", [key for key in PAPER_MODELS if key != "vit_gap_16"])
def test_random_twins_are_seeded_and_sound(key):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, two, other = (small(key, pretrained=False, seed=seed) for seed in (0, 0, 1))
    assert same(one, two)
    assert not same(one, other)
    assert one.head.out_features == PAPER_MODELS[key].classes
    # timm's truncated normal of 0.02, in the classifier too.
    assert one.head.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_the_random_twin_without_class_token_is_degenerate():
    with pytest.warns(UserWarning, match=r"degenerate baseline: its branches are scaled by 1e-05 or less"):
        model = small("vit_gap_16", pretrained=False, seed=0).eval()
    assert isinstance(model.blocks[0], ResPostBlock)
    seen = []
    model.blocks[0].register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    with torch.no_grad():
        model(torch.randn(2, 3, 32, 32))
    # Two branches, each normed to about 1 and scaled by 1e-5.
    assert (seen[0][0] - seen[0][1]).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 0),
        ({"weight_init": "jax"}, 1),
        ({"init_values": 1e-5}, 1),
        ({"init_values": 0.1}, 0),
        ({"block_fn": ResPostBlock}, 0),
        ({"block_fn": ResPostBlock, "init_values": 1e-5, "weight_init": "jax"}, 2),
    ],
)
def test_degenerate_models_are_found(options, count):
    model = VisionTransformer(**OPTIONS, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(warn_if_degenerate(model)) == count
    assert len(caught) == min(count, 1)
    assert warn_if_degenerate(create_model("resnet18", 10)) == []


def test_one_gain_that_is_not_small_is_enough():
    model = VisionTransformer(**OPTIONS, init_values=1e-5)
    with torch.no_grad():
        model.blocks[1].ls2.gamma[3] = 0.5
    assert warn_if_degenerate(model) == []


def photograph(width=300, height=200):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("key", PAPER_MODELS)
def test_preprocessing_is_the_published_one(key):
    """Step by step with PIL and NumPy."""
    image = photograph()
    if key == "vit_miil_16":  # the shorter side 256, then the crop
        reduced = image.resize((384, 256), Image.Resampling.BILINEAR).crop((80, 16, 304, 240))
    elif key == "deit_ensemble_16":
        reduced = image.resize((256, 256), Image.Resampling.BICUBIC).crop((16, 16, 240, 240))
    else:
        reduced = image.resize((224, 224), Image.Resampling.BILINEAR)
    mean, std = {
        "vit_miil_16": (np.zeros(3), np.ones(3)),
        "deit_ensemble_16": (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])),
    }.get(key, (np.full(3, 0.5), np.full(3, 0.5)))
    expected = ((np.asarray(reduced) / 255 - mean) / std).transpose(2, 0, 1)
    found = paper_preprocessing(key)(image)
    assert found.shape == (3, 224, 224)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_miil_is_timms_own_transform():
    image = photograph(257, 640)
    theirs = preprocessing(PAPER_MODELS["vit_miil_16"].zoo).transform
    assert torch.equal(paper_preprocessing("vit_miil_16")(image), theirs(image))


@pytest.mark.parametrize("key", PAPER_MODELS)
def test_preprocessing_takes_masks_along(key):
    transform = paper_preprocessing(key)
    assert transform(Image.new("CMYK", (50, 70))).shape == (3, 224, 224)
    refuse_random_transform(transform, photograph())
    left = Image.new("L", (300, 200))
    left.paste(255, (0, 0, 150, 200))
    mask = transformed_mask(transform, left)
    assert mask.shape == (224, 224)
    assert (mask[:, :100] == 1).all()
    assert (mask[:, 124:] == 0).all()
