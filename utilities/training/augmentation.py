"""Augment whole batches beyond shifts and mirroring, and mix images with their labels.

RandAugment and random erasing are timm's own, so a recipe's words mean what they mean there. They and resized crops
work on the CPU, image by image, in the main process. RandAugment takes some 0.1 ms for an image of 32 pixels and 2 ms
for one of 224. Two things differ from the recipes of Park & Kim 2022 (https://arxiv.org/abs/2202.06709). Padded crops
show the mean colour at their borders, not black. Resized crops are taken from the middle that `utilities.datasets` cuts
out of an image, not from all of it, with bilinear interpolation.

Everything is drawn from the generator that a loader passes, or from (seed, epoch, step), never from the state of a
global generator.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import numpy as np
import torch
from timm.data.auto_augment import rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torch.nn import functional as F
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as TF

from utilities.datasets.images import Augmentation, ImageDataset
from utilities.hooks.calls.labels import check_labels
from utilities.hooks.calls.seeding import keeping_generators
from utilities.training.recipes import Recipe

_RAND_AUGMENT = re.compile(r"rand(-((m|n|mmax|inc)\d+|(p|mstd)\d+(\.\d+)?))*")
_SCALE, _RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # resized crops: share of the area, width to height


@dataclass(frozen=True)
class ResizedCrop:
    """Crop 8 to 100 % of the area in a ratio of 3:4 to 4:3, resize the crop to the old size, and perhaps mirror it.

    See Szegedy et al. 2015, section 6 (https://arxiv.org/abs/1409.4842).

    Args:
        flip: Whether to mirror left and right with probability 1/2.

    Example:
        >>> ResizedCrop()(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 3, 8, 8])
    """

    flip: bool = True

    def __call__(self, images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Augment a batch (images, channels, height, width)."""
        size = list(images.shape[-2:])
        with keeping_generators(_drawn_seed(generator)):
            boxes = [RandomResizedCrop.get_params(image, _SCALE, _RATIO) for image in images]
        crops = [TF.resized_crop(image, *box, size) for image, box in zip(images, boxes, strict=True)]
        return Augmentation(0, self.flip)(torch.stack(crops), generator)


