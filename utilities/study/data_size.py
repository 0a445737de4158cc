"""Trainings on shares of the images and on another data set: which layers become alike, and which ones stay.

Raghu et al. 2021 (https://arxiv.org/abs/2108.08810) compare a model trained on a share of the images with one trained
on all of them (figure 12), and a model before and after fine-tuning (figure G.1), block by block.

- A share is trained for as many optimiser steps as all images are, in batches of the same size: its images are repeated
  within an epoch. Each image once would be a few steps on few images, and show the training and not the images.
- Shares have another seed than the model that they are compared with, and so other initial weights. With the same
  ones, a model that has hardly moved would seem to have learnt the same. An untrained model shows what blocks have in
  common anyway, and the share of 100 % what two trainings on all images do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from utilities.compare.all_pairs import pair_facts
from utilities.compare.two_models import compare
from utilities.datasets.factory import load_dataset
from utilities.datasets.loaders import Loader, make_loader
from utilities.hooks.calls.options import check_number
from utilities.results.formatting import counted
from utilities.results.similarity import Similarity
from utilities.study.study import Study
from utilities.train import fit
from utilities.training.recipes import Recipe
from utilities.zoo.checkpoints import read_checkpoint
from utilities.zoo.factory import create_model
from utilities.zoo.inputs import input_options
from utilities.zoo.layers import block_layers

# Claims rest on the smallest and the largest.
SHARES = {"quick": (0.03, 1.0), "natural": (0.03, 1.0), "paper": (0.03, 0.1, 0.3, 1.0)}
NEW_DATASET = {"quick": "photos", "natural": "photos", "paper": "cifar10"}
# Training on the new data set, where it differs from that on the first one. By validation accuracy, 4 epochs were as
# good as 8, and better than 4 at a lower rate.
TUNING = {
    "quick": {"epochs": 5, "n_images": 1000, "warmup": 1},
    "natural": {"epochs": 10, "n_images": 1000, "warmup": 1, "batch_size": 32},
    "paper": {"epochs": 20},
}


def share_recipe(recipe: Recipe, share: float, count: int) -> Recipe:
    """Return a recipe for a share of the training images, which are repeated so that epochs and steps stay the same.

    Args:
        recipe: Recipe for all images.
        share: Share of them, above 0 and up to 1.
        count: Number of all training images.

    Raises:
        ValueError: If the share is out of range, or leaves fewer than two images.

    Example:
        >>> recipe = share_recipe(Recipe("digits", epochs=20), 0.1, 1131)
        >>> recipe.n_images, recipe.epoch_images, recipe.epochs
        (113, 1131, 20)
    """
    check_number("share", share, above=0, most=1)
    n_images = round(share * count)
    if n_images < 2:
        raise ValueError(f"share={share} of {count} images should be two images or more")
    return replace(recipe, n_images=n_images, epoch_images=count)


def train_on_shares(study: Study, shares: Sequence[float] | None = None) -> dict[str, tuple[nn.Module, dict[str, Any]]]:
    """Train a model on shares of the training images, or load it where that has been done.

    Args:
        study: Study of the model. Its seed is that of the model trained on all images; shares have the next one.
        shares: Shares of the images; a smaller choice is part of a larger one. None takes the profile's `SHARES`.

    Returns:
        Label of the share -> model, and its facts for captions: ``model, weights, accuracy, n_train``.

    Raises:
        ValueError: If a share is out of range, before any training.
    """
    found = {}
    for share, recipe in _recipes(study, shares).items():
        all_images = recipe.epoch_images
        folder = study.checkpoint_folder / "shares" / f"{recipe.n_images}_images"
        path = fit(study.model, recipe, study.seed + 1, folder, resume=True, report=_quiet)
        found[f"{100 * share:g} %"] = _loaded(study, path, f"trained on {recipe.n_images:,} of {all_images:,} images")
    return found


def compare_shares(study: Study, shares: Sequence[float] | None = None) -> dict[str, Similarity]:
    """Compare a model trained on shares of the training images with one trained on all, block by block.

    Args:
        study: Study of the model.
        shares: See `train_on_shares`.

    Returns:
        Label of the share -> similarity of the blocks of that model (rows) to those of the model trained on all images
        (columns), on test images. The first one is ``untrained``, a model with the initial weights of the shares.

    Raises:
        ValueError: If a share is out of range, before any training.
    """
    _recipes(study, shares)  # refuses shares before the training
    whole, untrained = study.finished_model(), replace(study, seed=study.seed + 1).untrained_model()
    loader = study.loader(n_images=study.n_images)
    shared = study.shared_facts(loader)
    models = {"untrained": untrained, **train_on_shares(study, shares)}
    return {label: _compare_blocks(one, whole, loader, shared) for label, one in models.items()}


def compare_fine_tuned(study: Study, other: str | None = None, **training: Any) -> dict[str, Similarity]:
    """Train a model on one data set, go on training on another one, and compare it before and after, block by block.

    Images have the size of the first set and the normalisation of the new one, before and after.

    Args:
        study: Study of the model and its first data set.
        other: The new data set; None takes it from `NEW_DATASET`.
        **training: Fields of the recipe on the new set, in place of those in `TUNING`.

    Returns:
        ``fine-tuned``: the model before (rows) and after (columns), on test images of the new set. ``from scratch``:
        the model before, and one that was trained with the same recipe on the new set alone, from other initial
        weights. The accuracy of the model before is that on its own set.
    """
    other = other or NEW_DATASET[study.profile]
    fields = {**TUNING[study.profile], **training, "dataset": other}
    size = study.loader().dataset.image_size
    options = {"image_size": size, "masks": False}
    new, most = replace(study, dataset=other), len(load_dataset(other, "train", **options))
    recipe = replace(study.recipe, **fields, image_size=size)
    if recipe.n_images is not None:
        recipe = replace(recipe, n_images=min(recipe.n_images, most))
    data = load_dataset(other, "test", seed=study.seed, **options)
    if study.n_images is not None and study.n_images < len(data):
        data = load_dataset(other, "test", n_images=study.n_images, seed=study.seed, **options)
    before, loader = study.finished_model(), make_loader(data, study.batch_size, seed=study.seed)
    results = {}
    for label, start in (("fine-tuned", study.checkpoint()), ("from scratch", None)):
        folder = new.checkpoint_folder / "tuned" / study.checkpoint_folder.name
        path = fit(study.model, recipe, study.seed + 1, folder, resume=True, start=start, report=_quiet)
        after = _loaded(new, path, f"{label} on {recipe.n_images or most:,} images of {other.rpartition('/')[2]}")
        results[label] = _compare_blocks(before, after, loader, study.shared_facts(loader))
    return results


def self_similarities(studies: Iterable[Study]) -> dict[str, Similarity]:
    """Compare each of several trained models with itself, layer by layer: name of the model -> similarity."""
    return {study.model: study.trained_similarity() for study in studies}


def _compare_blocks(
    one: tuple[nn.Module, Mapping[str, Any]],
    two: tuple[nn.Module, Mapping[str, Any]],
    loader: Loader,
    shared: Mapping[str, Any],
) -> Similarity:
    """Compare the outputs of the blocks of two models of one architecture."""
    layers = block_layers(one[0])
    provenance = dict(shared) | pair_facts(one[1], two[1])
    return compare(one[0], two[0], loader, layers1=layers, layers2=layers, provenance=provenance)


def _loaded(study: Study, path: Path, how: str) -> tuple[nn.Module, dict[str, Any]]:
    """Load a finished training with its facts, and print the accuracy on all test images that was measured then."""
    content = read_checkpoint(path)
    model, accuracy = create_model(study.model, None, weights=path), content["test"]["top1"]
    epochs, seed = content["recipe"]["epochs"], content["seed"]
    print(f"{study.model}, {how}: {accuracy:.2%} of {content['test']['n']} test images right")
    return model, {
        "model": study.model,
        "weights": f"{how}, {counted(epochs, 'epoch')}, seed {seed}",
        "accuracy": accuracy,
    }


def _recipes(study: Study, shares: Sequence[float] | None) -> dict[float, Recipe]:
    """Make the recipe of each share; None takes the profile's."""
    chosen = SHARES[study.profile] if shares is None else shares
    count = len(load_dataset(study.dataset, "train", masks=False, **input_options(study.model)))
    return {share: share_recipe(study.recipe, share, count) for share in chosen}


def _quiet(line: str) -> None:
    """Leave out the table of hundreds of epochs."""
