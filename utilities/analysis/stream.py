"""Parts that all analyses share: a pass over the images, and means with errors, accumulated batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from utilities.datasets.masks import split_masks
from utilities.hooks.calls.batch_parts import check_loader
from utilities.hooks.calls.inputs import SINGLE, channels_last, check_finite, check_gradients, has_channels_last
from utilities.hooks.calls.labels import as_labels, need_labels
from utilities.hooks.calls.memory import keeping_freed_memory
from utilities.hooks.calls.sharing import Served, shared_pass, sharing_processes
from utilities.hooks.calls.weights import check_weights
from utilities.utils import evaluating, split_batch


class Batches:
    """Iterate over batches on the model's device, see `stream`.

    Attributes:
        served: Where the current batch lies among those of all processes: ``served.number`` counts batches, and
            ``served.first`` is the number of its first image.
    """

    def __init__(self, served: Served, batches: Iterator[tuple[torch.Tensor | None, ...]]) -> None:
        self.served, self._batches = served, batches

    def __iter__(self) -> Iterator[tuple[torch.Tensor | None, ...]]:
        return self._batches

    def __next__(self) -> tuple[torch.Tensor | None, ...]:
        return next(self._batches)


@contextmanager
def stream(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    device: str | torch.device = "auto",
    description: str = "images",
    labelled: bool | None = None,
    masked: bool | None = None,
    gradients: bool = False,
    progress: bool = True,
    sums: Any = None,
    most: int | None = None,
    least: int = 1,
) -> Iterator[Batches]:
    """Serve a loader's batches on a model's device, with the model in eval mode. Everything is restored on exit.

    Inside `utilities.hooks.calls.sharing.sharing_batches` each process is served its share of the batches, and on exit
    ``sums`` are those over all batches, in all processes.

    Args:
        model: The model. Its device and each submodule's mode are restored.
        loader: Yields batches that `utilities.utils.split_batch` understands.
        device: See `utilities.utils.resolve_device`.
        description: Text of the progress bar, which appears after two seconds.
        labelled: Whether a batch without labels is an error. If False, labels that are not numbers, such as names or
            boxes, count as missing. If None, labels are ignored and none are yielded.
        masked: Whether a batch without masks of the objects is an error. Unless this is None, masks are yielded third,
            or None where they are missing.
        gradients: Whether autograd stays on.
        progress: Whether to show a bar at all.
        sums: Everything that the caller sums over the images: lists of rows, and objects with a method ``merge`` in
            dictionaries and tuples. Where a caller does not say it, each process reads all images, with a warning. One
            that sums nothing says ``()``.
        most: Number of images after which to end; None serves all.
        least: See `utilities.hooks.calls.sharing.shared_pass`.

    Yields:
        An iterator of (images, labels), or (images, labels, masks), on the device. Missing labels are None.

    Raises:
        ValueError: If the model's weights are not finite, there is no image, or an image is not a finite float tensor.
            Also if labels or masks are missing where they are needed, are missing in some batches only, or differ from
            the images in number or shape.

    Example:
        >>> with stream(nn.Flatten(), [torch.ones(2, 3, 4, 4)], device="cpu") as batches:
        ...     [(images.shape, labels) for images, labels in batches]
        [(torch.Size([2, 3, 4, 4]), None)]
    """
    check_loader(loader)
    check_weights(model)
    if gradients:
        check_gradients(description)
    progress = progress and sharing_processes().rank == 0
    with (
        keeping_freed_memory(),
        evaluating(model, device) as target,
        torch.set_grad_enabled(gradients),
        shared_pass(loader, sums, description, model=model, device=target, most=most, least=least) as served,
    ):
        bar = tqdm(served, desc=description, total=served.total, delay=2, leave=False, disable=not progress)
        batches = _batches(bar, served, target, description, labelled, masked)
        yield Batches(served, batches if most is None else _first(batches, served, most))


def _first(
    batches: Iterator[tuple[torch.Tensor | None, ...]], served: Served, most: int
) -> Iterator[tuple[torch.Tensor | None, ...]]:
    """Serve so many images and no more."""
    for parts in batches:
        left = most - served.first
        yield tuple(None if part is None else part[:left] for part in parts)
        if left <= len(parts[0]):
            return


def _batches(
    batches: Iterable[Any],
    served: Served,
    target: torch.device,
    description: str,
    labelled: bool | None,
    masked: bool | None,
) -> Iterator[tuple[torch.Tensor | None, ...]]:
    count, found = 0, None
    for batch in batches:
        images, labels = split_batch(batch)
        labels = _labels(labels, labelled)
        if labelled:
            need_labels(labels, f"{description}: labels are needed;")
        masks = None if masked is None else split_masks(batch)
        if masks is None and masked:
            raise ValueError(
                f"{description}: masks of the objects are needed; the loader should yield (images, labels, masks), as "
                "load_dataset('canvas') and ImageNet-S do"
            )
        found = _check_parts(description, images, labels, masks, found)
        check_finite(images, description)
        if len(images):
            count += len(images)
            parts = [images, labels] if masked is None else [images, labels, masks]
            yield tuple(None if part is None else part.to(target) for part in parts)
            served.first += len(images)
    if count == 0:
        raise ValueError(f"{description}: the loader yields no image")


def _labels(labels: Any, labelled: bool | None) -> torch.Tensor | None:
    """Return labels if they are wanted, see `stream`."""
    if labels is None or labelled is None:
        return None
    try:
        return as_labels(labels)
    except TypeError:
        if labelled:
            raise
        return None


def _check_parts(
    description: str,
    images: torch.Tensor,
    labels: torch.Tensor | None,
    masks: torch.Tensor | None,
    before: tuple[bool, bool] | None,
) -> tuple[bool, bool]:
    """Refuse labels and masks that do not fit the images or that some batches lack, and return which are present."""
    for what, part in (("labels", labels), ("masks", masks)):
        count = None if part is None else len(part) if part.ndim else 1
        if count not in (None, len(images)):
            single = f"; {SINGLE}" if images.ndim == 3 and count == 1 else ""
            raise ValueError(f"{description}: a batch of {len(images)} images has {count} {what}{single}")
    if masks is not None and masks.shape[-2] * images.shape[-1] != masks.shape[-1] * images.shape[-2]:
        if has_channels_last(images):
            raise ValueError(channels_last(images, description))
        sizes = ["x".join(map(str, part.shape[-2:])) for part in (masks, images)]
        raise ValueError(
            f"{description}: masks of {sizes[0]} pixels do not lie on images of {sizes[1]}; put both through the same "
            "geometry"
        )
    found = (labels is not None, masks is not None)
    if before not in (None, found):
        raise ValueError(f"{description}: some batches come with labels or masks, and others without; give all or none")
    return found


def readable_twice(loader: Iterable[Any], what: str) -> None:
    """Refuse loaders that can be read only once, such as generators, where two passes are needed.

    Raises:
        TypeError: If the loader can be read only once; the message names the remedy.

    Example:
        >>> readable_twice(iter([1]), "mean ablation")
        Traceback (most recent call last):
        TypeError: mean ablation reads the images twice, which a list_iterator does not allow; pass a list or DataLoader
    """
    if isinstance(loader, Iterator):
        raise TypeError(
            f"{what} reads the images twice, which a {type(loader).__name__} does not allow; pass a list or DataLoader"
        )
