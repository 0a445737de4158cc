"""Attention limited to a neighbourhood."""

import pytest
import torch

from utilities.analysis.attention.eager import attention_matrices
from utilities.hooks import blocks
from utilities.zoo import create_model
from utilities.zoo.local_vit import NeighbourhoodAttention, local_vit, neighbours


def weights_of(layer, x):
    seen = []
    with torch.no_grad(), attention_matrices({"layer": layer}, {"layer": seen.append}):
        layer(x)
    return seen[0]


@pytest.mark.parametrize(("reach", "inside"), [(3, (-1, 1)), (5, (-2, 2)), (8, (-3, 4))])
@pytest.mark.parametrize("shape", ["square", "row", "column"])
def test_neighbours_by_explicit_loops(reach, inside, shape):
    rows, columns = 5, 7
    near = neighbours((rows, columns), reach, shape).view(rows, columns, rows, columns)
    low, high = inside
    for y in range(rows):
        for x in range(columns):
            for v in range(rows):
                for u in range(columns):
                    down = v == y if shape == "row" else low <= v - y <= high
                    across = u == x if shape == "column" else low <= u - x <= high
                    assert near[y, x, v, u] == (down and across)


def test_a_change_out_of_reach_changes_nothing_and_one_in_reach_does():
    layer = NeighbourhoodAttention(8, 2).limit((1, 9), 3).eval()
    x = torch.randn(1, 9, 8)
    changed = x.clone()
    changed[:, 5] += 1
    with torch.no_grad():
        same = (layer(x) == layer(changed)).all(-1)[0]
    assert same.tolist() == [True, True, True, True, False, False, False, True, True]


def test_reach_over_the_whole_grid_is_global_attention():
    local = local_vit("16", 5, reach=16).eval()
    usual = create_model("vit_tiny_patch2_16", 5, class_token=False, global_pool="avg").eval()
    usual.load_state_dict(local.state_dict())
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(local(images), usual(images), atol=1e-6)


def test_receptive_field_of_one_block():
    """A 3x3 neighbourhood of 2x2 patches: pixels further than the next patch have no gradient."""
    model = local_vit("16", 5, reach=3, depth=1).eval()
    images = torch.randn(1, 3, 16, 16, requires_grad=True)
    tokens = model.forward_features(images)
    tokens[0, 0].sum().backward()  # the upper left token
    reached = images.grad[0].abs().sum(0) > 0
    assert reached[:4, :4].all()
    assert not reached[4:].any()
    assert not reached[:, 4:].any()


def test_they_are_in_the_zoo_with_known_blocks_and_one_state_dict():
    images = torch.randn(2, 3, 16, 16)
    models = [create_model(f"vit_tiny_{form}_patch2_16", 5, seed=0).eval() for form in ("local3", "local8", "row5")]
    for model in models:
        blocks(model).check(images)
        assert model.state_dict().keys() == models[0].state_dict().keys()
    assert not torch.allclose(models[0](images), models[1](images))
    assert create_model("vit_tiny_local5_patch2_32", 5)(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="square, row, column"):
        neighbours((2, 2), 3, "cross")
    with pytest.raises(ValueError, match="reach=0"):
        local_vit("16", 5, reach=0)
    with pytest.raises(ValueError, match="mask of its own"):
        NeighbourhoodAttention(8, 2).limit((1, 4), 3)(torch.zeros(1, 4, 8), is_causal=True)


def test_attention_maps_respect_the_neighbourhood():
    layer = NeighbourhoodAttention(8, 2).limit((1, 4), 3).eval()
    weights = weights_of(layer, torch.randn(1, 4, 8))
    assert (weights[..., ~layer.near] == 0).all()
    assert torch.allclose(weights.sum(-1), torch.ones(1, 2, 4))
