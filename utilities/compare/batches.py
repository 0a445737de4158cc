"""Provide batches for two models: paired, cut to the same images, shared among processes, shuffled anew."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from utilities.compare.pairing import Partners, check_pairing
from utilities.hooks.calls.batch_parts import check_loader, first_images, images_in, split_batch
from utilities.hooks.calls.nested import map_tensors, tensors_in
from utilities.hooks.calls.seeding import keeping_generators

Pair = tuple[int, Any, Any]
READING = (
    "collate_fn", "num_workers", "pin_memory", "pin_memory_device", "timeout", "worker_init_fn", "generator",
    "multiprocessing_context", "prefetch_factor", "persistent_workers", "in_order",
)  # fmt: skip
PASSES = 4  # over a data set; a sampler without a length that yields more is taken to be endless


def length(loader: Any) -> int | None:
    """Return the number of batches, or None where it is not known.

    Example:
        >>> length([1, 2]), length(iter([1, 2]))
        (2, None)
    """
    try:
        return len(loader)
    except TypeError:
        return None


def check_loaders(loader: Iterable[Any], loader2: Iterable[Any] | None, needed: int) -> None:
    """Refuse loaders that cannot yield a batch of ``needed`` images; warn of two that differ in length.

    Raises:
        ValueError: If they cannot; raised before anything is read.

    Example:
        >>> check_loaders(DataLoader(range(100), batch_size=2), None, needed=4)
        Traceback (most recent call last):
        ValueError: the loader's batches hold 2 images; 4 or more are needed
    """
    for one in (loader,) if loader2 is None else (loader, loader2):
        check_loader(one)
        size = getattr(one, "batch_size", None)
        images = length(getattr(one, "dataset", None)) if not isinstance(one, DataLoader) or _is_listed(one) else None
        if size is not None and size < needed:
            raise ValueError(f"the loader's batches hold {size} images; {needed} or more are needed")
        if images is not None and images < needed:
            raise ValueError(f"the loader has {images} images; {needed} or more are needed")
    check_pairing(loader, loader2)
    lengths = length(loader), length(loader2)
    if None not in lengths and lengths[0] != lengths[1]:
        warnings.warn(
            f"the loaders have {lengths[0]} and {lengths[1]} batches: pairs are cut to the shorter", stacklevel=3
        )


def paired_batches(
    loader: Iterable[Any],
    loader2: Iterable[Any] | None,
    needed: int,
    indices: Collection[int] | None = None,
    whole: tuple[bool, bool] = (False, False),
) -> Iterator[Pair]:
    """Yield (index of the batch, images for model 1, images for model 2).

    Args:
        loader: Loader of batches that `utilities.utils.split_batch` understands.
        loader2: Images of model 2; by default the same.
        needed: Least number of images in a batch; smaller ones are left out, with a warning at the end.
        indices: Indices of the only batches to yield; a ``DataLoader`` does not even read the others.
        whole: For each model, whether it gets all that the loader yields, of any structure, and not just images.

    Raises:
        ValueError: If two paired batches differ in size and are not the last ones.

    Example:
        >>> [(index, len(images)) for index, images, _ in paired_batches(torch.zeros(8, 3).split(4), None, 4)]
        [(0, 4), (1, 4)]
    """
    left_out, cut, differing, partners = 0, 0, "", Partners(loader, loader2)
    for index, *batches in _chosen(loader, loader2, indices):
        partners.see(index, *batches)
        if loader2 is None and whole[0] == whole[1]:
            batches = [_served(batches[0], whole[0])] * 2
        else:
            batches = [_served(batch, all_of_it) for batch, all_of_it in zip(batches, whole, strict=True)]
        sizes = [images_in(batch) for batch in batches]
        if cut:
            raise ValueError(f"{differing}; from here on no image would meet its partner: use one batch_size")
        size = min(sizes)
        cut = max(sizes) - size
        differing = f"paired batches differ in size: {sizes[0]} and {sizes[1]} images"
        if size < needed:
            left_out += size
            continue
        yield index, *(first_images(batch, size) for batch in batches)
    partners.end()
    if cut:
        warnings.warn(f"{differing}; {cut} at the end have no partner and were left out", stacklevel=3)
    if left_out:
        warnings.warn(f"{left_out} images left out: they came in batches of fewer than {needed}", stacklevel=3)


def _served(batch: Any, whole: bool) -> Any:
    return batch if whole else split_batch(batch)[0]


def _chosen(
    loader: Iterable[Any], loader2: Iterable[Any] | None, indices: Collection[int] | None
) -> Iterator[tuple[int, Any, Any]]:
    if indices is not None:
        loader, loader2 = (_subset(one, indices) for one in (loader, loader2))
    pairs = ((b, b) for b in loader) if loader2 is None else _side_by_side(loader, loader2)
    places = iter(indices) if indices is not None else iter(range(2**63))
    for place, (one, two) in zip(places, pairs, strict=False):
        yield place, one, two


def _side_by_side(loader: Iterable[Any], loader2: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Pair batches up to the end of the shorter loader; `check_loaders` has warned if the lengths are known."""
    iterators = iter(loader), iter(loader2)
    end = object()
    while True:
        pair = next(iterators[0], end), next(iterators[1], end)
        if end in pair:
            break
        yield pair
    if pair != (end, end) and None in (length(loader), length(loader2)):
        warnings.warn("one loader has more batches than the other: pairs are cut to the shorter", stacklevel=3)


