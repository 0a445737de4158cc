"""Load the images that a recipe trains, validates and tests on, and serve them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from utilities.datasets.factory import load_dataset
from utilities.datasets.images import Augmentation, ImageDataset
from utilities.datasets.loaders import Loader, make_loader
from utilities.hooks.calls.processes import Processes
from utilities.training.augmentation import recipe_augmentation
from utilities.training.recipes import Recipe
from utilities.utils import evaluating


def load_sets(recipe: Recipe, seed: int = 0, classes: Sequence[str] | str | Path | None = None) -> list[ImageDataset]:
    """Load the training (augmented), validation and test images of a recipe, without masks.

    Args:
        recipe: Recipe with the data set, the size and number of training images, and their augmentation.
        seed: Seed of the choice of training images.
        classes: Order of a folder's classes; see `utilities.datasets.load_dataset`.

    Raises:
        ValueError: If there is but one class.

    Example:
        >>> [len(data) for data in load_sets(Recipe("digits", n_images=100))]
        [100, 126, 540]
    """
    options = {"image_size": recipe.image_size, "masks": False, "classes": classes}
    train = load_dataset(recipe.dataset, "train", n_images=recipe.n_images, seed=seed, augment=True, **options)
    if train.num_classes < 2:
        raise ValueError(
            f"{recipe.dataset} has one class, {train.classes[0]!r}, and training tells classes apart: put the images "
            "of each class into a folder of its own"
        )
    train.augmentation = recipe_augmentation(recipe, train)
    return [train, *(load_dataset(recipe.dataset, split, **options) for split in ("validation", "test"))]


def resident(sets: Sequence[ImageDataset], device: torch.device, workers: int) -> Sequence[ImageDataset]:
    """Put decoded images on a GPU, where batches are then cut out, unless something needs them on the CPU."""
    if device.type == "cpu" or workers or not isinstance(sets[0].augmentation, Augmentation):
        return sets
    return [one.to(device) for one in sets]


def make_loaders(sets: Sequence[ImageDataset], recipe: Recipe, seed: int, workers: int = 0) -> list[Loader]:
    """Make loaders for the sets of `load_sets`: training images in a new order each epoch, the others in fixed order.

    Example:
        >>> recipe = Recipe("digits", batch_size=33, n_images=100)
        >>> [len(loader) for loader in make_loaders(load_sets(recipe), recipe, seed=0)]
        [3, 4, 17]
    """
    train, *held_out = sets
    train = train.repeated(recipe.epoch_images) if recipe.epoch_images else train
    size = min(recipe.batch_size, len(train))
    # Batch norm cannot train on a last batch that leaves a process a single image.
    ragged = 0 < len(train) % size < 2 * Processes.now().count
    alternating = train.flip and recipe.flips == "alternating"
    options = {"shuffle": "every_epoch", "drop_last": ragged, "alternating": alternating}
    loader = make_loader(train, size, seed=seed, workers=workers, **options)
    return [loader, *(make_loader(d, recipe.batch_size, shuffle="never", workers=workers) for d in held_out)]


def still_images(recipe: Recipe, most: int, seed: int = 0, classes: Sequence[str] | str | Path | None = None) -> Loader:
    """Serve training images that are not augmented in one batch, for the statistics of batch norms.

    Args:
        recipe: Recipe with the data set and the number of images, ``norm_images``.
        most: Number of training images, of which there cannot be more.
        seed: Seed of the choice of images.
        classes: Order of a folder's classes; see `utilities.datasets.load_dataset`.

    Example:
        >>> [len(images) for images, labels in still_images(Recipe("digits", norm_images=30), most=100)]
        [30]
    """
    count = min(recipe.norm_images, most)
    options = {"image_size": recipe.image_size, "masks": False, "classes": classes}
    return make_loader(load_dataset(recipe.dataset, "train", n_images=count, seed=seed, **options), count)


def check_size(model: torch.nn.Module, train: Loader, model_name: str) -> None:
    """Refuse images of a size that the model cannot take, before training starts."""
    data = train.dataset
    try:
        with evaluating(model), torch.inference_mode():
            model(torch.stack([data[0][0], data[0][0]]).cpu())
    except (AssertionError, RuntimeError, ValueError) as error:
        size = f"{data.image_size}x{data.image_size} images of {data.name}"
        raise ValueError(f"{model_name} cannot take the {size}: {error}; choose another --image-size") from error
