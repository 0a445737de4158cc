"""Open the three models of a command, each perhaps from several seeds, with the images of each."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from utilities.cli.opening import Named, named_models, open_loader, open_model
from utilities.datasets.loaders import Loader, same_input
from utilities.utils import evaluate
from utilities.zoo.trained_on import other_classes


@dataclass(frozen=True)
class Models:
    """Models of one architecture, from one seed or several.

    Attributes:
        named: Their names, weights and seeds.
        models: The models.
        own: Images as they take them.
        loader: The same, or None where the first models' loader serves them too.
    """

    named: list[Named]
    models: list[nn.Module]
    own: Loader
    loader: Loader | None


def open_three(given: SimpleNamespace) -> list[Models]:
    """Open what a command line names.

    Args:
        given: The options of `utilities.cli.options`, and ``counts``.

    Raises:
        ValueError: If the number of models does not fit, or one side has models of different names.
    """
    named, counts = named_models(given.models, given.model_seeds, given.seed), list(given.counts)
    if len(counts) != 3 or min(counts) < 1:
        raise ValueError(f"--counts {' '.join(map(str, counts))}: give three numbers, 1 or more, one for each model")
    if len(named) != sum(counts):
        asked = "three models are compared" if sum(counts) == 3 else f"--counts asks for {sum(counts)} models"
        raise ValueError(f"{asked}, but {len(named)} are named: {', '.join(given.models)}")
    if counts == [1, 1, 1] and named[1] == named[2] and given.layers1 == given.layers2:
        text = f"{named[1].name} ({named[1].weights_text})"
        raise ValueError(f"the second and the third model are both {text}; --model-seeds gives each its own weights")
    sides: list[Models] = []
    for k in range(3):
        own = named[sum(counts[:k]) : sum(counts[: k + 1])]
        if len({one.name for one in own}) > 1:
            raise ValueError(f"seeds of one model have one name, not {', '.join(one.name for one in own)}")
        loader = open_loader(given, own[0])
        models = [open_model(one, loader.dataset.num_classes)[0] for one in own]
        alike = bool(sides) and same_input(sides[0].own, loader)
        sides.append(Models(own, models, loader, None if alike else loader))
    return sides


def facts_of_three(sides: list[Models], seed: int, device: torch.device) -> dict[str, Any]:
    """Describe the models and their images.

    Args:
        sides: They.
        seed: Kept with the rest.
        device: Where accuracies are measured, of weights from files; of several seeds, the mean.
    """
    data = sides[0].own.dataset
    facts: dict[str, Any] = {"dataset": f"{data.name} ({data.part})", "seed": seed}
    for k, side in enumerate(sides, 1):
        texts = [one.weights_text for one in side.named]
        weights = texts[0] if len(texts) == 1 else f"{len(texts)} seeds: {', '.join(texts)}"
        facts |= {f"model{k}": side.named[0].name, f"weights{k}": weights}
        if not all(one.from_file for one in side.named):
            continue
        if fault := other_classes(side.models[0], side.own.dataset):
            warnings.warn(f"{fault}; the accuracy is left out", stacklevel=2)
            continue
        right = [evaluate(model, side.own, device=device)["top1"] for model in side.models]
        facts[f"accuracy{k}"] = sum(right) / len(right)
    return facts
