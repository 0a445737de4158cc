"""The whole spectrum of the Hessian of the loss over many images, by stochastic Lanczos quadrature.

The method is that of Ghorbani et al. 2019 (https://arxiv.org/abs/1901.10159). Starting from a random vector, m steps of
Lanczos give m nodes and weights. They represent the density of all eigenvalues in the sense of Gauss quadrature. Both
ends of the spectrum converge first. The part between them is resolved only as finely as the nodes. Every step makes the
new vector orthogonal to all earlier ones; without this, extreme eigenvalues appear several times.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.linalg import eigh_tridiagonal
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm.auto import tqdm

from utilities.analysis.loss.curvature import Mix, Objective, as_type, check_targets, mixed, reading, said_of_images
from utilities.datasets.loaders import seeded_generator
from utilities.hooks.calls.weights import check_weights
from utilities.results.result import Result
from utilities.results.statistics import jackknife
from utilities.utils import versions

POINTS = 1024  # minimum number of points of the density's grid
PER_WIDTH = 4  # minimum number of points per standard deviation of the Gaussians
BLOCK = 2**15  # numbers that are summed in their own type
REACH = 5  # standard deviations by which the grid extends beyond the outermost nodes


def lanczos(
    matvec: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Make a symmetric matrix tridiagonal by Lanczos's method, with full re-orthogonalisation.

    Args:
        matvec: Multiplies the matrix by a vector.
        start: First vector, with any norm above 0, shape (n,). Its dtype and device are used for the computation.
        steps: Maximum number of steps. There are fewer if the Krylov space is exhausted, and never more than n.

    Returns:
        The diagonal, shape (steps,), and the off-diagonal, shape (steps - 1,), both float64.

    Example:
        >>> matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
        >>> alphas, betas = lanczos(matrix.mv, torch.tensor([1.0, 0.0], dtype=torch.float64), 5)
        >>> alphas.tolist(), betas.tolist()
        ([2.0, 3.0], [1.0])
    """
    basis = start.new_empty(min(steps, len(start)), len(start))
    vector, alphas, betas, scale = start / _inner(start[None], start).sqrt().to(start), [], [], 0.0
    for step in range(len(basis)):
        basis[step] = vector
        vector = matvec(vector)
        shares = _inner(basis[: step + 1], vector)
        alphas.append(float(shares[-1]))
        vector = vector - shares.to(vector) @ basis[: step + 1]
        vector = vector - _inner(basis[: step + 1], vector).to(vector) @ basis[: step + 1]  # what rounding left
        betas.append(float(_inner(vector[None], vector).sqrt()))
        scale = max(scale, abs(alphas[-1]), betas[-1])
        if betas[-1] <= 10 * torch.finfo(start.dtype).eps * scale:
            break
        vector = vector / betas[-1]
    return np.array(alphas), np.array(betas[: len(alphas) - 1])


