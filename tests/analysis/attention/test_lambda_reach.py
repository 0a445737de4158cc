"""The weights give the layer's output; their distances and shares are those of known layers."""

import math

import numpy as np
import pytest
import torch

from utilities.analysis.attention.lambda_reach import LambdaReach, lambda_reach, reach_of_weights
from utilities.analysis.attention.lambda_weights import LambdaWeights, lambda_weights
from utilities.analysis.attention.places import pixel_distances, step_of_map
from utilities.lambda_layer import LambdaLayer
from utilities.resnet import resnet18
from utilities.zoo import create_model


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def trained_like(layer):
    """Give norms statistics and scales of their own, as training does."""
    for norm in (layer.norm_q, layer.norm_v):
        for values in (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data):
            values.uniform_(0.5, 1.5)
    return layer.double().eval()


@pytest.mark.parametrize(("du", "r", "stride", "size"), [(1, 5, 1, (6, 6)), (3, 23, 1, (5, 7)), (2, 3, 2, (8, 6))])
def test_the_weights_reproduce_the_layers_output(du, r, stride, size):
    torch.manual_seed(0)
    layer, x = trained_like(LambdaLayer(16, dk=4, du=du, Nh=2, r=r, stride=stride)), noise(3, 16, *size)
    with torch.no_grad():
        output = sum(lambda_weights(layer, x).outputs()).flatten(1, 2).unflatten(-1, size)
        torch.testing.assert_close(layer.pool(output), layer(x), rtol=1e-12, atol=1e-12)
        some = torch.tensor([3, 0, 7])
        few, all_of_them = lambda_weights(layer, x, some), lambda_weights(layer, x)
    for name in ("content", "position"):
        torch.testing.assert_close(getattr(few, name), getattr(all_of_them, name)[..., some, :])
    torch.testing.assert_close(few.bias, all_of_them.bias[..., some])


def test_against_loops_over_positions():
    torch.manual_seed(0)
    layer, x = trained_like(LambdaLayer(6, dk=2, du=2, Nh=3, r=3)), noise(1, 6, 3, 4)
    with torch.no_grad():
        q, k, _ = (part[0].flatten(1) for part in layer.conv_qkv(x).split((6, 4, 4), 1))
        q = layer.norm_q(q[None, :, :, None])[0, :, :, 0].unflatten(0, (3, 2))
        keys, found = k.unflatten(0, (2, 2)).softmax(-1), lambda_weights(layer, x)
    kernel = layer.lambda_conv.weight.detach()[:, :, 0]
    for h in range(3):
        for u in range(2):
            for n in range(12):
                for m in range(12):
                    down, across = m // 4 - n // 4, m % 4 - n % 4
                    near = abs(down) <= 1 and abs(across) <= 1
                    expected = float(q[h, :, n] @ kernel[:, u, 1 + down, 1 + across]) if near else 0.0
                    assert float(found.position[0, h, u, n, m]) == pytest.approx(expected)
                    assert float(found.content[0, h, u, n, m]) == pytest.approx(float(q[h, :, n] @ keys[u, :, m]))


def test_distances_of_known_weights():
    """Signs do not matter; with two depths, sizes add up."""
    distances = pixel_distances((1, 3), (4.0, 4.0))
    content = torch.zeros(1, 1, 2, 3, 3, dtype=torch.float64)
    content[0, 0, 0], content[0, 0, 1] = torch.eye(3), -torch.ones(3, 3)
    position = torch.eye(3, dtype=torch.float64).expand(1, 1, 2, 3, 3)
    weights = LambdaWeights(content, position, noise(1, 2, 5, 3), torch.zeros(1, 1, 3, dtype=torch.float64))
    found = reach_of_weights(weights, distances)[0, :, 0]
    # Queries at the ends see 0, 4, 8 pixels with weights of size 2, 1, 1; the middle one 4, 0, 4 with 1, 2, 1.
    assert found[0] == pytest.approx((12 / 4 + 8 / 4 + 12 / 4) / 3)
    assert found[1] == 0
    # Both: eye + eye = 2 in the first depth; in the second, 0 on the diagonal and -1 off it.
    assert found[2] == pytest.approx((12 / 4 + 8 / 4 + 12 / 4) / 3)
    assert found[3] + found[4] == pytest.approx(1)