def _subset(loader: Any, indices: Collection[int]) -> Any:
    """Return the batches with these indices, in this order; a DataLoader reads nothing else."""
    if loader is None:
        return None
    if isinstance(loader, DataLoader) and _is_listed(loader):
        batches = _read_batches(loader)
        return _with_batches(loader, [batches[i] for i in indices])
    wanted = set(indices)
    return (batch for i, batch in enumerate(loader) if i in wanted)


def _is_listed(loader: DataLoader) -> bool:
    """Tell whether a loader's batches are lists of places in its data set, not a stream or ready-made batches."""
    return loader.batch_sampler is not None and not isinstance(loader.dataset, IterableDataset)


def _with_batches(loader: DataLoader, batches: list[list[Any]]) -> DataLoader:
    """Make a loader of other batches that reads them as the first one does."""
    options = {name: getattr(loader, name) for name in READING if hasattr(loader, name)}
    return DataLoader(loader.dataset, batch_sampler=batches, **options)


def _read_batches(loader: DataLoader, times: int = 1) -> list[list[Any]]:
    """List which images each batch holds, and restore the generators of torch, NumPy and Python.

    Raises:
        ValueError: If the batches never end, or differ between readings when read several ``times``.
    """
    with keeping_generators():
        first, *others = [_finite(loader) for _ in range(times)]
    if any(other != first for other in others):
        raise ValueError(
            "the loader serves another order each time; use utilities.datasets.make_loader(shuffle='once')"
        )
    return first


def _finite(loader: DataLoader) -> list[list[Any]]:
    """List the batches; for a sampler without a length, up to a limited number of images."""
    promised, batches, images = length(loader.batch_sampler), [], 0
    most = PASSES * ((length(loader.dataset) or 0) + 2500)
    for batch in loader.batch_sampler:
        batches.append(list(batch))
        images += len(batches[-1])
        if len(batches) > promised if promised is not None else images > most:
            raise ValueError(
                f"the sampler gave {images} images of {length(loader.dataset)}, more than it should, and perhaps has "
                "no end: use one that serves the data set once, as utilities.datasets.make_loader does"
            )
    return batches


def batch_indices(loader: Any) -> list[list[int]]:
    """List which images of its data set each batch of a loader holds.

    Raises:
        ValueError: If the loader cannot tell, or serves another order each time: work can then be neither shared
            among processes nor resumed.

    Example:
        >>> batch_indices(DataLoader(range(5), batch_size=2))
        [[0, 1], [2, 3], [4]]
    """
    if not isinstance(loader, DataLoader) or not _is_listed(loader) or getattr(loader, "augment", None):
        raise ValueError(
            f"the loader cannot say which images its batches hold{_why(loader)}; use a DataLoader of a map-style data "
            "set without augmentation, as utilities.datasets.make_loader makes"
        )
    return [[int(i) for i in batch] for batch in _read_batches(loader, times=2)]


def _why(loader: Any) -> str:
    dataset = getattr(loader, "dataset", None)
    return f", since {type(dataset).__name__} is an IterableDataset" if isinstance(dataset, IterableDataset) else ""


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
    if not isinstance(loader, DataLoader) or not _is_listed(loader) or getattr(loader, "augment", None):
        raise ValueError(
            f"cannot shuffle a {type(loader).__name__} anew{_why(loader)}; repeats need a DataLoader of a map-style "
            "data set without augmentation, as utilities.datasets.make_loader makes"
        )
    batches = _read_batches(loader)
    images = [i for batch in batches for i in batch]
    order = np.random.default_rng(seed).permutation(len(images))
    ends = np.cumsum([len(batch) for batch in batches])
    return _with_batches(loader, [[images[i] for i in part] for part in np.split(order, ends[:-1])])


def prefetched(pairs: Iterator[Pair], device: torch.device) -> Iterator[Pair]:
    """Copy the next batch to a CUDA device while this one is computed; do nothing on other devices.

    Example:
        >>> list(prefetched(iter([(0, 1, 2)]), torch.device("cpu")))
        [(0, 1, 2)]
    """
    if device.type != "cuda":
        yield from pairs
        return
    stream, ready = torch.cuda.Stream(device), None

    def copied(x: torch.Tensor) -> torch.Tensor:
        return (x.pin_memory() if x.device.type == "cpu" else x).to(device, non_blocking=True)

    for index, *batches in pairs:
        same = batches[0] is batches[1]
        with torch.cuda.stream(stream):
            moved = [map_tensors(copied, batch) for batch in (batches[:1] if same else batches)]
        if ready is not None:
            yield ready
        torch.cuda.current_stream(device).wait_stream(stream)
        for x in tensors_in(moved):
            x.record_stream(torch.cuda.current_stream(device))
        ready = (index, moved[0], moved[-1])
    if ready is not None:
        yield ready
