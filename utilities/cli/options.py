"""The options that commands share, one meaning each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from utilities.cli.arguments import Option, options_of, position

# As `utilities.datasets.factory.SPLITS`, which would bring torch.
Split = Literal["train", "validation", "test", "train+validation"]


@dataclass(frozen=True, kw_only=True)
class Images:
    """What images a command takes, and how.

    Attributes:
        dataset: digits, cifar10, folder:PATH, ...: see python -m utilities datasets.
        split: Which part of it.
        root: Folder of downloaded sets; default: data in the project.
        classes: Order of a folder's classes: natural (2 before 10, as timm), a text file with one a line, or names.
        image_size: Pixels of the images; default: what a model asks for, else the data set's own.
        n_images: Number of images, as many of each class as there are; default: all.
        batch_size: Images in a batch.
        workers: Processes that load images.
        seed: Seed of random weights, of the choice and order of images, and of what is drawn.
        device: auto, cpu, cuda, cuda:1, mps.
    """

    dataset: str
    split: Split = "test"
    root: Path | None = None
    classes: tuple[str, ...] | None = None
    image_size: int | None = None
    n_images: int | None = None
    batch_size: int = 256
    workers: int = 0
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Models:
    """What models a command takes.

    Attributes:
        models: One or more, each NAME, NAME=WEIGHTS, package.module:FUNCTION[=WEIGHTS] or FILE.py:FUNCTION[=WEIGHTS];
            WEIGHTS: a checkpoint's path, pretrained, wheel or random. Also after --models.
        model_seeds: Seeds of random weights: one for all, or one each; default: --seed.
    """

    models: Annotated[tuple[str, ...], position(metavar="MODEL ...")] = ()
    model_seeds: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Augmented:
    """How training images are augmented and mixed.

    Attributes:
        augment: Whether images are augmented as in training.
        crop: See --crop of python -m utilities train.
        rand_augment: RandAugment in timm's words, such as rand-m9-n2-mstd1.0; default: none.
        erasing: Probability that a rectangle of an image is erased.
        mixup: Alpha of mixup; 0 is none.
        cutmix: Alpha of cutmix; 0 is none.
        data_seed: Seed of the order of images and of augmentation; default: --seed.
    """

    augment: bool = True
    crop: Literal["padded", "resized"] = "padded"
    rand_augment: str | None = None
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    data_seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Training:
    """How many images something is fitted to.

    Attributes:
        n_train: Number of training images, as many of each class as there are; default: all.
    """

    n_train: int | None = None


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where a result goes.

    Attributes:
        out: Its ending decides: .pdf, .png, .svg or .eps a figure, .npz the result, .csv the table; without an ending
            all of these beside each other, figures as .png and .pdf.
        width: Width of figures: column, page or inches; default: what they need.
        caption: Whether a line below figures says what they were made from.
    """

    out: Path
    width: str | None = None
    caption: bool = True


def shared(*leave_out: str, models: bool = True, out: bool = True, most: int | None = None) -> list[Option]:
    """List the options of models (two at most, where ``most`` is 2), images and output, but for some."""
    sources = [Models] * models + [Images] + [Output] * out
    found = [one for source in sources for one in options_of(source, leave_out)]
    return [_one_or_two(one) for one in found] if most == 2 else found


def _one_or_two(option: Option) -> Option:
    return replace(option, help=option.help.replace("One or more", "One or two"))
