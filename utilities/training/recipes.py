"""Define recipes, how a model is trained, as plain numbers, and list the published ones by name.

`RECIPES` holds the study's own recipe and those of Park & Kim 2022, *How Do Vision Transformers Work?*
(https://arxiv.org/abs/2202.06709), with the numbers of their published configurations
(https://github.com/xxxnell/how-do-vits-work). As published, weight decay acts on all parameters, including norms,
biases and position embeddings. Mixup has the 1.0 and cutmix the 0.8 that DeiT has the other way round. Stochastic
depth is 0.1: a model without it is refused unless ``drop_path=0`` is given. `utilities.training.augmentation` states
how the augmentations differ. ``fast`` is for CNNs on small images and some ten epochs, ``vit`` for a small ViT and some
hundred.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from utilities.results.formatting import counted
from utilities.zoo.families import usual_optimizer

OPTIMIZERS = ("sgd", "adamw", "muon")
SCHEDULES = ("cosine", "linear", "epochwise_cosine", "epochwise_steps")
CROPS = ("padded", "resized")
FLIPS = ("random", "alternating")
_LEAST = {"epochs": 0, "batch_size": 2, "weight_decay": 0, "warmup": 0, "norm_images": 0}
_LEAST |= {
    "mixup": 0,
    "cutmix": 0,
    "clip_grad": 0,
    "label_smoothing": 0,
    "erasing": 0,
    "drop_path": 0,
    "epoch_images": 0,
    "ema": 0,
}
_MOST = {"label_smoothing": 1, "erasing": 1, "drop_path": 1, "ema": 1}


@dataclass(frozen=True)
class Recipe:
    """State how a model is trained; the defaults are the study's.

    Attributes:
        dataset: A name that `utilities.datasets.load_dataset` knows.
        epochs: Passes over the training images; for some values of ``schedule`` those of the warm-up are extra.
        batch_size: Number of images in a step.
        learning_rate: Learning rate at its peak; None is 0.1 for SGD, 0.001 for AdamW and 0.004 for Muon.
        optimizer: ``"sgd"`` with momentum 0.9, ``"adamw"``, or ``"muon"``, see `utilities.training.muon`; None is
            AdamW for transformers and SGD for all else, see `utilities.zoo.families`.
        weight_decay: Weight decay of all parameters; None is 5e-4 for SGD and 0.05 for the others.
        warmup: Epochs of linear growth of the learning rate, from step to step.
        image_size: Height and width in pixels; None is the data set's own.
        n_images: Number of training images to use, evenly from all classes; None is all.
        norm_images: Number of training images on which to estimate the batch-norm statistics anew after the last
            epoch, in one batch. 0 keeps the running averages, which are noisy after short training in small batches.
        schedule: ``"cosine"``: the warm-up is part of the epochs, and half a cosine falls to zero from step to
            step after it. ``"linear"``: likewise, along a straight line. ``"epochwise_cosine"`` and
            ``"epochwise_steps"``: the warm-up comes before the epochs, which are counted from its end, and the rate
            then changes between epochs only.
        milestones: For ``"epochwise_steps"``, the epochs at which the rate is multiplied by ``step_factor``.
        step_factor: Factor of the rate at each milestone.
        crop: ``"padded"``, or ``"resized"`` to crop a part of random size and shape and resize it.
        rand_augment: RandAugment in timm's words, such as ``"rand-m9-n2-mstd1.0"``, or None.
        mixup: Alpha of mixup, 0 for none; with cutmix too, every batch gets one of the two with equal chance.
        cutmix: Alpha of cutmix, 0 for none.
        label_smoothing: Share of the label that is spread evenly over all classes.
        erasing: Probability that a rectangle of an image is erased.
        clip_grad: Largest norm of the gradient of all parameters together; 0 does not clip.
        drop_path: Rate of stochastic depth of the last block, 0 for the model's own.
        epoch_images: Number of images in an epoch, for which few images are repeated; 0 is each image once.
        nesterov: Whether the momentum of SGD is Nesterov's.
        ema: Share of the old weights that their moving average keeps in a step, at most (timm's ``ModelEmaV3`` with its
            warm-up); the average is the trained model. 0 takes the last step's weights.
        flips: ``"random"`` mirrors an image with probability 1/2; ``"alternating"`` does in every other epoch, see
            `utilities.datasets.make_loader`. Sets whose labels a mirror would change are never mirrored.
        decay_vectors: Whether weight decay also acts on parameters with one axis: biases, and scales of norms.

    Example:
        >>> Recipe(optimizer="sgd").resolved("resnet18").learning_rate
        0.1
    """

    dataset: str = "cifar100"
    epochs: int = 200
    batch_size: int = 256
    learning_rate: float | None = None
    optimizer: str | None = None
    weight_decay: float | None = None
    warmup: float = 0.0
    image_size: int | None = None
    n_images: int | None = None
    norm_images: int = 0
    # Later fields may be missing in checkpoints; `same_recipe` then uses these defaults.
    schedule: str = "cosine"
    milestones: tuple[int, ...] = ()
    step_factor: float = 0.1
    crop: str = "padded"
    rand_augment: str | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    erasing: float = 0.0
    clip_grad: float = 0.0
    drop_path: float = 0.0
    epoch_images: int = 0
    nesterov: bool = False
    decay_vectors: bool = True
    ema: float = 0.0
    flips: str = "random"

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))  # command lines and JSON give lists

    @property
    def total_epochs(self) -> int:
        """Count epochs from the first step to the last, including the warm-up, as files and tables number them."""
        return self.epochs + (int(self.warmup) if self.schedule.startswith("epochwise") else 0)

    def resolved(self, model_name: str) -> Recipe:
        """Fill in what depends on the model, and refuse what makes no sense.

        Raises:
            ValueError: If an option makes no sense; the message names it, its value and what it may be.
        """
        optimizer = self.optimizer or usual_optimizer(model_name)
        choices = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "crop": CROPS, "flips": FLIPS}
        for name, known in choices.items():
            value = optimizer if name == "optimizer" else getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} {value!r} is not known; choose from {', '.join(known)}")
        defaults = {"sgd": (0.1, 5e-4), "adamw": (1e-3, 0.05), "muon": (4e-3, 0.05)}[optimizer]
        rate, decay = (
            d if v is None else v for v, d in zip((self.learning_rate, self.weight_decay), defaults, strict=True)
        )
        recipe = replace(self, optimizer=optimizer, learning_rate=rate, weight_decay=decay)
        _check_numbers(recipe)
        _check_schedule(recipe)
        if recipe.nesterov and optimizer != "sgd":
            raise ValueError(f"nesterov=True is for the optimizer sgd, not {optimizer}; leave it out")
        return recipe


def _check_numbers(recipe: Recipe) -> None:
    """Refuse numbers out of range, NaN and infinite ones included."""
    given = asdict(recipe)
    for name, value in given.items():
        if isinstance(value, float) and math.isinf(value):
            raise ValueError(f"{name}={value} should be finite{'; 0 does not clip' if name == 'clip_grad' else ''}")
    for name, bound in _LEAST.items():
        if not given[name] >= bound:
            raise ValueError(f"{name}={given[name]} should be {bound} or more")
    for name, bound in _MOST.items():
        if not given[name] <= bound:
            raise ValueError(f"{name}={given[name]} should be {bound} or less")
    if recipe.ema == 1:
        raise ValueError("ema=1 never takes a step's weights into the average; give less than 1, such as 0.999")
    for name in ("learning_rate", "step_factor"):
        if not given[name] > 0:
            raise ValueError(f"{name}={given[name]} should be above 0")


def _check_schedule(recipe: Recipe) -> None:
    """Refuse steps that would never be taken, and a fraction of an epoch before the first one."""
    steps, name = recipe.milestones, recipe.schedule
    if steps and name != "epochwise_steps":
        raise ValueError(f"milestones={steps} are for the schedule epochwise_steps, not {name}; leave them out")
    if list(steps) != sorted({*steps}) or (steps and not 0 < steps[0] <= steps[-1] < recipe.epochs):
        raise ValueError(
            f"milestones={steps} should grow and lie between 0 and epochs={recipe.epochs}; give others or none"
        )
    if recipe.epochs and recipe.warmup > recipe.total_epochs:
        warnings.warn(
            f"warmup={recipe.warmup} is longer than the training, epochs={recipe.epochs}: the learning rate never "
            "reaches its peak",
            stacklevel=4,
        )
    if name.startswith("epochwise") and recipe.warmup % 1 != 0:
        raise ValueError(f"warmup={recipe.warmup} should be a whole number of epochs with the schedule {name}")


def schedule(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """Return a function from the step to the learning rate, as a fraction of its peak.

    Take W epochs of warm-up and E further ones. In the warm-up of an epochwise schedule, the fraction at step i is
    i/(W ``steps``). In epoch e = 0, 1, ... after it, it is half a cosine, (1 + cos(π e/E))/2, or ``step_factor`` to the
    power of the number of milestones that are not above e. The plain cosine and the line fall within the epochs, from
    step to step.

    Args:
        recipe: See `Recipe`.
        steps: Number of steps in an epoch.

    Example:
        >>> fraction = schedule(Recipe(epochs=10, warmup=2, schedule="epochwise_cosine"), steps=5)
        >>> fraction(0), fraction(5), fraction(10), fraction(60)
        (0.0, 0.5, 1.0, 0.0)
    """
    rise = recipe.warmup * steps

    def stepwise(step: int) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        fall = _line if recipe.schedule == "linear" else _half_cosine
        return fall(step - rise, max(1, recipe.epochs * steps) - rise)

    def epochwise(step: int) -> float:
        if step < rise:
            return step / rise
        epoch = (step - int(rise)) // steps
        if recipe.schedule == "epochwise_steps":
            return recipe.step_factor ** sum(epoch >= milestone for milestone in recipe.milestones)
        return _half_cosine(epoch, recipe.epochs)

    return epochwise if recipe.schedule.startswith("epochwise") else stepwise


def _line(done: float, total: float) -> float:
    return 1 - min(1.0, done / max(1.0, total))


def _half_cosine(done: float, total: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done / max(1.0, total))))


def same_recipe(saved: Mapping[str, Any] | None, recipe: Recipe) -> bool:
    """Tell whether a checkpoint was trained with a recipe; fields missing there have today's defaults.

    Args:
        saved: The ``recipe`` of the checkpoint, or None if it has none.
        recipe: The recipe, resolved.

    Example:
        >>> recipe = Recipe().resolved("resnet18")
        >>> early = {name: value for name, value in asdict(recipe).items() if name != "mixup"}
        >>> same_recipe(early, recipe), same_recipe({**early, "mixup": 1.0}, recipe), same_recipe(None, recipe)
        (True, False, False)
    """
    return saved is not None and asdict(Recipe()) | dict(saved) == asdict(recipe)


def changed_options(saved: Mapping[str, Any], recipe: Recipe) -> str:
    """Name the options of a recipe that a checkpoint's differs in, with both values; empty if there are none.

    Example:
        >>> changed_options({"epochs": 3, "batch_size": 256}, Recipe(epochs=4))
        'epochs 3, here 4'
    """
    then, now = asdict(Recipe()) | dict(saved), asdict(recipe)
    return "; ".join(f"{name} {then[name]}, here {value}" for name, value in now.items() if then[name] != value)


def describe_recipe(recipe: Recipe) -> str:
    """Describe in one line what a recipe does.

    Example:
        >>> print(describe_recipe(RECIPES["cifar_general"]))
        cifar100, 1 + 200 epochs, batches of 128; sgd, learning rate 0.1, weight decay 0.0005; epochwise_steps,
        x 0.2 at 60, 120, 160; padded crops
    """
    before = f"{recipe.warmup:g} + " if recipe.total_epochs > recipe.epochs else ""
    first = f"{recipe.dataset}, {before}{counted(recipe.epochs, 'epoch')}, batches of {recipe.batch_size}"
    optimizer = [recipe.optimizer or "sgd, or adamw for transformers"]
    for name in ("learning_rate", "weight_decay"):
        value = getattr(recipe, name)
        optimizer += [] if value is None else [f"{name.replace('_', ' ')} {value:g}"]
    steps = f", x {recipe.step_factor:g} at {', '.join(map(str, recipe.milestones))}" if recipe.milestones else ""
    rest = [f"{recipe.crop} crops"] + ([recipe.rand_augment] if recipe.rand_augment else [])
    for name in ("mixup", "cutmix", "label_smoothing", "erasing", "clip_grad", "drop_path", "ema"):
        value = getattr(recipe, name)
        rest += [f"{name.replace('_', ' ')} {value:g}"] if value else []
    rest += ["alternating flips"] if recipe.flips == "alternating" else []
    optimizer += ["Nesterov momentum"] if recipe.nesterov else []
    optimizer += [] if recipe.decay_vectors else ["no decay of biases and norms"]
    return "; ".join([first, ", ".join(optimizer), recipe.schedule + steps, ", ".join(rest)])


_STEPS = {"optimizer": "sgd", "learning_rate": 0.1, "warmup": 1, "schedule": "epochwise_steps"}
_ADAMW = {"optimizer": "adamw", "learning_rate": 1.25e-4, "weight_decay": 0.05, "warmup": 5}
_ADAMW |= {"epochs": 300, "schedule": "epochwise_cosine", "drop_path": 0.1}
_MIXED = {"mixup": 1.0, "cutmix": 0.8, "label_smoothing": 0.1}
_QUICK = {"label_smoothing": 0.1, "decay_vectors": False}
RECIPES: dict[str, Recipe] = {
    "study": Recipe(),
    "fast": Recipe("cifar10", 10, 256, 4e-3, "muon", warmup=1, schedule="linear", flips="alternating", **_QUICK),
    "vit": Recipe(
        "cifar10", 100, 512, learning_rate=1e-3, warmup=5, optimizer="adamw", mixup=0.8, cutmix=1.0, **_QUICK
    ),
    "cifar_general": Recipe(
        "cifar100", 200, 128, weight_decay=5e-4, milestones=(60, 120, 160), step_factor=0.2, **_STEPS
    ),
    "cifar_vit": Recipe(
        "cifar100", batch_size=96, rand_augment="rand-m9-n2-mstd1.0", clip_grad=5.0, **_ADAMW, **_MIXED
    ),
    "cifar_vit_noaug": Recipe("cifar100", batch_size=96, **_ADAMW),
    "imagenet_general": Recipe(
        "imagenet", 90, 256, weight_decay=1e-4, milestones=(30, 60, 80), step_factor=0.1, crop="resized", **_STEPS
    ),
    "imagenet_vit": Recipe(
        "imagenet", batch_size=128, crop="resized", rand_augment="rand-m9-n2-mstd0.5", erasing=0.25, **_ADAMW, **_MIXED
    ),
}