def test_shares_add_up_and_are_one_of_the_only_part():
    torch.manual_seed(0)
    layer, x = trained_like(LambdaLayer(8, dk=4, Nh=2, r=3)), noise(2, 8, 4, 4)
    distances = pixel_distances((4, 4), (1.0, 1.0))
    with torch.no_grad():
        layer.lambda_conv.bias.zero_()
        both = reach_of_weights(lambda_weights(layer, x), distances)
        assert torch.allclose(both[:, 3] + both[:, 4], torch.ones(2, 2, dtype=torch.float64))
        layer.lambda_conv.weight.mul_(1e-300)
        content = reach_of_weights(lambda_weights(layer, x), distances)
    assert torch.allclose(content[:, 3], torch.ones(2, 2, dtype=torch.float64))
    assert torch.allclose(content[:, 4], torch.zeros(2, 2, dtype=torch.float64))
    assert torch.allclose(content[:, 0], content[:, 2])


def test_a_window_of_one_reaches_nowhere_and_one_of_three_to_its_neighbours():
    model = create_model("lambda_resnet26", 5, seed=0, r=1)
    assert (lambda_reach(model, [noise(2, 3, 16, 16).float()], device="cpu").position_distance == 0).all()
    model = create_model("lambda_resnet26", 5, seed=0, r=3)
    result = lambda_reach(model, [noise(2, 3, 16, 16).float()], device="cpu")
    steps = np.array([1, 1, 1, 2, 2, 4, 4, 8])  # strides of 2 pool after the layer
    assert (result.position_distance <= 2**0.5 * steps[:, None]).all()
    assert (result.position_distance > 0.5 * steps[:, None]).all()
    assert result.uniform_distance[0] == pytest.approx(result.uniform_distance[3], rel=0.02)


def test_batches_do_not_matter_and_queries_are_drawn_by_the_seed(tmp_path):
    model, x = create_model("lambda_resnet26", 5, seed=0), noise(5, 3, 16, 16).float()
    whole = lambda_reach(model, [x], device="cpu")
    parts = lambda_reach(model, [x[:2], x[2:]], device="cpu")
    np.testing.assert_allclose(whole.distance, parts.distance, rtol=1e-4)
    np.testing.assert_allclose(whole.content_share_stderr, parts.content_share_stderr, rtol=1e-2, atol=1e-6)
    some = [lambda_reach(model, [x], queries=20, seed=seed, device="cpu") for seed in (0, 0, 1)]
    assert np.array_equal(some[0].distance, some[1].distance)
    assert not np.array_equal(some[0].distance, some[2].distance)
    np.testing.assert_allclose(some[0].distance, whole.distance, rtol=0.25)
    assert model.training
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert LambdaReach.load(whole.save(tmp_path / "a")).to_frame().equals(whole.to_frame())


def test_the_step_is_the_product_of_strides_that_round_up():
    for size in (9, 16, 17, 31):
        for halvings in range(4):
            grid = size
            for _ in range(halvings):
                grid = math.ceil(grid / 2)
            assert step_of_map((size, size), (grid, grid)) == (2.0**halvings,) * 2


def test_models_without_lambda_layers_and_bad_options_are_refused():
    with pytest.raises(ValueError, match="no lambda layer"):
        lambda_reach(resnet18(), [noise(1, 3, 16, 16).float()], device="cpu")
    model = create_model("lambda_resnet26", 5, seed=0)
    with pytest.raises(ValueError, match="queries=0"):
        lambda_reach(model, [noise(1, 3, 16, 16).float()], queries=0)
    with pytest.raises(ValueError, match="several sizes"):
        lambda_reach(model, [noise(1, 3, s, s).float() for s in (16, 32)], device="cpu")
