"""The caller's autocast is respected by the forward pass, and by nothing else."""

import numpy as np
import pytest
import torch
from torch import nn

from utilities.analysis.loss.curvature import Objective
from utilities.compare import compare
from utilities.hooks.grams import centered_gram
from utilities.hooks.precision import autocast_type, choose_precision, without_autocast
from utilities.hooks.views import make_view

RUN = {"device": "cpu", "progress": False}


def network(width=12):
    torch.manual_seed(width)
    return nn.Sequential(nn.Linear(10, width), nn.ReLU(), nn.Linear(width, 6)).eval()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("precision", ["auto", "exact", "fast", "half"])
def test_the_forward_pass_runs_under_the_callers_autocast_and_says_so(dtype, precision):
    model, seen = network(), []
    model[0].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    with torch.autocast("cpu", dtype):
        result = compare(model, model, [torch.randn(16, 10)], precision=precision, **RUN)
    name = str(dtype).removeprefix("torch.")
    assert set(seen) == {dtype}
    assert result.provenance["precision"]["forward"] == f"{name} (autocast of the caller)"


def test_without_an_autocast_the_type_is_the_models_own():
    model, seen = network(), []
    model[0].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    result = compare(model, model, [torch.randn(16, 10)], precision="exact", **RUN)
    assert result.provenance["precision"]["forward"] == "native"
    compare(model, model, [torch.randn(16, 10)], precision="half", **RUN)
    assert seen[0] == torch.float32
    assert seen[-1] == torch.bfloat16


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kernel": "rbf"},
        {"confounder": "input"},
        {"permutations": 3},
        {"measure": "procrustes"},
        {"measure": "rsa"},
    ],
)
@pytest.mark.filterwarnings("ignore:values of Given do not follow")
def test_sums_and_products_of_features_keep_their_precision_inside_an_autocast(options):
    """Features of the autocast, handed over as data, give the same outside of it."""
    model, x = network(), torch.randn(24, 10)
    with torch.autocast("cpu", torch.bfloat16):
        found = compare(model, model, [x], precision="exact", layers1=["0"], layers2=["2"], **options, **RUN)
        with torch.no_grad():
            features = [model[0](x), model(x)]

    class Given(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Identity(), nn.Identity()

        def forward(self, images):
            self.one(features[0][: len(images)])
            return self.two(features[1][: len(images)])

    expected = compare(Given(), Given(), [x], precision="exact", layers1=["one"], layers2=["two"], **options, **RUN)
    np.testing.assert_allclose(found.matrix, expected.matrix, rtol=1e-6)
    if "permutations" in options:
        np.testing.assert_allclose(found.null_mean, expected.null_mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.details1["first_component"], expected.details1["first_component"], rtol=1e-5)


def test_gram_matrices_of_narrow_layers_are_float32_under_half():
    """Under autocast a product of float32 matrices is rounded to 8 bits."""
    x = torch.randn(16, 40)
    with torch.autocast("cpu", torch.bfloat16):
        assert autocast_type(torch.device("cpu")) == torch.bfloat16
        found = centered_gram(x)
        with without_autocast():
            assert autocast_type(torch.device("cpu")) is None
    assert torch.equal(found, centered_gram(x))


def test_hessians_are_exact_inside_an_autocast():
    model, data = network(), [(torch.randn(8, 10), torch.arange(8) % 6)]
    vector = torch.randn(sum(p.numel() for p in model.parameters()))
    with Objective().of(model, "cpu") as operator:
        expected = operator(data, 8) @ vector
    with torch.autocast("cpu", torch.bfloat16), Objective().of(model, "cpu") as operator:
        torch.testing.assert_close(operator(data, 8) @ vector, expected)


def test_devices_without_autocast_have_none():
    assert autocast_type(torch.device("meta")) is None
    assert choose_precision("half", nn.Linear(2, 2), torch.device("cpu")).forward == "bfloat16"


@pytest.mark.filterwarnings("ignore:torch.quantize")
def test_dequantised_outputs_are_features():
    x = torch.quantize_per_tensor(torch.randn(6, 3, 4, 4), 0.1, 0, torch.qint8).dequantize()
    rows = make_view("gap", nn.Conv2d(3, 3, 1))(x)
    torch.testing.assert_close(rows, x.mean((2, 3)))
    assert centered_gram(rows).dtype == torch.float32
