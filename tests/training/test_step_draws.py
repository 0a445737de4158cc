"""What is dropped by chance belongs to an image's place in the whole batch, however the batch is divided."""

import pytest
import torch
from timm.layers import DropPath
from torch import nn
from torchvision.ops import StochasticDepth

from utilities.training.step_draws import StepDraws, drops_at_random


class RandomPath(nn.Module):
    """Stochastic depth as the models of Hugging Face draw it."""

    def forward(self, x):
        return x / 0.7 * (0.7 + torch.rand((len(x), 1, 1), dtype=x.dtype, device=x.device)).floor_()


LAYERS = [nn.Dropout(0.3), nn.Dropout(0.3, inplace=True), DropPath(0.3), StochasticDepth(0.3, "row"), RandomPath()]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_parts_of_a_batch_drop_what_the_whole_batch_does(layer):
    """Two layers in turn drop different things, another step others, and a share of 0.3 on average."""
    images = torch.ones(2000, 4, 2)

    def run(rows, step=0):
        with StepDraws((0, 1, step), rows, 2000):
            return layer(images[rows].clone()), layer(images[rows].clone())

    first, second = run(list(range(2000)))
    rows = [3, 4, 1996, 11]
    for part, whole in zip(run(rows), (first, second), strict=True):
        assert torch.equal(part, whole[rows])
    assert not torch.equal(first, second)
    assert not torch.equal(first, run(list(range(2000)), step=1)[0])
    kept = (first != 0).double().mean()
    assert abs(kept - 0.7) < 0.05  # of 2,000 paths or more: five standard errors
    torch.testing.assert_close(first.max(), torch.tensor(1 / 0.7))


def test_nothing_else_is_changed():
    """Layers that rest, and draws that name their generator, are as outside."""
    images, generator = torch.randn(4, 3), torch.Generator().manual_seed(0)
    with StepDraws((0,), [0, 1, 2, 3], 4):
        assert torch.equal(nn.Dropout(0.5).eval()(images), images)
        assert torch.equal(nn.Dropout(0.0)(images), images)
        inside = torch.empty(4).bernoulli_(0.5, generator=generator)
    assert torch.equal(inside, torch.empty(4).bernoulli_(0.5, generator=generator.manual_seed(0)))
    assert [drops_at_random(one) for one in (DropPath(0.1), StochasticDepth(0.1, "row"), nn.ReLU())] == [
        True,
        True,
        False,
    ]
