"""Trajectories in polar coordinates, and the random walk beside them."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from utilities.analysis.loss.trajectory import Trajectory, random_walk, trajectory
from utilities.plots.loss.trajectory import plot_trajectories


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def model(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def path_of(seeds):
    return {epoch: model(seed) for epoch, seed in enumerate(seeds)}


def test_it_starts_at_one_and_ends_at_zero():
    result = trajectory(path_of(range(4)))
    for radius, angle in ((result.radius, result.angle), (result.walk_radius, result.walk_angle)):
        assert (radius[0], angle[0]) == (1.0, pytest.approx(0.0, abs=1e-7))  # arccos of 1 less rounding
        assert radius[-1] == 0.0
        assert np.isnan(angle).tolist() == [False, False, False, True]


def test_it_is_what_flat_vectors_give():
    models = path_of(range(5))
    vectors = np.array([torch.cat([p.flatten() for p in m.parameters()]).detach().double().numpy()
                        for m in models.values()])  # fmt: skip
    to_go = vectors - vectors[-1]
    result = trajectory(models)
    lengths = np.linalg.norm(to_go, axis=1)
    np.testing.assert_allclose(result.radius, lengths / lengths[0], rtol=1e-12)
    cosines = to_go[:-1] @ to_go[0] / lengths[:-1] / lengths[0]
    np.testing.assert_allclose(np.cos(result.angle[:-1]), cosines, atol=1e-12)
    steps = np.linalg.norm(np.diff(vectors, axis=0), axis=1)
    np.testing.assert_allclose(result.provenance["steps"], steps, rtol=1e-12)
    assert result.parameters == vectors.shape[1]


def test_a_straight_line_has_no_angle_and_a_linear_radius():
    states = {10 * t: {"a": torch.full((3, 2), 4.0 - t).double(), "b": torch.tensor([8.0 - 2 * t])} for t in range(5)}
    result = trajectory(states)
    np.testing.assert_allclose(result.radius, [1, 0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(result.angle[:-1], 0, atol=1e-7)
    assert result.epochs.tolist() == [0, 10, 20, 30, 40]


def test_statistics_and_counters_are_no_weights():
    """A state gives what the model gives, whatever its batch norms have seen."""
    models = path_of(range(3))
    expected = trajectory(models)
    with torch.no_grad():
        for epoch, one in models.items():
            one[1].running_mean.fill_(100.0 * epoch)
            one[1].num_batches_tracked.fill_(1000 * epoch)
    for snapshots in (models, {epoch: one.state_dict() for epoch, one in models.items()}):
        result = trajectory(snapshots)
        assert np.array_equal(result.radius, expected.radius)
        assert np.array_equal(result.angle, expected.angle, equal_nan=True)
        assert result.parameters == expected.parameters


def test_the_order_is_that_of_the_epochs():
    models = path_of(range(4))
    shuffled = {epoch: models[epoch] for epoch in (2, 0, 3, 1)}
    assert np.array_equal(trajectory(shuffled).radius, trajectory(models).radius)


def test_the_random_walk_is_reproduced_by_its_seed():
    steps = [1.0, 2.0, 0.5]
    one, again, other = (random_walk(steps, 50, seed) for seed in (0, 0, 1))
    assert np.array_equal(one[0], again[0])
    assert np.array_equal(one[1], again[1], equal_nan=True)
    assert not np.array_equal(one[0], other[0])
    result = trajectory(path_of(range(3)), random_walk_seed=4)
    walk = random_walk(result.provenance["steps"], result.parameters, 4)
    assert np.array_equal(result.walk_radius, walk[0])
    assert np.array_equal(result.walk_angle, walk[1], equal_nan=True)


def test_steps_of_a_walk_have_the_lengths_given():
    """On a line the walk ends 4 or 2 from its start, and a last step of length 1 is still to go."""
    radii = {round(random_walk([3.0, 1.0], 1, seed)[0][1], 9) for seed in range(20)}
    assert radii == {0.25, 0.5}


def test_a_walk_of_many_dimensions_has_the_angles_of_geometry():
    """Orthogonal steps: r^2 is the share of the squares to come, the angle arccos(r). Errors are near 1/sqrt(10^6)."""
    steps = np.array([3.0, 2.0, 2.0, 1.0])
    radius, angle = random_walk(steps, 1_000_000)
    share = np.append(np.cumsum(steps[::-1] ** 2)[::-1], 0) / (steps**2).sum()
    np.testing.assert_allclose(radius, np.sqrt(share), atol=5e-3)
    np.testing.assert_allclose(angle[:-1], np.arccos(np.sqrt(share[:-1])), atol=5e-3)
    assert np.degrees(random_walk([1, 1], 1_000_000)[1][1]) == pytest.approx(45, abs=0.3)


def test_it_comes_back_from_disk_and_as_a_table(tmp_path):
    result = trajectory(path_of(range(3)), provenance={"model": "cnn"})
    loaded = Trajectory.load(result.save(tmp_path / "trajectory"))
    assert loaded.provenance == result.provenance
    assert loaded.provenance["model"] == "cnn"
    np.testing.assert_array_equal(loaded.to_frame()["degrees"], np.degrees(result.angle))


def test_the_drawing_shows_path_and_walk_and_the_caveat():
    result = trajectory(path_of(range(4)))
    figure = plot_trajectories({"vit": result})
    path, walk = figure.axes[0].lines
    np.testing.assert_array_equal(path.get_ydata(), result.radius)
    np.testing.assert_array_equal(path.get_xdata()[:-1], result.angle[:-1])
    np.testing.assert_array_equal(walk.get_ydata(), result.walk_radius)
    assert "withdrew" in figure.caption
    assert "random walk" in figure.caption


def test_bad_input():
    with pytest.raises(ValueError, match="three or more snapshots make a trajectory, got 2"):
        trajectory(path_of(range(2)))
    with pytest.raises(ValueError, match=r"parameter '0.weight' has the shape \(4, 3, 3, 3\) in epoch 0 and None"):
        trajectory({**path_of(range(3)), 3: nn.Linear(2, 2)})
    with pytest.raises(ValueError, match="the last weights are the first"):
        trajectory(path_of([0, 1, 0]))
