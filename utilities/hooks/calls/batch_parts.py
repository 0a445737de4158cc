"""Find the parts of what a loader yields: the images of a batch, their labels, their number, the first few."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from utilities.hooks.calls.inputs import CHANNELS, check_images
from utilities.hooks.calls.nested import map_tensors, tensors_in

IMAGE_KEYS = ("pixel_values", "images", "image", "img")
LABEL_KEYS = ("labels", "label", "fine_label", "targets", "target")
ONE_BY_ONE = (
    "the loader yields one image at a time, and no batches: use utilities.datasets.make_loader, or a DataLoader"
)


def known_length(loader: Any) -> int | None:
    """Return the length of a loader or a data set, or None where it is not known.

    Example:
        >>> known_length([1, 2]), known_length(iter([1, 2]))
        (2, None)
    """
    try:
        return len(loader)
    except TypeError:
        return None


def check_loader(loader: Any) -> None:
    """Refuse a data set, a tensor or a single batch in place of a loader.

    Raises:
        TypeError: If it is one of these; the message names the remedy.

    Example:
        >>> check_loader(torch.zeros(2, 3, 8, 8))
        Traceback (most recent call last):
        TypeError: a loader should yield batches, and this is one tensor, torch.float32 (2, 3, 8, 8): pass [images], ...
    """
    remedy = "use utilities.datasets.make_loader(dataset, batch_size), or a torch DataLoader"
    if isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
        raise TypeError(f"a loader should yield batches, and this is a data set ({type(loader).__name__}): {remedy}")
    if isinstance(loader, torch.Tensor) or hasattr(loader, "__array__"):
        what = f"{loader.dtype} {tuple(loader.shape)}" if hasattr(loader, "shape") else type(loader).__name__
        kind = "tensor" if isinstance(loader, torch.Tensor) else "array"
        raise TypeError(
            f"a loader should yield batches, and this is one {kind}, {what}: pass [images], a list of batches such as "
            "images.split(64), or a torch DataLoader"
        )
    if isinstance(loader, (Mapping, str)) or _is_batch(loader):
        raise TypeError(
            f"a loader should yield batches, and this is a single {type(loader).__name__}; put a batch into a list, "
            f"[batch], or {remedy}"
        )
    if not isinstance(loader, Iterable) and not hasattr(loader, "__getitem__"):
        raise TypeError(f"a loader should yield batches, and this is of type {type(loader).__name__}: {remedy}")


def _is_batch(loader: Any) -> bool:
    """Tell whether a pair is (images, labels) rather than two batches of images."""
    if not isinstance(loader, (tuple, list)) or len(loader) < 2:
        return False
    images, labels = loader[:2]
    if not isinstance(images, torch.Tensor) or not isinstance(labels, torch.Tensor):
        return False
    return images.ndim > 1 and _is_labels(labels, len(images))


def split_batch(batch: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Split what a loader yields, a tensor, a tuple or a mapping, into images and labels.

    Args:
        batch: ``images``, ``(images, labels, ...)``, ``(numbers or paths, images, labels)`` or a mapping with
            ``pixel_values``, ``images``, ``image`` or ``img`` and perhaps ``labels``, ``label`` or ``targets``.

    Returns:
        Images of shape (batch, ...), and labels of shape (batch,) or None where there are none.

    Raises:
        TypeError: If no image tensor can be found, or there is only a single image.
        ValueError: If the images hold no values.

    Example:
        >>> images, labels = split_batch({"pixel_values": torch.zeros(2, 3, 8, 8)})
        >>> images.shape, labels
        (torch.Size([2, 3, 8, 8]), None)
        >>> index = torch.tensor([5, 9])
        >>> split_batch((index, torch.zeros(2, 3, 8, 8), torch.tensor([1, 0])))[1]
        tensor([1, 0])
    """
    _refuse_list_of_images(batch)
    if isinstance(batch, torch.Tensor):
        images, labels = batch, None
    elif isinstance(batch, Mapping):
        images, labels = (next((batch[key] for key in keys if key in batch), None) for keys in (IMAGE_KEYS, LABEL_KEYS))
    elif isinstance(batch, (tuple, list)) and batch:
        place = place_of_images(batch)
        images, labels = batch[place], _labels_after(batch[place + 1 :])
    else:
        images = labels = None
    if not isinstance(images, torch.Tensor):
        raise TypeError(_nothing_found(batch, images))
    check_images(images)
    one_label = isinstance(labels, (int, float)) or (isinstance(labels, torch.Tensor) and labels.ndim == 0)
    if images.ndim == 0 or (one_label and images.ndim < 4):
        raise TypeError(ONE_BY_ONE)
    return images, labels


