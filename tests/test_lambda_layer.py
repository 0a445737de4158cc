import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from utilities.lambda_layer import LambdaLayer, choose_method, crop_kernel, position_lambda
from utilities.lambda_resnet import lambda_resnet26, lambda_resnet38, lambda_resnet50
from utilities.resnet import Bottleneck, ResNet

METHODS = ("toeplitz", "spectral", "conv")


def tiny_model():
    return ResNet(Bottleneck, (1, 1, 1, 1), 5, spatial=lambda d, stride: LambdaLayer(d, r=5, stride=stride))


def layer64(seed=0, **options):
    """A float64 layer in eval mode, all of whose parameters and statistics are random."""
    torch.manual_seed(seed)
    layer = LambdaLayer(**options).double().eval()
    for tensor in layer.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.2, 1.2).mul_(torch.where(torch.rand_like(tensor) < 0.5, 1, 0.9))
    return layer


def explicit(layer, x):
    """The formula as sums over pairs of positions, with neither convolution nor einsum (stride 1)."""
    B, d, H, W = x.shape
    Nh, dk, du, dv, half = layer.Nh, layer.dk, layer.du, d // layer.Nh, layer.r // 2

    def norm(y, bn):
        scale = bn.weight / (bn.running_var + bn.eps).sqrt()
        return (y - bn.running_mean[:, None]) * scale[:, None] + bn.bias[:, None]

    qkv = layer.conv_qkv.weight[:, :, 0, 0] @ x.flatten(2)
    q = norm(qkv[:, : Nh * dk], layer.norm_q).view(B, Nh, dk, H * W)
    k = qkv[:, Nh * dk : Nh * dk + du * dk].view(B, du, dk, H * W).exp()
    k = k / k.sum(-1, keepdim=True)
    v = norm(qkv[:, Nh * dk + du * dk :], layer.norm_v).view(B, du, dv, H * W)
    weight, bias = layer.lambda_conv.weight, layer.lambda_conv.bias
    y = torch.zeros(B, Nh, dv, H * W, dtype=x.dtype)
    for n in range(H * W):
        lam = bias[None, :, None].expand(B, dk, dv).clone()
        for m in range(H * W):
            dy, dx = m // W - n // W + half, m % W - n % W + half
            for u in range(du):
                e = k[:, u, :, m]
                if 0 <= dy < layer.r and 0 <= dx < layer.r:
                    e = e + weight[:, u, 0, dy, dx]
                lam += e[:, :, None] * v[:, u, None, :, m]
        for h in range(Nh):
            y[:, h, :, n] = (q[:, h, :, n, None] * lam).sum(1)
    return y.reshape(B, d, H, W)


