"""Which training images a probe is fitted to: all of them, or several draws of a few of each class."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from utilities.analysis.probing import refuse_one_class
from utilities.hooks.calls.labels import check_labels, classes_of, need_labels
from utilities.hooks.calls.options import check_whole
from utilities.hooks.calls.sharing import shared_pass, sharing_processes
from utilities.utils import split_batch

ASKED = "of the {} classes that are asked for"  # whose classes training labels should be, see `check_labels`
HELD_OUT = 5  # one image of so many of each class is held out to choose the penalty


@dataclass
class Draws:
    """Draws of training images, told apart image by image as they stream by.

    Attributes:
        num_classes: Number of classes.
        chosen: Whether each image is in each draw, (draws, images); None if the one draw holds all images.
        labels: Labels of the images in the order of the loader, where they were read beforehand.
    """

    num_classes: int
    chosen: np.ndarray | None = None
    labels: np.ndarray | None = None
    _place: int = 0
    _counts: np.ndarray = field(default_factory=lambda: np.zeros(0, int))

    @property
    def count(self) -> int:
        """Number of draws."""
        return 1 if self.chosen is None else len(self.chosen)

    def next(self, labels: np.ndarray) -> np.ndarray:
        """Tell which images of the next batch are in each draw, (draws, batch).

        Raises:
            ValueError: If the loader serves other images than before.
        """
        start, self._place = self._place, self._place + len(labels)
        if self.chosen is None:
            return np.ones((1, len(labels)), bool)
        if not np.array_equal(self.labels[start : self._place], labels):
            raise ValueError(
                "the training loader serves its images in another order each time; pass one with a fixed order, such "
                "as make_loader(..., shuffle='once')"
            )
        return self.chosen[:, start : self._place]

    def skip(self, images: int) -> None:
        """Begin behind images that another process sees, as if they had streamed by."""
        if images:
            self._place = images
            chosen = np.ones((1, images), bool) if self.chosen is None else self.chosen[:, :images]
            counts = [np.bincount(self.labels[:images][row], minlength=self.num_classes) for row in chosen]
            self._counts = np.stack(counts)

    def held_out(self, draw: int, labels: np.ndarray) -> np.ndarray:
        """Tell which of a draw's next images are held out to choose the penalty: the second of every five of a class.

        So a class of two images has one to fit to and one to hold out, however batches are cut.
        """
        if not self._counts.size:
            self._counts = np.zeros((self.count, self.num_classes), int)
        counts, found = self._counts[draw], np.zeros(len(labels), bool)
        for i, label in enumerate(labels):
            counts[label] += 1
            found[i] = counts[label] % HELD_OUT == 2
        return found


def draw_images(loader: Iterable[Any], shots: int | None, draws: int, num_classes: int | None, seed: int) -> Draws:
    """Draw the images that probes are fitted to.

    Args:
        loader: Yields (images, labels). Its labels are read beforehand if images are drawn, or to count classes that
            the loader's data set does not name.
        shots: Number of images of each class; None is all.
        draws: Number of draws; with all images there is one.
        num_classes: Number of classes; None finds it out.
        seed: Seed of the draws.

    Raises:
        ValueError: If labels are read, and there are none, one is no class, or all are of one class.

    Example:
        >>> import torch
        >>> draws = draw_images([(torch.zeros(6, 1), torch.tensor([0, 0, 0, 1, 1, 1]))], 2, 3, None, 0)
        >>> draws.num_classes, draws.chosen.sum(1).tolist()
        (2, [4, 4, 4])
    """
    check_whole("seed", seed, 0)
    classes = classes_of(loader) if num_classes is None else num_classes
    if shots is None and classes is not None and sharing_processes().count == 1:
        return Draws(classes)
    epoch = getattr(loader, "epoch", None)
    labels = _labels(loader, classes)
    if shots is None and epoch is not None:
        loader.epoch = epoch  # as if nothing had been read beforehand
    classes = int(labels.max()) + 1 if classes is None else classes
    refuse_one_class(np.bincount(labels))
    if shots is None:
        return Draws(classes, labels=labels)
    chosen = np.zeros((draws, len(labels)), bool)
    members = [np.flatnonzero(labels == label) for label in range(classes)]
    for draw, row in enumerate(chosen):
        rng = np.random.default_rng([seed, draw])
        for of_class in members:
            row[rng.permutation(of_class)[:shots]] = True
    few = sum(0 < len(of_class) < shots for of_class in members)
    if few:
        warnings.warn(f"{few} classes have fewer than {shots} training images; probes get all of these", stacklevel=3)
    return Draws(classes, chosen, labels)


def _labels(loader: Iterable[Any], classes: int | None) -> np.ndarray:
    found: list[np.ndarray] = []
    with shared_pass(loader, found, "labels of training images") as batches:
        for batch in batches:
            labels = split_batch(batch)[1]
            need_labels(labels, "probes:")
            found.append(check_labels(labels, classes, whose=ASKED).cpu().numpy())
    if not found or not sum(map(len, found)):
        raise ValueError("training probes: the loader yields no image")
    return np.concatenate(found).astype(int)
