import re

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from utilities.zoo.preact_resnet import (
    PreActBlock,
    PreActBottleneck,
    PreActResNet,
    preact_resnet18,
    preact_resnet34,
    preact_resnet50,
    preact_resnet101,
    preact_resnet152,
)

BUILDERS = (preact_resnet18, preact_resnet34, preact_resnet50, preact_resnet101, preact_resnet152)
BLOCKS = pytest.mark.parametrize("block", [PreActBlock, PreActBottleneck])


def timms_name(name):
    """Translate a parameter's name into that of timm's ResNetV2."""
    name = re.sub(r"^layer(\d)\.(\d+)", lambda m: f"stages.{int(m[1]) - 1}.blocks.{m[2]}", name)
    name = re.sub(r"\bbn(\d?)\.", r"norm\1.", name).replace("downsample.", "downsample.conv.")
    name = re.sub(r"^conv1", "stem.conv", name)
    return re.sub(r"^fc", "head.fc", name)


def with_statistics(model):
    """Move running statistics away from their start, and compute in float64."""
    for tensor in model.buffers():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    return model.double().eval()


@pytest.mark.parametrize(("block", "name"), [(PreActBlock, "resnetv2_18"), (PreActBottleneck, "resnetv2_50")])
def test_logits_equal_timms(block, name):
    torch.manual_seed(0)
    model = with_statistics(PreActResNet(block, (1, 2, 1, 1), num_classes=7, stem="imagenet"))
    reference = timm.create_model(name, num_classes=7, layers=(1, 2, 1, 1)).double().eval()
    state = {timms_name(key): value for key, value in model.state_dict().items()}
    weights = reference.state_dict()
    assert state.keys() == weights.keys()
    reference.load_state_dict({key: value.view(weights[key].shape) for key, value in state.items()})
    x = torch.randn(2, 3, 40, 64, dtype=torch.float64)
    assert torch.allclose(model(x), reference(x), rtol=0, atol=1e-10)  # the same operations in float64


@pytest.mark.parametrize(("build", "name"), [(preact_resnet50, "resnetv2_50"), (preact_resnet101, "resnetv2_101")])
def test_sizes_are_timms(build, name):
    with torch.device("meta"):
        model, cifar, reference = build(1000, stem="imagenet"), build(), timm.create_model(name)
    count = sum(p.numel() for p in model.parameters())
    assert count == sum(p.numel() for p in reference.parameters())
    stem, head = 64 * 3 * (7 * 7 - 3 * 3), (1000 - 100) * (2048 + 1)
    assert sum(p.numel() for p in cifar.parameters()) == count - stem - head


@pytest.mark.parametrize("build", BUILDERS)
def test_named_depth_counts_layers_with_weights(build):
    with torch.device("meta"):
        model = build()
    weighted = [name for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    counted = [name for name in weighted if "downsample" not in name]  # as the original paper counts
    assert build.__name__ == f"preact_resnet{len(counted)}"


@BLOCKS
def test_block_written_out(block):
    torch.manual_seed(0)
    layer = with_statistics(block(4, 6, stride=2))
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)

    def active(y, bn):
        return ((y - bn.running_mean[:, None, None]) / (bn.running_var[:, None, None] + bn.eps).sqrt()).clamp(min=0)

    first = active(x, layer.bn1)
    if block is PreActBlock:
        y = F.conv2d(first, layer.conv1.weight, stride=2, padding=1)
        y = F.conv2d(active(y, layer.bn2), layer.conv2.weight, padding=1)
    else:
        y = active(F.conv2d(first, layer.conv1.weight), layer.bn2)
        y = F.conv2d(y, layer.conv2.weight, stride=2, padding=1)
        y = F.conv2d(active(y, layer.bn3), layer.conv3.weight)
    shortcut = F.conv2d(first, layer.downsample.weight, stride=2)  # no norm of its own
    assert torch.allclose(layer(x), y + shortcut, rtol=0, atol=1e-12)
    same = with_statistics(block(6 * block.expansion, 6))
    for parameter in same.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(1, 6 * block.expansion, 5, 5, dtype=torch.float64)
    assert same.downsample is None
    assert torch.equal(same(x), x)  # an identity where the branch gives nothing


