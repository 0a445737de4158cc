"""The networks of the layer-matching test: one CNN trained from several seeds, and the images they are compared on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utilities.datasets.factory import load_dataset
from utilities.datasets.loaders import Loader, make_loader
from utilities.train import fit
from utilities.training.recipes import Recipe
from utilities.zoo.checkpoints import read_checkpoint
from utilities.zoo.factory import create_model
from utilities.zoo.plain_cnn import WIDTHS

NAME = "plain_cnn8"
RECIPE = Recipe("digits", epochs=12, batch_size=32, learning_rate=3e-3, optimizer="adamw", warmup=1.0)


def trained_networks(
    recipe: Recipe,
    seeds: Iterable[int],
    folder: str | Path,
    *,
    name: str = NAME,
    widths: Sequence[int] = WIDTHS,
    device: str | torch.device = "auto",
    precision: str = "auto",
    workers: int = 0,
    report: Callable[[str], None] = print,
) -> tuple[list[nn.Module], list[dict[str, Any]]]:
    """Train a model from each seed by `utilities.train.fit`, or load those that have been trained so before.

    The seed decides on initial weights, order and augmentation, and, where the recipe takes a part of the images, on
    which part.

    Args:
        recipe: How to train; ``norm_images`` has to be 0.
        seeds: One for each network.
        folder: Where the checkpoints go; those of other widths than the usual ones into a folder of their own.
        name: Which model, see `utilities.zoo.create_model`.
        widths: Channels of each block of `PlainCNN`.
        device: See `utilities.utils.resolve_device`.
        precision: See `utilities.training.trainer.autocast_dtype`.
        workers: Processes that load images.
        report: Is given a line for each epoch.

    Returns:
        The networks, and of each its seed and its accuracies on the validation and the test images.

    Raises:
        ValueError: For an unknown data set, or options out of range.
        FloatingPointError: If training diverges.

    Example:
        >>> import tempfile
        >>> recipe = Recipe("digits", epochs=1, image_size=8, n_images=20, batch_size=10, optimizer="adamw")
        >>> networks, facts = trained_networks(
        ...     recipe, [0, 1], tempfile.mkdtemp(), widths=(4, 4, 8), device="cpu", report=lambda line: None
        ... )
        >>> len(networks), list(facts[1])
        (2, ['seed', 'validation', 'test'])
    """
    if recipe.norm_images:
        raise ValueError(f"norm_images={recipe.norm_images}: these networks keep the running averages of training")
    options = {} if tuple(widths) == WIDTHS else {"widths": tuple(widths)}
    folder = Path(folder) / "-".join([NAME, *map(str, widths)] if options else [])
    networks, facts = [], []
    for seed in seeds:
        run = {"device": device, "precision": precision, "workers": workers, "report": report}
        path = fit(name, recipe, seed, folder, resume=True, options=options, **run)
        content = read_checkpoint(path)
        networks.append(create_model(name, content["num_classes"], path, **options))
        validation = content["history"][-1]["top1"] if content["history"] else None
        facts.append({"seed": seed, "validation": validation, "test": content["test"]["top1"]})
    return networks, facts


def comparison_loader(
    dataset: str,
    n_images: int,
    batch_size: int,
    image_size: int | None = None,
    seed: int = 0,
    root: str | Path | None = None,
) -> Loader:
    """Load test images in batches as equal as can be, for measures that depend on the size of a batch.

    Args:
        dataset: See `utilities.datasets.load_dataset`.
        n_images: At most so many, of all classes alike.
        batch_size: At most so many in a batch.
        image_size: Pixels; None is the set's own.
        seed: Seed of the choice and the order of images.
        root: Folder of downloaded sets; None is ``data`` in the project.

    Raises:
        ValueError: For an unknown data set, or a number below 4, of which no measure can be computed.

    Example:
        >>> [len(labels) for _, labels in comparison_loader("digits", 2000, 300)]
        [270, 270]
    """
    if min(n_images, batch_size) < 4:
        raise ValueError(f"4 images or more are needed in all and in a batch, not {n_images} and {batch_size}")
    data = load_dataset(dataset, "test", root=root, image_size=image_size)
    if n_images < len(data):
        data = load_dataset(dataset, "test", root=root, image_size=image_size, n_images=n_images, seed=seed)
    batches = ceil(len(data) / batch_size)
    return make_loader(data, ceil(len(data) / batches), seed=seed)
