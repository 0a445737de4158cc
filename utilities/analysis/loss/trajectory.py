"""The path of a model's weights through training in polar coordinates, compared with a random walk.

An early version of Park & Kim 2022 (https://arxiv.org/abs/2202.06709v1, Fig. 1b) drew it to show how directly models
reach their final weights. The author withdrew the figure and asks readers to ignore it, because it is misleading and
hard to reproduce (https://github.com/xxxnell/how-do-vits-work/issues/13). The angles follow from geometry alone. In
many dimensions the steps of a random walk are orthogonal. Halfway along its path, measured in squares, the walk is at
45 degrees. Read the picture only in comparison with this walk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from utilities.datasets.loaders import seeded_generator
from utilities.results.result import Result
from utilities.utils import versions

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # batch norms' entries in a state, not trained
Snapshot = nn.Module | Mapping[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Trajectory(Result):
    """Polar coordinates of the weights during training, centred at the last ones.

    The first weights are at (1, 0), the last at r = 0.

    Attributes:
        epochs: Epoch of each snapshot, (snapshots,).
        radius: Distance from the last weights, divided by that of the first weights, (snapshots,).
        angle: Angle in radians between the way still to go and the way to go at the start, (snapshots,). NaN for the
            last snapshot.
        walk_radius: Radii of a random walk in as many dimensions and with steps of the same lengths, (snapshots,).
        walk_angle: Angles of that walk in radians, (snapshots,).
        parameters: Number of dimensions.
        provenance: Lengths of the steps, the random walk's seed, and facts about the model.

    Example:
        >>> states = {epoch: {"w": torch.tensor([2.0 - epoch, 0.0])} for epoch in (0, 1, 2)}
        >>> trajectory(states).to_frame()[["epoch", "radius", "degrees"]].values.tolist()
        [[0.0, 1.0, 0.0], [1.0, 0.5, 0.0], [2.0, 0.0, nan]]
    """

    epochs: np.ndarray
    radius: np.ndarray
    angle: np.ndarray
    walk_radius: np.ndarray
    walk_angle: np.ndarray
    parameters: int
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """Tabulate ``epoch, radius, degrees, walk_radius, walk_degrees``, one row per snapshot."""
        degrees = {"degrees": np.degrees(self.angle), "walk_degrees": np.degrees(self.walk_angle)}
        columns = {"epoch": self.epochs, "radius": self.radius, "walk_radius": self.walk_radius, **degrees}
        return pd.DataFrame(columns)[["epoch", "radius", "degrees", "walk_radius", "walk_degrees"]]


def trajectory(
    snapshots: Mapping[int, Snapshot], *, random_walk_seed: int = 0, provenance: Mapping[str, Any] | None = None
) -> Trajectory:
    r"""Compute the polar coordinates of snapshots of training, and those of a random walk with the same step lengths.

    For weights w_t with final weights w_T, the way still to go is v_t = w_t - w_T, and the coordinates are

    .. math:: r_t = |v_t| / |v_0|, \quad \theta_t = \arccos \frac{v_t \cdot v_0}{|v_t| |v_0|}

    **The author of the figure withdrew it** as misleading and hard to reproduce (see the module). By geometry alone, a
    random walk in many dimensions has the angle arccos(r), which is 45 to 60 degrees from radius 0.7 to 0.5. Only
    deviations from the walk tell something about training.

    Args:
        snapshots: Epoch -> model or its state, such as `utilities.study.study.Study.snapshots` returns. Only parameters
            count. In a state these are all floating-point tensors except the statistics of batch norms.
        random_walk_seed: Seed of the walk. Between every two snapshots the walk takes a step in a random direction, as
            long as the model's step.
        provenance: Facts about the model to keep with the result.

    Returns:
        The coordinates, in the order of the epochs.

    Raises:
        ValueError: If there are fewer than three snapshots, they belong to different models, weights are not finite, or
            the last weights equal the first.

    Example:
        >>> states = {0: {"w": torch.tensor([1.0, 0.0])}, 1: {"w": torch.tensor([0.0, 1.0])}, 2: {"w": torch.zeros(2)}}
        >>> path = trajectory(states)
        >>> path.radius.tolist(), np.degrees(path.angle[:2]).tolist()
        ([1.0, 1.0, 0.0], [0.0, 90.0])
    """
    if len(snapshots) < 3:
        raise ValueError(f"three or more snapshots make a trajectory, got {len(snapshots)}; save them more often")
    epochs = sorted(snapshots)
    states = [_parameters(snapshots[epoch]) for epoch in epochs]
    _refuse_others(epochs, states)
    _refuse_missing(epochs, states)
    steps = np.array([_distance(one, two) for one, two in pairwise(states)])
    radius, angle = _polar(states)
    count = sum(value.numel() for value in states[0].values())
    walk_radius, walk_angle = random_walk(steps, count, random_walk_seed)
    facts = {**(provenance or {}), "random_walk_seed": random_walk_seed, "steps": steps.tolist()}
    facts["versions"] = versions()
    return Trajectory(np.array(epochs), radius, angle, walk_radius, walk_angle, count, facts)


def random_walk(steps: Sequence[float] | np.ndarray, dimensions: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Compute the polar coordinates of a walk whose steps have given lengths and random directions.

    Args:
        steps: Length of each step.
        dimensions: Number of dimensions of the space.
        seed: Seed of the directions.

    Returns:
        Radii and angles in radians, one more than there are steps. The last angle is NaN. In many dimensions the angle
        approaches arccos(r_t), and r_t^2 the sum of squares of the remaining steps over that of all steps.

    Example:
        >>> radius, angle = random_walk([1.0, 1.0], dimensions=100_000)
        >>> radius.round(2).tolist(), np.degrees(angle[:2]).round().tolist()
        ([1.0, 0.71, 0.0], [0.0, 45.0])
    """
    end = torch.zeros(dimensions, dtype=torch.float64)
    for step in _walk(steps, dimensions, seed):
        end += step
    to_go, start, radii, cosines = -end, -end, [1.0], [1.0]
    for step in _walk(steps, dimensions, seed):  # drawn again, because all positions would not fit into memory
        to_go = to_go + step
        radii.append((to_go.norm() / start.norm()).item())
        cosines.append((torch.dot(to_go, start) / (to_go.norm() * start.norm())).item())
    return _ended(np.array(radii), np.array(cosines))