@pytest.mark.parametrize("du", [1, 4])
@pytest.mark.parametrize(("size", "r"), [((4, 4), 3), ((5, 5), 23), ((3, 6), 5), ((7, 2), 7), ((1, 1), 9)])
def test_layer_equals_the_explicit_sums(size, r, du):
    layer = layer64(d=8, dk=3, du=du, Nh=2, r=r)
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    with torch.no_grad():
        expected = explicit(layer, x)
        # float64 keeps some 15 digits and the values are of order 100
        assert torch.allclose(layer(x), expected, rtol=0, atol=1e-10)
        pooled = layer64(d=8, dk=3, du=du, Nh=2, r=r, stride=2)
        pooled.load_state_dict(layer.state_dict())
        assert torch.allclose(pooled(x), F.avg_pool2d(expected, 3, 2, 1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("size", "r"), [((4, 4), 23), ((2, 9), 7), ((8, 3), 5), ((6, 6), 1), ((1, 1), 23)])
def test_methods_equal_the_uncropped_convolution_and_its_gradients(size, r, method):
    torch.manual_seed(0)
    weight = torch.randn(3, 2, 1, r, r, dtype=torch.float64, requires_grad=True)
    v = torch.randn(2, 2, 5, *size, dtype=torch.float64, requires_grad=True)
    expected = F.conv3d(v, weight, padding=(0, r // 2, r // 2))
    actual = position_lambda(weight, v, method)
    assert torch.allclose(actual, expected, rtol=0, atol=1e-11)  # sums of up to 100 products in float64
    g = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad(actual, (weight, v), g), torch.autograd.grad(expected, (weight, v), g), strict=True
    ):
        assert torch.allclose(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize("size", [(4, 4), (24, 24)])
def test_parts_of_a_batch_give_what_the_whole_gives(size, monkeypatch):
    layer, x = layer64(d=8, dk=3, Nh=2, r=23).train(), torch.randn(5, 8, *size, dtype=torch.float64, requires_grad=True)
    found = []
    for entries in (2**30, 2 * 3 * 4 * size[0] * size[1], 1):  # all images at once, two, one
        monkeypatch.setattr("utilities.lambda_layer.MAX_CACHED_ENTRIES", entries)
        y = layer(x)
        found.append((y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)  # sums in another order


def test_the_kernel_is_cropped_for_each_axis():
    weight = torch.arange(81.0).view(1, 1, 1, 9, 9)
    assert torch.equal(crop_kernel(weight, 2, 20), weight[..., 3:6, :])
    assert torch.equal(crop_kernel(weight, 20, 1), weight[..., 4:5])
    assert crop_kernel(weight, 5, 5).shape == weight.shape
    assert choose_method(16, 16, 23, 23) == "toeplitz"
    assert choose_method(16, 16, 3, 3) == "conv"


@pytest.mark.parametrize("method", METHODS)
def test_second_derivatives_are_those_of_finite_differences(method):
    """Hessians differentiate the gradient."""
    torch.manual_seed(0)
    weight = torch.randn(2, 1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    v = torch.randn(1, 1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    form = lambda weight, v: position_lambda(weight, v, method).square()  # noqa: E731
    assert torch.autograd.gradcheck(form, (weight, v))
    assert torch.autograd.gradgradcheck(form, (weight, v))


def test_the_spectral_form_is_as_close_as_its_precision():
    torch.manual_seed(0)
    weight, v = torch.randn(4, 1, 1, 23, 23, requires_grad=True), torch.randn(2, 1, 3, 24, 24, requires_grad=True)
    exact = position_lambda(weight, v)
    assert choose_method(24, 24, 23, 23) == "spectral"
    convolution = position_lambda(weight, v, "conv")
    for a, b in zip(
        (exact, *torch.autograd.grad(exact.square().mean(), (weight, v), retain_graph=True)),
        (convolution, *torch.autograd.grad(convolution.square().mean(), (weight, v))),
        strict=True,
    ):
        assert (a - b).norm() < 1e-6 * b.norm()  # float32 keeps some 7 digits
    with torch.autocast("cpu", torch.bfloat16):
        half = position_lambda(weight, v)
    assert half.dtype == torch.bfloat16
    gradients = [torch.autograd.grad(out.float().square().mean(), (weight, v)) for out in (exact, half)]
    # Factors are rounded to 8 bits: some 0.4 % each, of sums whose errors are independent.
    for a, b in ((half, exact), *zip(*gradients[::-1], strict=True)):
        assert (a - b).norm() < 0.01 * b.norm()


@pytest.mark.parametrize("method", [None, *METHODS])
def test_an_even_kernel_is_refused_by_every_method(method):
    with pytest.raises(ValueError, match=r"\(3, 4\) taps has no centre"):
        position_lambda(torch.zeros(1, 1, 1, 3, 4), torch.zeros(1, 1, 1, 6, 6), method)


def test_unknown_method():
    with pytest.raises(ValueError, match="method='fft': choose"):
        position_lambda(torch.zeros(1, 1, 1, 3, 3), torch.zeros(1, 1, 1, 4, 4), "fft")


def test_rows_of_conv_qkv_are_q_then_k_then_v():
    layer = LambdaLayer(8, dk=3, du=2, Nh=4, r=3).eval()
    assert layer.conv_qkv.weight.shape[0] == 4 * 3 + 3 * 2 + 2 * 2
    x = torch.randn(2, 8, 4, 4)
    with torch.no_grad():
        layer.conv_qkv.weight[12:18] = 7.0  # the same key everywhere: content is the mean over positions
        a = layer(x)
        layer.conv_qkv.weight[12:18] = -3.0  # each key row is a sum of channels: it differs over positions
        assert not torch.allclose(layer(x), a)
        layer.conv_qkv.weight[18:] = 0
        layer.lambda_conv.bias.zero_()  # no values and no bias: no output
        assert layer(x).abs().max() == 0


def test_state_dict_names():
    names = {name.rpartition(".")[0] for name in LambdaLayer(8).state_dict()}
    assert names == {"conv_qkv", "norm_q", "norm_v", "lambda_conv"}
    layer = LambdaLayer(64, du=2, r=7)
    assert layer.lambda_conv.weight.shape == (16, 2, 1, 7, 7)
    assert layer.lambda_conv.bias.shape == (16,)
    assert layer.conv_qkv.bias is None


def test_a_torch_layer_made_of_the_same_modules_shares_its_checkpoint():
    layer = layer64(d=8, dk=3, Nh=2, r=5)
    twin = nn.ModuleDict(
        {
            "conv_qkv": nn.Conv2d(8, 6 + 3 + 4, 1, bias=False),
            "norm_q": nn.BatchNorm2d(6),
            "norm_v": nn.BatchNorm2d(4),
            "lambda_conv": nn.Conv3d(1, 3, (1, 5, 5), padding=(0, 2, 2)),
        }
    ).double()
    twin.load_state_dict(layer.state_dict(), strict=True)
    twin.eval()
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    q, k, v = twin["conv_qkv"](x).split((6, 3, 4), dim=1)
    q, v = twin["norm_q"](q).view(2, 2, 3, 36), twin["norm_v"](v).view(2, 1, 4, 6, 6)
    content = k.view(2, 3, 36).softmax(-1) @ v.view(2, 4, 36).transpose(1, 2)
    lam = twin["lambda_conv"](v).view(2, 3, 4, 36) + content[..., None]
    y = (q[:, :, :, None] * lam[:, None]).sum(2).reshape(2, 8, 6, 6)
    assert torch.allclose(layer(x), y, rtol=0, atol=1e-11)


@pytest.mark.parametrize("fmt", [torch.channels_last, torch.channels_last_3d])
def test_memory_formats_change_nothing(fmt):
    torch.manual_seed(0)
    layer = LambdaLayer(16, r=5).eval()
    x = torch.randn(2, 16, 6, 6)
    other = copy.deepcopy(layer)
    if fmt is torch.channels_last:
        other, y = other.to(memory_format=fmt), x.to(memory_format=fmt)
    else:
        other.lambda_conv.to(memory_format=fmt)
        y = x
    assert other.lambda_conv.weight.shape == layer.lambda_conv.weight.shape
    # float32 sums in another order; the outputs are of order 1
    assert torch.allclose(other(y), layer(x), atol=1e-5)
    assert torch.allclose(other.double()(x.double()), layer.double()(x.double()), atol=1e-10)


def test_a_model_trains_channels_last_under_bfloat16():
    torch.manual_seed(0)
    model = tiny_model().to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(torch.randn(4, 3, 8, 8)).float().logsumexp(1).sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_autocast_is_near_float32_with_keys_far_apart():
    torch.manual_seed(0)
    layer = LambdaLayer(32, r=7).eval()
    x = 20 * torch.randn(2, 32, 8, 8)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        rough = layer(x).float()
    assert (rough - exact).norm() / exact.norm() < 0.05  # bfloat16 has 8 bits: 0.4 % for each of some ten steps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d": 10}, "d=10 cannot be split over Nh=4 heads"),
        ({"d": 8, "r": 4}, "r=4 must be odd.*r=3 or r=5"),
        ({"d": 8, "stride": 3}, "stride=3 must be 1, or 2"),
        ({"d": 8, "dk": 0}, "dk=0 must be a whole number of at least 1"),
        ({"d": -8}, "d=-8 must be a whole number of at least 1"),
        ({"d": 8, "r": 7.0}, "r=7.0 must be a whole number"),
        ({"d": 8, "Nh": True}, "Nh=True must be a whole number"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        LambdaLayer(**options)


@pytest.mark.parametrize("shape", [(1, 2, 1, 6, 6), (1, 1, 6, 6)])
def test_values_that_do_not_fit_the_kernel(shape):
    with pytest.raises(ValueError, match=r"E and v should be .*, not .*6, 6"):
        position_lambda(torch.zeros(1, 1, 1, 3, 3), torch.zeros(shape))


def test_bad_input():
    with pytest.raises(ValueError, match=r"LambdaLayer\(d=8\) got \(1, 4, 2, 2\)"):
        LambdaLayer(8)(torch.zeros(1, 4, 2, 2))


COUNTS = {lambda_resnet26: 8_274_020, lambda_resnet38: 10_148_516, lambda_resnet50: 13_144_068}


@pytest.mark.parametrize(("build", "count"), COUNTS.items(), ids=lambda x: getattr(x, "__name__", x))
def test_models_have_the_studys_sizes(build, count):
    with torch.device("meta"):
        model = build()
    assert sum(p.numel() for p in model.parameters()) == count
    assert isinstance(model.conv1, nn.Conv2d)
    blocks = [m for m in model.modules() if isinstance(m, Bottleneck)]
    assert all(isinstance(block.conv2, LambdaLayer) for block in blocks)
    assert [block.conv2.stride for block in blocks].count(2) == 3


def test_lambda_layers_start_as_torch_convolutions():
    layer = tiny_model().layer4[0].conv2
    # 114 k weights: the standard error of their deviation is 0.2 %
    assert layer.conv_qkv.weight.std().item() == pytest.approx((3 * 512) ** -0.5, rel=0.01)


@pytest.mark.parametrize("size", [8, 9])
def test_models_take_small_images(size):
    assert tiny_model()(torch.randn(2, 3, size, size)).shape == (2, 5)
    with pytest.raises(ValueError, match="at least 8x8"):
        tiny_model()(torch.zeros(2, 3, 4, 4))
