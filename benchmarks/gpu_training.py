"""Train the study's models on small natural images: each with its recipe, then further seeds of three of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from utilities.train import checkpoint_path, fit
from utilities.training.recipes import RECIPES, Recipe

if TYPE_CHECKING:
    from gpu import Bench

FIRST = ("resnet18", "vit_tiny_patch4_32", "lambda_resnet26", "resnet50", "lambda_resnet50", "resnet34", "alternet18")
FIRST += ("lambda_resnet38", "resnet101", "vit_tiny_patch2_32")
SEEDED = ("resnet18", "lambda_resnet26", "vit_tiny_patch4_32")
RUNS = [(name, 0) for name in FIRST] + [(name, seed) for seed in (1, 2) for name in SEEDED]


def items(bench: Bench) -> Iterator[tuple[str, Callable[[], Any]]]:
    """List the trainings, the most telling ones first."""
    for name, seed in RUNS[:3] if bench.toy else RUNS:
        yield f"{name}_{seed}", partial(train, bench, name, seed)


def recipe_of(bench: Bench, name: str) -> Recipe:
    """Return the recipe of a model: ``vit`` for ViTs, ``fast`` for all else."""
    recipe = RECIPES["vit" if name.startswith("vit") else "fast"]
    epochs = 1 if bench.toy else bench.epochs.get(name, recipe.epochs)
    small = {"warmup": 0, "batch_size": 50, "n_images": 200} if bench.toy else {}
    return replace(recipe, dataset=bench.data, epochs=epochs, image_size=32, **small)


def checkpoint_of(bench: Bench, name: str, seed: int) -> Any:
    """Return the path of a model's checkpoint."""
    return checkpoint_path(bench.checkpoints, name, seed, recipe_of(bench, name).epochs)


def train(bench: Bench, name: str, seed: int) -> dict[str, Any]:
    """Train a model, and return what a table of accuracies needs."""
    recipe = recipe_of(bench, name)
    # The choice of images is that of seed 0 for all: with all images of a set there is nothing to choose.
    path = fit(name, recipe, seed, bench.checkpoints, device=bench.device, resume=True, sets=bench.sets)
    content = torch.load(path, weights_only=True)
    history = content["history"]
    names = ("epoch", "train_loss", "train_top1", "loss", "top1", "seconds")
    return {
        "model": name,
        "seed": seed,
        "recipe": content["recipe"],
        "precision": content["precision"],
        "test": content["test"],
        "seconds": round(sum(row["seconds"] for row in history), 1),
        "history": [{key: round(row[key], 4) for key in names} for row in history],
    }
