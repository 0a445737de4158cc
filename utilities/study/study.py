"""Shared parts of the notebooks on one model: trained and untrained models, comparison, saved files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from utilities.compare.two_models import compare
from utilities.datasets.factory import load_dataset
from utilities.datasets.loaders import Loader, make_loader
from utilities.results.formatting import counted
from utilities.results.similarity import Similarity, average
from utilities.study.profiles import (
    ABLATED,
    CANVAS_ACCURACY,
    CANVAS_TRAINING,
    FOLLOWED,
    LARGE_VIT,
    LARGE_VIT_DATA,
    NATURAL_TRAINING,
    NORM_IMAGES,
    PROFILES,
    QUICK_TRAINING,
)
from utilities.study.saving import Saving
from utilities.train import fit
from utilities.training.augmentation import MixupCutmix, recipe_augmentation
from utilities.training.recipes import RECIPES, same_recipe
from utilities.training.trainer import Recipe, estimate_batch_norm
from utilities.utils import PROJECT_ROOT, evaluate
from utilities.zoo.checkpoints import read_checkpoint
from utilities.zoo.factory import create_model
from utilities.zoo.families import family
from utilities.zoo.inputs import input_options
from utilities.zoo.layers import comparison_layers
from utilities.zoo.trained_on import refuse_other_classes


@dataclass(frozen=True)
class Study(Saving):
    """Hold what one notebook needs: a model, the data, and the folder of the results.

    An argument of None takes the profile's value.

    Attributes:
        name: Name of the notebook and of the files it writes.
        model: A name that `utilities.zoo.create_model` knows, or one for each profile.
        profile: ``"quick"``, ``"natural"`` or ``"paper"``, see `utilities.study.profiles.PROFILES`.
        dataset: Name of the data set, or one for each profile; see `utilities.datasets.load_dataset`.
        epochs: Number of training epochs; None takes the profile's number for this kind of model.
        seed: Seed of training, of the first of several initialisations, and of the order of the images.
        n_images: Number of test images to compare on, equally many from each class; None takes the profile's number,
            which may be all.
        batch_size: Images in a batch of the comparison.
        output_dir: Folder of the results; None means ``runs/PROFILE`` in the project.
        training: Name of the paper profile's recipe; see `utilities.training.recipes.RECIPES`.

    Raises:
        ValueError: For an unknown profile or recipe.

    Example:
        >>> print(Study("R18", "resnet18", epochs=3))
        resnet18 on digits, quick profile, seed 0
    """

    name: str
    model: str | Mapping[str, str]
    profile: str = "quick"
    dataset: str | Mapping[str, str] | None = None
    epochs: int | None = None
    seed: int = 0
    n_images: int | None = None
    batch_size: int | None = None
    output_dir: str | Path | None = None
    training: str = "study"

    def __post_init__(self) -> None:
        if self.training not in RECIPES:
            raise ValueError(f"recipe {self.training!r} is not known; choose from {', '.join(RECIPES)}")
        if self.profile not in PROFILES:
            raise ValueError(f"profile {self.profile!r} is not known; choose from {', '.join(PROFILES)}")
        defaults = PROFILES[self.profile]
        for field in ("model", "dataset"):
            if isinstance(getattr(self, field), Mapping):
                object.__setattr__(self, field, getattr(self, field)[self.profile])
        values = {
            "dataset": defaults.recipe.dataset,
            "epochs": self._usual_recipe.epochs,
            "n_images": defaults.n_images,
            "batch_size": defaults.batch_size,
            "output_dir": PROJECT_ROOT / "runs" / self.profile,
        }
        if self.model == LARGE_VIT:
            values |= LARGE_VIT_DATA[self.profile]
        for field, value in values.items():
            if getattr(self, field) is None:
                object.__setattr__(self, field, value)
        for field in ("epochs", "seed", "n_images", "batch_size"):
            value = getattr(self, field)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise ValueError(f"{field.upper()}={value!r} should be a whole number, or None for the profile's own")

    def __str__(self) -> str:
        return f"{self.model} on {self.dataset}, {self.profile} profile, seed {self.seed}"

    @property
    def recipe(self) -> Recipe:
        """How the model is trained."""
        usual = self._usual_recipe
        return replace(usual, dataset=self.dataset, epochs=self.epochs).resolved(self.model)

    @property
    def _usual_recipe(self) -> Recipe:
        """Return the profile's own training recipe for this model."""
        recipe = PROFILES[self.profile].recipe_of(self.model)
        if self.profile == "paper" and self.training != "study":
            recipe = RECIPES[self.training]
        recipe = replace(recipe, image_size=self._input_options.get("image_size"))
        own = {"quick": QUICK_TRAINING, "natural": NATURAL_TRAINING}.get(self.profile, {})
        kind = next((name for name in own if self.model.startswith(name)), None)
        if kind:
            recipe = replace(recipe, **own[kind])
        if self._on_canvas:
            recipe = replace(recipe, dataset="canvas", **CANVAS_TRAINING[self.model])
        return recipe

    @property
    def _input_options(self) -> dict[str, Any]:
        """Return how images are prepared: as the model needs them, or of the profile's size if it takes any."""
        size = PROFILES[self.profile].image_size
        return ({} if size is None else {"image_size": size}) | input_options(self.model)

    @property
    def _on_canvas(self) -> bool:
        """Tell whether there are settings for this model on `canvas`."""
        return self.profile == "quick" and self.dataset == "canvas" and self.model in CANVAS_TRAINING

    def loader(self, split: str = "test", n_images: int | None = None) -> Loader:
        """Load images, shuffled once: all or some of ``test``, or one batch of ``train`` for batch norms.

        The profile's own number of images is all of them where there are fewer; more of them than there are is refused.
        If the data set marks objects, test images come with their masks.
        """
        options = self._input_options | ({} if split == "test" else {"masks": False})
        if split == "test" and n_images is not None and n_images == PROFILES[self.profile].n_images:
            n_images = min(n_images, len(load_dataset(self.dataset, split, **options)))
        data = load_dataset(self.dataset, split, n_images=n_images, seed=self.seed, **options)
        if split == "train" and len(data) > NORM_IMAGES:
            data = load_dataset(self.dataset, split, n_images=NORM_IMAGES, seed=self.seed, **options)
        return make_loader(data, self.batch_size if split == "test" else len(data), seed=self.seed)

    def training_loader(
        self, batch_size: int | None = None, n_images: int | None = None, augment: bool = True
    ) -> Loader:
        """Load training images in another order each epoch, augmented as in training unless that is switched off."""
        options = self._input_options | {"masks": False}
        data = load_dataset(self.dataset, "train", n_images=n_images, seed=self.seed, augment=augment, **options)
        if augment:
            data.augmentation = recipe_augmentation(self.recipe, data)
        return make_loader(data, batch_size or self.batch_size, seed=self.seed, shuffle="every_epoch")

    def mixing(self) -> MixupCutmix | None:
        """Return the mixing of images and smoothing of labels used in training, or None if the recipe has neither."""
        recipe = self.recipe
        if not (recipe.mixup or recipe.cutmix or recipe.label_smoothing):
            return None
        classes = load_dataset(self.dataset, "test").num_classes
        return MixupCutmix(classes, recipe.mixup, recipe.cutmix, recipe.label_smoothing)

    @property
    def checkpoint_folder(self) -> Path:
        """Return the folder of the checkpoints for this data set and recipe.

        Profiles may train a model on one data set by different recipes; then neither replaces the other's checkpoint.
        """
        folder = PROJECT_ROOT / "checkpoints" / re.sub(r"\W+", "-", self.dataset)
        if self.profile == "natural":
            return folder / self.profile
        return folder / self.training if self.profile == "paper" and self.training != "study" else folder

    def checkpoint(self, teacher: Path | None = None) -> Path:
        """Train the model unless a checkpoint of the same recipe exists, and return the checkpoint's path."""
        followed = self.model in FOLLOWED.get(self.profile, ()) and teacher is None
        every = self._never if followed else None
        return fit(
            self.model, self.recipe, self.seed, self.checkpoint_folder, resume=True, teacher=teacher, save_every=every
        )

    def snapshots(self, every: int | None = None) -> dict[int, nn.Module]:
        """Return the model at the start of training (epoch 0), at the end of the warm-up and at the end, by epoch.

        Ordinary training keeps these of a model of `FOLLOWED`; others are trained once more.

        Args:
            every: Interval in epochs of further snapshots, for which the model is trained once more; None is none.
        """
        folder = self.checkpoint_folder
        paths = self._snapshot_paths(self.checkpoint()) if every is None else {}
        if not paths:
            folder = folder / ("followed" if every is None else f"every_{every}")
            last = fit(self.model, self.recipe, self.seed, folder, resume=True, save_every=every or self._never)
            paths = self._snapshot_paths(last)
        return {epoch: self._load(paths[epoch]) for epoch in sorted(paths)}

    @property
    def _never(self) -> int:
        """Return an interval of snapshots that is longer than the training."""
        return self.recipe.total_epochs + 1

    def _snapshot_paths(self, last: Path) -> dict[int, Path]:
        """Find a checkpoint and the snapshots of its training, by epoch; without snapshots of this recipe, nothing."""
        found = {int(path.stem.rpartition("_at_")[2]): path for path in last.parent.glob(f"{last.stem}_at_*.pth")}
        own = {e: path for e, path in found.items() if same_recipe(read_checkpoint(path).get("recipe"), self.recipe)}
        return own | {self.recipe.total_epochs: last} if 0 in own else {}

    def trained_model(self, teacher: Path | None = None) -> nn.Module:
        """Train the model, or load it if that has been done; use a teacher if its checkpoint is given."""
        return self._load(self.checkpoint(teacher))

    def _load(self, path: Path) -> nn.Module:
        return create_model(self.model, load_dataset(self.dataset, "test").num_classes, weights=str(path))

    def random_model(self, seed: int) -> nn.Module:
        """Make an untrained model whose batch-norm statistics are estimated on training images."""
        model = create_model(self.model, load_dataset(self.dataset, "test").num_classes, "random", seed)
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
            estimate_batch_norm(model, self.loader("train"))
        return model

    def untrained_model(self) -> tuple[nn.Module, dict[str, Any]]:
        """Make the model as it is before training, measure its accuracy on `n_images`, and return it with its facts."""
        model, facts = self.random_model(self.seed), {"model": self.model, "weights": f"untrained, seed {self.seed}"}
        return model, facts | {"accuracy": self.accuracy(model, self.n_images)}

    def accuracy(self, model: nn.Module, n_images: int | None = None) -> float:
        """Measure top-1 accuracy on the test images, all of them or ``n_images``, and print it.

        Raises:
            ValueError: If the model is from a checkpoint that was trained on other classes.
        """
        loader = self.loader(n_images=n_images)
        refuse_other_classes(model, loader.dataset)
        return self._print_accuracy(evaluate(model, loader))

    def _print_accuracy(self, result: Mapping[str, float]) -> float:
        print(f"{self.model}: {result['top1']:.2%} of {result['n']} test images right")
        return result["top1"]

    def require(self, accuracy: float) -> None:
        """Refuse a model that was trained with the profile's own settings and misses the required accuracy.

        Raises:
            AssertionError: If the accuracy is too low. The message names both accuracies.
        """
        required = CANVAS_ACCURACY if self._on_canvas else PROFILES[self.profile].required_accuracy
        if required and not self.model.startswith(ABLATED) and self.recipe == self._usual_recipe.resolved(self.model):
            needed = required[family(self.model) == "vit"]
            assert accuracy >= needed, f"{self.model} reached {accuracy:.1%} on {self.dataset}, not {needed:.0%}"

    def finished_model(self) -> tuple[nn.Module, dict[str, Any]]:
        """Train or load the model, and return it with its facts, the accuracy on all test images among them.

        A library's model comes with the library's weights. ViT-L/32 has the hub's weights from ImageNet-21k, which
        include no classifier, so there is no accuracy.

        Returns:
            The model, and ``model``, ``weights`` and ``accuracy`` for captions.

        Raises:
            AssertionError: If the accuracy is below what `require` asks.
        """
        if self.model == LARGE_VIT:
            model = create_model(self.model, num_classes=0, weights="pretrained")
            facts = {"model": self.model, "weights": "ImageNet-21k weights of timm, no classifier", "accuracy": None}
            return model, facts
        data = self.dataset.rpartition("/")[2]  # a folder is named without its parents
        if self.model.startswith(("timm/", "torchvision/")):
            model, weights = create_model(self.model, None, weights="pretrained"), "the library's pretrained weights"
            accuracy = self.accuracy(model)
        else:
            path = self.checkpoint()
            model, test = self._load(path), read_checkpoint(path).get("test")  # of all test images, when training ended
            accuracy = self._print_accuracy(test) if test else self.accuracy(model)
            weights = f"trained for {counted(self.epochs, 'epoch')} on {data}, seed {self.seed}"
        self.require(accuracy)
        return model, {"model": self.model, "weights": weights, "accuracy": accuracy}

    def shared_facts(self, loader: Loader) -> dict[str, Any]:
        """Return the facts that all results of this notebook share."""
        augmented = ", augmented" if loader.augment else ""
        dataset = f"{loader.dataset.name} ({loader.dataset.part}{augmented})"
        facts = {"notebook": self.name, "dataset": dataset, "profile": self.profile, "seed": self.seed}
        return facts | {"num_classes": loader.dataset.num_classes}

    def similarity(self, model: nn.Module, facts: Mapping[str, Any]) -> Similarity:
        """Compare all layers of a model with each other on the test images.

        Args:
            model: Any model of this study's kind.
            facts: Facts about the model for the caption: ``model``, ``weights``, ``accuracy``.
        """
        loader = self.loader(n_images=self.n_images)
        provenance = self.shared_facts(loader) | dict(facts)
        return compare(model, model, loader, layers1=comparison_layers(model), strict=False, provenance=provenance)

    def trained_similarity(self) -> Similarity:
        """Train or load the model, measure its accuracy and compare its layers."""
        return self.similarity(*self.finished_model())

    def random_similarity(self, initialisations: int = 3) -> Similarity:
        """Compare each of several untrained models with itself, and average the results."""
        seeds, results = range(self.seed, self.seed + initialisations), []
        for seed in seeds:
            model = self.random_model(seed)
            facts = {"model": self.model, "weights": f"untrained, seed {seed}"}
            results.append(self.similarity(model, facts | {"accuracy": self.accuracy(model, self.n_images)}))
        mean = average(results)
        accuracy = sum(result.provenance["accuracy"] for result in results) / len(results)
        weights = f"untrained, mean of {initialisations} initialisations (seeds {seeds[0]}-{seeds[-1]})"
        return replace(mean, provenance=mean.provenance | {"weights": weights, "accuracy": accuracy})
