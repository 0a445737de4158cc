import pytest
import torch
from torch import nn
from torch.nn import functional as F

from utilities.resnet import resnet18
from utilities.zoo import local_attention
from utilities.zoo.alternet import (
    AlterNet,
    MSABlock,
    alternet18,
    alternet34,
    alternet50,
    alternet101,
    alternet152,
    msa_counts,
    pattern,
)
from utilities.zoo.local_attention import LocalAttention, cut_windows, join_windows, relative_position_index
from utilities.zoo.preact_resnet import PreActBlock, PreActResNet

IMAGENET = {  # pattern, and parameters at 1000 classes in millions
    alternet18: ("CC/CA/CA/CA", 10.0),
    alternet34: ("CCC/CCCA/CACACA/CACA", 22.8),
    alternet50: ("CCC/CCCA/CACACA/CACA", 35.9),
    alternet101: (f"CCC/CCCA/{17 * 'C'}CACACA/CACA", 54.9),
    alternet152: (f"CCC/{7 * 'C'}A/{30 * 'C'}CACACA/CACA", 70.6),
}
DOUBLE = torch.float64


def attention(window, channels=5, out=3, heads=2, head_dim=4):
    """Make an attention layer with biases that matter, in float64."""
    torch.manual_seed(0)
    layer = LocalAttention(channels, out, heads=heads, window=window, head_dim=head_dim).double()
    nn.init.normal_(layer.relative_position_bias_table)
    return layer


