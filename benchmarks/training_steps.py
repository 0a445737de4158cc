"""Time an epoch of the trainer against bare steps: forward, backward and optimiser on one batch that is there.

Bare steps run with the trainer's layout of convolutions, channels last, and with the usual one.

    python benchmarks/training_steps.py --json benchmarks/results/training_steps_cpu.json

Images are noise. All in turn, round after round; the first round does not count. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from utilities.datasets.images import Augmentation, ImageDataset, Source
from utilities.datasets.loaders import make_loader
from utilities.training.optimizers import make_optimizer
from utilities.training.recipes import RECIPES, Recipe
from utilities.training.trainer import Trainer
from utilities.utils import resolve_device, versions, write_json
from utilities.zoo import create_model

MODELS = {"resnet18": 512, "vit_tiny_patch4_32": 512, "plain_cnn8": 2048}  # images in an epoch on a CPU


def noise(count: int) -> ImageDataset:
    """Make a set of images that hold noise, as decoded images lie in memory."""
    pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(count).numpy()
    data = ImageDataset(Source([str(i) for i in range(10)], rows % 10, rows, 32, images=pixels), "noise", "train")
    data.augmentation = Augmentation(4)
    return data


def recipe_of(name: str, batch: int) -> Recipe:
    """Return the fast recipe, or the ViT's, for one epoch without what costs time in images alone."""
    recipe = RECIPES["vit" if name.startswith("vit") else "fast"]
    return replace(recipe, epochs=1000, batch_size=batch, warmup=0, mixup=0.0, cutmix=0.0).resolved(name)


def bare_step(
    trainer: Trainer, name: str, images: torch.Tensor, labels: torch.Tensor, layout: torch.memory_format
) -> Callable[[], None]:
    """Return a function that takes a step as a trainer does, with nothing around it, on a batch that is there."""
    model = create_model(name, 10, seed=0).to(trainer.device).train()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=layout)
    optimizer = make_optimizer(model, trainer.recipe)
    images, labels = images.to(trainer.device, memory_format=layout), labels.to(trainer.device)
    loss = nn.CrossEntropyLoss(label_smoothing=trainer.recipe.label_smoothing)

    def step() -> None:
        with torch.autocast(trainer.device.type, torch.bfloat16), trainer._attention():
            logits = model(images)
        optimizer.zero_grad(set_to_none=True)
        loss(logits.float(), labels).backward()
        optimizer.step()

    return step


def time_training(name: str, count: int, batch: int, device: torch.device, rounds: int) -> dict[str, Any]:
    """Return images a second of epochs, without validation, and of bare steps, and the median ratio."""
    loader = make_loader(noise(count).to(device), batch, shuffle="every_epoch", drop_last=True)
    model, recipe = create_model(name, 10, seed=0), recipe_of(name, batch)
    trainer = Trainer(model, recipe, loader, loader, device=device, precision="bfloat16")
    images, labels = next(iter(loader))
    step = bare_step(trainer, name, images, labels, trainer.layout)
    usual = bare_step(trainer, name, images, labels, torch.contiguous_format)
    contenders = {
        "epoch": partial(trainer.run_epoch, progress=False),
        "bare": lambda: [step() for _ in range(len(loader))],
        "bare, usual layout": lambda: [usual() for _ in range(len(loader))],
    }
    seconds: dict[str, list[float]] = {key: [] for key in contenders}
    held_out = patch("utilities.training.trainer.evaluate_shared", lambda *args, **options: {})  # the training alone
    for number in range(rounds + 1):
        for key, function in contenders.items():
            start = time.perf_counter()
            with held_out:
                function()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:
                seconds[key].append(time.perf_counter() - start)
    shown = len(loader) * batch
    ratios = [bare / epoch for bare, epoch in zip(seconds["bare"], seconds["epoch"], strict=True)]
    return {key: round(shown / statistics.median(times), 1) for key, times in seconds.items()} | {
        "share": round(statistics.median(ratios), 3),
        "shares": [round(ratio, 3) for ratio in ratios],
    }


def main() -> None:
    """Print images a second and, if asked, write them as JSON with the environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", help="also write the table here")
    given = parser.parse_args()
    table = {}
    for name in given.models:
        count = MODELS.get(name, 512)
        table[name] = time_training(name, count, given.batch, resolve_device(given.device), given.rounds)
        print(name, table[name], flush=True)
    if given.json:
        write_json(given.json, {"batch": given.batch, "precision": "bfloat16", "images a second": table} | versions())


if __name__ == "__main__":
    main()
