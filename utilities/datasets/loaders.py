"""Serve images in batches, in a reproducible order: seeded loaders, which augment whole batches.

Minibatch CKA averages over batches, so a loader that serves one class after the other biases it. A loader that
reshuffles cannot be read twice for two models. `make_loader` therefore shuffles once, with a seed, unless asked
otherwise. Order and augmentation depend on the seed and the epoch alone, never on the number of workers or on the
state of torch's global generator.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from utilities.datasets.images import Augmentation, augmented, check_masks, mirror

SHUFFLES = ("once", "every_epoch", "never")


def seeded_generator(*keys: int) -> torch.Generator:
    """Make a generator from several integers, so that (seed 0, epoch 1) and (seed 1, epoch 0) are unrelated."""
    state = np.random.SeedSequence(keys).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


class _Order(Sampler):
    """Draw the indices of one epoch, a function of the seed, the rule and the epoch."""

    def __init__(self, length: int, shuffle: str, seed: int) -> None:
        self.length, self.shuffle, self.seed, self.epoch = length, shuffle, seed, 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        if self.shuffle == "never":
            return iter(range(self.length))
        epoch = self.epoch if self.shuffle == "every_epoch" else 0
        return iter(torch.randperm(self.length, generator=seeded_generator(self.seed, 0, epoch)).tolist())


class Loader(DataLoader):
    """Extend torch's ``DataLoader`` by a seeded order and augmentation of whole batches; see `make_loader`.

    Attributes:
        epoch: The epoch that the next iteration serves, counted from 0. Set it to continue a training run.
        augment: Augmentation of every batch of images, or None.
        alternating: Whether each image is mirrored in every other epoch.
        seed: The seed of the order and of the augmentation.
    """

    def __init__(
        self, dataset: Dataset, order: _Order, augment: Callable | None, alternating: bool = False, **options: Any
    ) -> None:
        # With its own generator: otherwise every iteration draws a number from torch's global one.
        generator = seeded_generator(order.seed, 1)
        super().__init__(dataset, sampler=order, generator=generator, **options)
        self.augment, self.alternating, self.seed, self.epoch = augment, alternating, order.seed, 0
        self._draws = seeded_generator(order.seed, 2, 0)

    def __iter__(self) -> Iterator[Any]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        return (batch for batch, _ in self.served(epoch))

    def served(
        self,
        epoch: int,
        share: Callable[[int], Sequence[int]] | None = None,
        first: int = 0,
        draws: torch.Tensor | None = None,
    ) -> Iterator[tuple[Any, int]]:
        """Serve one epoch, or the part of it that is left, or of each batch only some rows.

        What an image looks like depends on the seed, the epoch and its place alone, not on who else serves the rest:
        everything is drawn for whole batches.

        Args:
            epoch: Number of the epoch.
            share: Function from the number of images in a batch to the rows to serve; None serves all. At least row 0
                is served.
            first: Number of batches to leave out at the start.
            draws: State of the augmentation's generator after these, see ``draws``.

        Yields:
            The batch, or its rows, and the number of images in the whole batch.
        """
        self.sampler.epoch = epoch
        listed = list(self.batch_sampler)[first:]
        shares = [list(range(len(one))) if share is None else list(share(len(one))) or [0] for one in listed]
        apart = self.augment is None or isinstance(self.augment, Augmentation)  # else whole batches are augmented
        wanted = [[one[i] for i in rows] if apart else one for one, rows in zip(listed, shares, strict=True)]
        mirrored = self._mirrored(epoch)
        generator = self._draws = seeded_generator(self.seed, 2, epoch)
        if draws is not None:
            generator.set_state(draws)
        for batch, whole, some, rows in zip(self._read(wanted), listed, wanted, shares, strict=True):
            if self.augment is not None:
                augment = self.augment.rows(rows, len(whole)) if apart else self.augment
                batch = augmented(augment, batch, generator)
            if mirrored is not None:
                batch = mirror(batch, mirrored[some])
            yield batch if apart or share is None else [values[rows] for values in batch], len(whole)

    def _read(self, batches: list[list[int]]) -> Iterator[Any]:
        """Read batches of the dataset, here or in workers."""
        if self.num_workers == 0 and hasattr(self.dataset, "batch"):
            return map(self.dataset.batch, batches)
        options = {"num_workers": self.num_workers, "generator": seeded_generator(self.seed, 1)}
        return iter(DataLoader(self.dataset, batch_sampler=batches, **options))

    def _mirrored(self, epoch: int) -> torch.Tensor | None:
        """Tell for each image of the dataset whether this epoch shows it mirrored, if epochs alternate."""
        if not self.alternating:
            return None
        sides = torch.randint(2, (len(self.dataset),), generator=seeded_generator(self.seed, 4))
        return (sides + epoch) % 2 == 1

    @property
    def draws(self) -> torch.Tensor:
        """Return the state of the augmentation's generator within the epoch that was last begun."""
        return self._draws.get_state()


