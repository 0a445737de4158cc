"""Batches for two models: paired image by image, cut to the same images, shared among processes, shuffled anew."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import count
from typing import Any

import torch
from torch.utils.data import DataLoader

from utilities.compare.pairing import Partners, check_pairing, check_same_labels
from utilities.hooks.calls.batch_lists import batch_indices, chosen, is_listed, reshuffled
from utilities.hooks.calls.batch_parts import check_loader, first_images, images_in, known_length, split_batch
from utilities.hooks.calls.nested import map_tensors, tensors_in
from utilities.results.formatting import counted

Pair = tuple[int, Any, Any]
CUT = ": pairs are cut to the shorter"


class PairedBatches:
    """Pair the images of two models, batch by batch: image i of one side is the partner of image i of the other.

    The loaders are checked once, before anything is read. What only the images tell is looked at while they are read.

    Args:
        loader: Loader of batches that `utilities.utils.split_batch` understands.
        loader2: Images of model 2; by default the same batches.
        min_images: Least number of images in a batch; smaller ones are left out, with a warning at the end.
        whole: For each model, whether it gets all that the loader yields, of any structure, and not just images.
        same: Whether both loaders have to serve the same images: as many, with the same labels where both give them.

    Raises:
        ValueError: If the loaders cannot yield a batch of ``min_images``, certainly serve one data set in two orders,
            or differ in length where that is refused.
        TypeError: If one is no loader.

    Example:
        >>> batches = PairedBatches(torch.zeros(8, 3).split(4), min_images=4)
        >>> [(index, len(one), two is one) for index, one, two in batches.read()]
        [(0, 4, True), (1, 4, True)]
        >>> PairedBatches(DataLoader(range(100), batch_size=2), min_images=4)
        Traceback (most recent call last):
        ValueError: the loader's batches hold 2 images; 4 or more are needed
    """

    def __init__(
        self,
        loader: Iterable[Any],
        loader2: Iterable[Any] | None = None,
        *,
        min_images: int = 1,
        whole: tuple[bool, bool] = (False, False),
        same: bool = False,
    ) -> None:
        self.min_images, self._whole, self._same = min_images, whole, same
        self._loaders = (loader,) if loader2 is None else (loader, loader2)
        for one in self._loaders:
            _check_size(one, min_images)
        self._pairing = check_pairing(loader, loader2)
        lengths = [known_length(one) for one in self._loaders]
        if None not in lengths and len(set(lengths)) > 1:
            self._cut_or_refuse(f"the loaders have {lengths[0]} and {lengths[1]} batches", CUT)

    def _cut_or_refuse(self, problem: str, otherwise: str) -> None:
        """Refuse what has no partner where both loaders have to serve the same images; else warn."""
        if self._same:
            raise ValueError(f"{problem}: they should serve the same images, so give loaders of as many")
        warnings.warn(f"{problem}{otherwise}", stacklevel=4)

    @property
    def two_loaders(self) -> bool:
        """Whether each model gets images of its own."""
        return len(self._loaders) == 2

    @property
    def length(self) -> int | None:
        """Number of batches, or None where it is not known."""
        return known_length(self._loaders[0])

    @cached_property
    def listed(self) -> list[list[list[int]]]:
        """Which images each batch holds, by loader.

        Raises:
            ValueError: If a loader cannot tell, serves another order each time, or has no batch: work can then be
                neither shared among processes nor resumed.
        """
        listed = [batch_indices(one) for one in self._loaders]
        if not all(listed):
            raise ValueError(f"the loader has no batch of {self.min_images} images or more")
        return listed

    def share(self, done: Collection[int], rank: int, processes: int) -> list[int]:
        """List the batches that one of several processes reads, of those that are not done yet.

        Example:
            >>> PairedBatches(DataLoader(range(10), batch_size=2)).share({0}, 1, 2)
            [2, 4]
        """
        return [i for i in range(min(map(len, self.listed))) if i not in done][rank::processes]

    def key(self) -> tuple[list[list[list[int]]], list[str]]:
        """Return what tells these batches from others: the order of the images, and checksums of the first batch."""
        _, *first = next(self._cut([0], min_images=0))
        checksums = [hashlib.sha256(x.contiguous().view(torch.uint8).numpy()).hexdigest() for x in tensors_in(first)]
        return self.listed, checksums

    def reshuffled(self, seed: int) -> PairedBatches:
        """Put the images into another order, the same for both models, in batches of the same sizes.

        Raises:
            ValueError: If a loader cannot tell which images its batches hold, or the batches of both differ in size.

        Example:
            >>> batches = PairedBatches(DataLoader(torch.arange(10.0).reshape(5, 2), batch_size=3)).reshuffled(seed=0)
            >>> [images[:, 0].tolist() for _, images, _ in batches.read()]
            [[4.0, 8.0, 6.0], [0.0, 2.0]]
        """
        loaders = [reshuffled(one, seed) for one in self._loaders]
        sizes = [[len(batch) for batch in one.batch_sampler] for one in loaders]
        if sizes[0] != sizes[-1]:
            raise ValueError("repeats need two loaders with batches of the same sizes: else pairs of images come apart")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the user has been warned of the loaders that these come from
            return PairedBatches(*loaders, min_images=self.min_images, whole=self._whole, same=self._same)

    def read(self, indices: Sequence[int] | None = None) -> Iterator[Pair]:
        """Yield (index of the batch, images for model 1, images for model 2).

        Args:
            indices: The only batches to yield, in this order; the others are not even read.

        Raises:
            ValueError: If two paired batches differ in size and are not the last ones, what comes with the images
                shows that they are in two orders, or they are not the same images where they have to be.
        """
        return self._cut(indices, self.min_images)

    def _cut(self, indices: Sequence[int] | None, min_images: int) -> Iterator[Pair]:
        left_out, cut, differing, partners = 0, 0, "", Partners(self._pairing)
        for index, *batches in self._side_by_side(indices):
            partners.see(index, *batches)
            if self._same and self.two_loaders:
                check_same_labels(index, *batches)
            batches = self._served(batches)
            sizes = [images_in(batch) for batch in batches]
            if cut:
                raise ValueError(f"{differing}; from here on no image would meet its partner: use one batch_size")
            size = min(sizes)
            cut = max(sizes) - size
            differing = f"paired batches differ in size: {sizes[0]} and {sizes[1]} images"
            if cut and self._same:
                self._cut_or_refuse(differing, "")
            if size < min_images:
                left_out += size
                continue
            yield index, *(first_images(batch, size) for batch in batches)
        partners.end()
        if cut:
            warnings.warn(f"{differing}; {cut} at the end have no partner and were left out", stacklevel=3)
        if left_out:
            warnings.warn(f"{left_out} images left out: they came in batches of fewer than {min_images}", stacklevel=3)

    def _served(self, batches: list[Any]) -> list[Any]:
        """Take the images out where a model wants no more, once if both models want the same of one batch."""
        if not self.two_loaders and self._whole[0] == self._whole[1]:
            del batches[1]
        pairs = zip(batches, self._whole, strict=False)
        served = [batch if all_of_it else split_batch(batch)[0] for batch, all_of_it in pairs]
        return [served[0], served[-1]]

    def _side_by_side(self, indices: Sequence[int] | None) -> Iterator[Pair]:
        """Pair whole batches up to the end of the shorter loader; of known lengths the constructor has warned."""
        loaders = self._loaders
        if indices is not None:
            loaders = [chosen(one, [own[i] for i in indices]) for one, own in zip(loaders, self.listed, strict=True)]
        iterators, end = [iter(one) for one in loaders], object()
        for index in count() if indices is None else indices:
            batches = [next(iterator, end) for iterator in iterators]
            ended = [batch is end for batch in batches]
            if any(ended):
                if not all(ended) and None in map(known_length, self._loaders):
                    self._cut_or_refuse("one loader has more batches than the other", CUT)
                break
            yield index, batches[0], batches[-1]


def _check_size(loader: Any, needed: int) -> None:
    check_loader(loader)
    size = getattr(loader, "batch_size", None)
    listed = not isinstance(loader, DataLoader) or is_listed(loader)
    images = known_length(getattr(loader, "dataset", None)) if listed else None
    if size is not None and size < needed:
        raise ValueError(f"the loader's batches hold {counted(size, 'image')}; {needed} or more are needed")
    if images is not None and images < needed:
        raise ValueError(f"the loader has {counted(images, 'image')}; {needed} or more are needed")


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
