"""The layers worth comparing: how many, which, and that they run in the order listed."""

import pytest
import torch
import torchvision
from torch import nn

from utilities.hooks import Recorder, blocks
from utilities.zoo import comparison_layers, create_model
from utilities.zoo.layers import block_layers


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
        ("mixer_tiny_patch2_16", 51),
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


@pytest.mark.parametrize(
    ("name", "count", "last"),
    [
        ("resnet50", 16, "layer4.2"),
        ("lambda_resnet26", 8, "layer4.1"),
        ("alternet18", 8, "layer4.1"),
        ("plain_cnn8", 8, "block8"),
        ("vit_tiny_noskip3_patch2_16", 6, "blocks.5"),
        ("mixer_tiny_patch2_16", 6, "blocks.5"),
        ("swin_tiny_patch2_16", 6, "layers.1.blocks.3"),
        ("pit_tiny_patch2_32", 12, "transformers.2.blocks.3"),
        ("timm/convnext_atto", 12, "stages.3.blocks.1"),
        ("torchvision/resnet18", 8, "layer4.1"),
    ],
)
def test_names_of_blocks(name, count, last):
    with torch.device("meta"):
        names = block_layers(create_model(name))
    assert (len(names), names[-1]) == (count, last)


def test_the_outputs_of_named_blocks_are_those_of_the_sequence_of_blocks():
    """A transformer's block is two of them, attention and MLP; the feature after it is the one after its MLP."""
    model = create_model("vit_tiny_patch2_16", 7).eval()
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), Recorder(model, block_layers(model)) as recorder:
        model(images)
        after = [x for block, x in blocks(model).features(images) if block.kind == "mlp"]
    for recorded, x in zip(recorder.activations.values(), after, strict=True):
        torch.testing.assert_close(recorded, x)


def test_a_model_without_known_blocks_is_refused():
    with pytest.raises(ValueError, match="blocks of a Sequential are not known; its parts: 0, 1"):
        block_layers(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
