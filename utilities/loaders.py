"""Images in batches, in a reproducible order: the dataset class, seeded loaders, augmentation of whole batches.

Minibatch CKA averages over batches, so a loader that serves one class after the other biases it, and a loader
that reshuffles cannot be read twice for two models. `make_loader` therefore shuffles once, with a seed, unless
asked otherwise. Order and augmentation depend on the seed and the epoch alone, never on the number of workers or
on the state of torch's global generator.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import functional as TF
from tqdm.auto import tqdm

SHUFFLES = ("once", "every_epoch", "never")
MEMORY = 2**30  # bytes of decoded images that are kept


def seeded_generator(*keys: int) -> torch.Generator:
    """Make a generator from several integers, so that (seed 0, epoch 1) and (seed 1, epoch 0) are unrelated."""
    state = np.random.SeedSequence(keys).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


@dataclass(frozen=True)
class Augmentation:
    """Random crops of zero-padded images and random mirroring, each image of a batch by its own draw.

    The training augmentation of He et al. 2016, section 4.2 (https://arxiv.org/abs/1512.03385). Images are
    normalised first, so that the zeros of the border stand for the mean colour.

    Args:
        pad: Pixels added on every side; the crop is shifted by -pad to +pad, uniformly, in both directions.
        flip: Whether to mirror left and right with probability 1/2.

    Raises:
        ValueError: If ``pad`` is negative.

    Example:
        >>> images = torch.arange(8.0).reshape(2, 1, 2, 2)
        >>> Augmentation(pad=1, flip=False)(images, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 1, 2, 2])
        >>> bool((Augmentation(pad=0, flip=False)(images) == images).all())
        True
    """

    pad: int
    flip: bool = True

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ValueError(f"pad should be 0 or more pixels, got {self.pad}")

    def __call__(self, images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Augment a batch.

        Args:
            images: Any dtype, any device, shape (batch, channels, height, width).
            generator: A CPU generator; None draws from torch's global one.

        Returns:
            New images of the same shape.

        Raises:
            ValueError: If the images are not a batch.
        """
        if images.ndim != 4:
            raise ValueError(f"images should be (batch, channels, height, width), got {tuple(images.shape)}")
        n, channels, height, width = images.shape
        top, left = torch.randint(0, 2 * self.pad + 1, (2, n, 1), generator=generator)
        rows, columns = top + torch.arange(height), left + torch.arange(width)
        if self.flip:
            mirrored = torch.rand((n, 1), generator=generator) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        pixels = rows[:, :, None] * (width + 2 * self.pad) + columns[:, None, :]
        pixels = pixels.reshape(n, 1, -1).to(images.device).expand(-1, channels, -1)
        return F.pad(images, (self.pad,) * 4).flatten(2).gather(2, pixels).view_as(images)


@dataclass(frozen=True)
class Source:
    """Images of which ``members`` form the split, either in memory or opened one at a time."""

    classes: list[str]
    labels: np.ndarray
    members: np.ndarray
    size: int
    images: torch.Tensor | None = None  # uint8 (images, 3, height, width)
    open: Callable[[int], Image.Image] | None = None
    native: int = 0
    zoom: float = 1.0  # the shorter side is resized to image_size * zoom before the centre crop
    mean: Sequence[float] = (0.485, 0.456, 0.406)  # ImageNet's
    std: Sequence[float] = (0.229, 0.224, 0.225)
    flip: bool = True


