"""Name the images that a loader serves, in its order, so that two runs on other days can be seen to mean the same."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Subset

from utilities.hooks.calls.batch_lists import batch_indices

REMEDY = (
    "pass ids=, a list of names in the loader's order, let the data set have a list `ids` or `samples`, or let each "
    "batch bring names ('id', 'path', ...) with its images"
)


def ids_of_dataset(dataset: Any) -> list[str] | None:
    """Name the images of a data set: by its ``ids``, or by the files in the ``samples`` of torchvision's folders.

    Args:
        dataset: A map-style data set, perhaps within `torch.utils.data.Subset`.

    Returns:
        A name for each image, in order, or None where it has none.

    Example:
        >>> from utilities.datasets import load_dataset
        >>> few = Subset(load_dataset("digits", n_images=5), [3, 1])
        >>> ids_of_dataset(few) == [few.dataset.ids[3], few.dataset.ids[1]], ids_of_dataset(range(3))
        (True, None)
    """
    if isinstance(dataset, Subset):
        whole = ids_of_dataset(dataset.dataset)
        return None if whole is None else [whole[int(i)] for i in dataset.indices]
    ids, samples = getattr(dataset, "ids", None), getattr(dataset, "samples", None)
    if ids is not None and not callable(ids):
        return [str(one) for one in ids]
    if isinstance(samples, list) and samples and isinstance(samples[0], tuple) and isinstance(samples[0][0], str):
        root = getattr(dataset, "root", "")
        return [Path(os.path.relpath(file, root) if root else file).as_posix() for file, *_ in samples]
    return None


def ids_by_batch(loader: Any) -> list[list[str]] | None:
    """Name the images of each batch of a loader, without reading any.

    Args:
        loader: A DataLoader of a map-style data set in one order.

    Returns:
        A list of names for each batch, or None where the data set has none.

    Raises:
        ValueError: If the loader cannot tell its batches, or serves another order each time.

    Example:
        >>> from utilities.datasets import load_dataset, make_loader
        >>> [len(names) for names in ids_by_batch(make_loader(load_dataset("digits", n_images=10), 4))]
        [4, 4, 2]
    """
    names = ids_of_dataset(getattr(loader, "dataset", None))
    return None if names is None else [[names[i] for i in batch] for batch in batch_indices(loader)]


def places_of(wanted: Sequence[str], ids: Sequence[str], whose: str) -> list[int]:
    """Find images by their names.

    Args:
        wanted: Names to find.
        ids: Names of all images there are, each once.
        whose: What holds these, for the message.

    Raises:
        ValueError: If a name is missing, or stands for several images.

    Example:
        >>> places_of(["c", "a"], ["a", "b", "c"], "kept")
        [2, 0]
    """
    place = {name: i for i, name in enumerate(ids)}
    if len(place) < len(ids):
        raise ValueError(f"{whose} holds several images of one id, so that no order but its own can be looked up")
    missing = [name for name in wanted if name not in place]
    if missing:
        raise ValueError(
            f"the images do not match: {len(missing)} of {len(wanted)} are not in {whose}, {missing[0]!r} for one; "
            f"its ids are such as {ids[0]!r}"
        )
    return [place[name] for name in wanted]
