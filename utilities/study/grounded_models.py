"""Small models of which it is known how alike they should be: trained in several ways, each from several seeds.

After the benchmark of Klabunde et al. 2025, ReSi (https://arxiv.org/abs/2408.00531): models trained in one way are a
group, and should be more alike than models of two groups. Every model starts from a seed of its own, so that no two
share their first weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from utilities.datasets.altered import with_marks, with_random_labels
from utilities.datasets.factory import load_dataset
from utilities.datasets.images import Augmentation, ImageDataset
from utilities.hooks.recorder import Recorder
from utilities.train import fit
from utilities.training.recipes import Recipe
from utilities.training.sets import load_sets
from utilities.utils import PROJECT_ROOT
from utilities.zoo.checkpoints import read_checkpoint
from utilities.zoo.factory import create_model
from utilities.zoo.layers import block_layers

_ADAMW = {"batch_size": 64, "optimizer": "adamw", "warmup": 1.0, "image_size": 8}


@dataclass(frozen=True)
class Kind:
    """A CNN, a hybrid or a ViT, and how it is trained.

    Attributes:
        model: A name of `utilities.zoo.create_model`.
        recipe: Recipe of the training.
        last: Layer whose output the classifier sees, flattened.
        options: Options of `create_model`.
    """

    model: str
    recipe: Recipe
    last: str
    options: Mapping[str, Any] = field(default_factory=dict)


KINDS = {
    "CNN": Kind(
        "plain_cnn8",
        Recipe("digits", epochs=4, learning_rate=3e-3, **_ADAMW),
        "pool",
        {"widths": (16, 16, 32, 32, 64, 64)},
    ),
    "hybrid": Kind("alternet_tiny", Recipe("digits", epochs=4, learning_rate=3e-3, **_ADAMW), "pool"),
    "ViT": Kind(
        "vit_tiny_patch2_16",
        Recipe("digits", epochs=10, learning_rate=2e-3, **_ADAMW),
        "fc_norm",
        {"img_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 3},
    ),
}
# What training images are like; the first is the plain case, which all tests share.
CONDITIONS = ("plain", "half of the labels drawn", "all labels drawn", "marked by class", "shifted")
SEEDS_APART = 100  # seeds of one condition


@dataclass(frozen=True)
class Trained:
    """A trained model, where it comes from, and what it gives for the test images.

    Attributes:
        model: The model.
        condition: One of `CONDITIONS`.
        seed: Its seed.
        accuracy: On test images.
        blocks: Output of each block for each test image, averaged over positions, name -> (n, channels).
        last: What the classifier sees, (n, p).
        last_marked: The same for test images with marks of classes drawn at random.
        probabilities: Probability of each class, (n, classes).
    """

    model: nn.Module
    condition: str
    seed: int
    accuracy: float
    blocks: dict[str, torch.Tensor]
    last: torch.Tensor
    last_marked: torch.Tensor
    probabilities: torch.Tensor


def train_grounded(
    kind: str,
    seeds: int = 3,
    conditions: Sequence[str] = CONDITIONS,
    *,
    dataset: str | None = None,
    epochs: int | None = None,
    seed: int = 0,
    n_images: int | None = None,
    folder: str | Path | None = None,
    device: str = "auto",
    report: Callable[[str], None] = lambda line: None,
) -> list[Trained]:
    """Train a kind of model in several ways, each from several seeds, or load those that have been trained before.

    Args:
        kind: A key of `KINDS`.
        seeds: Number of models for each condition.
        conditions: Some of `CONDITIONS`.
        dataset: Set of at most 27 classes that fits into memory, resized to 8 pixels; None is ``"digits"``.
        epochs: Number of training epochs; None is the kind's own.
        seed: Another one gives other models throughout.
        n_images: Number of test images to compare on; None is all.
        folder: Where the checkpoints go; None is ``checkpoints/DATASET/grounded`` in the project.
        device: Device to train on.
        report: Is given a line for each epoch.

    Returns:
        The models, condition by condition.

    Raises:
        ValueError: For an unknown kind or condition, or fewer than two seeds.
    """
    unknown = [one for one in conditions if one not in CONDITIONS]
    if kind not in KINDS or unknown or not conditions:
        wrong = kind if kind not in KINDS else unknown
        raise ValueError(f"{wrong!r} is not known; choose from {', '.join(KINDS)} and {', '.join(CONDITIONS)}")
    if seeds < 2 or seeds > SEEDS_APART:
        raise ValueError(f"seeds={seeds}: a group has two models or more, and {SEEDS_APART} at most")
    own = KINDS[kind]
    dataset = own.recipe.dataset if dataset is None else dataset
    epochs = own.recipe.epochs if epochs is None else epochs
    recipe = replace(own.recipe, dataset=dataset, epochs=epochs).resolved(own.model)
    usual = PROJECT_ROOT / "checkpoints" / re.sub(r"\W+", "-", dataset) / "grounded"
    folder = usual if folder is None else Path(folder)
    sets, found = load_sets(recipe), []
    test = sets[2] if n_images is None else load_dataset(dataset, "test", image_size=8, n_images=n_images)
    generator = torch.Generator().manual_seed(0)
    marked = with_marks(test, torch.randint(test.num_classes, (len(test),), generator=generator).numpy())
    every = [(condition, k) for condition in conditions for k in range(seeds)]
    for condition, k in tqdm(every, desc=f"{kind}s"):
        own_seed = SEEDS_APART * (len(CONDITIONS) * seed + CONDITIONS.index(condition)) + k
        place = folder / kind / condition.replace(" ", "_")
        given = {
            "resume": True,
            "sets": altered_sets(sets, condition, own_seed),
            "options": own.options,
            "device": device,
        }
        path = fit(own.model, recipe, own_seed, place, **given, report=report)
        content = read_checkpoint(path)
        model = create_model(own.model, content["num_classes"], path, **own.options)
        found.append(_seen(model, own.last, test, marked, condition, own_seed, content["test"]["top1"]))
    return found


def widths_of(kind: str) -> list[int]:
    """Count the features that are compared of a kind: channels of each block, and what the classifier sees.

    Example:
        >>> widths_of("ViT")
        [48, 48, 48, 48, 48]
    """
    own = KINDS[kind]
    model = create_model(own.model, 10, seed=0, **own.options).eval()
    blocks = block_layers(model)
    with Recorder(model, [*blocks, own.last]) as recorder, torch.inference_mode():
        model(torch.zeros(1, 3, 8, 8))
    seen = recorder.activations
    return [*(_mean(seen[name]).shape[1] for name in blocks), seen[own.last].flatten(1).shape[1]]


def altered_sets(sets: Sequence[ImageDataset], condition: str, seed: int) -> list[ImageDataset]:
    """Return training, validation and test images for a condition.

    Args:
        sets: What `utilities.training.sets.load_sets` gives.
        condition: One of `CONDITIONS`. Labels are drawn anew for each seed. Marks are on training images alone. Only
            ``shifted`` moves images, by up to two pixels.
        seed: Seed of the labels.

    Example:
        >>> plain = load_sets(Recipe("digits", image_size=8))
        >>> drawn, *held_out = altered_sets(plain, "all labels drawn", seed=1)
        >>> bool((drawn.targets == plain[0].targets).mean() < 0.2), held_out == plain[1:]
        (True, True)
    """
    train = with_random_labels(sets[0], {CONDITIONS[1]: 0.5, CONDITIONS[2]: 1.0}.get(condition, 0.0), seed)
    if condition == "marked by class":
        train = with_marks(train, train.targets)
    train.augmentation = Augmentation(2, flip=False) if condition == "shifted" else None
    return [train, *sets[1:]]


def _seen(
    model: nn.Module,
    last: str,
    test: ImageDataset,
    marked: ImageDataset,
    condition: str,
    seed: int,
    accuracy: float,
) -> Trained:
    """Run a model on the test images, and keep what the tests compare."""
    blocks = block_layers(model.eval())
    seen, logits = [], []
    for data in (test, marked):
        with Recorder(model, [*blocks, last]) as recorder, torch.inference_mode():
            logits.append(model(data.batch(range(len(data)))[0]))
        seen.append(recorder.activations)
    means = {name: _mean(seen[0][name]) for name in blocks}
    pooled = [one[last].flatten(1) for one in seen]
    return Trained(model, condition, seed, accuracy, means, *pooled, logits[0].softmax(1))


def _mean(value: torch.Tensor) -> torch.Tensor:
    """Average over positions: (n, channels, height, width) or (n, tokens, channels) -> (n, channels)."""
    return value.mean((2, 3)) if value.ndim == 4 else value.mean(1)
