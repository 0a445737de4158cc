"""The whole spectrum of the Hessian of the loss over many images, by stochastic Lanczos quadrature.

The method is that of Ghorbani et al. 2019 (https://arxiv.org/abs/1901.10159). Starting from a random vector, m steps of
Lanczos give m nodes and weights. They represent the density of all eigenvalues in the sense of Gauss quadrature. Both
ends of the spectrum converge first. The part between them is resolved only as finely as the nodes. Every step makes the
new vector orthogonal to all earlier ones; without this, extreme eigenvalues appear several times.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from utilities.analysis.loss.curvature import Objective, has_batch_norm
from utilities.analysis.loss.lanczos import lanczos, quadrature
from utilities.analysis.loss.mini_batches import SeededMixFunction, check_targets, image_facts
from utilities.analysis.loss.repeated_passes import RepeatedPasses
from utilities.datasets.loaders import seeded_generator
from utilities.datasets.naming import known_facts
from utilities.hooks.calls.options import check_number, check_options, check_whole
from utilities.hooks.calls.sharing import adding_up
from utilities.hooks.calls.weights import check_weights
from utilities.results.result import Result
from utilities.results.statistics import jackknife
from utilities.utils import versions

POINTS = 1024  # minimum number of points of the density's grid
PER_WIDTH = 4  # minimum number of points per standard deviation of the Gaussians
REACH = 5  # standard deviations by which the grid extends beyond the outermost nodes
ROUNDING = 1e-6  # in the outcome of sums of float32, as a share of the largest value


@dataclasses.dataclass(frozen=True)
class SpectralDensity(Result):
    """The density of all eigenvalues of a Hessian.

    Attributes:
        nodes: Nodes in ascending order, shape (vectors, steps); 0 with weight 0 where a Krylov space ended early.
        weights: Share of eigenvalues that each node represents, shape (vectors, steps); sums to 1 for each vector.
        grid: Points at which the density is evaluated, shape (points,).
        density: Density per unit of the eigenvalue, shape (points,). It is the mean over the vectors of Gaussians about
            the nodes, and integrates to 1.
        width: Standard deviation of the Gaussians.
        n_parameters: Total number of eigenvalues.
        provenance: Model, images and all options.

    Example:
        >>> nodes, weights, grid = np.array([[-1.0, 3.0]]), np.array([[0.25, 0.75]]), np.zeros(1)
        >>> density = SpectralDensity(nodes, weights, grid, grid, width=0.1, n_parameters=4)
        >>> density.trace[0], density.negative_mass[0], density.range
        (8.0, 0.25, (-1.0, 3.0))
    """

    nodes: np.ndarray
    weights: np.ndarray
    grid: np.ndarray
    density: np.ndarray
    width: float
    n_parameters: int
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def trace(self) -> tuple[float, float]:
        """Sum of all eigenvalues, and its standard error over the random vectors; NaN for a single vector."""
        return jackknife(self.n_parameters * (self.nodes * self.weights).sum(1), np.mean)

    @property
    def negative_mass(self) -> tuple[float, float]:
        """Share of all eigenvalues that nodes below 0 represent, and its standard error over the random vectors.

        Nodes count from `ROUNDING` of the largest one: many eigenvalues are 0, and rounding, which differs between
        machines, puts their nodes on either side of it.
        """
        below = self.nodes < -ROUNDING * np.abs(self.nodes[self.weights > 0]).max()
        return jackknife((self.weights * below).sum(1), np.mean)

    @property
    def range(self) -> tuple[float, float]:
        """Outermost nodes, which lie within the range of the eigenvalues."""
        there = self.nodes[self.weights > 0]
        return float(there.min()), float(there.max())

    def to_frame(self) -> pd.DataFrame:
        """Tabulate the nodes, with columns ``vector, node, weight``. Nodes without weight are left out."""
        vector = np.repeat(np.arange(len(self.nodes)), self.nodes.shape[1])
        table = pd.DataFrame({"vector": vector, "node": self.nodes.ravel(), "weight": self.weights.ravel()})
        return table[table.weight > 0].reset_index(drop=True)


def smoothed(nodes: np.ndarray, weights: np.ndarray, grid: np.ndarray, width: float) -> np.ndarray:
    """Sum Gaussians centred at the nodes, each with its node's weight as area.

    Args:
        nodes: Nodes, in any shape.
        weights: Weights, in the same shape.
        grid: Points at which the sum is evaluated, shape (points,).
        width: Standard deviation of the Gaussians.

    Example:
        >>> grid = np.linspace(-5, 5, 101)
        >>> density = smoothed(np.array([-1.0, 1.0]), np.array([0.5, 0.5]), grid, 0.5)
        >>> round(float(density.sum()) * 0.1, 6)
        1.0
    """
    z = (grid[:, None] - nodes.ravel()) / width
    return np.exp(-(z**2) / 2) @ weights.ravel() / (width * np.sqrt(2 * np.pi))


def spectral_density(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    n_vectors: int = 2,
    steps: int = 40,
    width: float | None = None,
    mix: SeededMixFunction | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
    **objective: Any,
) -> SpectralDensity:
    """Estimate the density of all Hessian eigenvalues of the mean loss over all images of a loader.

    Every product of Hessian and vector is a pass over the loader, in which each batch is weighted by its number of
    images. The result does not depend on the batch size, except in mode ``"train"``, where each batch has its own
    statistics.

    Args:
        model: See `utilities.analysis.loss.hessian.hessian_spectra`.
        loader: Yields the same images with labels in every pass. A loader made by `utilities.datasets.make_loader` is
            held at its epoch, so that augmented images stay the same.
        n_vectors: Number of random vectors. Errors are over these.
        steps: Lanczos steps from each vector. As many vectors are held at once, at 4 bytes per parameter in float32.
        width: Standard deviation of the Gaussians about the nodes; None is 1% of the range of the nodes.
        mix: See `utilities.analysis.loss.hessian.hessian_spectra`. It is called on each batch of the loader.
        seed: Seed of the vectors and of ``mix``.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts about model and images to keep with the result.
        **objective: See `utilities.analysis.loss.hessian.Objective`.

    Returns:
        The density.

    Raises:
        ValueError: If an option is out of range, labels are missing or not classes of the model, or the images change
            from pass to pass. In mode ``"train"`` or with ``mix``, also if the batches change.
        FloatingPointError: If the loss has no finite second derivatives.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> images = torch.rand(8, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> density = spectral_density(model, [(images, torch.tensor([0, 1] * 4))], steps=5, device="cpu")
        >>> density.n_parameters, bool(density.nodes.min() > -1e-6)  # the loss of a linear classifier is convex
        (10, True)
    """
    check_options(spectral_density, objective, Objective)
    goal = Objective(**objective)
    check_whole("n_vectors", n_vectors, 1)
    check_whole("steps", steps, 1)
    if width is not None:
        check_number("width", width, above=0)
    check_weights(model)
    data = RepeatedPasses(loader, goal.type, mix, seed, together=goal.mode == "train" and has_batch_norm(model))
    check_targets(model, data.first, data.targets, goal, device, loader)
    by_vector: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    with goal.of(model, device) as make, adding_up(by_vector, "spectral density") as processes:
        operator = make(list(data) if data.count == 1 else data, data.n)
        rows = operator.shape[0]
        own, quiet = range(n_vectors)[processes.rank :: processes.count], not progress or processes.rank > 0
        with tqdm(total=len(own) * min(steps, rows), desc="density", delay=2, leave=False, disable=quiet) as bar:
            for number in own:
                start = torch.randn(rows, generator=seeded_generator(seed, number), dtype=goal.type)
                by_vector[number] = quadrature(*lanczos(_counted(operator, bar), start.to(operator.device), steps))
    found = [by_vector[number] for number in range(n_vectors)]
    nodes, weights = (np.zeros((n_vectors, max(len(pair[0]) for pair in found))) for _ in range(2))
    for row, (values, shares) in enumerate(found):
        # The penalty shifts all eigenvalues and keeps the eigenvectors, so it needs no computation.
        nodes[row, : len(values)], weights[row, : len(values)] = values + goal.weight_decay, shares
    grid, width = _grid(nodes[weights > 0], width)
    known = {"seed": seed} | known_facts(provenance, loader) | goal.facts()
    known |= {"n": data.n, "n_vectors": n_vectors, "steps": steps, "hessian_seed": seed, **image_facts(loader, mix)}
    density = smoothed(nodes, weights / n_vectors, grid, width)
    return SpectralDensity(nodes, weights, grid, density, width, rows, known | {"versions": versions()})


def _counted(operator: Any, bar: tqdm) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function that multiplies by an operator, advances the bar, and refuses non-finite results."""

    def product(vector: torch.Tensor) -> torch.Tensor:
        image = operator @ vector
        bar.update()
        if not torch.isfinite(image.norm()):
            raise FloatingPointError(
                "the Hessian times a vector is not finite; look at the model's loss, or use float64"
            )
        return image

    return product


def _grid(nodes: np.ndarray, width: float | None) -> tuple[np.ndarray, float]:
    """Choose a width if none is given, and a grid that is fine and long enough for it."""
    low, high = float(nodes.min()), float(nodes.max())
    if width is None:
        width = (high - low) / 100 or 0.01 * max(abs(high), 1e-6)
    low, high = low - REACH * width, high + REACH * width
    return np.linspace(low, high, max(POINTS, int(PER_WIDTH * (high - low) / width) + 1)), width