@dataclass(frozen=True)
class RandAugment:
    """Apply RandAugment (Cubuk et al. 2020, https://arxiv.org/abs/1909.13719) as timm does, on 8-bit images.

    Normalised images are converted back to pixels, which is exact up to their rounding, then changed and normalised
    again.

    Args:
        config: Settings in timm's words: ``n`` operations for each image, each with probability ``p`` (0.5), of
            magnitude ``m`` out of 10, with a normal deviation ``mstd`` from it.
        mean: Value that was subtracted from each channel of images in 0..1.
        std: Value that each channel was then divided by.

    Raises:
        ValueError: If ``config`` cannot be read.

    Example:
        >>> augment = RandAugment("rand-m9-n2-mstd1.0", (0.5,) * 3, (0.25,) * 3)
        >>> augment(torch.zeros(2, 3, 8, 8), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 8, 8])
    """

    config: str
    mean: Sequence[float]
    std: Sequence[float]
    _transform: Callable[[Any], Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not _RAND_AUGMENT.fullmatch(self.config):
            raise ValueError(f"rand_augment {self.config!r} is not known; write it like 'rand-m9-n2-mstd1.0'")
        fill = tuple(min(255, round(255 * mean)) for mean in self.mean)
        object.__setattr__(self, "_transform", rand_augment_transform(self.config, {"img_mean": fill}))

    def __call__(self, images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Augment a batch (images, 3, height, width)."""
        mean, std = (torch.tensor(x).view(1, 3, 1, 1) * 255 for x in (self.mean, self.std))
        pixels = (images * std + mean).round_().clamp_(0, 255).to(torch.uint8)
        with keeping_generators(_drawn_seed(generator)):
            changed = [TF.pil_to_tensor(self._transform(TF.to_pil_image(image))) for image in pixels]
        return torch.stack(changed).float().sub_(mean).div_(std)


@dataclass(frozen=True)
class Erasing:
    """Erase a rectangle of 2 to 33 % of an image, to the mean colour.

    See Zhong et al. 2020, https://arxiv.org/abs/1708.04896.

    Args:
        probability: Probability for each image.

    Example:
        >>> erased = Erasing(1.0)(torch.ones(1, 3, 10, 10), torch.Generator().manual_seed(0))
        >>> bool(0 < (erased == 0).float().mean() <= 0.4)
        True
    """

    probability: float

    def __call__(self, images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Augment a batch (images, channels, height, width)."""
        with keeping_generators(_drawn_seed(generator)):
            return RandomErasing(self.probability, mode="const", device="cpu")(images.clone())


@dataclass(frozen=True)
class InTurn:
    """Apply several augmentations, one after the other.

    Example:
        >>> InTurn((Augmentation(1), Erasing(0.5)))(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 3, 8, 8])
    """

    parts: tuple[Callable[..., torch.Tensor], ...]

    def __call__(self, images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Augment a batch (images, channels, height, width)."""
        return reduce(lambda batch, part: part(batch, generator), self.parts, images)


def recipe_augmentation(recipe: Recipe, dataset: ImageDataset) -> Callable[..., torch.Tensor]:
    """Make a recipe's augmentation, crop, RandAugment and erasing, for a data set that has the usual one.

    Example:
        >>> from utilities.datasets import load_dataset
        >>> digits = load_dataset("digits", "train", augment=True)
        >>> recipe_augmentation(Recipe(), digits)
        Augmentation(pad=2, flip=False)
        >>> recipe_augmentation(Recipe(crop="resized", erasing=0.25), digits)
        InTurn(parts=(ResizedCrop(flip=False), Erasing(probability=0.25)))
    """
    usual = dataset.augmentation
    usual = replace(usual, flip=usual.flip and recipe.flips == "random")  # alternating flips are the loader's
    parts: list[Callable[..., torch.Tensor]] = [usual if recipe.crop == "padded" else ResizedCrop(usual.flip)]
    if recipe.rand_augment:
        parts.append(RandAugment(recipe.rand_augment, dataset.mean, dataset.std))
    if recipe.erasing:
        parts.append(Erasing(recipe.erasing))
    return parts[0] if len(parts) == 1 else InTurn(tuple(parts))


@dataclass(frozen=True)
class Blend:
    """State how each image of a batch is mixed with its partner, and its label likewise.

    Mixup (Zhang et al. 2018, https://arxiv.org/abs/1710.09412) averages, λ x + (1 - λ) x'. Cutmix (Yun et al. 2019,
    https://arxiv.org/abs/1905.04899) pastes a rectangle of x' into x, and λ is the share of the area that x keeps.
    The partners are the batch in reverse order, as in timm: the order of training images is random already, and only
    the middle one of an odd number meets itself.

    Attributes:
        weight: λ.
        box: Top, bottom, left and right of the pasted rectangle; None averages.

    Example:
        >>> Blend(0.75).images(torch.tensor([0.0, 4.0]).view(2, 1, 1, 1)).flatten()
        tensor([1., 3.])
        >>> Blend(0.75).targets(torch.tensor([0, 1]), num_classes=2)
        tensor([[0.7500, 0.2500],
                [0.2500, 0.7500]])
    """

    weight: float = 1.0
    box: tuple[int, int, int, int] | None = None

    @classmethod
    def draw(cls, mixup: float, cutmix: float, size: Sequence[int], rng: np.random.Generator) -> Blend:
        """Draw λ from Beta(α, α); the rectangle has √(1 - λ) of the image's sides and its centre anywhere.

        Args:
            mixup: α of mixup, 0 for none.
            cutmix: α of cutmix, 0 for none; with both above 0 each is taken with probability 1/2.
            size: Height and width of the images.
            rng: Generator to draw from.
        """
        paste = cutmix > 0 and (mixup == 0 or rng.random() < 0.5)
        weight = float(rng.beta(*(2 * [cutmix if paste else mixup])))
        if not paste:
            return cls(weight)
        (top, bottom), (left, right) = (_stretch(length, (1 - weight) ** 0.5, rng) for length in size)
        return cls(1 - (bottom - top) * (right - left) / (size[0] * size[1]), (top, bottom, left, right))

    def images(self, images: torch.Tensor) -> torch.Tensor:
        """Mix a batch (images, channels, height, width), which is not changed."""
        partners = images.flip(0)
        if self.box is None:
            return self.weight * images + (1 - self.weight) * partners
        top, bottom, left, right = self.box
        mixed = images.clone()
        mixed[..., top:bottom, left:right] = partners[..., top:bottom, left:right]
        return mixed

    def targets(self, labels: torch.Tensor, num_classes: int, smoothing: float = 0.0) -> torch.Tensor:
        """Return probabilities (images, classes), with the share ``smoothing`` spread over all classes."""
        own = F.one_hot(labels, num_classes).float() * (1 - smoothing) + smoothing / num_classes
        return self.weight * own + (1 - self.weight) * own.flip(0)


@dataclass(frozen=True)
class MixupCutmix:
    """Mix whole batches by mixup or cutmix, and smooth their labels, as a recipe does, outside of training.

    Attributes:
        num_classes: Number of classes.
        mixup: See `Blend.draw`.
        cutmix: See `Blend.draw`; if both are 0, labels are only smoothed.
        label_smoothing: Share of the labels that is spread over all classes.

    Example:
        >>> batch = torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])
        >>> images, targets = MixupCutmix(2, label_smoothing=0.1)(*batch, torch.Generator().manual_seed(0))
        >>> targets
        tensor([[0.9500, 0.0500],
                [0.0500, 0.9500]])
        >>> print(MixupCutmix(2, mixup=0.8, label_smoothing=0.1))
        mixup 0.8, label smoothing 0.1
    """

    num_classes: int
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0

    def __str__(self) -> str:
        values = {"mixup": self.mixup, "cutmix": self.cutmix, "label smoothing": self.label_smoothing}
        return ", ".join(f"{name} {value:g}" for name, value in values.items() if value)

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mixed images and probabilities (batch, classes); None draws from torch's global generator.

        Raises:
            ValueError: If labels are not among the classes.
        """
        labels = check_labels(labels, self.num_classes, len(images))
        rng = np.random.default_rng(_drawn_seed(generator))
        mix = Blend.draw(self.mixup, self.cutmix, images.shape[-2:], rng) if self.mixup or self.cutmix else Blend()
        return mix.images(images), mix.targets(labels, self.num_classes, self.label_smoothing)


def _drawn_seed(generator: torch.Generator | None) -> int:
    """Draw a seed from a CPU generator; None draws from torch's global one."""
    return int(torch.randint(2**31, (), generator=generator))


def _stretch(length: int, share: float, rng: np.random.Generator) -> tuple[int, int]:
    """Draw the begin and end of a stretch about a random place, cut off at the image's border."""
    cut, centre = int(length * share), int(rng.integers(length))
    return max(0, centre - cut // 2), min(length, centre + (cut + 1) // 2)
