"""Losses at the points of a grid, with the same frozen images and batch-norm treatment at each point."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm.auto import tqdm

from utilities.analysis.loss.directions import Moved
from utilities.analysis.loss.unfinished_landscape import UnfinishedLandscape
from utilities.analysis.stream import Batches
from utilities.datasets.loaders import Loader
from utilities.hooks.calls.labels import BatchCheck, check_logits, check_loss_targets, hits, widened
from utilities.results.statistics import stderr_of_mean
from utilities.utils import keeping_generators, set_seed

BATCH_NORMS = ("trained", "batch", "estimate")
# Mixes images and labels, drawing from the global generators of NumPy and torch, as timm's Mixup does.
MixFunction = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
Frozen = list[tuple[torch.Tensor, torch.Tensor]]


def image_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Compute each image's cross-entropy from log-softmax in float64, which is finite for all finite logits.

    Args:
        logits: Logits, (batch, classes).
        targets: Classes (batch,), or probabilities (batch, classes) as produced by mixing images.

    Example:
        >>> image_losses(torch.tensor([[1e4, 0.0]]), torch.tensor([1])).tolist()
        [10000.0]
    """
    log_p = logits.double().log_softmax(1)
    if targets.is_floating_point():
        return -(targets * log_p).sum(1)
    return -log_p.gather(1, targets[:, None].long()).squeeze(1)


def freeze(batches: Batches, n_images: int | None, mix: MixFunction | None, seed: int, memory: float = 4.0) -> Frozen:
    """Read batches once, mix them, and keep them.

    Args:
        batches: Batches of (images, labels).
        n_images: Number of images after which reading stops; None reads all.
        mix: See `loss_landscape`.
        seed: Seed of the random numbers that ``mix`` draws.
        memory: GiB that may be kept.

    Returns:
        List of (images, targets).

    Raises:
        ValueError: If the images would not fit, or there are fewer than ``n_images``.
    """
    frozen, count, size = [], 0, 0
    with keeping_generators():
        set_seed(seed)  # of accelerators too, where images may be mixed
        for images, labels in batches:
            if n_images is not None:
                images, labels = images[: n_images - count], labels[: n_images - count]
            size += images.nbytes
            if size > memory * 2**30:
                raise ValueError(
                    f"{count + len(images)} images take {size / 2**30:.2g} GiB, more than memory={memory:g}; use fewer "
                    "with n_images, or allow more: all of them are kept, so that they are the same at every point"
                )
            images, labels = (images.clone(), labels) if mix is None else mix(images.clone(), widened(labels).clone())
            frozen.append((images, labels))
            count += len(images)
            if count == n_images:
                break
    if n_images is not None and count < n_images:
        raise ValueError(f"n_images={n_images} is more than the {count} that the loader yields")
    return frozen


