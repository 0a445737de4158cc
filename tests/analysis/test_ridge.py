"""Ridge regression from sums equals ridge regression with all samples at once."""

import pytest
import torch
from sklearn.linear_model import Ridge

from utilities.analysis.ridge import RidgeSums

N, PROBLEMS, WIDTH, CLASSES = 60, 3, 7, 4


def data(n=N, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, PROBLEMS, WIDTH, dtype=torch.float64, generator=generator)
    scale = 1 + torch.arange(PROBLEMS)[:, None]
    return scale * features + shift, torch.randint(CLASSES, (n,), generator=generator)


def summed(features, labels, sizes=None):
    sums = RidgeSums(features.shape[1], features.shape[2], CLASSES)
    for x, y in zip(features.split(sizes or len(features)), labels.split(sizes or len(labels)), strict=True):
        sums.add(x, y)
    return sums


def targets(labels):
    return 2.0 * torch.nn.functional.one_hot(labels, CLASSES).double() - 1


@pytest.mark.parametrize(("alpha", "n"), [(1.0, N), (30.0, N), (1.0, 5)])
def test_equals_scikit_learn(alpha, n):
    features, labels = data(n)
    weights, intercept = summed(features, labels).solve(alpha)
    for problem in range(PROBLEMS):
        twin = Ridge(alpha=alpha, solver="svd").fit(features[:, problem].numpy(), targets(labels).numpy())
        torch.testing.assert_close(weights[problem].T, torch.from_numpy(twin.coef_), rtol=0, atol=1e-8)
        torch.testing.assert_close(intercept[problem], torch.from_numpy(twin.intercept_), rtol=0, atol=1e-8)


def test_the_gradient_of_the_penalised_loss_is_zero():
    features, labels = data()
    solution = [part[0].requires_grad_() for part in summed(features, labels).solve(2.0)]
    weights, intercept = solution
    loss = (targets(labels) - features[:, 0] @ weights - intercept).square().sum() + 2.0 * weights.square().sum()
    for gradient in torch.autograd.grad(loss, solution):
        assert gradient.abs().max() < 1e-10  # of sums of 60 numbers of order 1


def test_is_independent_of_batches_and_halves_merge():
    features, labels = data()
    whole = summed(features, labels).solve()
    first, second = summed(features[:23], labels[:23]), summed(features[23:], labels[23:])
    first.merge(second)
    for other in (summed(features, labels, 7).solve(), first.solve()):
        for one, two in zip(whole, other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_a_large_common_mean_moves_the_intercept_alone():
    features, labels = data()
    near, far = (summed(features + shift, labels).solve() for shift in (0.0, 1e4))
    # The squared mean takes 8 of float64's 16 digits off X'X.
    torch.testing.assert_close(near[0], far[0], rtol=1e-6, atol=1e-7)
    expected = near[1] - 1e4 * near[0].sum(1)
    torch.testing.assert_close(far[1], expected, rtol=1e-6, atol=1e-3)


def test_constant_features_give_the_share_of_each_class():
    labels = torch.tensor([0, 0, 0, 1])
    weights, intercept = summed(torch.ones(4, 1, WIDTH), labels).solve()
    assert not weights.any()
    assert intercept[0].tolist() == [0.5, -0.5, -1.0, -1.0]


def test_float32_and_float64_features_are_added_in_float64():
    features, labels = data()
    narrow = features.float()
    one, two = (summed(x, labels).solve()[0] for x in (narrow, narrow.double()))
    assert one.dtype == torch.float64
    assert torch.equal(one, two)


def test_bytes_are_those_of_the_sums():
    sums = RidgeSums(2, 5, 3)
    held = sum(part.numel() * part.element_size() for part in (sums.gram, sums.class_sums))
    assert RidgeSums.bytes_needed(2, 5, 3) == held


def test_bad_input():
    with pytest.raises(ValueError, match="none were added"):
        RidgeSums(1, 2, 3).solve()
    with pytest.raises(ValueError, match="not of one regression"):
        RidgeSums(1, 2, 3).merge(RidgeSums(1, 2, 4))
    for alpha in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="above 0"):
            summed(*data()).solve(alpha)
