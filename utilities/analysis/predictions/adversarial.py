"""Adversarial robustness: how much of its accuracy a classifier keeps where an attack may move pixels within a radius.

The attacks are FGSM (Goodfellow et al. 2015, https://arxiv.org/abs/1412.6572) and PGD (Madry et al. 2018,
https://arxiv.org/abs/1706.06083) with knowledge of the model's gradients. Accuracies are upper bounds: a stronger
attack may find more.

For a linear classifier of two classes, whose margin is w x + b, no perturbation of radius r takes more off the margin
than r times the dual norm of w: the 1-norm for linf, the 2-norm for l2. Away from black and white, FGSM reaches that at
once, and so does PGD in linf; in l2 it gets there by and by, as its random start has parts across w.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from utilities.analysis.predictions.attacks import NORMS, climb, random_start
from utilities.analysis.predictions.paired_accuracy import contrast, right_in_both
from utilities.analysis.stream import stream
from utilities.datasets.naming import known_facts
from utilities.datasets.pixels import check_scale, normalisation
from utilities.hooks.calls.batch_parts import check_loader
from utilities.hooks.calls.labels import BatchCheck, hits
from utilities.hooks.calls.merging import Total
from utilities.hooks.calls.options import check_whole
from utilities.hooks.calls.sharing import sharing_processes
from utilities.results.moments import Moments, precise
from utilities.results.result import Result
from utilities.utils import versions

ATTACKS = ("fgsm", "pgd")
RADII = {"linf": (0.5, 1.0, 2.0, 4.0, 8.0), "l2": (16.0, 32.0, 64.0, 128.0, 256.0)}  # in levels of 0 to 255
REACH = 2.5  # radii that the steps of PGD add up to, as in its authors' code


@dataclasses.dataclass(frozen=True)
class Adversarial(Result):
    """Results of a classifier on clean images and under attack at each radius. Errors are over images.

    An image counts as right at a radius if the model is right on the clean image and on every image that the attack
    visits, its start included.

    Attributes:
        both_right: Number of images classified correctly in both of two versions, (1 + radii, 1 + radii). Version 0 is
            the clean one. int64, unless answers were tied.
        nll: Largest cross-entropy among the images visited, in nats, mean over images, (1 + radii,). The first is that
            of clean images.
        nll_stderr: Standard error of ``nll``, (1 + radii,).
        radii: Radius of each attack in levels of pixels from 0 to 255, (radii,).
        norm: ``linf``, the largest change of a channel of a pixel; or ``l2``, the root of the sum of squares.
        n: Number of images.
        provenance: What this was made from, including ``attack``, ``steps``, ``step`` and ``no_gradient``, the number
            of images whose gradient was 0 at some step.
    """

    both_right: np.ndarray
    nll: np.ndarray
    nll_stderr: np.ndarray
    radii: np.ndarray
    norm: str
    n: int
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def clean_accuracy(self) -> float:
        """Accuracy on the same images without attack."""
        return float(self.both_right[0, 0] / self.n)

    @property
    def accuracies(self) -> np.ndarray:
        """Accuracy without attack, then at each radius, (1 + radii,)."""
        return np.diagonal(self.both_right) / self.n

    @property
    def stderr(self) -> np.ndarray:
        """Standard error of each accuracy, (1 + radii,)."""
        return contrast(self.both_right, self.n, np.eye(len(self.both_right)))[1]

    def mean_accuracy(self) -> tuple[float, float]:
        """Return the mean accuracy over all radii, without the clean one, and its standard error."""
        return self._pair(self._mean())

    def drop(self) -> tuple[float, float]:
        """Return clean accuracy minus mean accuracy over all radii, and its error; each image is its own control."""
        return self._pair(np.eye(len(self.both_right))[0] - self._mean())

    def _mean(self) -> np.ndarray:
        return np.array([0, *np.full(len(self.radii), 1 / len(self.radii))])

    def _pair(self, weights: np.ndarray) -> tuple[float, float]:
        value, error = contrast(self.both_right, self.n, weights)
        return float(value), float(error)

    def to_frame(self) -> pd.DataFrame:
        """Tabulate one row per radius (0: clean): norm, radius, accuracy, stderr, nll, nll_stderr."""
        columns = {"norm": self.norm, "radius": [0.0, *self.radii], "accuracy": self.accuracies, "stderr": self.stderr}
        return pd.DataFrame(columns | {"nll": self.nll, "nll_stderr": self.nll_stderr})


def adversarial(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    attack: str = "pgd",
    norm: str = "linf",
    radii: Sequence[float] | None = None,
    steps: int = 10,
    step_size: float | None = None,
    seed: int = 0,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> Adversarial:
    """Attack a classifier within a radius about each image, and measure the accuracy that it keeps.

    Radii are in pixels, whatever the images were normalised with, and attacked images stay between black and white. The
    start of PGD is random; it depends on the seed and the image's number alone. The model's weights get no gradients.

    Args:
        model: Maps normalised images (batch, 3, height, width) to logits (batch, classes).
        loader: Yields (images, labels) in a fixed order, see `utilities.datasets.make_loader`.
        attack: ``pgd``, or ``fgsm``: one step of the radius' size, without a random start.
        norm: ``linf`` or ``l2``.
        radii: Radii of the attacks, in levels of pixels from 0 to 255. None is 0.5 to 8 for linf, 16 to 256 for l2.
        steps: Number of steps of PGD.
        step_size: Size of a step of PGD, in radii. None is 2.5 over the number of steps.
        seed: Seed of the random starts.
        mean: Means subtracted from images in 0..1, one number or three; None is those of ``loader.dataset``.
        std: Deviations that images were divided by, one number or three; None is those of ``loader.dataset``.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts about model and data, for captions.

    Raises:
        ValueError: If an option is out of range, weights are not finite, labels are missing or invalid, or the
            normalisation is unknown or evidently not the images' own. See `utilities.datasets.pixels.check_scale`.

    Example:
        >>> from utilities.datasets import load_dataset
        >>> from utilities.datasets.factory import make_loader
        >>> loader = make_loader(load_dataset("digits", n_images=20), 20)
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
        >>> result = adversarial(model, loader, attack="fgsm", radii=[0, 4], device="cpu", progress=False)
        >>> bool(result.accuracies[0] == result.accuracies[1] >= result.accuracies[2])
        True
    """
    radii = _checked(attack, norm, radii, steps, step_size, seed)
    check_loader(loader)
    shift, factor = normalisation(loader, mean, std)
    ways = {"norm": norm, "steps": steps if attack == "pgd" else 1, "step": 1.0}
    if attack == "pgd":
        ways["step"] = REACH / steps if step_size is None else float(step_size)
    both_right, nll, flat, check = Total(np.zeros((), np.int64)), Moments(), Total(), BatchCheck(loader, model)
    progress = progress and sharing_processes().rank == 0
    run = {"device": device, "description": attack, "labelled": True, "progress": progress, "gradients": True}
    with stream(model, loader, sums=(both_right, nll, flat, check), **run) as batches:
        for images, labels in batches:
            check_scale(images, shift, factor)
            with torch.no_grad():
                logits = model(images)
            seen = [_Seen(model, images, check(logits, labels), logits, (shift, factor))]
            for radius in tqdm(radii / 255, "radii", delay=2, leave=False, disable=not progress):
                drawn = attack == "pgd"
                start = random_start(images.shape, radius, norm, seed, batches.served.first) if drawn else None
                seen.append(seen[0].attacked(radius, start=start, **ways))
            both_right.add(right_in_both(np.stack([one.right for one in seen])))
            nll.add(np.stack([one.losses for one in seen], 1))
            flat.add(int(np.any([one.flat for one in seen], 0).sum()))
    check.finish()
    if flat.value:
        warnings.warn(
            f"{flat.value} of {nll.n} images gave no gradient at some step, so that the attack could not go on there: "
            "accuracies may hide what another attack would find",
            stacklevel=2,
        )
    facts = {"attack": attack, **ways, "seed": seed, "num_classes": check.outputs, "no_gradient": flat.value}
    facts = {**known_facts(provenance, loader), "n": nll.n, **facts, "versions": versions()}
    return Adversarial(both_right.value, nll.mean, nll.stderr, radii, norm, nll.n, facts)


class _Seen:
    """What is seen of a batch: whether the model is right on all images visited, and their highest losses."""

    def __init__(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, logits: torch.Tensor, scale: Any
    ) -> None:
        shift, self.factor = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in scale)
        self.model, self.images, self.labels = model, images, labels
        self.pixels = images * self.factor + shift
        self.flat = np.zeros(len(images), bool)
        self.right, self.losses = np.ones(len(images)), np.full(len(images), -math.inf)
        self._note(logits)

    def attacked(self, radius: float, norm: str, steps: int, step: float, start: torch.Tensor | None) -> _Seen:
        """Return what is seen in an attack on these images."""
        seen = copy.copy(self)
        seen.flat = self.flat.copy()
        delta = climb(seen._gradient, self.pixels, radius, norm, steps, step * radius, start)
        with torch.no_grad():
            seen._note(seen._logits(delta))
        return seen

    def _logits(self, delta: torch.Tensor) -> torch.Tensor:
        return self.model(self.images + delta / self.factor)

    def _gradient(self, delta: torch.Tensor) -> torch.Tensor:
        delta = delta.detach().requires_grad_()
        logits = self._logits(delta)
        if not logits.requires_grad:
            raise ValueError(f"the logits of {type(self.model).__name__} have no gradient, which the attack follows")
        (found,) = torch.autograd.grad(self._losses(logits).sum(), delta)
        self.flat |= (found.flatten(1) == 0).all(1).cpu().numpy()
        self._note(logits.detach())
        return found

    def _losses(self, logits: torch.Tensor) -> torch.Tensor:
        # In float32, 1 - p of a very sure answer is 0, so that its class would have no part in the gradient.
        return nn.functional.cross_entropy(precise(logits), self.labels, reduction="none")

    def _note(self, logits: torch.Tensor) -> None:
        self.right = np.minimum(self.right, hits(logits, self.labels).cpu().double().numpy())
        self.losses = np.maximum(self.losses, self._losses(logits).double().cpu().numpy())


def _checked(
    attack: str, norm: str, radii: Sequence[float] | None, steps: int, step_size: float | None, seed: int
) -> np.ndarray:
    """Return the radii, and refuse options that are out of range."""
    for name, value, known in (("attack", attack, ATTACKS), ("norm", norm, NORMS)):
        if value not in known:
            raise ValueError(f"{name} {value!r} is not known; choose from {', '.join(known)}")
    found = np.asarray(RADII[norm] if radii is None else radii, np.float64)
    if found.ndim != 1 or not len(found) or not (np.isfinite(found) & (found >= 0)).all():
        raise ValueError(f"radii should be one or more numbers of at least 0, in levels of pixels, got {radii}")
    if (np.diff(found) <= 0).any():
        raise ValueError(f"radii should rise, each given once, got {radii}")
    check_whole("steps", steps, 1)
    check_whole("seed", seed, 0)
    if step_size is not None and not (math.isfinite(step_size) and step_size > 0):
        raise ValueError(f"step_size={step_size!r} should be a number above 0")
    return found
