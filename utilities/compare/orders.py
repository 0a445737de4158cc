"""Find which data set a loader serves, and in which order, without reading what would change by being read."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from utilities.datasets.images import ImageDataset
from utilities.datasets.loaders import Loader

DRAWN = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
ARRAYS = ("builtins", "collections", "array", "numpy", "pandas", "polars", "h5py", "zarr", "torch")  # no data sets
FILES, PIXELS, CLASSES = ("samples", "imgs", "image_files", "paths", "files"), ("data", "images"), ("targets", "labels")


@dataclass(frozen=True, eq=False)
class Drawn:
    """Describe an order drawn when a loader is read: from these images, by this generator (None: the global one)."""

    images: np.ndarray
    generator: torch.Generator | None
    settings: tuple[Any, ...]

    def repeats(self, other: Drawn) -> bool:
        """Tell whether two generators are in the same state, so that both orders come out the same."""
        mine, its = self.generator, other.generator
        if mine is None or its is None or mine is its or self.settings != other.settings:
            return False
        return torch.equal(mine.get_state(), its.get_state()) and np.array_equal(self.images, other.images)


def order_of(loader: Any) -> np.ndarray | Drawn | None:
    """Determine the order in which a loader serves its data set, without reading what would change by being read.

    Returns:
        Places in the data set, one after the other; or what they will be drawn from; or None where it is not known.

    Example:
        >>> order_of(DataLoader(range(5), batch_size=2, drop_last=True))
        array([0, 1, 2, 3])
    """
    if not isinstance(loader, DataLoader):
        return None
    batches, sampler, size = loader.batch_sampler, loader.sampler, None
    if isinstance(batches, (list, tuple)):
        return _listed([i for batch in batches for i in batch])
    if batches is not None:
        if type(batches) is not BatchSampler:
            return None
        sampler, size = batches.sampler, batches.batch_size if batches.drop_last else None
    order = _order_of_sampler(loader, sampler)
    return order[: len(order) // size * size] if size and isinstance(order, np.ndarray) else order


def _order_of_sampler(loader: DataLoader, sampler: Any) -> np.ndarray | Drawn | None:
    if isinstance(loader, Loader):
        sampler = copy.copy(sampler)
        sampler.epoch = loader.epoch
        return np.array(list(sampler))
    if type(sampler) is SequentialSampler:
        return np.arange(len(sampler))
    if type(sampler) in DRAWN:
        images = getattr(sampler, "indices", None)
        images = np.arange(len(loader.dataset)) if images is None else np.asarray(images)
        weights = getattr(sampler, "weights", None)
        options = len(sampler), getattr(sampler, "replacement", None), sampler.generator is loader.generator
        settings = type(sampler), *options, None if weights is None else tuple(weights.tolist())
        return Drawn(images, sampler.generator, settings)
    if type(sampler) is DistributedSampler or isinstance(sampler, (list, tuple, range, np.ndarray, torch.Tensor)):
        return _listed(sampler)
    return None


def _listed(places: Iterable[Any]) -> np.ndarray | None:
    try:
        return np.array([int(i) for i in places], np.int64)
    except (TypeError, ValueError):
        return None  # keys of another kind


def changes(loader: Any) -> bool:
    """Tell whether a loader yields other batches when it is read a second time.

    Example:
        >>> changes(DataLoader(range(5))), changes(DataLoader(range(5), shuffle=True))
        (False, True)
    """
    shuffles = isinstance(loader, Loader) and loader.sampler.shuffle == "every_epoch"
    return isinstance(loader, Iterator) or shuffles or isinstance(order_of(loader), Drawn)


def source_of(dataset: Any) -> tuple[Any, np.ndarray | None, bool]:
    """Unwrap a data set from its subsets and wrappers.

    Returns:
        The data set it is a part of, the places of that in use (None: all), and whether this is certain.

    Example:
        >>> source_of(Subset(Subset("abcdef", [1, 3, 5]), [2, 0]))
        ('abcdef', array([5, 1]), True)
    """
    places, sure = None, True
    while True:
        if isinstance(dataset, Subset):
            places, dataset = _through(np.asarray(dataset.indices), places), dataset.dataset
        elif isinstance(dataset, ImageDataset):
            targets = (
                dataset.targets.tobytes() if dataset.name.startswith("folder:") else None
            )  # many folders may share a name
            return (dataset.name, dataset.split, targets), _through(dataset.indices, places), sure
        elif (inner := _wrapped(dataset)) is not None:
            dataset, sure = inner, False  # image i is most likely image i of the wrapped set
        else:
            return dataset, places, sure


def _wrapped(dataset: Any) -> Any:
    """Find the data set that another one wraps: its ``dataset``, or else the only one among its attributes."""
    inner = getattr(dataset, "dataset", None)
    if hasattr(inner, "__len__") and _equally_long(inner, dataset):
        return inner
    own = getattr(dataset, "__dict__", {})
    if any(isinstance(own.get(name), (list, tuple, np.ndarray, torch.Tensor)) for name in (*FILES, *PIXELS)):
        return None  # it determines itself which images it has
    found = {id(value): value for value in own.values() if _is_dataset(value) and _equally_long(value, dataset)}
    return next(iter(found.values())) if len(found) == 1 else None


def _is_dataset(value: Any) -> bool:
    if isinstance(value, Dataset):
        return True
    listed = hasattr(type(value), "__getitem__") and hasattr(type(value), "__len__")
    return listed and not isinstance(value, nn.Module) and type(value).__module__.partition(".")[0] not in ARRAYS


def _equally_long(one: Any, two: Any) -> bool:
    try:
        return one is not two and len(one) == len(two)
    except (TypeError, NotImplementedError):
        return False


def _through(indices: np.ndarray, places: np.ndarray | None) -> np.ndarray:
    return indices if places is None else indices[places]


def placed(order: np.ndarray | Drawn | None, places: np.ndarray | None) -> np.ndarray | Drawn | None:
    """Turn places in a subset into places in the whole.

    Example:
        >>> placed(np.array([1, 0]), np.array([4, 7]))
        array([7, 4])
    """
    if order is None or places is None:
        return order
    if isinstance(order, Drawn):
        return Drawn(places[order.images], order.generator, order.settings)
    return places[order]


def same_images(one: Any, two: Any) -> bool:
    """Tell whether two data sets hold the same images, perhaps prepared in two ways, by files, pixels or labels.

    Example:
        >>> images = torch.arange(3)
        >>> same_images(TensorDataset(images), TensorDataset(images.clone()))
        True
    """
    if one is two:
        return True
    if isinstance(one, TensorDataset) and isinstance(two, TensorDataset):
        one, two = one.tensors, two.tensors
        return len(one) == len(two) and all(map(_equal, one, two))
    if isinstance(one, (tuple, torch.Tensor)) or isinstance(two, (tuple, torch.Tensor)):
        return _equal(one, two)
    # Not with getattr: a property may be slow, or fail.
    own1, own2 = (getattr(dataset, "__dict__", {}) for dataset in (one, two))
    if any(_equal(own1.get(name), own2.get(name)) for name in (*FILES, *PIXELS)):
        return True
    classes = [next((own[name] for name in CLASSES if own.get(name) is not None), None) for own in (own1, own2)]
    return _equal(*classes) and _scattered(classes[0])


def alike(one: Any, two: Any, depth: int = 4) -> bool:
    """Tell whether two objects have one class and equal attributes, except for functions such as transforms.

    Example:
        >>> from torch.utils.data import ConcatDataset
        >>> alike(ConcatDataset(["ab", "c"]), ConcatDataset(["ab", "c"])), alike(object(), object())
        (True, False)
    """
    if one is two or type(one) is not type(two):
        return one is two
    if isinstance(one, (str, bytes, int, float, PurePath)):
        return one == two
    if isinstance(one, (torch.Tensor, np.ndarray)):
        return _equal(one, two)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(alike(a, b, depth) for a, b in zip(one, two, strict=True))
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(alike(one[key], two[key], depth) for key in one)
    whole = [getattr(x, "__dict__", {}) for x in (one, two)]
    functions = {name for own in whole for name, value in own.items() if callable(value)}
    own1, own2 = ({name: own[name] for name in own.keys() - functions} for own in whole)
    return depth > 0 and bool(own1) and alike(own1, own2, depth - 1)


def _equal(one: Any, two: Any) -> bool:
    if one is None or type(one) is not type(two):
        return False
    if isinstance(one, torch.Tensor):
        return one.shape == two.shape and one.dtype == two.dtype and (one is two or torch.equal(one, two))
    if isinstance(one, np.ndarray):
        return np.array_equal(one, two)
    plain = isinstance(one, (list, tuple)) and len(one) and isinstance(one[0], (str, int, tuple))
    return bool(plain) and one == two


def _scattered(classes: Any) -> bool:
    """Tell whether labels are in no order of their own: only then does their agreement show the same images."""
    values = np.asarray(classes)
    return values.ndim == 1 and bool((values[1:] < values[:-1]).any() and (values[1:] > values[:-1]).any())