def _inner(rows: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Multiply rows by a vector, summing in float64.

    Float32 sums over ten million numbers are off by about 1e-3.
    """
    parts = zip(rows.split(BLOCK, dim=1), vector.split(BLOCK), strict=True)
    return torch.stack([part @ own for part, own in parts]).cpu().double().sum(0)


def quadrature(alphas: np.ndarray, betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute nodes and weights of Gauss quadrature from a tridiagonal matrix (Golub and Welsch 1969).

    Args:
        alphas: Diagonal, shape (m,).
        betas: Off-diagonal, shape (m - 1,).

    Returns:
        The eigenvalues in ascending order, and the squared first components of the eigenvectors, which sum to 1.

    Example:
        >>> nodes, weights = quadrature(np.array([0.0, 0.0]), np.array([1.0]))
        >>> nodes.round(6).tolist(), weights.round(6).tolist()
        ([-1.0, 1.0], [0.5, 0.5])
    """
    nodes, vectors = eigh_tridiagonal(alphas, betas)
    return nodes, vectors[0] ** 2


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

        Most eigenvalues of a large network are close to 0. Rounding alone puts some of them on either side of it.
        """
        return jackknife((self.weights * (self.nodes < 0)).sum(1), np.mean)

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


class Passes:
    """The batches of a loader, mixed and converted to one type, checked to be the same in every pass.

    The batches themselves are not kept. Only each image's sum and label are, to recognise the image. Where each image
    counts by itself, the order may change from pass to pass. Where the images of a batch count together, every batch
    has to hold the same images each time.

    Args:
        loader: Loader, read in every pass.
        dtype: Type of the images.
        mix: Mixes the images of a batch.
        seed: Seed for ``mix``.
        together: Whether the images of a batch count together even without ``mix``, because batch norms use the batch's
            statistics.

    Attributes:
        n: Number of images.
        count: Number of batches.
        first: The first image, (1, ...).
        targets: Targets of the first pass, batch by batch, before mixing.

    Raises:
        ValueError: If there is no image, a later pass yields other images, or it yields other batches where these
            matter.

    Example:
        >>> passes = Passes([(torch.ones(2, 1), torch.tensor([0, 1]))], torch.float64)
        >>> passes.n, [images.dtype for images, _ in passes]
        (2, [torch.float64])
    """

    def __init__(
        self,
        loader: Iterable[Any],
        dtype: torch.dtype,
        mix: Mix | None = None,
        seed: int = 0,
        together: bool = False,
    ) -> None:
        self._loader, self._dtype, self._mix, self._seed = loader, dtype, mix, seed
        self._together = together or mix is not None
        self._marks, self.targets = [], []
        for images, targets in reading(loader):
            self.first = images[:1] if not self._marks else self.first
            self._marks.append(_marks(images, targets))
            self.targets.append(targets)
        self.n, self.count = sum(map(len, self._marks)), len(self._marks)
        if self.n == 0:
            raise ValueError("the loader yields no image")

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        marks = []
        for number, (images, targets) in enumerate(reading(self._loader)):
            marks.append(_marks(images, targets))
            if self._together and self.count > 1 and not self._is_batch(number, marks[-1]):
                raise ValueError(
                    f"batch {number + 1} of the loader holds other images than in the first pass, and its images count "
                    "together (by batch norms in mode 'train', or mixing): take a loader without shuffling, one of "
                    "utilities.datasets.make_loader, or a list of batches"
                )
            yield as_type(*mixed(images, targets, self._mix, self._seed, number), self._dtype)
        now = np.concatenate(marks) if marks else np.zeros((0, 2))
        if not _same(_sorted(now), _sorted(np.concatenate(self._marks))):
            raise ValueError(
                f"the loader does not bring the same images in every pass ({self._difference(len(now))}): use "
                "utilities.datasets.make_loader, or a list of batches"
            )

    def _difference(self, now: int) -> str:
        """Describe how a later pass differs from the first, and what may cause it."""
        if now != self.n:
            return f"{self.n} in the first, {now} now"
        if getattr(self._loader, "drop_last", False):
            return f"{now} as in the first, but others: drop_last leaves out other ones whenever the loader shuffles"
        return f"{now} as in the first, but others, or changed ones, as augmentation or sampling at random gives them"

    def _is_batch(self, number: int, marks: np.ndarray) -> bool:
        """Tell whether these are the images of this batch in the first pass. Their order matters only with mixing."""
        if number >= self.count:
            return False
        pair = marks, self._marks[number]
        return _same(*pair) if self._mix is not None else _same(*map(_sorted, pair))


def _marks(images: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    """Return two numbers per image that distinguish the image and its label from others, (batch, 2)."""
    own = images.detach().flatten(1).double().sum(1)
    # Weights make one number out of probabilities, which still tells the classes apart.
    weights = torch.arange(1, targets.shape[1:].numel() + 1, dtype=torch.float64, device=targets.device)
    label = targets.flatten(1).double() @ weights if targets.ndim > 1 else targets.double()
    return torch.stack([own.cpu(), label.cpu()], 1).numpy()


def _sorted(marks: np.ndarray) -> np.ndarray:
    """Sort images by label, then by sum, so that rounding of the sums changes no order that matters."""
    return marks[np.lexsort((marks[:, 0], marks[:, 1]))]


def _same(one: np.ndarray, two: np.ndarray) -> bool:
    """Tell whether marks are equal up to rounding, which differs between batches."""
    return one.shape == two.shape and np.allclose(one, two, rtol=1e-9, atol=1e-9 * np.abs(two).max(initial=1.0))


def spectral_density(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    n_vectors: int = 2,
    steps: int = 40,
    width: float | None = None,
    mix: Mix | None = None,
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
    goal = Objective(**objective)
    if n_vectors < 1 or steps < 1 or not (width is None or width > 0):
        raise ValueError(f"n_vectors={n_vectors} and steps={steps} should be 1 or more, width={width} above 0 or None")
    check_weights(model)
    data = Passes(loader, goal.type, mix, seed, together=goal.mode == "train" and _has_batch_norm(model))
    check_targets(model, data.first, data.targets, goal, device, loader)
    found = []
    with goal.of(model, device) as make:
        operator = make(list(data) if data.count == 1 else data, data.n)
        rows = operator.shape[0]
        with tqdm(
            total=n_vectors * min(steps, rows), desc="density", delay=2, leave=False, disable=not progress
        ) as bar:
            for number in range(n_vectors):
                start = torch.randn(rows, generator=seeded_generator(seed, number), dtype=goal.type)
                found.append(quadrature(*lanczos(_counted(operator, bar), start.to(operator.device), steps)))
    nodes, weights = (np.zeros((n_vectors, max(len(pair[0]) for pair in found))) for _ in range(2))
    for row, (values, shares) in enumerate(found):
        # The penalty shifts all eigenvalues and keeps the eigenvectors, so it needs no computation.
        nodes[row, : len(values)], weights[row, : len(values)] = values + goal.weight_decay, shares
    grid, width = _grid(nodes[weights > 0], width)
    known = {"seed": seed, **(provenance or {}), **goal.facts(), "n": data.n, "n_vectors": n_vectors, "steps": steps}
    known |= {"hessian_seed": seed, **said_of_images(loader, mix)}
    density = smoothed(nodes, weights / n_vectors, grid, width)
    return SpectralDensity(nodes, weights, grid, density, width, rows, known | {"versions": versions()})


def _has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in model.modules())


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
