"""Positions lie where the gradient of a symmetric network says they lie."""

import pytest
import torch
from timm.layers import create_conv2d
from torch import nn

from utilities.hooks.grid_centres import GridCentres


def ones(layer):
    if hasattr(layer, "weight"):
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
    return layer


def same(k, s):
    return create_conv2d(1, 1, k, stride=s, padding="same", bias=True)


NETWORKS = {
    "strided": [nn.Conv2d(1, 1, 3, 2, 1), nn.Conv2d(1, 1, 3, 2, 1), nn.AvgPool2d(3, 2, 1)],
    "patches": [nn.Conv2d(1, 1, 4, 4), nn.Conv2d(1, 1, 2, 2)],
    "no padding": [nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 5, 2)],
    "tensorflow": [same(3, 2), same(5, 2), same(3, 2)],
    "dilated": [nn.Conv2d(1, 1, 3, dilation=2), nn.Conv2d(1, 1, (3, 1), (2, 1))],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_each_position_is_the_middle_of_what_it_sees(name):
    model = nn.Sequential(*map(ones, NETWORKS[name]))
    x = torch.zeros(1, 1, 65, 48, requires_grad=True)
    centres = GridCentres((65, 48))
    with centres.watching(model):
        y = model(x)
    rows, columns = y.shape[2] // 2, y.shape[3] // 2  # far enough from the borders
    (gradient,) = torch.autograd.grad(y[0, 0, rows, columns], x)
    mass = gradient[0, 0] / gradient.sum()
    assert centres.along(0, y.shape[2])[rows] == pytest.approx((mass.sum(1) * torch.arange(65)).sum().item(), abs=1e-4)
    assert centres.along(1, y.shape[3])[columns] == pytest.approx(
        (mass.sum(0) * torch.arange(48)).sum().item(), abs=1e-4
    )
    assert not any(module._forward_hooks for module in model)


def test_unknown_grids_are_equal_cells_and_of_four_middles_the_lower_right_is_taken():
    centres = GridCentres((224, 224))
    assert centres.middle((16, 16)) == ((8, 8), (8 * 14 + 6.5,) * 2)
    assert centres.middle((7, 7)) == ((3, 3), (111.5, 111.5))


def test_a_shifted_grid_is_read_where_it_is_closest_to_the_middle():
    """Five layers of stride 2 put positions 3 and 4 of 7 at pixels 96 and 128 of 224; the middle is at 111.5."""
    model = nn.Sequential(*(nn.Conv2d(1, 1, 3, 2, 1) for _ in range(5)))
    centres = GridCentres((224, 224))
    with centres.watching(model), torch.no_grad():
        model(torch.zeros(1, 1, 224, 224))
    assert centres.middle((7, 7)) == ((3, 3), (96.0, 96.0))
