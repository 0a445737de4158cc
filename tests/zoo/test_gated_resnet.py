import pytest
import timm
import torch
from torch import nn

from utilities.hooks.residual_reading import check_residuals
from utilities.hooks.residuals import find_residuals
from utilities.resnet import resnet18, resnet34, resnet50
from utilities.zoo import comparison_layers, create_model, family
from utilities.zoo.gated_resnet import ConvolutionalGate, SqueezeExcitation

PLAIN = {"18": (resnet18, (2, 2, 2, 2), 1), "34": (resnet34, (3, 4, 6, 3), 1), "50": (resnet50, (3, 4, 6, 3), 4)}


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("depth", PLAIN)
@pytest.mark.parametrize("kind", ["se", "cbam"])
def test_parameters_are_those_of_the_plain_network_and_of_the_gates(kind, depth):
    build, depths, expansion = PLAIN[depth]
    more = 0
    for stage, blocks in enumerate(depths):
        channels = 64 * 2**stage * expansion
        layers = 2 * channels * channels // 16
        more += blocks * (layers + (channels // 16 + channels if kind == "se" else 2 * 7 * 7 + 2))
    with torch.device("meta"):
        assert count(create_model(f"{kind}_resnet{depth}")) == count(build()) + more
    assert family(f"{kind}_resnet{depth}") == "cnn"


def test_squeeze_and_excitation_is_timms():
    torch.manual_seed(0)
    ours, theirs = SqueezeExcitation(32, 4), timm.layers.SEModule(32, rd_channels=8)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 32, 5, 4)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)


def test_cbam_is_timms():
    from timm.layers.cbam import CbamModule

    torch.manual_seed(0)
    ours, theirs = ConvolutionalGate(32, 4).eval(), CbamModule(32, rd_channels=8).eval()
    state = ours.state_dict()
    state["places.1.running_var"] += 1
    names = {"channels.0": "channel.fc1", "channels.2": "channel.fc2"}
    names |= {"places.0": "spatial.conv.conv", "places.1": "spatial.conv.bn"}
    theirs.load_state_dict({key.replace(a, b): v for key, v in state.items() for a, b in names.items() if a in key})
    x = torch.randn(3, 32, 9, 8)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["se_resnet18", "cbam_resnet50"])
def test_open_gates_leave_a_resnet(name):
    """With gates that are 1 it gives the plain network's logits, and its weights fit."""
    gated, plain = create_model(name, 4, seed=0).eval(), create_model(name.partition("_")[2], 4).eval()
    plain.load_state_dict({key: value for key, value in gated.state_dict().items() if ".se." not in key})
    images = torch.randn(2, 3, 16, 16)
    assert not torch.allclose(gated(images), plain(images))
    for module in gated.modules():
        if hasattr(module, "se"):
            module.se = nn.Identity()
    assert torch.equal(gated(images), plain(images))


@pytest.mark.parametrize("name", ["se_resnet18", "cbam_resnet18"])
def test_layers_and_branches_are_those_of_a_resnet(name):
    model = create_model(name, 4, seed=0).eval()
    assert comparison_layers(model) == comparison_layers(resnet18())
    branches = find_residuals(model)
    assert [(one.name, one.kind) for one in branches][:2] == [("layer1.0", "conv"), ("layer1.1", "conv")]
    assert branches[0].branch.module is model.layer1[0].se
    check_residuals(model, branches, torch.randn(2, 3, 16, 16))


def test_too_few_channels_are_refused():
    with pytest.raises(ValueError, match="from 1 to the 8 channels"):
        SqueezeExcitation(8)
