"""The labelled images that a Hessian is computed on: read, cut into mini-batches, mixed and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from utilities.analysis.loss.curvature import Objective
from utilities.datasets.loaders import seeded_generator
from utilities.hooks.calls.batch_parts import check_loader
from utilities.hooks.calls.inputs import check_finite
from utilities.hooks.calls.labels import BatchCheck, as_labels, check_logits, check_loss_targets, need_labels, widened
from utilities.utils import evaluating, split_batch

# Mixes images and labels, drawing from the generator that it is given alone.
SeededMixFunction = Callable[[torch.Tensor, torch.Tensor, torch.Generator], tuple[torch.Tensor, torch.Tensor]]


def mini_batches(
    loader: Iterable[Any],
    batch_size: int,
    n_batches: int | None = None,
    *,
    mix: SeededMixFunction | None = None,
    seed: int = 0,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Cut the images of a loader into mini-batches of one size, keeping the loader's order and augmentation.

    Args:
        loader: Yields images with labels in batches of any size. A loader made by `utilities.datasets.make_loader` is
            reset to its epoch afterwards, so that a second call gets the same images.
        batch_size: Images in a mini-batch. A smaller remainder is left out, because eigenvalues depend on the size.
        n_batches: Number of mini-batches; None is all.
        mix: Called as (images, labels, generator); returns images and probabilities. See `hessian_spectra`.
        seed: Seed for ``mix``.

    Raises:
        ValueError: If there are too few images or no labels.

    Example:
        >>> loader = [(torch.zeros(5, 1, 2, 2), torch.arange(5)), (torch.zeros(2, 1, 2, 2), torch.arange(2))]
        >>> [labels.tolist() for _, labels in mini_batches(loader, 3)]
        [[0, 1, 2], [3, 4, 0]]
    """
    if batch_size < 1 or (n_batches is not None and n_batches < 1):
        raise ValueError(f"batch_size={batch_size} and n_batches={n_batches} should be 1 or more")
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    images: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    count = 0
    for batch in labelled_batches(loader):
        images, labels = [*images, batch[0]], [*labels, batch[1]]
        count += len(batch[0])
        full = sum(map(len, images)) // batch_size * batch_size
        if full:
            parts = [torch.cat(part) for part in (images, labels)]
            found += zip(*(part[:full].split(batch_size) for part in parts), strict=True)
            images, labels = ([part[full:]] for part in parts)
        if n_batches is not None and len(found) >= n_batches:
            break
    if len(found) < (n_batches or 1):
        raise ValueError(
            f"{n_batches or 1} mini-batches of {batch_size} images were asked for, but the loader has {count} images; "
            "ask for fewer, or smaller ones"
        )
    return [mix_batch(*batch, mix, seed, number) for number, batch in enumerate(found[:n_batches])]


def check_targets(
    model: nn.Module,
    images: torch.Tensor,
    targets: Iterable[torch.Tensor],
    goal: Objective,
    device: str | torch.device,
    loader: Iterable[Any] = (),
) -> None:
    """Refuse unsuitable targets before the long work starts.

    Targets must be classes of the model or, for cross-entropy, probabilities. If the model has more classes than the
    data set, this is a warning only, see `utilities.hooks.calls.labels.BatchCheck`.

    Args:
        model: The model. It runs on one image, to find its number of classes.
        images: One image or more.
        targets: Targets of the mini-batches.
        goal: The objective whose loss is used. Targets are not checked if its loss is a user's function.
        device: Where the model runs.
        loader: Loader of the images. The classes come from its data set, where that knows them.

    Raises:
        TypeError: If the model does not return a tensor.
        ValueError: If a target does not fit; the message names the label or the shape.
    """
    parameter = next(model.parameters(), None)
    targets = [] if callable(goal.loss) else list(targets)
    if goal.loss == "mse":
        targets = [one for one in targets if not one.is_floating_point()]
    if parameter is None or not targets:
        return  # a model without parameters is refused when the operator is made
    with evaluating(model, device) as target, torch.no_grad():
        outputs = model(images[:1].to(target, parameter.dtype))
    check_logits(outputs)
    check = BatchCheck(loader, model)
    for one in targets:
        check.note(outputs.shape[1], check_loss_targets(one, outputs.shape[1], len(one)))
    check.finish(stacklevel=4)


def labelled_batches(loader: Iterable[Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Read (images, labels), then reset a loader of this package to the epoch it was at.

    Raises:
        ValueError: If there are no labels.
    """
    check_loader(loader)
    epoch = getattr(loader, "epoch", None)
    try:
        for batch in loader:
            images, labels = split_batch(batch)
            need_labels(labels, "a Hessian needs a loss:")
            check_finite(images, "a Hessian")
            yield images, widened(as_labels(labels))
    finally:
        if epoch is not None:
            loader.epoch = epoch


def mix_batch(
    images: torch.Tensor, targets: torch.Tensor, mix: SeededMixFunction | None, seed: int, number: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix the images and labels of a batch. The result depends on the seed and the batch number alone."""
    if mix is None:
        return images, targets
    return mix(images.clone(), targets.clone(), seeded_generator(seed, number))  # mix may write into its arguments


def image_facts(loader: Iterable[Any], mix: SeededMixFunction | None) -> dict[str, str | None]:
    """Describe how images are mixed, and augmented if the loader knows it, for a result's provenance."""
    augment = getattr(loader, "augment", "as the caller's loader does")
    name = None if mix is None else getattr(mix, "__name__", str(mix))
    name = type(mix).__name__ if name and " at 0x" in name else name  # timm's Mixup does not describe itself
    return {"augmentation": augment if augment is None or isinstance(augment, str) else repr(augment), "mix": name}


def as_type(images: torch.Tensor, targets: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Convert images to a type, and likewise targets that are not classes."""
    return images.to(dtype), targets.to(dtype) if targets.is_floating_point() else targets
