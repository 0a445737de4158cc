"""Know how many images each batch of a loader holds, and read some of the batches alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader

from utilities.hooks.calls.batch_lists import batch_indices, chosen
from utilities.hooks.calls.batch_parts import known_length, split_batch


@dataclass(frozen=True)
class ListedBatches:
    """The batches of a loader that serves the same ones to all processes.

    Attributes:
        sizes: Number of images of each batch.
        read: Serves the batches from one number to before another.
        key: Tells these batches from others.
    """

    sizes: list[int]
    read: Callable[[int, int], Iterator[Any]]
    key: Any


def listed(loader: Any) -> ListedBatches:
    """List the batches of a loader.

    Args:
        loader: A list of batches, a loader of `utilities.datasets.make_loader`, which may augment, or a torch
            ``DataLoader`` with a fixed order.

    Raises:
        ValueError: If its batches cannot be told in advance, or are others each time.

    Example:
        >>> batches = listed(torch.arange(10.0)[:, None].split(4))
        >>> batches.sizes, [len(batch) for batch in batches.read(1, 3)]
        ([4, 4, 2], [4, 2])
    """
    if isinstance(loader, (list, tuple)):
        sizes = [len(split_batch(batch)[0]) for batch in loader]
        return ListedBatches(sizes, lambda start, end: iter(loader[start:end]), ("list", sizes, _first_of(loader)))
    if isinstance(loader, DataLoader) and hasattr(loader, "served"):
        return _of_own_loader(loader)
    indices = batch_indices(loader)
    return ListedBatches(
        list(map(len, indices)),
        lambda start, end: iter(chosen(loader, indices[start:end])),
        (indices, _set(loader)),
    )


def _of_own_loader(loader: Any) -> ListedBatches:
    epoch = loader.epoch
    loader.sampler.epoch = epoch
    indices = list(loader.batch_sampler)
    augment = getattr(loader.augment, "__qualname__", type(loader.augment).__name__)
    key = (indices, _set(loader), loader.seed, epoch, augment)
    return ListedBatches(list(map(len, indices)), partial(_served, loader, epoch), key)


def _served(loader: Any, epoch: int, start: int, end: int) -> Iterator[Any]:
    """Serve some batches of an epoch; what augmentation draws for those before them is drawn, and they are left out."""
    loader.epoch = epoch + 1
    first = 0 if loader.augment is not None else start
    for batch, _ in islice(loader.served(epoch, first=first), start - first, end - first):
        yield batch


def _set(loader: DataLoader) -> tuple[str, int | None]:
    return type(loader.dataset).__name__, known_length(loader.dataset)


def _first_of(batches: Any) -> list[float]:
    """Sample the first batch's images."""
    images = split_batch(batches[0])[0] if len(batches) else torch.zeros(0)
    flat = images.detach().flatten()
    return flat[:: max(1, len(flat) // 64)].tolist()
