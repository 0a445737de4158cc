"""The loss of a model around its weights, along two random filter-normalised directions.

Park & Kim 2022 (https://arxiv.org/abs/2202.06709, Fig. 1a) draw it to show that attention flattens the loss, following
Li et al. 2018 (https://arxiv.org/abs/1712.09913). They plot the NLL plus an L2 penalty, on augmented training images.
About four fifths of the rise from the centre to the border come from the penalty, which is a parabola for any model.
Here NLL and penalty are separate surfaces.
"""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from utilities.analysis.loss.directions import Directions, inner_products, l2_surface, moving, random_directions
from utilities.analysis.loss.grid_losses import (
    BATCH_NORMS,
    GridLosses,
    MixFunction,
    digest_of,
    freeze,
    image_losses,
    normalising,
    same_epoch,
)
from utilities.analysis.loss.mini_batches import image_facts
from utilities.analysis.loss.unfinished_landscape import Points, UnfinishedLandscape
from utilities.analysis.stream import stream
from utilities.datasets.naming import known_facts
from utilities.hooks.calls.labels import BatchCheck
from utilities.hooks.calls.options import check_number, check_whole
from utilities.hooks.calls.sharing import adding_up, sharing_processes
from utilities.hooks.calls.weights import check_weights
from utilities.results.result import Result
from utilities.results.unfinished import code_of, fingerprint
from utilities.utils import versions

SURFACES = ("nll", "l2", "total")


@dataclasses.dataclass(frozen=True)
class Landscape(Result):
    """Loss and accuracy on a grid of points w + a d + b e around the trained weights w.

    The axes are coordinates along the two directions. Each filter of d and e is as long as the model's filter. At
    (1, 0) every filter has therefore been moved by its own length, and (0, 0) is the trained model.

    Attributes:
        x: Values of a, shape (x,); the middle one is 0.
        y: Values of b, shape (y,); only 0 for a line.
        nll: Mean loss over the images in nats, shape (y, x); NaN where another part of a shared run computes it.
        stderr: Standard error of ``nll`` over images.
        rise_stderr: Standard error of the rise of ``nll`` above the centre. It is smaller than ``stderr``, because the
            images are the same.
        accuracy: Fraction of images classified correctly; NaN where targets are not classes.
        l2: The penalty lambda/2 |w + a d + b e|^2, in nats.
        n: Number of images.
        provenance: Seed and kind of the directions, their products with the weights, and all other options.

    Example:
        >>> x, y = np.linspace(-1, 1, 3), np.zeros(1)
        >>> none, nll = np.zeros((1, 3)), np.array([[3.0, 1.0, 2.0]])
        >>> line = Landscape(x, y, nll, none, none, none, l2=np.array([[2.0, 1.0, 2.0]]), n=10)
        >>> line.rise(1.0), line.rise(1.0, of="total"), line.curvature()
        ((1.5, 0.0), (2.5, 0.0), (3.0, 0.0))
    """

    x: np.ndarray
    y: np.ndarray
    nll: np.ndarray
    stderr: np.ndarray
    rise_stderr: np.ndarray
    accuracy: np.ndarray
    l2: np.ndarray
    n: int
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def total(self) -> np.ndarray:
        """NLL plus L2 penalty, shape (y, x)."""
        return self.nll + self.l2

    @property
    def centre(self) -> tuple[int, int]:
        """Indices (y, x) of the trained model in the surfaces."""
        return len(self.y) // 2, len(self.x) // 2

    def rise(self, radius: float = 1.0, of: str = "nll") -> tuple[float, float]:
        """Measure how far a surface rises from the centre to a distance along the axes. Lower is flatter.

        Args:
            radius: Distance in filter norms. Between points of the grid, surfaces are interpolated linearly.
            of: ``nll``, ``l2`` or ``total``.

        Returns:
            The mean over both ends of all axes, and its standard error. The error combines two parts. One is the error
            over images, with points on the same images treated as fully correlated. The other is half the difference
            between the two directions.

        Raises:
            ValueError: If the radius lies outside the grid, or the surface is not known.
        """
        check_number("radius", radius, above=0, most=self.x[-1], hint=", where the grid ends")
        ends = [-radius, radius]
        return self._over_axes(of, lambda line: float(np.interp(ends, self.x, line).mean()), 1.0)

    def curvature(self, of: str = "nll") -> tuple[float, float]:
        """Compute the second difference at the centre, (f(h) - 2 f(0) + f(-h)) / h^2.

        Args:
            of: ``nll``, ``l2`` or ``total``.

        Returns:
            The mean over the axes, and its standard error.
        """
        middle, step = len(self.x) // 2, self.x[1] - self.x[0]
        sides = [middle - 1, middle + 1]
        return self._over_axes(of, lambda line: float(line[sides].mean()), 2 / step**2)

    def _over_axes(self, of: str, reduce: Callable[[np.ndarray], float], factor: float) -> tuple[float, float]:
        """Reduce the rise along each axis and its error to a number, and return mean and error over the axes."""
        if of not in SURFACES:
            raise ValueError(f"surface {of!r} is not known; choose from {', '.join(SURFACES)}")
        row, column = self.centre
        axes = [np.s_[row, :], np.s_[:, column]][: 2 if len(self.y) > 1 else 1]
        surface = getattr(self, of)
        values = [factor * reduce(surface[axis] - surface[row, column]) for axis in axes]
        error = 0.0 if of == "l2" else factor * float(np.mean([reduce(self.rise_stderr[axis]) for axis in axes]))
        between = abs(values[0] - values[-1]) / 2
        return float(np.mean(values)), float(np.hypot(error, between))

    def to_frame(self) -> pd.DataFrame:
        """Tabulate all points, one row each, with x varying fastest.

        The columns are ``x, y, nll, stderr, rise_stderr, l2, total, accuracy``.
        """
        x, y = np.meshgrid(self.x, self.y)
        names = ("nll", "stderr", "rise_stderr", "l2", "total", "accuracy")
        return pd.DataFrame({"x": x.ravel(), "y": y.ravel(), **{name: getattr(self, name).ravel() for name in names}})


