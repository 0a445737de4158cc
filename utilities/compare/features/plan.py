"""What is going to be kept: how many images a loader serves, batch by batch, and their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from utilities.compare.pairing import names_of
from utilities.datasets.image_ids import REMEDY, ids_by_batch
from utilities.hooks.calls.batch_lists import batch_indices, chosen
from utilities.hooks.calls.batch_parts import check_loader, images_in
from utilities.results.formatting import counted


@dataclass(frozen=True)
class Plan:
    """State the batches of a loader before they are read.

    Attributes:
        loader: A DataLoader in one order, or a list of batches.
        listed: Places in the data set of each batch's images; None of a list of batches.
        sizes: Number of images in each batch.
        names: Names of each batch's images, or None where the batches themselves have to bring them.

    Example:
        >>> import torch
        >>> plan = Plan.of([torch.zeros(3, 2), torch.zeros(2, 2)], "abcde")
        >>> plan.total, plan.names
        (5, [['a', 'b', 'c'], ['d', 'e']])
    """

    loader: Any
    listed: list[list[int]] | None
    sizes: list[int]
    names: list[list[str]] | None

    @classmethod
    def of(cls, loader: Any, ids: Sequence[Any] | None = None) -> Plan:
        """Look at a loader.

        Raises:
            ValueError: If it cannot tell its batches, serves another order each time, or there are more or fewer
                names than images.
            TypeError: If it is no loader.
        """
        check_loader(loader)
        if isinstance(loader, (list, tuple)):
            listed, sizes, names = None, [images_in(batch) for batch in loader], None
        else:
            listed = batch_indices(loader)
            sizes, names = [len(batch) for batch in listed], ids_by_batch(loader)
        if not sum(sizes):
            raise ValueError("the loader has no images")
        if ids is not None:
            ids = [str(one) for one in ids]
            if len(ids) != sum(sizes):
                raise ValueError(f"there are {counted(len(ids), 'id')}, and {counted(sum(sizes), 'image')}")
            repeated = next((one for one, count in Counter(ids).items() if count > 1), None)
            if repeated is not None:
                raise ValueError(f"id {repeated!r} names {Counter(ids)[repeated]} images; give each image its own id")
            names = [part.tolist() for part in np.split(np.array(ids, dtype=object), np.cumsum(sizes)[:-1])]
        return cls(loader, listed, sizes, names)

    @cached_property
    def total(self) -> int:
        """Number of images."""
        return sum(self.sizes)

    def read(self, first: int = 0) -> Iterator[tuple[Any, list[str]]]:
        """Yield each batch from the one of this number on, with the names of its images.

        Raises:
            ValueError: If a batch brings no names, and there are none.
        """
        batches = self.loader[first:] if self.listed is None else self._rest(first)
        for index, batch in enumerate(batches, first):
            names = names_of(batch) if self.names is None else self.names[index]
            if names is None or len(names) != self.sizes[index]:
                raise ValueError(f"the loader does not name its images: {REMEDY}")
            yield batch, names

    def _rest(self, first: int) -> DataLoader:
        return self.loader if first == 0 else chosen(self.loader, self.listed[first:])
