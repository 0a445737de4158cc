"""Pair kept features with others, or with a model's images, by the names of the images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from utilities.datasets.image_ids import REMEDY, ids_by_batch, places_of


class Rows(Dataset):
    """Serve the numbers of rows in place of images, each (1,).

    Attributes:
        ids: Name of the image of each row.
        paired_by_ids: True: nothing is left to find out about the order of two loaders.
    """

    paired_by_ids = True

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index])


def rows_like(loader: Any, ids: Sequence[str], whose: str) -> DataLoader:
    """Make a loader of rows that serves, batch by batch, the images that another loader serves.

    Args:
        loader: A loader of images, or of other rows.
        ids: Names of the images of all rows.
        whose: What holds the rows, for messages.

    Raises:
        ValueError: If the loader does not say which images it serves, or serves others.

    Example:
        >>> first = DataLoader(Rows(["a", "b", "c"]), batch_size=2)
        >>> [rows.flatten().tolist() for rows in rows_like(first, ["c", "b", "a"], "kept")]
        [[2, 1], [0]]
    """
    wanted = ids_by_batch(loader)
    if wanted is None:
        raise ValueError(
            f"the loader's data set does not name its images, which have to be found in {whose}: {REMEDY}; or keep "
            "the features of both models"
        )
    return DataLoader(Rows(ids), batch_sampler=[places_of(batch, ids, whose) for batch in wanted])


def refuse_other_images(ids1: Sequence[str], ids2: Sequence[str], whose1: str, whose2: str) -> None:
    """Refuse features of other images.

    Raises:
        ValueError: If one side has images that the other lacks.

    Example:
        >>> refuse_other_images(["a", "b"], ["b", "c"], "one", "two")
        Traceback (most recent call last):
        ValueError: the images of one and two do not match: 1 of 2 are in one alone, 'a' for one, and ...
    """
    alone1, alone2 = set(ids1) - set(ids2), set(ids2) - set(ids1)
    parts = [
        f"{len(alone)} of {len(ids)} are in {whose} alone, {min(alone)!r} for one"
        for alone, ids, whose in ((alone1, ids1, whose1), (alone2, ids2, whose2))
        if alone
    ]
    if parts or len(ids1) != len(ids2):
        text = ", and ".join(parts) or f"there are {len(ids1)} and {len(ids2)}"
        raise ValueError(f"the images of {whose1} and {whose2} do not match: {text}; keep both over the same images")


def is_rows(loader: Iterable[Any] | None) -> bool:
    """Tell whether a loader serves rows.

    Example:
        >>> is_rows(DataLoader(Rows(["a"]))), is_rows([torch.zeros(2, 3)])
        (True, False)
    """
    return isinstance(getattr(loader, "dataset", None), Rows)
