"""Read the checkpoints that a training builds on: a teacher, or weights to start from, as fine-tuning does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utilities.training.recipes import Recipe
from utilities.training.resumption import data_now, refuse_other_data
from utilities.zoo.checkpoints import read_checkpoint
from utilities.zoo.factory import create_model
from utilities.zoo.state_dicts import state_of

FACTS = ("name", "num_classes", "seed", "recipe")  # what a checkpoint records of one that it builds on


def read_teacher(
    path: Path, recipe: Recipe, classes: Sequence[str] | str | Path | None
) -> tuple[nn.Module, dict[str, Any]]:
    """Load a teacher, and return it with the facts of its training.

    Args:
        path: Checkpoint of `utilities.train.fit`.
        recipe: Recipe of the student.
        classes: Order of a folder's classes; see `utilities.datasets.load_dataset`.

    Raises:
        ValueError: If the checkpoint does not state how its model was trained, or is of other data.
    """
    content, facts = _read(path)
    if (theirs := facts["recipe"].get("dataset")) != recipe.dataset:
        raise ValueError(f"the teacher {path} was trained on {theirs}, not on {recipe.dataset}")
    refuse_other_data(content, data_now(recipe, facts["seed"], classes), path, recipe.dataset)
    return create_model(facts["name"], facts["num_classes"], weights=path), facts


def read_start(path: str | Path, model_name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a checkpoint to start from.

    Args:
        path: Checkpoint of `utilities.train.fit`.
        model_name: Name of the model that is to start from it.

    Returns:
        Its content, and the facts of its training.

    Raises:
        ValueError: If it does not state how its model was trained, or holds another model.
        FileNotFoundError: If it is missing.
    """
    content, facts = _read(Path(path))
    if facts["name"] != model_name:
        raise ValueError(f"{path} holds {facts['name']}, not {model_name}; start from weights of the same model")
    return content, facts


def load_start(model: nn.Module, content: Mapping[str, Any], classes: Sequence[str], wider: nn.Module) -> list[str]:
    """Load the weights to start from; the classifier stays as initialised unless the classes are the same.

    Ten digits are not ten photographs; as many classes are not the same classes.

    Args:
        model: Model to change in place.
        content: The checkpoint.
        classes: Classes of the images to train on, in the order of the labels.
        wider: The same model for another number of classes, which shows what belongs to the classifier.

    Returns:
        Names of the entries that stay as initialised.

    Raises:
        ValueError: If the weights are not those of this model.

    Example:
        >>> old, new, wider = nn.Linear(2, 3), nn.Linear(2, 2), nn.Linear(2, 4)
        >>> load_start(new, {"model": old.state_dict(), "classes": ["a", "b", "c"]}, ["a", "b"], wider)
        ['weight', 'bias']
    """
    own, theirs = model.state_dict(), state_of(content)
    others = {key: value.shape for key, value in wider.state_dict().items()}
    classifier = [key for key, value in own.items() if value.shape != others.get(key)]
    fresh = [] if list(content.get("classes") or []) == list(classes) else classifier
    wrong = list(own.keys() ^ theirs.keys())
    wrong += [key for key in own.keys() & theirs.keys() - {*fresh} if own[key].shape != theirs[key].shape]
    if wrong:
        raise ValueError(f"the weights to start from are not those of this model: {', '.join(sorted(wrong)[:4])}")
    with torch.no_grad():
        model.load_state_dict(own | {key: value for key, value in theirs.items() if key not in fresh})
    return fresh


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    content = read_checkpoint(path)
    facts = {key: content.get(key) for key in FACTS}
    if None in facts.values():
        raise ValueError(f"{path} does not say how its model was trained; take a checkpoint of utilities.train")
    return content, facts
