"""The loaders that an analysis takes, by a word: images as they are, augmented as in training, or both."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from utilities.cli.opening import Named, open_loader
from utilities.datasets.corrupted import CLEAN
from utilities.datasets.loaders import Loader
from utilities.datasets.perturbed import KINDS
from utilities.training.augmentation import MixupCutmix
from utilities.training.recipes import Recipe

Make = Callable[[SimpleNamespace, Named], list[Loader]]


def test(given: SimpleNamespace, model: Named) -> list[Loader]:
    """Serve the images of the split that is asked for."""
    return [open_loader(given, model)]


def to_corrupt(given: SimpleNamespace, model: Named) -> list[Loader]:
    """Serve images to be corrupted; none where a published set has done so."""
    return [] if given.dataset in CLEAN else [open_loader(given, model, also=CLEAN)]


def to_perturb(given: SimpleNamespace, model: Named) -> list[Loader]:
    """Serve images to be perturbed; none where a published set has done so."""
    return [] if given.dataset in KINDS else [open_loader(given, model, also=KINDS)]


def train_and_test(given: SimpleNamespace, model: Named) -> list[Loader]:
    """Serve training images as they are, so many as ``n_train`` says, and those of the split that is asked for."""
    train = open_loader(given, model, split="train", n_images=given.n_train)
    return [train, open_loader(given, model)]


def augmented(given: SimpleNamespace, model: Named, **choice: Any) -> list[Loader]:
    """Serve images augmented as options of a recipe say, in one order."""
    recipe = Recipe(crop=given.crop, rand_augment=given.rand_augment, erasing=given.erasing) if given.augment else None
    return [open_loader(given, model, seed=_seed(given), recipe=recipe, **choice)]


def augmented_anew(given: SimpleNamespace, model: Named) -> list[Loader]:
    """Serve augmented images in another order each epoch, without masks."""
    return augmented(given, model, batch_size=256, shuffle="every_epoch", masks=False)


def augmented_and_plain(given: SimpleNamespace, model: Named) -> list[Loader]:
    """Serve augmented images, and the same as they are, in another order each epoch."""
    plain = open_loader(given, model, seed=_seed(given), batch_size=256, shuffle="every_epoch", masks=False)
    return [*augmented_anew(given, model), plain]


LOADERS: dict[str, Make] = {
    "test": test,
    "to corrupt": to_corrupt,
    "to perturb": to_perturb,
    "train and test": train_and_test,
    "augmented": augmented,
    "augmented, anew": augmented_anew,
    "augmented and plain": augmented_and_plain,
    "none": test,  # for the number of classes alone
}


def _seed(given: SimpleNamespace) -> int:
    return given.seed if given.data_seed is None else given.data_seed


def mixing(given: SimpleNamespace, classes: int) -> MixupCutmix | None:
    """Make what mixes images as options of a recipe say, or None."""
    return MixupCutmix(classes, given.mixup, given.cutmix) if given.mixup or given.cutmix else None