def by_loops(layer, x):
    """Compute what `LocalAttention` does pixel by pixel, with no padding at all."""
    (_, _, height, width), p, d = x.shape, layer.window, layer.head_dim
    rows, columns = min(p, height), min(p, width)
    q, k, v = (layer.qkv.weight @ x.flatten(2)).unflatten(-1, (height, width)).chunk(3, dim=1)
    out = torch.zeros_like(q)
    pixels = [(i, j) for i in range(height) for j in range(width)]
    for i, j in pixels:
        keys = [(a, b) for a, b in pixels if (a // rows, b // columns) == (i // rows, j // columns)]
        biases = [layer.relative_position_bias_table[a - i + p - 1, b - j + p - 1] for a, b in keys]
        for head in range(layer.heads):
            part = slice(head * d, (head + 1) * d)
            logits = [(q[:, part, i, j] * k[:, part, a, b]).sum(1) / d**0.5 for a, b in keys]
            weights = (torch.stack(logits) + torch.stack(biases)[:, None]).softmax(dim=0)
            values = torch.stack([v[:, part, a, b] for a, b in keys])
            out[:, part, i, j] = (weights[..., None] * values).sum(0)
    return torch.einsum("oc,bcyx->boyx", layer.proj.weight, out) + layer.proj.bias[:, None, None]


@pytest.mark.parametrize(
    ("size", "window"),
    [((4, 4), 4), ((4, 6), 2), ((2, 2), 4), ((2, 3), 4), ((5, 7), 3), ((6, 2), 4), ((1, 1), 7), ((7, 8), 4)],
)
def test_attention_equals_loops_over_pixels_for_any_size(size, window):
    layer = attention(window)
    x = torch.randn(2, 5, *size, dtype=DOUBLE)
    expected = by_loops(layer, x)
    assert torch.allclose(layer(x), expected, rtol=0, atol=1e-12)  # the same sums in float64
    channels_last = layer(x.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(channels_last, expected, rtol=0, atol=1e-12)


def test_windows_that_divide_a_map_are_not_padded(monkeypatch):
    layer = attention(4)
    x = torch.randn(1, 5, 8, 12, dtype=DOUBLE)
    whole = layer(x)
    windows = layer(x[..., 4:8, 8:12])
    assert torch.allclose(whole[..., 4:8, 8:12], windows, rtol=0, atol=1e-12)
    ragged = layer(F.pad(x, (0, 3, 0, 2)))  # its first windows are those of x
    assert torch.allclose(ragged[..., :8, :12], whole, rtol=0, atol=1e-12)
    monkeypatch.setattr(local_attention.F, "pad", None)
    assert torch.equal(layer(x), whole)


def test_content_of_padding_changes_nothing(monkeypatch):
    layer, pad = attention(4), F.pad
    x = torch.randn(2, 5, 6, 9, dtype=DOUBLE)
    expected, weights = layer(x), layer.attention_weights(x)
    monkeypatch.setattr(local_attention.F, "pad", lambda x, widths: pad(x, widths, value=1e3))
    assert torch.equal(layer(x), expected)
    monkeypatch.undo()
    weights = weights.view(2, 2, 3, 2, 4, 4, 4, 4)  # images, windows, heads, queries, keys
    assert (weights[:, 1, ..., 2:, :] == 0).all()
    assert (weights[:, :, 2, ..., 1:] == 0).all()
    assert (weights[:, 0, :2] > 0).all()


@pytest.mark.parametrize("size", [(8, 8), (3, 3), (7, 10)])
def test_rows_of_attention_sum_to_one_and_weigh_the_values(size):
    layer = attention(4)
    x = torch.randn(3, 5, *size, dtype=DOUBLE)
    weights = layer.attention_weights(x)
    pixels, cut = cut_windows(x, 4)
    assert weights.shape == (len(pixels), 2, pixels.shape[1], pixels.shape[1])
    assert torch.allclose(weights.sum(-1), torch.ones(1, dtype=DOUBLE), rtol=0, atol=1e-12)
    v = layer.qkv(pixels)[..., 16:].unflatten(-1, (2, 4)).transpose(1, 2)
    out = layer.proj((weights @ v).transpose(1, 2).flatten(2))
    assert torch.allclose(join_windows(out, cut, like=x), layer(x), rtol=0, atol=1e-12)


def test_windows_permuted_and_put_back():
    layer = attention(3)
    x = torch.randn(2, 5, 6, 9, dtype=DOUBLE)
    pixels, cut = cut_windows(x, 3)
    order = torch.randperm(6)
    pixels = pixels.view(2, 6, 9, 5)
    shuffled = layer(join_windows(pixels[:, order].flatten(0, 1), cut, like=x))
    back = cut_windows(shuffled, 3)[0].view(2, 6, 9, 3)[:, order.argsort()]
    assert torch.allclose(join_windows(back.flatten(0, 1), cut, like=x), layer(x), rtol=0, atol=1e-12)
    assert not torch.allclose(shuffled, layer(x))


def test_shift_by_a_window_shifts_the_output_and_by_less_does_not():
    layer = attention(4)
    x = torch.randn(2, 5, 8, 12, dtype=DOUBLE)
    shifted = layer(x.roll((4, 8), (2, 3)))
    assert torch.allclose(shifted, layer(x).roll((4, 8), (2, 3)), rtol=0, atol=1e-12)
    assert not torch.allclose(layer(x.roll(2, 3)), layer(x).roll(2, 3))


def test_without_queries_keys_and_biases_each_pixel_gets_the_mean_of_its_window():
    layer = attention(4)
    with torch.no_grad():
        layer.qkv.weight[: 2 * 8] = 0
        layer.relative_position_bias_table.zero_()
    x = torch.randn(2, 5, 8, 8, dtype=DOUBLE)
    mean = F.avg_pool2d(x, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    expected = torch.einsum("ov,vc,bcyx->boyx", layer.proj.weight, layer.qkv.weight[16:], mean)
    expected = expected + layer.proj.bias[:, None, None]
    assert torch.allclose(layer(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("window", [1, 2, 4, 7])
def test_relative_positions(window):
    index = relative_position_index(window).view(window**2, window**2, 2)
    assert (index + index.transpose(0, 1) == 2 * window - 2).all()  # there and back
    assert index.min() == 0
    assert index.max() == 2 * window - 2
    assert len(index.flatten(0, 1).unique(dim=0)) == (2 * window - 1) ** 2  # each bias of the table is used
    assert index[0, -1].tolist() == [2 * window - 2] * 2  # from first to last: as far down and right as it goes


def test_parameters_do_not_depend_on_the_map_and_the_index_is_not_saved():
    layer = attention(7)
    before = {key: value.shape for key, value in layer.state_dict().items()}
    assert before == {
        "relative_position_bias_table": (13, 13),
        "qkv.weight": (24, 5),
        "proj.weight": (3, 8),
        "proj.bias": (3,),
    }
    for size in ((3, 4), (14, 14), (10, 9)):
        layer(torch.randn(1, 5, *size, dtype=DOUBLE))
    assert {key: value.shape for key, value in layer.state_dict().items()} == before
    assert layer.relative_position_index.shape == (7, 7, 7, 7)
    std = LocalAttention(4, heads=1, window=40).relative_position_bias_table.std().item()
    assert std == pytest.approx(0.02, rel=0.05)  # 6241 values: the standard error is 1 %


def test_bias_of_a_smaller_map_is_the_central_part():
    layer = attention(4)
    layer(torch.randn(1, 5, 2, 2, dtype=DOUBLE)).square().sum().backward()
    used = layer.relative_position_bias_table.grad != 0
    assert used[2:5, 2:5].all()
    assert used.sum() == 9


def test_attention_can_be_differentiated_twice():
    layer = attention(3)
    x = torch.randn(1, 5, 4, 4, dtype=DOUBLE)
    parameters = list(layer.parameters())
    u, w = ([torch.randn_like(p) for p in parameters] for _ in range(2))

    def product(vectors):
        grads = torch.autograd.grad(layer(x).pow(2).sum(), parameters, create_graph=True)
        return torch.autograd.grad(sum((g * v).sum() for g, v in zip(grads, vectors, strict=True)), parameters)

    one, other = (
        sum((a * b).sum() for a, b in zip(first, product(second), strict=True)) for first, second in ((u, w), (w, u))
    )
    assert one == pytest.approx(other.item(), rel=1e-9)  # a Hessian is symmetric
    assert one != 0


@pytest.mark.parametrize("reduction", [1, 4])
@pytest.mark.parametrize("out", [8, 12])
def test_msa_block_written_out(reduction, out):
    torch.manual_seed(0)
    block = MSABlock(8, out, heads=2, window=4, reduction=reduction, drop_path=0.5).double().eval()
    for tensor in block.buffers():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    x = torch.randn(2, 8, 6, 7, dtype=DOUBLE)

    def norm(y, bn):
        return (y - bn.running_mean[:, None, None]) / (bn.running_var[:, None, None] + bn.eps).sqrt()

    first = F.gelu(norm(x, block.bn1))
    shortcut = x if out == 8 else F.conv2d(first, block.downsample.weight)
    branch = by_loops(block.attn, norm(F.conv2d(first, block.conv1.weight), block.bn2))
    assert block.attn.in_channels == 8 // reduction
    assert block.attn.head_dim == 64
    assert torch.allclose(block(x), branch + shortcut, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("build", "facts"), IMAGENET.items(), ids=lambda x: getattr(x, "__name__", ""))
def test_patterns_and_sizes_of_the_imagenet_form(build, facts):
    with torch.device("meta"):
        model = build(1000, stem="imagenet")
    letters, millions = facts
    assert pattern(model) == letters
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    assert model.conv1.kernel_size == (7, 7)
    assert isinstance(model.maxpool, nn.MaxPool2d)
    attentions = [m for m in model.modules() if isinstance(m, LocalAttention)]
    assert {a.window for a in attentions} == {7}
    assert [a.heads for a in attentions] == [
        h for h, n in zip((3, 6, 12, 24), msa_counts(model), strict=True) for _ in range(n)
    ]


def test_alternet50_of_cifar_is_the_papers():
    with torch.device("meta"):
        model = alternet50()
    assert pattern(model) == "CCC/CCCA/CCCCCA/CACA"
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(33.0, abs=0.05)
    assert model.maxpool is None
    assert {m.window for m in model.modules() if isinstance(m, LocalAttention)} == {4}
    rates = [block.drop_path.p for stage in model.stages for block in stage]
    assert rates == pytest.approx([0.1 * i / 16 for i in range(17)])


@pytest.mark.parametrize("build", IMAGENET)
def test_stages_end_with_attention_and_strides_are_those_of_convolutions(build):
    with torch.device("meta"):
        model = build()
    for stage, letters in zip(model.stages, pattern(model).split("/"), strict=True):
        count = letters.count("A")
        assert letters == "C" * (len(letters) - 2 * count) + "CA" * count
        assert not isinstance(stage[0], MSABlock)
        assert isinstance(stage[-1], MSABlock) == (count > 0)
        strided = [name for name, m in stage.named_modules() if getattr(m, "stride", 1) == (2, 2)]
        assert all(name.startswith("0.") for name in strided)
        assert len(strided) == (0 if stage is model.layer1 else 2)  # the block's and its shortcut's


@pytest.mark.parametrize(
    ("size", "options"),
    [(16, {}), (32, {}), (8, {}), ((9, 13), {}), (224, {"stem": "imagenet"}), (256, {"stem": "imagenet"})],
)
def test_forward_at_common_sizes(size, options):
    torch.manual_seed(0)
    model = alternet18(num_classes=7, **options).eval()
    sides = (size, size) if isinstance(size, int) else size
    with torch.no_grad():
        logits = model(torch.randn(2, 3, *sides))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    assert (logits[0] != logits[1]).all()


def test_bottleneck_form_at_cifar_size():
    torch.manual_seed(0)
    model = alternet50(num_classes=5, in_channels=1).eval()
    shapes = []
    for stage in model.stages:
        stage.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    with torch.no_grad():
        assert model(torch.randn(1, 1, 32, 32)).shape == (1, 5)
    assert shapes == [(256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 4, 4)]


def test_gradient_reaches_every_parameter():
    torch.manual_seed(0)
    model = alternet18(num_classes=4, drop_path=0.0)
    F.cross_entropy(model(torch.randn(4, 3, 16, 16)), torch.arange(4)).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_every_module_runs_once_and_keeps_its_output():
    torch.manual_seed(0)
    model, calls = AlterNet(PreActBlock, (1, 2, 2, 2), (0, 1, 1, 1), num_classes=5).eval(), {}

    def remember(name):
        return lambda _, __, out: calls.setdefault(name, []).append((out, out.clone()))

    modules = {name: m for name, m in model.named_modules() if name}
    for name, module in modules.items():
        module.register_forward_hook(remember(name))
    model(torch.randn(2, 3, 16, 16))
    assert calls.keys() == modules.keys()
    assert all(len(outs) == 1 and torch.equal(*outs[0]) for outs in calls.values())  # nothing is in place
    assert calls["layer2.1.attn"][0][0].shape == (2, 128, 8, 8)  # maps, whatever the windows
    assert {"bn", "relu", "avgpool", "fc", "layer4.1.gelu", "layer4.1.attn.qkv"} <= modules.keys()


def test_stochastic_depth_is_off_in_eval():
    torch.manual_seed(0)
    model = alternet18(num_classes=3, drop_path=0.9)
    x = torch.randn(8, 3, 8, 8)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("size", [16, 20])  # 20: maps of 20, 10, 5 and 3 pixels, of which windows divide one
def test_bfloat16_autocast_with_channels_last_stays_near_float32(size):
    torch.manual_seed(0)
    model = alternet18(num_classes=6, drop_path=0.0).train()
    x = torch.randn(8, 3, size, size)
    exact = model(x)
    model = model.to(memory_format=torch.channels_last)
    formats = []
    model.layer2[1].attn.register_forward_hook(lambda _, __, out: formats.append(out.stride(1)))
    with torch.autocast("cpu", torch.bfloat16):
        near = model(x.to(memory_format=torch.channels_last))
    near.float().sum().backward()
    assert formats == [1]
    assert (near - exact).norm() < 0.05 * exact.norm()  # 8 bits of mantissa, some twenty layers
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_seed_gives_the_weights_of_the_resnet_where_blocks_stay():
    models = []
    for build, counts in ((PreActResNet, ()), (AlterNet, ((0, 1, 0, 1),))):
        torch.manual_seed(3)
        models.append(build(PreActBlock, (1, 2, 1, 2), *counts).state_dict())
    plain, alter = models
    shared = [key for key in plain if not key.startswith(("layer2.1.", "layer4.1."))]
    assert all(torch.equal(plain[key], alter[key]) for key in shared)
    assert "layer2.1.attn.qkv.weight" in alter


def test_errors_name_the_option_and_the_remedy():
    with pytest.raises(ValueError, match=r"stride=2.*convolution block"):
        MSABlock(8, heads=1, stride=2)
    with pytest.raises(ValueError, match="in_channels=10 cannot be divided by reduction=4"):
        MSABlock(10, heads=1)
    for name in ("heads", "window", "head_dim"):
        with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
            LocalAttention(8, **{"heads": 1, "window": 2, name: 0})
    with pytest.raises(ValueError, match=r"\(1, 4, 8, 8\), not \(batch, in_channels=8, H, W\)"):
        LocalAttention(8, heads=1, window=4)(torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match="2 MSA blocks in stage 3: its 2 blocks have room for 1"):
        alternet18(msa=(0, 0, 2, 1))
    for msa in ((0, 0, 0), (0, 0, 0, -1)):
        with pytest.raises(ValueError, match="msa="):
            alternet18(msa=msa)
    for heads in ((1, 2, 3), (1, 2, 3, 0)):
        with pytest.raises(ValueError, match="heads="):
            alternet18(heads=heads)
    with pytest.raises(ValueError, match=r"7x9 pixels are too small.* at least 8x8"):
        alternet18()(torch.zeros(1, 3, 7, 9))
    with pytest.raises(TypeError, match="got ResNet"):
        pattern(resnet18())