class ImageDataset(Dataset):
    """A map-style dataset of (normalised float32 image of shape (3, size, size), label), see `load_dataset`.

    Attributes:
        name: The set's name for captions; ``str(dataset)`` adds the split and the number of images.
        split: Which part of the set this is.
        classes: The classes' names, in the order of the labels.
        num_classes: How many classes there are, whether or not each one is present here.
        targets: The labels, int64, shape (images,).
        indices: Each image's place in the source: digits, CIFAR's train or test file, or sorted file list.
        image_size: Height and width in pixels.
        mean: What is subtracted from each channel of images in 0..1, or None with a transform of one's own.
        std: What each channel is then divided by, or None.
        augmentation: Applied by `utilities.loaders.make_loader` from its own seed, and otherwise on indexing from
            torch's global generator; or None.
    """

    def __init__(self, source: Source, name: str, split: str, transform: Callable | None = None) -> None:
        self.name, self.split, self.classes, self.num_classes = name, split, source.classes, len(source.classes)
        self.indices, self.targets = source.members, source.labels[source.members].astype(np.int64)
        self.image_size, self.augmentation, self._transform, self._zoom = source.size, None, transform, source.zoom
        self.mean, self.std = (tuple(source.mean), tuple(source.std)) if transform is None else (None, None)
        self._labels = torch.from_numpy(self.targets)
        self._open, self._images = source.open, source.images
        if self._images is not None:
            self._images = self._images[torch.from_numpy(source.members)]
        if transform is not None:
            self.image_size = int(self[0][0].shape[-1])
        elif len(self) * 3 * self.image_size**2 <= MEMORY:
            if self._images is not None:
                self._images = _resized(self._images, self.image_size)
            elif 0 < source.native <= 64 and self.image_size <= 64:
                self._images = self._decode_all()

    def __len__(self) -> int:
        return len(self.targets)

    def __str__(self) -> str:
        return f"{self.name} ({self.split}, {len(self):,} images)"

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} is not in {self}")
        return self.__getitems__([int(index) % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[torch.Tensor, int]]:
        images, labels = self.batch(indices)
        return list(zip(images.unbind(), labels.tolist(), strict=True))

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Read several images at once, much faster than one after the other where they lie in memory.

        Args:
            indices: Places in this dataset, from 0.

        Returns:
            Images, float32, shape (batch, 3, size, size), and labels, int64, shape (batch,).
        """
        rows = torch.as_tensor(indices)
        if self._transform is not None:
            images = torch.stack([_transformed(self._transform, self._pil(i)) for i in rows.tolist()])
        else:
            if self._images is not None:
                pixels = _resized(self._images[rows], self.image_size)
            else:
                pixels = torch.stack([self._decoded(i) for i in rows.tolist()])
            mean, std = (torch.tensor(x).view(1, 3, 1, 1) * 255 for x in (self.mean, self.std))
            images = pixels.float().sub_(mean).div_(std)
        if self.augmentation is not None:
            images = self.augmentation(images)
        return images, self._labels[rows]

    def _pil(self, row: int) -> Image.Image:
        if self._images is not None:
            return TF.to_pil_image(self._images[row])
        return self._open(int(self.indices[row]))

    def _decode_all(self) -> torch.Tensor:
        pixels = torch.empty((len(self), 3, self.image_size, self.image_size), dtype=torch.uint8)
        for row in tqdm(range(len(self)), desc=f"reading {self}", disable=len(self) < 5000, leave=False):
            pixels[row] = self._decoded(row)
        return pixels

    def _decoded(self, row: int) -> torch.Tensor:
        image = self._pil(row)
        if image.size != (self.image_size, self.image_size) or self._zoom != 1:
            image = TF.resize(image, round(self.image_size * self._zoom))
            image = TF.center_crop(image, self.image_size)
        return TF.pil_to_tensor(image)


def _resized(images: torch.Tensor, size: int) -> torch.Tensor:
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


def _transformed(transform: Callable, image: Image.Image) -> torch.Tensor:
    result = transform(image)
    if not isinstance(result, torch.Tensor) or result.ndim != 3 or not result.is_floating_point():
        raise TypeError(
            f"transform should give a float tensor (3, size, size), got {type(result).__name__} "
            f"{tuple(getattr(result, 'shape', ()))}; end it with ToTensor() and Normalize(mean, std)"
        )
    return result


class _Order(Sampler):
    """The indices of one epoch: a function of the seed, the rule and the epoch."""

    def __init__(self, length: int, shuffle: str, seed: int) -> None:
        self.length, self.shuffle, self.seed, self.epoch = length, shuffle, seed, 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        if self.shuffle == "never":
            return iter(range(self.length))
        epoch = self.epoch if self.shuffle == "every_epoch" else 0
        return iter(torch.randperm(self.length, generator=seeded_generator(self.seed, 0, epoch)).tolist())


class Loader(DataLoader):
    """A torch ``DataLoader`` with a seeded order and augmentation of whole batches; see `make_loader`.

    Attributes:
        epoch: The epoch that the next iteration serves, counted from 0. Set it to go on with a training run.
        augment: What is applied to every batch of images, or None.
        seed: The seed of the order and of the augmentation.
    """

    def __init__(self, dataset: Dataset, order: _Order, augment: Callable | None, **options: Any) -> None:
        # A generator of its own: otherwise every iteration draws a number from torch's global one.
        generator = seeded_generator(order.seed, 1)
        super().__init__(dataset, sampler=order, generator=generator, **options)
        self.augment, self.seed, self.epoch = augment, order.seed, 0

    def __iter__(self) -> Iterator[Any]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        self.sampler.epoch = epoch
        direct = self.num_workers == 0 and hasattr(self.dataset, "batch")
        batches = map(self.dataset.batch, list(self.batch_sampler)) if direct else super().__iter__()
        return batches if self.augment is None else self._augmented(batches, epoch)

    def _augmented(self, batches: Iterator[Any], epoch: int) -> Iterator[Any]:
        generator = seeded_generator(self.seed, 2, epoch)
        for images, *rest in batches:
            yield [self.augment(images, generator), *rest]


def make_loader(
    dataset: Dataset,
    batch_size: int,
    *,
    seed: int = 0,
    shuffle: str = "once",
    workers: int = 0,
    augment: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | bool | None = None,
    drop_last: bool = False,
) -> Loader:
    """Make a loader whose batches depend on the seed and the epoch alone.

    Sets of `utilities.datasets.load_dataset` that lie in memory need no workers: their batches are cut out of one
    array. Workers pay for sets that are decoded from files, such as ImageNet.

    Args:
        dataset: A map-style dataset of (image, label).
        batch_size: Images in a batch; the last one may be smaller, unless ``drop_last``.
        seed: Seed of the order and of the augmentation.
        shuffle: ``"once"`` serves one fixed permutation in every epoch, for comparisons; ``"every_epoch"`` a new
            one each epoch, for training; ``"never"`` keeps the order of the dataset (often sorted by class).
        workers: Processes that read images beside this one.
        augment: Called with (images, generator) on every batch, anew in every epoch, such as an `Augmentation`.
            None takes the dataset's own (that of ``load_dataset(augment=True)``); False switches it off.
        drop_last: Whether to leave out a smaller last batch.

    Returns:
        The loader. Where the dataset brought its own augmentation, ``loader.dataset`` is a copy without it, since
        the loader has taken it over.

    Raises:
        ValueError: If the dataset is empty, no batch would come out, or an option is out of range.
        TypeError: If ``augment`` cannot be called.

    Example:
        >>> from utilities.datasets import load_dataset
        >>> loader = make_loader(load_dataset("digits", n_images=100), batch_size=64)
        >>> [len(labels) for images, labels in loader], len(loader)
        ([64, 36], 2)
    """
    if shuffle not in SHUFFLES:
        raise ValueError(f"shuffle {shuffle!r} is not known; use one of {', '.join(SHUFFLES)}")
    if batch_size < 1 or workers < 0 or seed < 0:
        raise ValueError(f"batch_size should be >= 1, workers and seed >= 0; got {batch_size}, {workers} and {seed}")
    count = len(dataset)
    if count == 0 or (drop_last and count < batch_size):
        raise ValueError(f"no batch of {batch_size} comes out of {count} images (drop_last={drop_last})")
    own = getattr(dataset, "augmentation", None)
    augment = own if augment is None else augment or None
    if augment is not None and not callable(augment):
        raise TypeError(
            f"augment should be an Augmentation, False or None (the dataset's own), got {augment!r}; "
            "load_dataset(..., augment=True) makes a dataset that has one"
        )
    if own is not None:
        dataset = copy.copy(dataset)
        dataset.augmentation = None
    order = _Order(count, shuffle, seed)
    return Loader(dataset, order, augment, batch_size=batch_size, num_workers=workers, drop_last=drop_last)


def same_input(one: Loader, two: Loader) -> bool:
    """Tell whether two loaders prepare images in the same way: size, mean and deviation.

    Example:
        >>> from utilities.datasets import load_dataset
        >>> small, large = (make_loader(load_dataset("digits", image_size=size), 64) for size in (16, 32))
        >>> same_input(small, small), same_input(small, large)
        (True, False)
    """
    return all(getattr(one.dataset, a) == getattr(two.dataset, a) for a in ("image_size", "mean", "std"))
