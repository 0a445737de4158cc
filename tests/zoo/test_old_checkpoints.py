"""States are put into the documented old layouts by hand, saved, and loaded by name."""

import re

import pytest
import torch

from utilities.zoo import create_model
from utilities.zoo.old_checkpoints import map_keys, map_names

SMALL = {
    "resnet18": {},
    "vit_ti_patch2_32": {"depth": 2, "embed_dim": 24},
    "pit_tiny_patch2_32": {"depth": (1, 2, 1)},
    "swin_tiny_patch1_32": {"depths": (2, 1, 2, 1), "embed_dim": 12},
}


def old_resnet(state, nested):
    """The authors' ResNet; of later versions a convolution and its norm are one sequence."""
    places = {"conv1": "layer0.0", "bn1": "layer0.1", "fc": "classifier.0.dense"}
    old = {}
    for key, value in state.items():
        module, _, entry = key.rpartition(".")
        if module in places:
            module = places[module]
        elif ".downsample." in module:
            module = module.replace(".downsample.", ".shortcut.")
        elif nested:
            block, kind, number = re.fullmatch(r"(layer\d\.\d+)\.(conv|bn)(\d)", module).groups()
            module = f"{block}.conv{number}.{('conv', 'bn').index(kind)}"
        old[f"{module}.{entry}"] = value
    return old


def old_pit(state):
    for stage in (1, 2):
        state = {
            key.replace(f"transformers.{stage}.pool", f"transformers.{stage - 1}.pool"): v for key, v in state.items()
        }
    return state


def old_swin(state, model):
    old = {}
    for key, value in state.items():
        for stage in (1, 2, 3):
            if key.startswith(f"layers.{stage}.downsample."):
                key = key.replace(f"layers.{stage}", f"layers.{stage - 1}")
                break
        old[key.replace("head.fc.", "head.")] = value
    for name, block in model.named_modules():
        if hasattr(block, "attn_mask"):
            old[f"{name}.attn.relative_position_index"] = block.attn.relative_position_index
            if block.attn_mask is not None:
                old[f"{name}.attn_mask"] = block.attn_mask
    return old


def old_layouts(name, model):
    state = model.state_dict()
    if name == "resnet18":
        return [old_resnet(state, nested=True), old_resnet(state, nested=False)]
    if name == "vit_ti_patch2_32":
        return [state]
    return [old_pit(state) if name.startswith("pit") else old_swin(state, model)]


def trained(name, **options):
    """A model whose every entry differs from that of a new one."""
    model = create_model(name, seed=1, **{**SMALL[name], **options})
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point() and not (value < -50).any():  # masks stay
                value.add_(0.1 * torch.rand(value.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("resnet18", "resnet_dnn_18"),
        ("vit_ti_patch2_32", "vit_ti"),
        ("pit_tiny_patch2_32", "pit_ti"),
        ("swin_tiny_patch1_32", "swin_ti"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_old_files_give_the_same_logits(tmp_path, name, theirs, prefix):
    model = trained(name)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    for state in old_layouts(name, model):
        content = {"name": theirs, "state_dict": {prefix + key: value for key, value in state.items()}, "optimizer": {}}
        torch.save(content, tmp_path / "old.pth.tar")
        loaded = create_model(name, weights=tmp_path / "old.pth.tar", **SMALL[name]).eval()
        with torch.no_grad():
            assert torch.equal(loaded(images), model(images))


def test_the_whole_resnet50_finds_its_place():
    with torch.device("meta"):
        state = create_model("resnet50").state_dict()
    for nested in (True, False):
        old = old_resnet(state, nested)
        assert "classifier.0.dense.weight" in old
        assert ("layer4.2.conv3.1.running_var" in old) == nested
        assert list(map_keys(old, "resnet50")) == list(state)


@pytest.mark.parametrize("name", SMALL)
def test_present_states_keep_their_names(name):
    state = create_model(name, **SMALL[name]).state_dict()
    once = map_keys(state, name)
    assert list(once) == list(state)
    for old in old_layouts(name, create_model(name, **SMALL[name])):
        mapped = map_keys(old, name)
        assert map_keys(mapped, name).keys() == mapped.keys() == state.keys()


def test_other_models_are_left_alone():
    state = {"layer0.0.weight": 1, "transformers.0.pool.fc.bias": 2, "head.weight": 3}
    assert map_keys(state, "alternet50") == map_keys(state, "torchvision/resnet18") == state


def test_old_files_that_do_not_fit(tmp_path):
    model = trained("pit_tiny_patch2_32")
    path = tmp_path / "old.pth.tar"
    torch.save({"name": "pit_ti", "state_dict": old_pit(model.state_dict())}, path)
    with pytest.raises(
        ValueError, match=r"does not fit vit_ti_patch2_32: name is 'pit_tiny_patch2_32' in the file.*miss"
    ):
        create_model("vit_ti_patch2_32", weights=path)
    with pytest.raises(
        ValueError, match=r"does not fit pit_tiny_patch2_32: .*unexpected keys: transformers.1.blocks.1"
    ):
        create_model("pit_tiny_patch2_32", weights=path, depth=(1, 1, 1))
    with pytest.raises(
        ValueError, match=r"other shapes: head.weight \[100, 256\] in the file, \[10, 256\] in the model"
    ):
        create_model("pit_tiny_patch2_32", num_classes=10, weights=path, **SMALL["pit_tiny_patch2_32"])
    state = old_pit(model.state_dict())
    del state["transformers.0.pool.fc.bias"]
    torch.save({"name": "pit_ti", "state_dict": state}, path)
    with pytest.raises(ValueError, match=r"1 missing keys: transformers.1.pool.fc.bias; give the name"):
        create_model("pit_tiny_patch2_32", weights=path, **SMALL["pit_tiny_patch2_32"])


def test_a_swin_of_other_windows_is_refused_not_resampled(tmp_path):
    model = trained("swin_tiny_patch1_32", window_size=8)
    torch.save({"name": "swin_ti", "state_dict": old_swin(model.state_dict(), model)}, tmp_path / "old.pth.tar")
    with pytest.raises(
        ValueError, match=r"other shapes: .*relative_position_bias_table \[225, 3\] in the file, \[49, 3\]"
    ):
        create_model("swin_tiny_patch1_32", weights=tmp_path / "old.pth.tar", **SMALL["swin_tiny_patch1_32"])


def test_names():
    assert map_names({"name": "resnet_50", "state_dict": {}, "optimizer": {}})["name"] == "resnet50"
    assert "name" not in map_names({"name": "anything", "state_dict": {}})
    own = {"name": "vit_ti", "model": {}}  # this package's own files state their names as they are
    assert map_names(own) == own
    given = {"name": "swin_ti", "state_dict": {}}
    map_names(given)
    assert given["name"] == "swin_ti"
