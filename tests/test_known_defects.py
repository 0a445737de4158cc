"""What public packages get wrong, one test each; those of in-place layers and labels are in test_compare."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from utilities.compare import compare
from utilities.metrics import cka, gram, hsic


class Parallel(nn.Module):
    """``left`` and ``right`` see the two halves of the input."""

    def __init__(self, width=8):
        super().__init__()
        self.left, self.right, self.width = nn.Identity(), nn.Identity(), width

    def forward(self, x):
        left, right = self.left(x[:, : self.width]), self.right(x[:, self.width :])
        return left.flatten(1).sum(1) + right.flatten(1).sum(1)


def similarity(batches, model=None, **options):
    model = model or Parallel()
    return compare(model, model, batches, layers1="left", layers2="right", device="cpu", progress=False, **options)


@pytest.mark.parametrize("batch", [16, 64, 128])
def test_the_diagonal_is_one_at_any_size_of_batch(batch):
    """Dividing by the number of layers instead of batches gives 4, 1 and 0.5."""
    model = Parallel()
    result = compare(model, model, list(torch.randn(128, 16).split(batch)), device="cpu", progress=False)
    np.testing.assert_allclose(result.matrix.diagonal(), 1)


def test_every_batch_counts():
    """Overwriting the sum leaves the last batch alone."""
    parts = list(torch.randn(64, 16).split(16))
    others = [torch.randn(16, 16) for _ in range(3)]
    assert abs(similarity(parts).matrix.item() - similarity([*others, parts[3]]).matrix.item()) > 1e-3


def test_tokens_of_an_image_are_no_images():
    """(batch, tokens, width): the Gram matrix is batch x batch."""
    x = torch.randn(32, 16, 5)
    x[:, 8:] = x[:, :8] @ torch.linalg.qr(torch.randn(5, 5)).Q
    assert similarity([x]).matrix.item() == pytest.approx(1)
    shuffled = torch.cat([x[:, :8], x[torch.randperm(32), 8:]], 1)
    assert abs(similarity([shuffled]).matrix.item()) < 0.2


def test_maps_and_vectors_can_be_compared():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 5)

        def forward(self, x):
            return self.fc(self.conv(x).flatten(1))

    assert compare(*[Net()] * 2, [torch.randn(16, 3, 8, 8)], device="cpu").matrix.shape == (2, 2)


def test_debiased_is_debiased_and_not_clamped():
    """Independent wide features: biased near 1, debiased scattered around 0, below it as often as above."""
    values = [similarity([torch.randn(32, 16, 100)]).matrix.item() for _ in range(20)]
    biased = similarity([torch.randn(32, 16, 100)], estimator="biased").matrix.item()
    assert biased > 0.9
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 0.05


def test_nothing_is_differentiated_and_no_hook_stays():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    grads = []
    model[0].register_forward_hook(lambda module, args, output: grads.append(output.requires_grad))
    hooks = len(model[0]._forward_hooks)
    compare(model, model, [torch.randn(16, 8)] * 2, device="cpu", progress=False)
    assert not any(grads)
    assert len(model[0]._forward_hooks) == hooks


def test_a_second_loader_that_is_shorter_sets_the_number_of_batches():
    x = torch.randn(64, 16)
    long, short = DataLoader(x, 16), DataLoader(x[:32], 16)
    with pytest.warns(UserWarning, match="cut to the shorter"):
        result = compare(*[Parallel()] * 2, long, short, device="cpu", progress=False)
    assert result.n == 32
    np.testing.assert_allclose(result.matrix.diagonal(), 1)


def test_many_batches_are_summed_without_losing_digits():
    """Float32 sums of equal terms drift by far more than 1e-12; here the value is that of one batch."""
    x = torch.randn(16, 16)
    one, many = similarity([x], precision="exact"), similarity([x] * 500, precision="exact")
    assert many.matrix.item() == pytest.approx(one.matrix.item(), abs=1e-12)


def test_the_diagonal_of_a_gram_matrix_is_set_to_zero():
    """``K - torch.diag(K)`` takes the vector of diagonal entries off every row instead."""
    K = gram(torch.randn(32, 10, generator=torch.Generator().manual_seed(0)))

    def song(K):
        n, ones = 32, torch.ones(32, dtype=torch.float64)
        value = (K @ K).trace() + (ones @ K @ ones) ** 2 / ((n - 1) * (n - 2)) - 2 / (n - 2) * (ones @ K @ K @ ones)
        return value.item() / (n * (n - 3))

    assert hsic(K, K) == pytest.approx(song(K - torch.diag(K.diagonal())))
    assert abs(song(K - torch.diag(K)) - hsic(K, K)) > 0.05 * hsic(K, K)


def test_the_width_of_the_rbf_kernel_follows_the_data():
    """A fixed width of 1 on raw features turns the kernel into the identity: unrelated features get a biased 1."""
    x, y = torch.randn(2, 128, 64).double()
    assert cka(x, y, "rbf", "biased", sigma=0.7) > 0.999
    assert abs(cka(x, y, "rbf")) < 0.05


def test_a_residual_sum_in_place_does_not_change_the_layer_before():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch, self.end = nn.Linear(8, 8), nn.Identity()

        def forward(self, x):
            out = self.branch(x)
            out += 5 * x
            return self.end(out)

    model, x = Block(), torch.randn(64, 8)
    result = compare(model, model, [x], layers1="*", device="cpu", precision="exact")
    with torch.no_grad():
        branch = model.branch(x)
    assert result.matrix[0, 1] == pytest.approx(cka(branch, branch + 5 * x), abs=1e-5)
    assert result.matrix[0, 1] < 0.97
