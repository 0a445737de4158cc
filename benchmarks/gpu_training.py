"""Train the study's models on small natural images: each with its recipe, then further seeds of three of them.

The learning rate of each family is the one of a short trial that had the best accuracy on the validation images.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from utilities.train import checkpoint_path, fit
from utilities.training.recipes import RECIPES, Recipe

if TYPE_CHECKING:
    from gpu import Bench

FIRST = ("resnet18", "vit_tiny_patch4_32", "lambda_resnet26", "resnet50", "alternet18", "resnet34", "lambda_resnet50")
SEEDED = ("resnet18", "lambda_resnet26", "vit_tiny_patch4_32")
RUNS = [(name, 0) for name in FIRST] + [("resnet18", 1), ("lambda_resnet26", 1), ("lambda_resnet38", 0)]
RUNS += [("resnet101", 0), ("vit_tiny_patch4_32", 1)] + [(name, 2) for name in SEEDED] + [("vit_tiny_patch2_32", 0)]
# Family -> the model of its trials, their epochs and learning rates.
TRIALS = {
    "resnet": ("resnet18", 3, (2e-3, 4e-3, 8e-3)),
    "lambda": ("lambda_resnet26", 3, (2e-3, 4e-3, 8e-3)),
    "vit": ("vit_tiny_patch4_32", 5, (5e-4, 1e-3, 2e-3)),
}
# Lambda layers trained at a high rate overflow on single images with running averages, so these are estimated anew.
OWN: dict[str, dict[str, Any]] = {"lambda": {"norm_images": 2000, "clip_grad": 1.0}}


def items(bench: Bench) -> Iterator[tuple[str, Callable[[], Any]]]:
    """List the trainings, the most telling ones first."""
    for name, seed in RUNS[:3] if bench.toy else RUNS:
        yield f"{name}_{seed}", partial(train, bench, name, seed)


def trials(bench: Bench) -> Iterator[tuple[str, Callable[[], Any]]]:
    """List the short trainings that choose the learning rates."""
    for family, (name, epochs, rates) in TRIALS.items():
        for rate in rates[:1] if bench.toy else rates:
            yield f"{family}_{rate:g}", partial(train, bench, name, 0, rate=rate, epochs=1 if bench.toy else epochs)


def chosen_rate(bench: Bench, family: str, optimizer: str | None) -> float | None:
    """Return the learning rate whose trial did best on the validation images; None where there was no trial."""
    best: dict[float, float] = {}
    for path in bench.out.glob(f"trials_{family}_*.json"):
        found = json.loads(path.read_text())["found"]
        if found["recipe"]["optimizer"] == optimizer:
            best[found["recipe"]["learning_rate"]] = found["history"][-1]["top1"]
    return max(best, key=lambda rate: best[rate]) if best else None


def recipe_of(bench: Bench, name: str) -> Recipe:
    """Return the recipe of a model: ``vit`` for ViTs, ``fast`` for all else."""
    family = next((one for one in TRIALS if name.startswith(one)), "resnet")
    recipe = RECIPES["vit" if family == "vit" else "fast"]
    epochs = 1 if bench.toy else bench.epochs.get(name, recipe.epochs)
    small = {"warmup": 0, "batch_size": 50, "n_images": 200} if bench.toy else {}
    rate = chosen_rate(bench, family, recipe.optimizer) or recipe.learning_rate
    own = small | OWN.get(family, {})
    return replace(recipe, dataset=bench.data, epochs=epochs, image_size=32, learning_rate=rate, **own)


def checkpoint_of(bench: Bench, name: str, seed: int) -> Any:
    """Return the path of a model's checkpoint."""
    return checkpoint_path(bench.checkpoints, name, seed, recipe_of(bench, name).epochs)


def train(bench: Bench, name: str, seed: int, rate: float | None = None, epochs: int | None = None) -> dict[str, Any]:
    """Train a model, and return what a table of accuracies needs; with a rate and epochs of its own, as a trial."""
    recipe, folder = recipe_of(bench, name), bench.checkpoints
    if rate and epochs is not None:
        folder = folder / f"trial_{rate:g}"
        recipe = replace(recipe, learning_rate=rate, epochs=epochs, warmup=min(1, recipe.warmup))
    # The choice of images is that of seed 0 for all: with all images of a set there is nothing to choose.
    path = fit(name, recipe, seed, folder, device=bench.device, resume=True, sets=bench.sets)
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
