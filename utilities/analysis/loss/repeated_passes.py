"""Read a loader again and again, and make sure that it brings the same images in every pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from utilities.analysis.loss.mini_batches import SeededMixFunction, as_type, labelled_batches, mix_batch


class RepeatedPasses:
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
        >>> passes = RepeatedPasses([(torch.ones(2, 1), torch.tensor([0, 1]))], torch.float64)
        >>> passes.n, [images.dtype for images, _ in passes]
        (2, [torch.float64])
    """

    def __init__(
        self,
        loader: Iterable[Any],
        dtype: torch.dtype,
        mix: SeededMixFunction | None = None,
        seed: int = 0,
        together: bool = False,
    ) -> None:
        self._loader, self._dtype, self._mix, self._seed = loader, dtype, mix, seed
        self._together = together or mix is not None
        self._marks, self.targets = [], []
        for images, targets in labelled_batches(loader):
            self.first = images[:1] if not self._marks else self.first
            self._marks.append(_marks(images, targets))
            self.targets.append(targets)
        self.n, self.count = sum(map(len, self._marks)), len(self._marks)
        if self.n == 0:
            raise ValueError("the loader yields no image")

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        marks = []
        for number, (images, targets) in enumerate(labelled_batches(self._loader)):
            marks.append(_marks(images, targets))
            if self._together and self.count > 1 and not self._is_batch(number, marks[-1]):
                raise ValueError(
                    f"batch {number + 1} of the loader holds other images than in the first pass, and its images count "
                    "together (by batch norms in mode 'train', or mixing): take a loader without shuffling, one of "
                    "utilities.datasets.make_loader, or a list of batches"
                )
            yield as_type(*mix_batch(images, targets, self._mix, self._seed, number), self._dtype)
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