def _walk(steps: Sequence[float] | np.ndarray, dimensions: int, seed: int) -> Iterator[torch.Tensor]:
    for index, length in enumerate(steps):
        direction = torch.randn(dimensions, generator=seeded_generator(seed, index)).double()
        yield direction * (length / direction.norm())


def _polar(states: Sequence[Mapping[str, torch.Tensor]]) -> tuple[np.ndarray, np.ndarray]:
    """Compute radii and angles of states about the last one."""
    start, last, radii, cosines = states[0], states[-1], [], []
    whole = _distance(start, last)
    if whole == 0:
        raise ValueError("the last weights are the first: there is no way between them")
    for state in states:
        left = _distance(state, last)
        product = sum(
            torch.dot(_flat(state[k]) - _flat(last[k]), _flat(start[k]) - _flat(last[k])).item() for k in last
        )
        radii.append(left / whole)
        cosines.append(product / (left * whole) if left else np.nan)
    return _ended(np.array(radii), np.array(cosines))


def _ended(radii: np.ndarray, cosines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Set the last radius to exactly 0 and its angle to NaN, and clip cosines that rounding took beyond 1."""
    radii[-1], cosines[-1] = 0.0, np.nan
    return radii, np.arccos(np.clip(cosines, -1.0, 1.0))


def _distance(one: Mapping[str, torch.Tensor], two: Mapping[str, torch.Tensor]) -> float:
    return float(np.sqrt(sum((_flat(one[name]) - _flat(two[name])).square().sum().item() for name in two)))


def _flat(value: torch.Tensor) -> torch.Tensor:
    return value.detach().cpu().double().flatten()


def _parameters(snapshot: Snapshot) -> dict[str, torch.Tensor]:
    """Return the trained parameters by name."""
    if isinstance(snapshot, nn.Module):
        return dict(snapshot.named_parameters())
    trained = {name: value for name, value in snapshot.items() if not name.endswith(STATISTICS)}
    return {name: value for name, value in trained.items() if value.is_floating_point()}


def _refuse_missing(epochs: Sequence[int], states: Sequence[Mapping[str, torch.Tensor]]) -> None:
    for epoch, state in zip(epochs, states, strict=True):
        for name, value in state.items():
            if not value.isfinite().all():
                raise ValueError(
                    f"parameter {name!r} holds NaN or infinity in epoch {epoch}; the training has diverged by then: "
                    "leave out the snapshots from there on"
                )


def _refuse_others(epochs: Sequence[int], states: Sequence[Mapping[str, torch.Tensor]]) -> None:
    shapes = [{name: tuple(value.shape) for name, value in state.items()} for state in states]
    for epoch, own in zip(epochs, shapes, strict=True):
        for name in [*shapes[0], *own]:
            if own.get(name) != shapes[0].get(name):
                raise ValueError(
                    f"the snapshots are of different models: parameter {name!r} has the shape {shapes[0].get(name)} in "
                    f"epoch {epochs[0]} and {own.get(name)} in epoch {epoch}"
                )
