"""Open the two models of a command, or one twice, with the images of each."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from utilities.cli.opening import Named, named_models, open_loader, open_model
from utilities.compare.features.folder import KeptFeatures, is_kept, open_features
from utilities.datasets.loaders import Loader, same_input
from utilities.hooks.selection import select_layers
from utilities.utils import evaluate
from utilities.zoo.layers import comparison_layers
from utilities.zoo.trained_on import other_classes


@dataclass(frozen=True)
class TwoModels:
    """Two models, or one twice.

    Attributes:
        named: Their names, weights and seeds; None of a folder of kept features.
        models: The models; one object twice, where one is named.
        loaders: Images as each model takes them; None of kept features.
        alike: Whether one loader serves both.
    """

    named: list[Named | None]
    models: list[nn.Module]
    loaders: list[Loader | None]
    alike: bool

    @property
    def images(self) -> list[Loader | None]:
        """What `utilities.compare.compare` takes: a loader, and another one, or None where it serves both."""
        if None in self.loaders:
            return [next((one for one in self.loaders if one is not None), None), None]
        return [self.loaders[0], None if self.alike else self.loaders[1]]


def open_two(given: SimpleNamespace) -> TwoModels:
    """Open what a command line names.

    Args:
        given: The options of `utilities.cli.options`; ``image_size2`` and ``dataset2`` may be among them.

    Raises:
        ValueError: If no model or more than two are named.
    """
    named = named_models(given.models, given.model_seeds, given.seed)
    if len(named) > 2:
        raise ValueError(f"two models are compared, or one with itself; {len(named)} are named: {given.models}")
    same = len(named) == 1
    named = named * 2 if same else named
    other = getattr(given, "dataset2", None)
    size = getattr(given, "image_size2", None) or given.image_size
    second = SimpleNamespace(**{**vars(given), "image_size": size, "dataset": other or given.dataset})
    loaders = [open_loader(given, named[0]), open_loader(second, named[1])]
    models = [open_model(named[0], loaders[0].dataset.num_classes)[0]]
    models.append(models[0] if same else open_model(named[1], loaders[1].dataset.num_classes)[0])
    return TwoModels(named, models, loaders, other is None and same_input(*loaders))


def open_kept(given: SimpleNamespace) -> TwoModels:
    """Open a folder of kept features with another one, or with a model, or alone.

    Args:
        given: See `open_two`; models that are folders are kept features.

    Raises:
        ValueError: If more than two are named, or a model has no data set.
    """
    words = list(given.models)
    if len(words) > 2:
        raise ValueError(f"two are compared, or one with itself; {len(words)} are named: {given.models}")
    found: dict[str, tuple[Named | None, nn.Module, Loader | None]] = {}
    for word in words:
        if word in found:
            continue
        if is_kept(word):
            found[word] = None, open_features(word), None
            continue
        try:
            (one,) = named_models([word], given.model_seeds, given.seed)
        except ValueError as error:
            raise ValueError(f"{word}: no folder of kept features is there, and as a model: {error}") from error
        if given.dataset is None:
            raise ValueError(f"--dataset is missing: {word} is a model, which needs the images that were kept")
        loader = open_loader(given, one)
        found[word] = one, open_model(one, loader.dataset.num_classes)[0], loader
    sides = [found[words[0]], found[words[-1]]]
    return TwoModels(*(list(part) for part in zip(*sides, strict=True)), alike=True)


def default_layers(model: nn.Module) -> list[str]:
    """Name the layers that are compared where none are named: of kept features all, of a model the main ones."""
    return select_layers(model) if isinstance(model, KeptFeatures) else comparison_layers(model)


def facts_of_two(two: TwoModels, seed: int, device: torch.device | None) -> dict[str, Any]:
    """Describe two models and their images.

    Args:
        two: They.
        seed: Kept with the rest.
        device: Where accuracies are measured, of weights that are no random ones; None measures none.
    """
    said = [f"{loader.dataset.name} ({loader.dataset.part})" for loader in two.loaders if loader is not None]
    facts: dict[str, Any] = {"dataset": " and ".join(dict.fromkeys(said))} if said else {}
    facts["seed"] = seed
    for k, one, model, loader in zip("12", two.named, two.models, two.loaders, strict=True):
        if one is None:  # kept features say themselves what they are of
            continue
        if k == "2" and model is two.models[0]:
            return {key.rstrip("1"): value for key, value in facts.items()}
        facts |= {f"model{k}": one.name, f"weights{k}": one.weights_text}
        if device is not None and one.from_file:
            if fault := other_classes(model, loader.dataset):
                warnings.warn(f"{fault}; the accuracy is left out", stacklevel=2)
                continue
            facts[f"accuracy{k}"] = evaluate(model, loader, device=device)["top1"]
    return facts
