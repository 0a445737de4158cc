"""Filter-normalised directions, and the L2 penalty along them."""

import numpy as np
import pytest
import torch
from torch import nn

from utilities.analysis.loss.directions import (
    UNTOUCHED,
    Directions,
    filter_norms,
    inner_products,
    l2_surface,
    moving,
    random_directions,
)
from utilities.zoo import create_model
from utilities.zoo.vit import vit_tiny_patch2_16


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5))


def both(model, **options):
    directions = random_directions(model, **options)
    return directions.tensors("first"), directions.tensors("second")


@pytest.mark.parametrize("orthogonal", [False, True])
def test_every_filter_of_a_direction_is_as_long_as_the_models(orthogonal):
    model = create_model("lambda_resnet26", 10, seed=0)  # convolutions of two and three dimensions, and linear layers
    for direction in both(model, seed=3, orthogonal=orthogonal):
        for name, weights in model.named_parameters():
            if weights.ndim >= 2:
                norms = filter_norms(weights.detach())
                single = orthogonal and weights[0].numel() == 1
                # float32 holds 7 digits
                torch.testing.assert_close(filter_norms(direction[name]), norms * (not single), rtol=2e-6, atol=1e-9)


def test_norms_over_the_first_dimension_are_another_thing():
    """As they are often computed: one norm for each input weight, over all filters."""
    weights = torch.randn(8, 4, 3, 3)
    direction = torch.randn(8, 4, 3, 3)
    wrong = direction * weights.norm(dim=0, keepdim=True) / direction.norm(dim=0, keepdim=True)
    ratio = filter_norms(wrong) / filter_norms(weights)
    assert (ratio - 1).abs().max() > 0.05
    model = nn.Conv2d(4, 8, 3, bias=False)
    model.weight.data = weights
    right = both(model)[0]["weight"]
    torch.testing.assert_close(filter_norms(right) / filter_norms(weights), torch.ones(8).double(), rtol=1e-6, atol=0)


def test_vectors_norms_and_embeddings_stay():
    model = vit_tiny_patch2_16(num_classes=10, reg_tokens=2)
    first, second = both(nn.ModuleList([model, network(), create_model("swin_tiny_patch2_16", 10)]))
    still = [name for name in first if not first[name].any()]
    assert still == [name for name in second if not second[name].any()]
    for part in ("cls_token", "reg_token", "pos_embed", "relative_position_bias_table"):
        assert any(name.endswith(part) for name in still)
    shapes = {name: p.ndim for name, p in first.items()}
    assert all(name in still for name, ndim in shapes.items() if ndim < 2)
    assert not [name for name in still if name.endswith("weight") and shapes[name] > 1]


@pytest.mark.parametrize("name", ["class_token", "encoder.pos_embedding", "dist_token", "h.rel_pos_h", "x.mask_token"])
def test_names_of_other_libraries_are_known(name):
    model = nn.Module()
    model.register_parameter("weight", nn.Parameter(torch.randn(2, 2)))
    flat = name.replace(".", "_")
    model.register_parameter(flat, nn.Parameter(torch.randn(1, 3, 4)))
    assert random_directions(model).untouched == [flat]
    assert random_directions(model, untouched=()).untouched == []


def test_scales_in_disguise_stay_and_a_single_row_moves():
    model = nn.Linear(5, 1, bias=False)
    model.register_parameter("temperature", nn.Parameter(torch.randn(3, 1, 1)))
    assert random_directions(model).untouched == ["temperature"]


def test_a_zero_filter_has_a_zero_direction():
    model = network()
    model[0].weight.data[1] = 0
    for orthogonal in (False, True):
        for direction in both(model, orthogonal=orthogonal):
            assert not direction["0.weight"][1].any()
            assert direction["0.weight"].isfinite().all()


def test_the_seed_decides():
    model = network()
    one, again, other = (random_directions(model, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.first, again.first)
    assert np.array_equal(one.second, again.second)
    assert not np.array_equal(one.first, other.first)
    assert not np.array_equal(one.first, one.second)
    state = torch.get_rng_state()
    random_directions(model)
    assert torch.equal(state, torch.get_rng_state())


def test_orthogonal_directions_are_so_in_each_filter():
    first, second = both(network().double(), orthogonal=True)
    for name in ("0.weight", "4.weight"):
        dots = (first[name].flatten(1) * second[name].flatten(1)).sum(1)
        sizes = filter_norms(first[name]) * filter_norms(second[name])
        assert (dots / sizes).abs().max() < 1e-12  # float64, some 30 terms


def test_they_come_back_from_disk(tmp_path):
    model = network()
    directions = random_directions(model, seed=5)
    loaded = Directions.load(directions.save(tmp_path / "directions"))
    assert loaded.seed == 5
    for which in ("first", "second"):
        for name, tensor in directions.tensors(which).items():
            assert torch.equal(tensor, loaded.tensors(which)[name])
    loaded.check(model)
    frame = loaded.to_frame().set_index("parameter")
    assert frame.loc["0.weight", "norm1"] == pytest.approx(model[0].weight.norm().item(), rel=1e-6)


def test_the_penalty_is_what_the_moved_weights_have():
    model = network().double()
    directions = random_directions(model, seed=1)
    products = inner_products(model, directions.tensors("first"), directions.tensors("second"))
    x = np.linspace(-1, 1, 5)
    surface = l2_surface(products, x, x[:3], weight_decay=0.3)
    with moving(model, directions) as moved:
        for i, b in enumerate(x[:3]):
            for j, a in enumerate(x):
                moved.to(a, b)
                direct = 0.15 * sum((p**2).sum().item() for p in model.parameters())
                assert surface[i, j] == pytest.approx(direct, rel=1e-12)


def test_a_penalty_without_vectors_is_lower_by_a_constant():
    model = network()
    directions = random_directions(model)
    tensors = directions.tensors("first"), directions.tensors("second")
    x = np.linspace(-1, 1, 5)
    all_of_it, matrices = (l2_surface(inner_products(model, *tensors, vectors=v), x, x, 2.0) for v in (True, False))
    vectors = sum((p.detach() ** 2).sum().item() for p in model.parameters() if p.ndim < 2)
    np.testing.assert_allclose(all_of_it - matrices, vectors, rtol=1e-6)


def test_the_model_comes_back_bit_for_bit_also_after_an_error():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def move_and_fail():
        with moving(model, random_directions(model)) as moved:
            moved.to(0.3, -0.7)
            assert not torch.equal(model[0].weight, before["0.weight"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        move_and_fail()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_shared_parameters_move_once():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    directions = random_directions(model)
    assert directions.names == ["0.weight"]
    expected = model[0].weight + directions.tensors("first")["0.weight"]
    with moving(model, directions) as moved:
        moved.to(1.0, 0.0)
        torch.testing.assert_close(model[1].weight, expected, rtol=0, atol=0)


def test_bad_input():
    with pytest.raises(ValueError, match="no parameter of BatchNorm2d has filters"):
        random_directions(nn.BatchNorm2d(3))
    model = nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.Conv2d(3, 2, 1))
    with pytest.raises(ValueError, match=r"0.weight is a transposed convolution's"):
        random_directions(model)
    assert "0.weight" in random_directions(model, untouched=(*UNTOUCHED, "0.weight")).untouched
    with pytest.raises(ValueError, match=r"of another model: parameter '0.weight' has the shape \[2, 3\]"):
        random_directions(nn.Sequential(nn.Linear(4, 2))).check(nn.Sequential(nn.Linear(3, 2)))