class GridLosses:
    """The losses at points of a loss landscape, all measured on the same frozen images."""

    def __init__(
        self, model: nn.Module, moved: Moved, frozen: Frozen, estimate: bool, loss: Callable, check: BatchCheck
    ) -> None:
        self.model, self.moved, self.loss, self.check = model, moved, loss, check
        self.frozen = [(images, widened(targets)) for images, targets in frozen]
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self.estimated = [norm for norm in norms if estimate and norm.track_running_stats]

    def measure(
        self,
        grid: Sequence[tuple[float, float]],
        todo: Sequence[int],
        done: dict[int, list[float]],
        saved: UnfinishedLandscape | None,
        report: Callable[[str], None] | None,
        progress: bool,
    ) -> None:
        """Measure points of a grid, and add each to ``done`` as [nll, stderr, rise_stderr, accuracy]."""
        if not todo:
            return
        self._check_output()
        start = time.perf_counter()
        centre, _ = self._losses(0.0, 0.0)
        if report is not None:
            about = duration((time.perf_counter() - start) * len(todo))
            before = f", after {len(done)} that are done" if done else ""
            report(f"loss landscape: {len(todo)} points on {len(centre):,} images{before}: about {about}")
        try:
            for index in tqdm(todo, desc="points", delay=2, leave=False, disable=not progress):
                losses, right = self._losses(*grid[index])
                errors = float(stderr_of_mean(losses)), float(stderr_of_mean(losses - centre))
                done[index] = [float(losses.mean()), *errors, float(right.mean())]
                if saved is not None:
                    saved.save_now_and_then(done)
        finally:
            if saved is not None:
                saved.save(done)

    def _check_output(self) -> None:
        """Refuse outputs that would end the run at its first point.

        This also gets the first, slow pass out of the way before the clock starts.
        """
        images, targets = self.frozen[0]
        outputs = self.model(images)
        if not isinstance(outputs, torch.Tensor):
            raise TypeError(f"the model gives a {type(outputs).__name__}; wrap it so that it gives a tensor of logits")
        if self.loss is image_losses:
            check_logits(outputs)
            for own, labels in self.frozen:
                self.check.note(outputs.shape[1], check_loss_targets(labels, outputs.shape[1], len(own)))
            self.check.finish(stacklevel=5)
        shape = tuple(self.loss(outputs.cpu(), targets.cpu().clone()).shape)
        if shape != (len(images),):
            raise ValueError(f"loss should give each image's loss, shape ({len(images)},), not {shape}")

    def _losses(self, a: float, b: float) -> tuple[np.ndarray, np.ndarray]:
        """Compute each image's loss at a point, and whether it is classified correctly."""
        self.moved.to(a, b)
        if self.estimated:
            self._estimate_batch_norms()
        losses, right = [], []
        for images, targets in self.frozen:
            outputs, targets = self.model(images).cpu(), targets.cpu()  # not every accelerator has float64
            losses.append(self.loss(outputs.clone(), targets.clone()).double())  # the loss may write into both
            right.append(_right(outputs, targets, probabilities=self.loss is image_losses))
        return torch.cat(losses).numpy(), torch.cat(right).numpy()

    def _estimate_batch_norms(self) -> None:
        """Average the statistics of the frozen batches, each weighted by its number of images."""
        for norm in self.estimated:
            norm.reset_running_stats()
            norm.training = True
        seen = 0
        for images, _ in self.frozen:
            seen += len(images)
            for norm in self.estimated:
                norm.momentum = len(images) / seen
            self.model(images)
        for norm in self.estimated:
            norm.training = False


def duration(seconds: float) -> str:
    """Put a time into words.

    Example:
        >>> duration(0.2), duration(51.4), duration(1000), duration(90_000)
        ('1 s', '52 s', '17 min', '25.0 h')
    """
    if seconds < 100:
        return f"{int(np.ceil(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@contextmanager
def same_epoch(loader: Any) -> Iterator[None]:
    """Restore a loader's epoch on exit. The epoch determines order and augmentation."""
    epoch = getattr(loader, "epoch", None)
    try:
        yield
    finally:
        if isinstance(loader, Loader):
            loader.epoch = epoch


@contextmanager
def normalising(model: nn.Module, how: str) -> Iterator[None]:
    """Make batch norms normalise as asked, and restore their statistics and settings on exit."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    saved = [
        (norm, norm.momentum, norm.track_running_stats, {k: v.clone() for k, v in norm.named_buffers(recurse=False)})
        for norm in norms
    ]
    try:
        for norm in norms if how == "batch" else ():
            norm.training, norm.track_running_stats = True, False  # use the batch's statistics and keep none
        yield
    finally:
        for norm, momentum, tracks, buffers in saved:
            norm.training, norm.momentum, norm.track_running_stats = False, momentum, tracks
            for name, value in buffers.items():
                getattr(norm, name).copy_(value)


def digest_of(frozen: Frozen) -> str:
    """Compute a checksum of the frozen images and targets."""
    digest = hashlib.sha256(json.dumps([list(images.shape) for images, _ in frozen]).encode())
    for pair in frozen:
        for tensor in pair:
            digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _right(outputs: torch.Tensor, targets: torch.Tensor, probabilities: bool) -> torch.Tensor:
    """Tell for each image whether the largest logit is that of its class.

    Where targets are probabilities, the class is the most probable one. The result is NaN where targets are neither.
    """
    if targets.is_floating_point():
        if not probabilities:
            return torch.full((len(outputs),), torch.nan)
        targets = targets.argmax(1)
    return hits(outputs, targets)
