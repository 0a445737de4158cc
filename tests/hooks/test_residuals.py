"""Residual branches are found in every family, and are what the model really adds."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from utilities.hooks.residual_reading import check_residuals, reading
from utilities.hooks.residuals import find_residuals
from utilities.zoo import create_model

LIBRARY = {
    "resnet14t": (4, "layer1.0", "conv"),
    "resnetv2_18": (8, "stages.0.blocks.0", "conv"),
    "convnext_atto": (12, "stages.0.blocks.0", "conv"),
    "tf_efficientnet_lite0": (9, "blocks.1.1", "conv"),
    "mobilenetv3_small_050": (7, "blocks.1.1", "conv"),
    "lambda_resnet26rpt_256": (8, "stages.0.0", "conv"),
    "mixer_s32_224": (16, "blocks.0.mlp_tokens", "mlp"),
    "test_vit": (12, "blocks.0.attn", "msa"),
    "test_vit2": (16, "blocks.0.attn", "msa"),
    "swinv2_cr_tiny_ns_224": (24, "stages.0.blocks.0.attn", "msa"),
}


def named(branches):
    return len(branches), branches[0].name, branches[0].kind


@pytest.mark.parametrize("name", LIBRARY)
def test_families_of_timm(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    count, first, kind = named(find_residuals(model))
    assert (first, kind) == LIBRARY[name][1:]
    assert count == LIBRARY[name][0] or name.startswith("test_")


def small_models():
    yield "own resnet", create_model("resnet18", 5, seed=0), 8
    yield "own lambda resnet", create_model("lambda_resnet26", 5, seed=0), 8
    yield "own preact", create_model("preact_resnet18", 5, seed=0), 8
    yield "own alternet", create_model("alternet18", 5, seed=0), 8
    yield "own vit", create_model("vit_tiny_patch2_16", 5, seed=0), 16
    yield "own swin", create_model("swin_tiny_patch2_16", 5, seed=0), 16
    yield "own pit", create_model("pit_tiny_patch2_32", 5, seed=0), 32
    yield "own mixer", create_model("mixer_tiny_patch2_32", 5, seed=0), 32
    yield "post-norm", timm.create_model("test_vit", block_fn=timm.models.vision_transformer.ResPostBlock), 160
    yield "timm resnet", timm.create_model("test_resnet"), 64
    yield "timm byobnet", timm.create_model("test_byobnet"), 64
    yield "timm convnext", timm.create_model("test_convnext"), 64
    yield "timm efficientnet", timm.create_model("mobilenetv3_small_050"), 64
    yield "torchvision resnet", torchvision.models.resnet18(), 32
    yield "torchvision resnet50", torchvision.models.resnet50(), 32
    yield "torchvision mobilenet", torchvision.models.mobilenet_v3_small(), 32
    yield "torchvision regnet", torchvision.models.regnet_y_400mf(), 32
    vit = torchvision.models.VisionTransformer(16, 8, 2, 2, 16, 32, num_classes=3)
    nn.init.normal_(vit.class_token)
    yield "torchvision vit", vit, 16


@pytest.mark.parametrize(("model", "size"), [case[1:] for case in small_models()], ids=[c[0] for c in small_models()])
def test_the_model_goes_on_with_skip_plus_branch(model, size):
    """Whatever is added in place, and in whichever order skip and branch are computed."""
    check_residuals(model, find_residuals(model), torch.randn(2, 3, size, size))


def test_what_is_read_is_a_copy():
    """torchvision's ResNet adds the skip into the last norm's output: a reference would hold the sum."""
    model, held = torchvision.models.resnet18().eval(), {}
    block = model.layer1[0]
    with reading(find_residuals(model), lambda name, _, *pair: held.setdefault(name, pair)) as begin, torch.no_grad():
        begin()
        x = torch.randn(1, 3, 32, 32)
        model(x)
        x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        skip = x.clone()
        branch = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x)))))
    torch.testing.assert_close(held["layer1.0"][0], skip)
    torch.testing.assert_close(held["layer1.0"][1], branch)
    assert not block.bn2._forward_hooks
    assert not block._forward_pre_hooks


class Pretender(nn.Module):
    """Has the parts of a residual block, and adds twice its input."""

    has_skip = True

    def __init__(self):
        super().__init__()
        self.conv, self.drop_path = nn.Conv2d(3, 3, 1), nn.Identity()

    def forward(self, x):
        return 2 * x + self.drop_path(self.conv(x))


def test_names_alone_are_not_trusted():
    model = nn.Sequential(Pretender())
    with pytest.raises(ValueError, match="after '0' is not skip plus branch"):
        check_residuals(model, find_residuals(model), torch.randn(2, 3, 4, 4))


@pytest.mark.parametrize("model", [torchvision.models.vgg11(init_weights=False), create_model("plain_cnn8", 5)])
def test_models_without_branches_are_refused(model):
    with pytest.raises(
        ValueError, match=r"no residual branches that are known.*; take one .* 'resnet18'.*receptive_field"
    ):
        find_residuals(model)


def test_a_block_that_runs_twice_is_read_twice():
    block = timm.models.vision_transformer.Block(8, 2)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = block

        def forward(self, x):
            return self.block(self.block(x))

    model, seen = Twice().eval(), []
    with reading(find_residuals(model), lambda name, *_: seen.append(name)) as begin:
        for _ in range(2):
            begin()
            model(torch.randn(1, 4, 8))
    assert seen == 2 * ["block.attn", "block.mlp", "block.attn#2", "block.mlp#2"]
