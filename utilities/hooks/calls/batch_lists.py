"""Which images each batch of a loader holds: listed, chosen, shuffled anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, IterableDataset

from utilities.hooks.calls.batch_parts import known_length
from utilities.hooks.calls.seeding import keeping_generators

READING = (
    "collate_fn", "num_workers", "pin_memory", "pin_memory_device", "timeout", "worker_init_fn", "generator",
    "multiprocessing_context", "prefetch_factor", "persistent_workers", "in_order",
)  # fmt: skip
PASSES = 4  # over a data set; a sampler without a length that yields more is taken to be endless


def is_listed(loader: DataLoader) -> bool:
    """Tell whether a loader's batches are lists of places in its data set, not a stream or ready-made batches.

    Example:
        >>> import torch
        >>> is_listed(DataLoader(range(5))), is_listed(DataLoader([torch.zeros(4, 3)], batch_size=None))
        (True, False)
    """
    return loader.batch_sampler is not None and not isinstance(loader.dataset, IterableDataset)


def chosen(loader: DataLoader, batches: Sequence[Sequence[Any]]) -> DataLoader:
    """Make a loader of other batches that reads them as the first one does, and nothing else.

    Example:
        >>> [batch.tolist() for batch in chosen(DataLoader(range(5)), [[4, 0], [2]])]
        [[4, 0], [2]]
    """
    options = {name: getattr(loader, name) for name in READING if hasattr(loader, name)}
    return DataLoader(loader.dataset, batch_sampler=batches, **options)


def batch_indices(loader: Any) -> list[list[int]]:
    """List which images of its data set each batch of a loader holds.

    Raises:
        ValueError: If the loader cannot tell, or serves another order each time: work can then be neither shared
            among processes nor resumed.

    Example:
        >>> batch_indices(DataLoader(range(5), batch_size=2))
        [[0, 1], [2, 3], [4]]
    """
    _check_listed(loader, "the loader cannot say which images its batches hold", "use")
    return [[int(i) for i in batch] for batch in _read_batches(loader, times=2)]


def reshuffled(loader: Any, seed: int) -> DataLoader:
    """Make a loader of the same images in another order, in batches of the same sizes.

    Args:
        loader: A torch ``DataLoader`` of a map-style data set.
        seed: Seed of the order.

    Raises:
        ValueError: If the loader is of another kind.

    Example:
        >>> [batch.tolist() for batch in reshuffled(DataLoader(range(5), batch_size=3), seed=0)]
        [[2, 4, 3], [0, 1]]
    """
    _check_listed(loader, f"cannot shuffle a {type(loader).__name__} anew", "repeats need")
    batches = _read_batches(loader)
    images = [i for batch in batches for i in batch]
    order = np.random.default_rng(seed).permutation(len(images))
    ends = np.cumsum([len(batch) for batch in batches])
    return chosen(loader, [[images[i] for i in part] for part in np.split(order, ends[:-1])])


def _read_batches(loader: DataLoader, times: int = 1) -> list[list[Any]]:
    """List which images each batch holds, and restore the generators of torch, NumPy and Python.

    Raises:
        ValueError: If the batches never end, or differ between readings when read several ``times``.
    """
    with keeping_generators():  # samplers may draw from any of them
        first, *others = [_finite(loader) for _ in range(times)]
    if any(other != first for other in others):
        raise ValueError(
            "the loader serves another order each time; use utilities.datasets.make_loader(shuffle='once')"
        )
    return first


def _finite(loader: DataLoader) -> list[list[Any]]:
    """List the batches; for a sampler without a length, up to a limited number of images."""
    promised, batches, images = known_length(loader.batch_sampler), [], 0
    most = PASSES * ((known_length(loader.dataset) or 0) + 2500)
    for batch in loader.batch_sampler:
        batches.append(list(batch))
        images += len(batches[-1])
        if len(batches) > promised if promised is not None else images > most:
            raise ValueError(
                f"the sampler gave {images} images of {known_length(loader.dataset)}, more than it should, and perhaps "
                "has no end: use one that serves the data set once, as utilities.datasets.make_loader does"
            )
    return batches


def _check_listed(loader: Any, problem: str, remedy: str) -> None:
    if isinstance(loader, DataLoader) and is_listed(loader) and not getattr(loader, "augment", None):
        return
    dataset = getattr(loader, "dataset", None)
    why = f", since {type(dataset).__name__} is an IterableDataset" if isinstance(dataset, IterableDataset) else ""
    raise ValueError(
        f"{problem}{why}; {remedy} a DataLoader of a map-style data set without augmentation, as "
        "utilities.datasets.make_loader makes"
    )