def loss_landscape(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    points: int = 21,
    extent: float = 1.0,
    one_dimensional: bool = False,
    weight_decay: float = 0.0,
    decay_vectors: bool = True,
    seed: int = 0,
    orthogonal: bool = False,
    directions: Directions | None = None,
    batch_norm: str = "trained",
    mix: MixFunction | None = None,
    n_images: int | None = None,
    memory: float = 4.0,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = image_losses,
    part: tuple[int, int] = (0, 1),
    resume: str | Path | None = None,
    report: Callable[[str], None] | None = print,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> Landscape:
    """Measure the loss on a grid of points around the trained weights, on the same images at every point.

    The batches are read once, augmented and mixed as they come, and kept. Otherwise every point would have its own
    augmentation, whose noise exceeds the differences near the centre. The time for all points is reported before the
    first one. The model is restored afterwards, bit for bit.

    Args:
        model: Maps images to logits.
        loader: Yields images with labels. For the paper's landscape these are training images, augmented as in
            training. A loader made by `utilities.datasets.make_loader` is reset to its epoch afterwards, so that a
            second call gets the same images.
        points: Number of points along an axis. It is odd, so that the trained model is one of them.
        extent: Axes run from -extent to extent.
        one_dimensional: Whether to measure along the first direction alone.
        weight_decay: The lambda in the L2 penalty lambda/2 |w|^2.
        decay_vectors: Whether the penalty counts biases and norms, which training here decays as well.
        seed: Seed of the directions and of ``mix``.
        orthogonal: See `utilities.analysis.loss.directions.random_directions`.
        directions: Your own directions in place of random ones; ``orthogonal`` is then ignored.
        batch_norm: ``trained`` keeps the running statistics of training at all points, as the paper does. ``estimate``
            averages the statistics of the frozen batches again at every point, in an extra pass. ``batch`` normalises
            each batch by itself, so that results depend on how images are divided into batches.
        mix: Called once on each batch, (images, labels) -> (images, probabilities), such as ``timm.data.Mixup``.
            NumPy's and torch's generators are seeded for it and restored afterwards.
        n_images: Number of images to use, from the start of the loader; None is all.
        memory: GiB that the frozen images may take.
        loss: Returns each image's loss from outputs and targets.
        part: (i, count) measures only the points i, i + count, ..., for `join_landscapes`. Inside
            `utilities.hooks.calls.sharing.sharing_batches` the processes share the points without it.
        resume: Path of a file of finished points, without its ending. The file ``RESUME.points0.npz`` is written from
            time to time. If ``provenance`` has the model's name, it comes before ``points``, so that one path serves
            several models. If files of a killed run are found, whatever their parts, only the remaining points are
            measured. On the same kind of processor the result equals that of an uninterrupted run to the last bit. The
            files are removed when all points are done.
        report: Called with the estimate of the time; None is silent.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts about model and images to keep with the result.

    Returns:
        The landscape.

    Raises:
        ValueError: If an option is out of range, weights are not finite, images do not fit into ``memory``, labels are
            missing or beyond the logits, or ``resume`` holds points of another run.
        TypeError: If the model's output is not a tensor.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> batch = torch.ones(2, 1, 2, 2), torch.tensor([0, 2])
        >>> surface = loss_landscape(model, [batch], points=3, report=None, device="cpu")
        >>> surface.nll.shape, surface.centre, surface.n
        ((3, 3), (1, 1), 2)
    """
    _check(points, extent, weight_decay, batch_norm, n_images, memory, part)
    check_weights(model)
    x, y = _axes(points, extent, one_dimensional)
    grid = [(float(a), float(b)) for b in y for a in x]
    own = range(len(grid))[part[0] :: part[1]]
    kind = "random" if directions is None else "given"
    directions = directions or random_directions(model, seed, orthogonal=orthogonal)
    directions.check(model)
    products = inner_products(model, directions.tensors("first"), directions.tensors("second"), decay_vectors)
    settings = {"points": points, "extent": extent, "one_dimensional": one_dimensional, "seed": seed}
    settings |= {"orthogonal": directions.orthogonal, "directions": kind, "batch_norm": batch_norm}
    place = sharing_processes()
    number = part[0] * place.count + place.rank
    saved = None if resume is None else UnfinishedLandscape(resume, (provenance or {}).get("model", ""), number)
    # The seed identifies random directions. Their norms, and so their last bits, depend on the number of threads.
    own_directions = b"" if kind == "random" else directions.first.tobytes() + directions.second.tobytes()
    identity = fingerprint([model], (settings, hashlib.sha256(own_directions).hexdigest(), code_of(loss)))
    run_options = {"device": device, "labelled": True, "progress": progress, "sums": ()}  # all keep all images
    with same_epoch(loader), stream(model, loader, **run_options) as batches:
        frozen = freeze(batches, n_images, mix, seed, memory)
        run = hashlib.sha256(f"{identity} {digest_of(frozen)}".encode()).hexdigest()
        done = _done_before(saved, run)
        todo = [index for index in own if index not in done]
        with moving(model, directions) as moved, normalising(model, batch_norm):
            losses = GridLosses(model, moved, frozen, batch_norm == "estimate", loss, BatchCheck(loader))
            speaks, mine, new = place.rank == 0, todo[place.rank :: place.count], {}
            with adding_up(new, "points of a loss landscape"):
                losses.measure(grid, mine, done, saved, report if speaks else None, progress and speaks)
                new |= {index: done[index] for index in mine}
            done |= new
    if saved is not None and part[1] == 1 and place.rank == 0:
        saved.remove()
    values = np.full((4, len(grid)), np.nan)
    for index in own:
        values[:, index] = done[index]
    nll, stderr, rise_stderr, accuracy = values.reshape(4, len(y), len(x))
    _warn_of_overflow(nll, len(own))
    n = sum(len(images) for images, _ in frozen)
    known = {"seed": seed} | known_facts(provenance, loader) | {k: v for k, v in settings.items() if k != "seed"}
    known |= {"n": n, "direction_seed": directions.seed, "weight_decay": weight_decay, "decay_vectors": decay_vectors}
    known |= {"products": products, "mix": image_facts(loader, mix)["mix"], "run": run}
    known |= {"part": list(part), "versions": versions()}
    l2 = l2_surface(products, x, y, weight_decay)
    return Landscape(x, y, nll, stderr, rise_stderr, accuracy, l2, n, known)


def join_landscapes(parts: Sequence[Landscape]) -> Landscape:
    """Join the parts of a shared run, given in any order.

    Args:
        parts: Results of `loss_landscape` with ``part=(0, count)``, ... ``(count - 1, count)``.

    Returns:
        The landscape that a single process would have measured.

    Raises:
        ValueError: If a part is missing, occurs twice, or belongs to another run.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> batch = torch.ones(2, 1, 2, 2), torch.tensor([0, 2])
        >>> halves = [loss_landscape(model, [batch], points=3, report=None, part=(i, 2)) for i in (0, 1)]
        >>> bool(np.isnan(halves[0].nll).any()), bool(np.isnan(join_landscapes(halves).nll).any())
        (True, False)
    """
    if not parts:
        raise ValueError("there are no parts to join")
    count = parts[0].provenance["part"][1]
    found = sorted(tuple(one.provenance["part"]) for one in parts)
    if found != [(index, count) for index in range(count)]:
        raise ValueError(f"parts 0 to {count - 1} of {count} are needed, once each; got {found}")
    for one in parts:
        for name in ("run", "weight_decay", "decay_vectors"):
            if one.provenance[name] != parts[0].provenance[name]:
                raise ValueError(f"part {one.provenance['part'][0]} belongs to another run: its {name} differs")
    names = ("nll", "stderr", "rise_stderr", "accuracy")
    whole = {name: np.full_like(parts[0].nll, np.nan) for name in names}
    for one in parts:
        own = np.s_[one.provenance["part"][0] :: count]
        for name in names:
            whole[name].flat[own] = getattr(one, name).flat[own]
    return dataclasses.replace(parts[0], **whole, provenance=parts[0].provenance | {"part": [0, 1]})


def _done_before(saved: UnfinishedLandscape | None, run: str) -> Points:
    """Return the points that an earlier run has left, as the first process finds them, in all that share the points."""
    found: Points = {}
    if saved is not None:
        with adding_up(found, "points that are done") as processes:
            saved.key = run
            found |= saved.load(run) if processes.rank == 0 else {}
    return found


def _check(
    points: int,
    extent: float,
    weight_decay: float,
    batch_norm: str,
    n_images: int | None,
    memory: float,
    part: tuple[int, int],
) -> None:
    check_whole("points", points, 3)
    if points % 2 == 0:
        raise ValueError(f"points={points} should be odd and 3 or more, so that the trained model is one of them")
    if batch_norm not in BATCH_NORMS:
        raise ValueError(f"batch_norm {batch_norm!r} is not known; choose from {', '.join(BATCH_NORMS)}")
    check_number("extent", extent, above=0)
    check_number("memory", memory, above=0, below=None, hint=", in GiB")
    check_number("weight_decay", weight_decay, least=0)
    if n_images is not None:
        check_whole("n_images", n_images, 1)
    if not 0 <= part[0] < part[1]:
        raise ValueError(f"part={part} should be (index, count) with an index from 0 to count - 1")


def _axes(points: int, extent: float, one_dimensional: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a and b; the middle one of each is exactly 0."""
    x = np.linspace(-extent, extent, points)
    x[points // 2] = 0.0
    return x, np.zeros(1) if one_dimensional else x.copy()


def _warn_of_overflow(nll: np.ndarray, count: int) -> None:
    missing = count - int(np.isfinite(nll).sum())
    if missing:
        warnings.warn(
            f"{missing} of {count} points have no finite loss: the network overflows there; a smaller extent, or "
            "batch_norm='estimate', keeps it finite",
            stacklevel=3,
        )