@BLOCKS
def test_every_module_runs_once_and_keeps_its_output(block):
    torch.manual_seed(0)
    model, calls = PreActResNet(block, (1, 1, 1, 1), num_classes=5, stem="imagenet").eval(), {}

    def remember(name):
        return lambda _, __, out: calls.setdefault(name, []).append((out, out.clone()))

    leaves = {name: m for name, m in model.named_modules() if not list(m.children())}
    for name, module in leaves.items():
        module.register_forward_hook(remember(name))
    model(torch.randn(2, 3, 32, 32))
    assert calls.keys() == leaves.keys()
    assert all(len(outs) == 1 and torch.equal(*outs[0]) for outs in calls.values())  # nothing is in place
    assert {"conv1", "maxpool", "layer1.0.relu1", "layer1.0.relu2", "bn", "relu", "avgpool", "fc"} <= leaves.keys()


def test_stochastic_depth_grows_linearly_and_is_off_in_eval():
    torch.manual_seed(0)
    model = PreActResNet(PreActBlock, (2, 1, 1, 1), num_classes=4, drop_path=0.4)
    rates = [block.drop_path.p for stage in model.stages for block in stage]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    x = torch.randn(4, 3, 8, 8)
    model.train()
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
    plain = PreActResNet(PreActBlock, (2, 1, 1, 1), num_classes=4).eval()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(x), plain(x))


@pytest.mark.parametrize(("stem", "size"), [("cifar", (8, 8)), ("cifar", (9, 13)), ("imagenet", (32, 45))])
def test_any_size_from_the_smallest(stem, size):
    model = preact_resnet18(num_classes=3, in_channels=1, stem=stem).eval()
    shapes = []
    for stage in model.stages:
        stage.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[2:])))
    assert model(torch.zeros(1, 1, *size)).shape == (1, 3)
    least = 1 if stem == "cifar" else 4  # of halvings before or at the first stage
    expected = [tuple(-(-side // (least * 2**stage)) for side in size) for stage in range(4)]
    assert shapes == expected


def test_errors_name_size_and_remedy():
    small, large = preact_resnet18(), PreActResNet(PreActBlock, (1, 1, 1, 1), stem="imagenet")
    with pytest.raises(ValueError, match=r"7x32 pixels are too small.* 3 times .* at least 8x8"):
        small(torch.zeros(1, 3, 7, 32))
    with pytest.raises(ValueError, match=r"16x16 pixels are too small.* at least 32x32.*stem='cifar'"):
        large(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"\(batch, 3, height, width\), got \(1, 1, 8, 8\)"):
        small(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="num_classes=0"):
        preact_resnet18(num_classes=0)
    with pytest.raises(ValueError, match=r"stem='large'.*'cifar' or 'imagenet'"):
        preact_resnet18(stem="large")
    with pytest.raises(ValueError, match=r"drop_path=1\.0"):
        preact_resnet18(drop_path=1.0)
    for depths in ((1, 1, 1), (1, 0, 1, 1)):
        with pytest.raises(ValueError, match="depths="):
            PreActResNet(PreActBlock, depths)


@BLOCKS
def test_torch_fx_can_trace_it(block):
    model = PreActResNet(block, (1, 1, 1, 1), num_classes=3, drop_path=0.1).eval()
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))


@BLOCKS
def test_bfloat16_autocast_with_channels_last_stays_near_float32(block):
    torch.manual_seed(0)
    model = PreActResNet(block, (1, 1, 1, 1), num_classes=6).train()
    x = torch.randn(8, 3, 16, 16)
    exact = model(x)
    model = model.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        near = model(x.to(memory_format=torch.channels_last))
    near.float().sum().backward()
    assert (near - exact).norm() < 0.03 * exact.norm()  # 8 bits of mantissa, some ten layers
    assert all(p.grad.isfinite().all() for p in model.parameters())
