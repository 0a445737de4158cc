"""Linear layers in bfloat16 around the batch's mean: rounded is the spread over images, and nothing else."""

import pytest
import torch
from torch import nn

from utilities.compare import compare
from utilities.hooks.centred_products import CentredProducts, without_centred_products
from utilities.hooks.precision import CENTRED, choose_precision
from utilities.zoo import create_model

EPSILON = 2.0**-8  # of bfloat16


def layer(seed=0, bias=True):
    torch.manual_seed(seed)
    return nn.Linear(64, 96, bias=bias).requires_grad_(False)


@pytest.mark.parametrize("offset", [0.0, 10.0, 1e4])
@pytest.mark.parametrize("bias", [True, False])
def test_the_error_follows_the_spread_and_not_the_values(offset, bias):
    one, spread = layer(bias=bias), torch.randn(32, 5, 64, generator=torch.Generator().manual_seed(1))
    x = offset + spread
    exact = one.double()(x.double())
    one.float()
    with CentredProducts():
        found = one(x)
    assert found.dtype == torch.float32
    bound = 3 * EPSILON * (spread.abs() + 1) @ one.weight.abs().T + 1e-6 * x.abs().max()
    assert ((found - exact).abs() <= bound).all()
    scatter = (exact - exact.mean(0)).std()
    assert (found - exact).std() < EPSILON * scatter + 1e-6 * offset


def test_images_that_are_all_alike_are_computed_in_float32():
    one, x = layer(), torch.randn(1, 64, generator=torch.Generator().manual_seed(2)).expand(16, 64)
    with CentredProducts():
        torch.testing.assert_close(one(x), one(x), rtol=0, atol=0)
        found = one(x)
    torch.testing.assert_close(found, one(x), rtol=1e-5, atol=1e-6)


def test_small_maps_single_images_other_types_and_trials_are_left_alone():
    one, small = layer(), nn.Linear(8, 8).requires_grad_(False)
    x, y = torch.randn(16, 64), torch.randn(16, 8)
    with CentredProducts():
        assert torch.equal(small(y), y @ small.weight.T + small.bias) or torch.allclose(small(y), small(y))
        single, double = one(x[:1]), one.double()(x.double())
        one.float()
        with without_centred_products():
            alone = one(x)
    assert torch.equal(alone, one(x))
    assert torch.equal(single, one(x[:1]))
    assert torch.equal(double, one.double()(x.double()))


@pytest.fixture
def bfloat16(monkeypatch):
    monkeypatch.setattr("utilities.hooks.precision.has_fast_bfloat16", lambda device: device.type == "cpu")


def test_centred_is_for_models_of_linear_layers(bfloat16):
    cpu = torch.device("cpu")
    assert choose_precision("centred", create_model("vit_tiny_patch4_32", 10), cpu).forward == CENTRED
    assert choose_precision("centred", create_model("resnet18", 10), cpu).forward == "native"
    assert choose_precision("centred", nn.Linear(2, 2).double(), cpu).name == "exact"


def test_a_similarity_is_nearer_to_the_exact_one_than_in_half(bfloat16):
    """A large offset is what half rounds away. That a value depends on the batch leaves no layer out."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.Identity(), nn.Linear(128, 64), nn.Linear(64, 128)).eval()
    model[0].bias.data.fill_(300.0)
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    run = {"device": "cpu", "progress": False}
    exact, centred, half = (compare(model, model, [x], precision=p, **run) for p in ("exact", "centred", "half"))
    assert centred.layers1 == exact.layers1
    assert abs(centred.matrix - exact.matrix).max() < 1e-3 < 1e-2 < abs(half.matrix - exact.matrix).max()
