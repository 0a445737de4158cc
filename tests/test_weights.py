"""Weights that are no numbers are found before any image is looked at, and named."""

import pytest
import timm
import torch
from torch import nn

from utilities.analysis.stream import stream
from utilities.weights import check_weights


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["0.weight", "3.bias", "1.running_var", "1.running_mean"])
def test_a_bad_parameter_or_statistic_is_named(name: str, bad: float) -> None:
    model = _net()
    check_weights(model)
    model.state_dict()[name].view(-1)[0] = bad
    with pytest.raises(ValueError, match=rf"'{name}' of Sequential holds (NaN|infinity) \(1 of"):
        check_weights(model)


def test_the_first_is_named_and_the_others_are_counted() -> None:
    model = _net()
    for name in ("0.bias", "3.weight", "1.running_var"):
        model.state_dict()[name].fill_(float("nan"))
    with pytest.raises(ValueError, match=r"parameter '0.bias' .* and 2 more"):
        check_weights(model)


def test_masks_may_be_infinite_but_hold_no_nan() -> None:
    model = _net()
    model.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1), persistent=False)
    model.register_buffer("count", torch.tensor(3))
    check_weights(model)
    model.mask[0, 0] = torch.nan
    with pytest.raises(ValueError, match="buffer 'mask'"):
        check_weights(model)


def test_models_of_the_field_pass() -> None:
    check_weights(timm.create_model("swin_tiny_patch4_window7_224", img_size=56, window_size=7, depths=(2, 2, 2, 2)))
    check_weights(nn.Sequential(nn.Identity()))
    check_weights(nn.Sequential(nn.LazyLinear(3)))  # has no values before its first pass


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.float8_e4m3fn])
def test_every_type_is_looked_at(dtype: torch.dtype) -> None:
    model = nn.Module()
    model.register_parameter("w", nn.Parameter(torch.full((70_000,), 0.5).to(dtype), requires_grad=False))
    check_weights(model)
    model.w.data[-1:] = torch.tensor([torch.nan]).to(dtype)
    with pytest.raises(ValueError, match="parameter 'w' of Module holds NaN"):
        check_weights(model)


def test_large_finite_weights_pass() -> None:
    model = nn.Linear(2, 300, bias=False).half()  # whose sum would overflow
    model.weight.data.fill_(6e4)
    check_weights(model)


def test_weights_without_values_are_refused() -> None:
    with pytest.raises(ValueError, match="'weight' of Linear has no values"):
        check_weights(nn.Linear(2, 2, device="meta"))


def test_every_pass_over_images_begins_with_it() -> None:
    model = _net()
    model[3].weight.data[0, 0] = torch.nan

    def loader():
        raise AssertionError("no image should be read")
        yield

    with pytest.raises(ValueError, match=r"parameter '3\.weight'"), stream(model, loader(), device="cpu"):
        pass
