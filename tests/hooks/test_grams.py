"""Gram matrices of features of any size, and what comparisons make of them, against the same features near 1."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from utilities.analysis.blocks.variance import feature_variance
from utilities.compare import compare
from utilities.compare.measures import (
    SIMILARITY_MEASURES,
    cca,
    linear_regression,
    mutual_knn,
    procrustes,
    pwcca,
    rsa,
    svcca,
)
from utilities.hooks.features import as_real, exponent, largest, unit_scale
from utilities.hooks.grams import NARROW, centered_gram, scaled_gram
from utilities.metrics import cka, gram, hsic
from utilities.results.moments import Moments

FUNCTIONS = {
    "cka": cka,
    "procrustes": procrustes,
    "cca": cca,
    "svcca": svcca,
    "pwcca": pwcca,
    "linear_regression": linear_regression,
    "rsa": rsa,
    "mutual_knn": mutual_knn,
}


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Scaled(nn.Module):
    """Two layers whose features are those of a small network times a power of two; batches differ by 2**10."""

    def __init__(self, power):
        super().__init__()
        self.wide, self.head, self.power = nn.Linear(10, NARROW + 64), nn.Linear(10, 7), power
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        self.wide.weight.data *= 2.0**power
        self.wide.bias.data *= 2.0**power

    def forward(self, x):
        x = x * (2.0**10 if x[0, 0] > 0 else 1.0)
        return self.wide(x).sum() + self.head(x)


def batches(n=12):
    one, two = random(n, 10), random(n, 10, seed=1)
    one[0, 0], two[0, 0] = -1.0, 1.0
    return [one, two]


def compared(power, **options):
    return compare(Scaled(power), Scaled(0), batches(), device="cpu", progress=False, **options)


@pytest.mark.parametrize("width", [5, NARROW + 100])
@pytest.mark.parametrize("power", [-110, -60, -20, 20, 40, 60, 80, 110])
def test_a_power_of_two_changes_no_digit_of_a_gram_matrix(width, power):
    x = random(9, width) + 3
    for bfloat16 in (False, True):
        (expected, before), (found, after) = (scaled_gram(y, bfloat16=bfloat16) for y in (x, x * 2.0**power))
        assert torch.equal(found, expected)
        assert after - before == power
        assert 0.25 <= found.trace() <= 1.0001


def test_the_exponent_is_that_of_the_features():
    x = random(9, 5)
    value, power = scaled_gram(x)
    torch.testing.assert_close(value * 4**power, centered_gram(x))
    assert scaled_gram(torch.zeros(4, 3))[1] == 0
    assert scaled_gram(torch.full((4, 3), 1e30))[0].abs().max() == 0  # a constant has no variance at any size


def test_a_column_with_a_huge_mean_keeps_its_spread():
    """Squares of the mean overflow float32 where the spread does not."""
    x = torch.cat([random(8, 1) * 1e18 + 1e20, random(8, 2, seed=1)], 1)
    centred = x.double() - x.double().mean(0)
    value, power = scaled_gram(x)
    torch.testing.assert_close(value.double() * 4.0 ** power.double(), centred @ centred.T, rtol=1e-3, atol=1e31)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_other_types_are_computed_in_float32(dtype):
    x = (random(6, 3) * 3).abs().to(dtype)
    value, power = scaled_gram(x)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value * 4**power, centered_gram(x.float()))


@pytest.mark.parametrize("precision", ["auto", "exact", "fast"])
@pytest.mark.parametrize("power", [-100, -60, 27, 50, 100])
def test_features_of_any_size_are_compared_as_those_near_one(power, precision):
    options = {"precision": precision, "permutations": 3, "per_batch": True}
    found, expected = compared(power, **options), compared(0, **options)
    for table in ("matrix", "null_mean", "per_batch", "stderr"):
        np.testing.assert_allclose(getattr(found, table), getattr(expected, table), rtol=1e-12)
    assert found.details1 == expected.details1


@pytest.mark.parametrize(
    "options",
    [
        {"estimator": "biased"},
        {"remove_top_pc": 1},
        {"confounder": "input"},
        {"kernel": "rbf", "bandwidth": 0.5},
        *({"measure": measure} for measure in ("procrustes", "rsa", "linear_regression")),
    ],
)
def test_no_option_sees_the_scale(options):
    layers = {"layers1": ["head"], "layers2": ["head"]} if options.get("measure") == "linear_regression" else {}
    if layers:
        options = options | {"layers1": ["wide"], "layers2": ["head"]}
    with pytest.warns() if options.get("estimator") == "biased" else nullcontext():
        found, expected = (compared(power, **options).matrix for power in (60, 0))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_given_width_of_the_kernel_is_that_of_the_features():
    """σ of the features themselves, whatever scale was taken off: against brute force on one batch."""
    x = batches()[0]
    for power in (2, 50):
        model, sigma = Scaled(power), 300.0 * 2.0**power
        options = {"layers1": ["wide"], "kernel": "rbf", "sigma": sigma, "device": "cpu", "progress": False}
        found = compare(model, Scaled(power + 1), [x], layers2=["wide"], **options)
        with torch.no_grad():
            wide = model.wide(x)
        assert found.matrix[0, 0] == pytest.approx(cka(wide, 2 * wide, "rbf", sigma=sigma), rel=1e-4)


def test_what_is_not_finite_is_told_from_what_is_too_large():
    model = nn.Sequential(nn.Linear(10, 3)).double()
    model[0].weight.data *= 1e120  # finite, but the fourth power is not in float64 either
    with pytest.raises(ValueError, match="layer '0' gives features too large to add up"):
        compare(model, model, batches(), device="cpu", progress=False)
    model[0].weight.data *= torch.inf
    with pytest.raises(ValueError, match="layer '0' gives NaN or infinite features"):
        compare(model, model, batches(), device="cpu", progress=False)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_see_no_scale_in_float64(name):
    function = FUNCTIONS[name]
    x, y = random(30, 3, dtype=torch.float64), random(30, 4, seed=1, dtype=torch.float64)
    for power in (-900, -300, 300, 900):
        assert function(x * 2.0**power, y) == pytest.approx(function(x, y), rel=1e-9)
        assert function(x, y * 2.0**power) == pytest.approx(function(x, y), rel=1e-9)
    assert set(FUNCTIONS) - {"cka"} == set(SIMILARITY_MEASURES)


def test_rbf_kernels_see_their_width_at_any_size():
    x = random(9, 3, dtype=torch.float64)
    for power in (-600, 600):
        torch.testing.assert_close(gram(x * 2.0**power, "rbf"), gram(x, "rbf"))
        torch.testing.assert_close(gram(x * 2.0**power, "rbf", sigma=2.0 ** (power + 1)), gram(x, "rbf", sigma=2.0))


def complex_features(n, p, seed=0):
    return torch.complex(random(n, p, seed=seed), random(n, p, seed=seed + 10))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_real_and_imaginary_parts_count_alike(name):
    z, y = complex_features(40, 3), random(40, 4, seed=1)
    stacked = torch.cat([z.real, z.imag], 1)
    assert FUNCTIONS[name](z, y) == pytest.approx(FUNCTIONS[name](stacked, y), rel=1e-6)
    assert FUNCTIONS[name](y, z.numpy()) == pytest.approx(FUNCTIONS[name](y, stacked), rel=1e-6)


def test_the_gram_matrix_of_complex_features_is_the_real_part_of_the_hermitian_one():
    z = complex_features(6, 5).to(torch.complex128)
    torch.testing.assert_close(gram(z), (z @ z.mH).real)
    torch.testing.assert_close(gram(z.conj()), (z @ z.mH).real)
    centred = z - z.mean(0)
    torch.testing.assert_close(centered_gram(z), (centred @ centred.mH).real)
    with pytest.raises(ValueError, match=r"K is complex: utilities\.metrics\.gram"):
        hsic(z @ z.mH, gram(z))


class Spectrum(nn.Module):
    def forward(self, x):
        return torch.fft.rfft(x)


@pytest.mark.parametrize("options", [{}, {"measure": "rsa"}, {"precision": "exact"}])
def test_complex_layers_are_compared_with_both_parts(options):
    model, x = nn.Sequential(nn.Linear(10, 6), Spectrum()), random(24, 10)
    result = compare(model, nn.Sequential(nn.ReLU()), [x], device="cpu", progress=False, **options)
    with torch.no_grad():
        z = model(x)
    function = FUNCTIONS[options.get("measure", "cka")]
    assert result.matrix[1, 0] == pytest.approx(function(torch.cat([z.real, z.imag], 1), x.relu()), rel=1e-4)
    assert result.details1["width"] == [6, 8]  # four frequencies, two parts each


def test_a_complex_confounder_counts_with_both_parts():
    x, model = random(24, 10), nn.Sequential(nn.Linear(10, 6))
    parts = [torch.fft.rfft, lambda images: as_real(torch.fft.rfft(images))]
    one, two = (compare(model, model, [x], confounder=c, device="cpu", progress=False).matrix for c in parts)
    np.testing.assert_allclose(one, two, rtol=1e-6)


def test_analyses_that_know_no_complex_features_refuse_them():
    model, x = nn.Sequential(nn.Conv2d(3, 4, 1), Spectrum()), random(6, 3, 5, 5)
    with pytest.raises(TypeError, match=r"complex features.*leave it out"):
        feature_variance(model, [x], layers={"1": "conv"}, device="cpu", progress=False)
    with pytest.raises(TypeError, match="complex features"):
        Moments().add(torch.fft.fft(x))


def test_exponents_can_be_inverted_at_both_ends():
    for dtype in (torch.float32, torch.float64):
        info = torch.finfo(dtype)
        sizes = torch.tensor([info.max, info.tiny, info.smallest_normal / 4, 0.0, torch.inf, torch.nan], dtype=dtype)
        powers = exponent(sizes)
        assert powers.dtype == dtype
        assert powers[3:].tolist() == [0, 0, 0]
        assert ((sizes * torch.exp2(-powers))[:2] <= 4).all()
        assert (torch.exp2(-powers) * torch.exp2(powers) == 1).all()
    x, power = unit_scale(torch.tensor([[-1e30, 1.0]]))
    assert 0.5 < largest(x) <= 1
    assert power == 100
    assert largest(torch.zeros(3, 0)) == 0
    assert largest(torch.tensor([1.0, torch.nan])).isnan()
