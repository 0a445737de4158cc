"""The closed form against an explicit design matrix of all positions, in float64."""

import numpy as np
import pytest
import torch

from utilities.compare.stitching.sums import PENALTIES, FeatureSums, Regressions, squared_error


def data(n=60, width1=5, width2=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width1, generator=generator, dtype=torch.float64) * torch.tensor([9.0, 3, 1, 0.3, 0.01]) + 2
    y = x @ torch.randn(width1, width2, generator=generator, dtype=torch.float64)
    return x, y + torch.randn(n, width2, generator=generator, dtype=torch.float64) - 7


def sums_of(x, y, batch=60):
    sums = FeatureSums()
    for one, two in zip(x.split(batch), y.split(batch), strict=True):
        sums.add({"x": one}, {"y": two}, [("x", "y")])
    return sums


def explicit(x, y, penalty):
    """Ridge regression by least squares on rows that stand for the penalty, with a column for the intercept."""
    x, y = x.numpy(), y.numpy()
    n, width = x.shape
    strength = penalty * ((x - x.mean(0)) ** 2).sum() / width
    design = np.block([[x, np.ones((n, 1))], [np.sqrt(strength) * np.eye(width), np.zeros((width, 1))]])
    solution = np.linalg.lstsq(design, np.concatenate([y, np.zeros((width, y.shape[1]))]), rcond=None)[0]
    return solution[:-1], solution[-1]


@pytest.mark.parametrize("penalty", [1e-8, 1e-2, 1.0])
def test_it_is_the_explicit_ridge_regression(penalty):
    x, y = data()
    found = Regressions(sums_of(x, y)).solve("x", "y", penalty)
    weight, bias = explicit(x, y, penalty)
    # The narrowest feature has 1e-6 of the widest one's variance: centring sums costs as many digits of float64.
    np.testing.assert_allclose(found.weight, weight, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found.bias, bias, rtol=1e-6, atol=1e-8)
    error = np.square(y.numpy() - x.numpy() @ weight - bias).sum()
    assert found.r2 == pytest.approx(1 - error / np.square(y.numpy() - y.numpy().mean(0)).sum(), rel=1e-9)


def test_batches_do_not_matter():
    x, y = data()
    whole, parts = (Regressions(sums_of(x, y, batch)).solve("x", "y", 1e-3) for batch in (60, 7))
    torch.testing.assert_close(whole.weight, parts.weight, rtol=1e-9, atol=1e-12)


def test_the_penalty_is_the_one_with_the_smallest_error_on_the_images_held_out():
    x, y = data(24)
    fit, held = (x[:16], y[:16]), (x[16:], y[16:])
    found = Regressions(sums_of(*fit), sums_of(*held)).solve("x", "y")
    errors = []
    for penalty in PENALTIES:
        weight, bias = explicit(*fit, penalty)
        errors.append(np.square(held[1].numpy() - held[0].numpy() @ weight - bias).sum())
    assert found.penalty == PENALTIES[int(np.argmin(errors))]
    assert 1e-10 < found.penalty < 10  # noise makes one in between best
    weight, _ = explicit(x, y, found.penalty)  # fitted to all in the end
    np.testing.assert_allclose(found.weight, weight, rtol=1e-6, atol=1e-8)


def test_squared_error_is_that_of_each_sample():
    x, y = data(9)
    weight, bias = torch.ones(5, 3).double(), torch.arange(3).double()
    expected = (y - x @ weight - bias).square().sum()
    assert squared_error(sums_of(x, y), "x", "y", weight, bias).item() == pytest.approx(expected.item(), rel=1e-10)


def test_a_target_without_variance_has_no_share_explained():
    x, _ = data(9)
    assert np.isnan(Regressions(sums_of(x, torch.ones(9, 2).double())).solve("x", "y", 1e-3).r2)