def place_of_images(batch: tuple[Any, ...] | list[Any]) -> int:
    """Tell which part of a tuple holds the images: the first, unless it is a number or a name for each image.

    Example:
        >>> place_of_images((torch.arange(2), torch.zeros(2, 3, 8, 8), torch.zeros(2)))
        1
    """
    first = batch[0]
    if (
        isinstance(first, torch.Tensor)
        and first.ndim > 1
        and (first.is_floating_point() or first.shape[1:].numel() > 1)
    ):
        return 0
    if isinstance(first, (tuple, list)) and any(isinstance(part, torch.Tensor) for part in first):
        return 0  # several views or sizes of each image, none of which is the image
    later = [k for k, part in enumerate(batch) if isinstance(part, torch.Tensor) and part.ndim > 2]
    floating = [k for k in later if batch[k].is_floating_point()]
    return next(iter(floating or later), 0)


def _labels_after(parts: tuple[Any, ...] | list[Any]) -> Any:
    """Return the part after the images; if labels follow names of images, skip the names."""
    if parts and isinstance(parts[0], (tuple, list)) and all(isinstance(name, str) for name in parts[0]):
        return next((part for part in parts if _is_labels(part, len(parts[0]))), parts[0])
    return parts[0] if parts else None


def _is_labels(part: Any, n: int) -> bool:
    return isinstance(part, torch.Tensor) and part.shape == (n,) and not part.is_floating_point()


def _nothing_found(batch: Any, images: Any) -> str:
    should = "a loader should yield images, (images, labels), or a dictionary with 'pixel_values', 'images' or 'image'"
    if isinstance(batch, Mapping):
        kinds = ", ".join(f"{key!r} ({type(value).__name__})" for key, value in batch.items())
        found = f"its keys are {kinds}" if batch else "it is empty"
    elif isinstance(batch, (tuple, list)):
        counts = Counter(type(part).__name__ for part in batch)
        found = f"it holds {', '.join(k if n == 1 else f'{n} of {k}' for k, n in counts.items()) or 'nothing'}"
    else:
        found = "it is none that holds tensors"
    if isinstance(_first_of(images), Image.Image):
        should = (
            "give the data set a transform to tensors, such as torchvision's ToTensor, and stack them to one tensor"
        )
    what = "" if images is None else f"images should be a tensor, not a {type(images).__name__}; "
    return f"cannot find images in a batch of type {type(batch).__name__}: {what}{found}; {should}"


def _refuse_list_of_images(batch: Any) -> None:
    """Refuse a batch that holds its images one by one, as detectors' batches do."""
    nested = isinstance(batch, (list, tuple)) and bool(batch) and isinstance(batch[0], list)
    images = batch[0] if nested else batch
    if not isinstance(images, list) or len(images) < (2 if nested else 4):
        return
    if all(isinstance(part, torch.Tensor) and part.ndim == 3 and part.shape[0] in CHANNELS for part in images):
        raise TypeError(f"a batch is a list of {len(images)} images: stack them in the loader, collate_fn=torch.stack")


def _first_of(part: Any) -> Any:
    while isinstance(part, (tuple, list)) and part:
        part = part[0]
    return part


def images_in(batch: Any) -> int:
    """Count the images of a whole batch of any structure: rows of its images, failing that of its first tensor.

    Raises:
        TypeError: If there is no tensor.

    Example:
        >>> images_in({"input_ids": torch.zeros(5, 7), "attention_mask": torch.ones(5, 7)})
        5
    """
    _refuse_list_of_images(batch)
    try:
        return len(split_batch(batch)[0])
    except TypeError as error:
        first = next((tensor for tensor in tensors_in(batch) if tensor.ndim), None)
        if first is None or str(error) == ONE_BY_ONE:
            raise
        return len(first)


def first_images(batch: Any, size: int) -> Any:
    """Cut a whole batch of any structure: shorten every tensor that has a row for each image.

    Example:
        >>> first_images((torch.zeros(5, 3), {"mask": torch.ones(5, 7), "scale": torch.ones(2)}), 4)[1]["mask"].shape
        torch.Size([4, 7])
    """
    n = images_in(batch)
    if size >= n:
        return batch
    return map_tensors(lambda tensor: tensor[:size] if tensor.ndim and len(tensor) == n else tensor, batch)