def make_loader(
    dataset: Dataset,
    batch_size: int,
    *,
    seed: int = 0,
    shuffle: str = "once",
    workers: int = 0,
    augment: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | bool | None = None,
    drop_last: bool = False,
    alternating: bool = False,
) -> Loader:
    """Make a loader whose batches depend on the seed and the epoch alone.

    Sets of `utilities.datasets.load_dataset` in memory need no workers: their batches are slices of one array. Workers
    pay off for sets that are decoded from files, such as ImageNet.

    Args:
        dataset: A map-style dataset of (image, label), perhaps with a mask as third item.
        batch_size: Number of images in a batch; the last one may be smaller, unless ``drop_last``.
        seed: Seed of the order and of the augmentation.
        shuffle: ``"once"`` serves one fixed permutation in every epoch, for comparisons. ``"every_epoch"`` serves a
            new one each epoch, for training. ``"never"`` keeps the order of the dataset (often sorted by class).
        workers: Number of processes that read images besides this one.
        augment: Function of (images, generator), called on every batch, anew in every epoch, such as an
            `Augmentation`. None takes the dataset's own (that of ``load_dataset(augment=True)``); False switches it
            off.
        drop_last: Whether to leave out a smaller last batch.
        alternating: Whether to mirror each image in every other epoch, half of them in the first: two epochs in a row
            show both sides of all (Jordan 2024, section 3.6, https://arxiv.org/abs/2404.00498). For an ``augment``
            that does not mirror.

    Returns:
        The loader. If the dataset brought its own augmentation, ``loader.dataset`` is a copy without it, since the
        loader has taken it over.

    Raises:
        ValueError: If the dataset is empty, no batch would come out, an option is out of range, or the augmentation
            cannot move the dataset's masks.
        TypeError: If ``augment`` cannot be called.

    Example:
        >>> from utilities.datasets import load_dataset
        >>> loader = make_loader(load_dataset("digits", n_images=100), batch_size=64)
        >>> [len(labels) for images, labels in loader], len(loader)
        ([64, 36], 2)
    """
    if shuffle not in SHUFFLES:
        raise ValueError(f"shuffle {shuffle!r} is not known; use one of {', '.join(SHUFFLES)}")
    for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name}={value} should be {least} or more")
    count = len(dataset)
    if count == 0 or (drop_last and count < batch_size):
        raise ValueError(f"no batch of {batch_size} comes out of {count} images (drop_last={drop_last})")
    own = getattr(dataset, "augmentation", None)
    augment = own if augment is None else augment or None
    if augment is not None and not callable(augment):
        raise TypeError(
            f"augment should be an Augmentation, False or None (the dataset's own), got {augment!r}; "
            "load_dataset(..., augment=True) makes a dataset that has one"
        )
    if augment is not None and getattr(dataset, "masks", False):
        check_masks(augment)
    if own is not None:
        dataset = copy.copy(dataset)
        dataset.augmentation = None
    order = _Order(count, shuffle, seed)
    options = {"batch_size": batch_size, "num_workers": workers, "drop_last": drop_last}
    return Loader(dataset, order, augment, alternating, **options)


def same_input(one: Loader, two: Loader) -> bool:
    """Tell whether two loaders prepare images in the same way: size, mean and deviation.

    Example:
        >>> from utilities.datasets import load_dataset
        >>> small, large = (make_loader(load_dataset("digits", image_size=size), 64) for size in (16, 32))
        >>> same_input(small, small), same_input(small, large)
        (True, False)
    """
    return all(getattr(one.dataset, a) == getattr(two.dataset, a) for a in ("image_size", "mean", "std"))
