import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from utilities.resnet import (
    BasicBlock,
    Bottleneck,
    ResNet,
    WideBottleneck,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    wide_resnet50,
)

COUNTS = {resnet18: 11_220_132, resnet34: 21_328_292, resnet50: 23_705_252, resnet101: 42_697_380}


@pytest.mark.parametrize(("build", "count"), COUNTS.items(), ids=lambda x: getattr(x, "__name__", x))
def test_size_and_keys_are_torchvisions(build, count):
    with torch.device("meta"):
        model, reference = build(), getattr(torchvision.models, build.__name__)(num_classes=100)
    assert sum(p.numel() for p in model.parameters()) == count
    ours, theirs = model.state_dict(), reference.state_dict()
    assert list(ours) == list(theirs)
    assert [key for key in ours if ours[key].shape != theirs[key].shape] == ["conv1.weight"]


def test_size_and_keys_of_the_wide_one_are_torchvisions():
    with torch.device("meta"):
        model, reference = wide_resnet50(), torchvision.models.wide_resnet50_2()
    theirs = {key: value.shape for key, value in reference.state_dict().items()}
    ours = {key: value.shape for key, value in model.state_dict().items()}
    assert list(ours) == list(theirs)
    assert [key for key in ours if ours[key] != theirs[key]] == ["conv1.weight", "fc.weight", "fc.bias"]
    stem, head = 64 * 3 * (7 * 7 - 3 * 3), (1000 - 100) * (2048 + 1)
    count = sum(p.numel() for p in model.parameters())
    assert count == sum(p.numel() for p in reference.parameters()) - stem - head == 67_031_460
    assert count == 68_883_240 - stem - head  # the number that torchvision publishes


@pytest.mark.parametrize(
    ("block", "theirs", "width"),
    [(BasicBlock, "BasicBlock", 64), (Bottleneck, "Bottleneck", 64), (WideBottleneck, "Bottleneck", 128)],
)
def test_logits_equal_torchvisions_blocks_behind_a_cifar_stem(block, theirs, width):
    torch.manual_seed(0)
    model = ResNet(block, (1, 2, 1, 1), num_classes=7)
    theirs = getattr(torchvision.models.resnet, theirs)
    reference = torchvision.models.ResNet(theirs, [1, 2, 1, 1], num_classes=7, width_per_group=width)
    reference.conv1, reference.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    for tensor in model.buffers():  # running statistics away from their start
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    reference.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    model, reference = model.double().eval(), reference.double().eval()
    assert torch.allclose(model(x), reference(x), rtol=0, atol=1e-12)  # the same operations in float64


def test_block_written_out():
    torch.manual_seed(0)
    block = BasicBlock(4, 6, stride=2).double().eval()
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)

    def norm(y, bn):
        return (y - bn.running_mean[:, None, None]) / (bn.running_var[:, None, None] + bn.eps).sqrt()

    y = norm(F.conv2d(x, block.conv1.weight, stride=2, padding=1), block.bn1).clamp(min=0)
    y = norm(F.conv2d(y, block.conv2.weight, padding=1), block.bn2)
    shortcut = norm(F.conv2d(x, block.downsample[0].weight, stride=2), block.downsample[1])
    assert torch.allclose(block(x), (y + shortcut).clamp(min=0), rtol=0, atol=1e-12)


def test_every_module_runs_once_and_keeps_its_output():
    torch.manual_seed(0)
    model, calls = ResNet(Bottleneck, (1, 1, 1, 1), num_classes=5).eval(), {}

    def remember(name):
        return lambda _, __, out: calls.setdefault(name, []).append((out, out.clone()))

    leaves = {name: m for name, m in model.named_modules() if not list(m.children())}
    for name, module in leaves.items():
        module.register_forward_hook(remember(name))
    model(torch.randn(2, 3, 8, 8))
    assert calls.keys() == leaves.keys()
    assert all(len(outs) == 1 and torch.equal(*outs[0]) for outs in calls.values())  # nothing is in place
    assert {"relu", "layer1.0.relu1", "layer1.0.relu2", "layer1.0.relu3", "avgpool", "fc"} <= leaves.keys()


def test_initialisation():
    torch.manual_seed(0)
    model = resnet18()
    weight = model.layer3[0].conv2.weight  # 590 k values: the standard error of their deviation is 0.1 %
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=5e-3)
    assert (model.layer1[0].bn2.weight == 1).all()
    zero = resnet18(zero_init_residual=True)
    assert all((block.bn2.weight == 0).all() for block in zero.modules() if isinstance(block, BasicBlock))
    assert (zero.layer1[0].bn1.weight == 1).all()
    wide = ResNet(WideBottleneck, (1, 1, 1, 1), zero_init_residual=True)
    assert (wide.layer1[0].bn3.weight == 0).all()


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (32, 8), (33, 31)])
def test_any_size_from_8(size):
    assert resnet18(num_classes=3, in_channels=1).eval()(torch.zeros(1, 1, *size)).shape == (1, 3)


def test_errors_name_size_and_minimum():
    model = resnet18()
    with pytest.raises(ValueError, match=r"7x32 pixels are too small.* at least 8x8"):
        model(torch.zeros(1, 3, 7, 32))
    with pytest.raises(ValueError, match=r"\(batch, 3, height, width\), got \(1, 1, 8, 8\)"):
        model(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="num_classes=0"):
        resnet18(num_classes=0)


def test_torch_fx_can_trace_it():
    model = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=3).eval()
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))
