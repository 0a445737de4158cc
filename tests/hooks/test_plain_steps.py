"""Plain networks are walked through step by step, and the analyses of blocks take them."""

import pytest
import torch
import torchvision
from torch import nn

from utilities.analysis.blocks.fourier import fourier
from utilities.analysis.blocks.lesion import lesions
from utilities.analysis.blocks.variance import feature_variance
from utilities.analysis.loss.parameter_groups import parameter_groups
from utilities.hooks import Recorder, blocks
from utilities.hooks.block_families import block_outputs
from utilities.zoo import create_model

NAMES = ("plain_cnn8", "plain_cnn8_smooth", "plain_cnn10", "alternet_tiny", "alexnet_smooth")


def images(size=32, n=2):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_the_model_and_their_names_put_out_their_features(name):
    model = create_model(name, 7, seed=0).eval()
    sequence, x = blocks(model), images()
    sequence.check(x)
    outputs = block_outputs(model)
    assert outputs == [block.name for block in sequence[:-1]]
    with torch.no_grad(), Recorder(model, outputs) as recorder:
        model(x)
        for block, after in list(sequence.features(x))[:-1]:
            assert torch.equal(recorder.activations[block.name], after)


@pytest.mark.parametrize(
    ("name", "kinds", "stages"),
    [
        ("plain_cnn8", "sc pcc pcc", "01 222 333"),
        ("plain_cnn8_smooth", "scb pccb pcc", "011 2222 333"),
        ("alternet_tiny", "s pm pm", "0 11 22"),
        ("vgg11", "s pc pcc pcc pcc", "0 11 222 333 444"),
        ("vgg16", "sc pcc pccc pccc pccc", "01 222 3333 4444 5555"),
        ("alexnet_smooth", "sb pcb pccc", "01 111 2222"),
    ],
)
def test_kinds_and_stages(name, kinds, stages):
    """Letters are stem, conv, pool, blur and msa; a pool begins a stage, unless none has begun."""
    found = blocks(create_model(name))[:-1]
    assert "".join(block.kind[0] for block in found) == kinds.replace(" ", "")
    assert "".join(str(block.stage) for block in found) == stages.replace(" ", "")


def test_torchvisions_are_known_and_other_chains_of_features_are_not():
    blocks(torchvision.models.alexnet(num_classes=3).eval()).check(images(64))
    with torch.device("meta"):
        assert blocks(torchvision.models.vgg16_bn())[1].name == "features.5"
    with pytest.raises(ValueError, match="blocks of a MobileNetV3 are not known"):
        blocks(torchvision.models.mobilenet_v3_small())


def test_the_analyses_of_blocks_take_them():
    model, loader = create_model("vgg11_smooth", 10, seed=0).eval(), [(images(16, 8), torch.arange(8))]
    count, quiet = len(blocks(model)) - 1, {"device": "cpu", "progress": False}
    assert len(fourier(model, loader, **quiet).names) == count
    assert len(feature_variance(model, loader, **quiet).names) == count
    removed = lesions(model, loader, **quiet)
    modules = dict(model.named_modules())
    assert all(isinstance(modules[unit], nn.Conv2d) for unit in removed.names)
    groups = parameter_groups(model, [one for one, _ in model.named_parameters()], "block")
    assert sum(group.kind == "block" for group in groups) == 8
    assert sum(group.count for group in groups) == sum(parameter.numel() for parameter in model.parameters())
