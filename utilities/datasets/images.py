"""Define a set of images: its source, the dataset class, and the augmentation of whole batches with their masks."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision.transforms import functional as TF
from tqdm.auto import tqdm

from utilities.datasets.masks import refuse_random_transform, transformed_mask
from utilities.hooks.calls.sending import send
from utilities.results.formatting import counted

MEMORY = 2**30  # bytes of decoded images to keep


@dataclass(frozen=True)
class Augmentation:
    """Crop zero-padded images and mirror them at random, each image of a batch by its own draw.

    This is the training augmentation of He et al. 2016, section 4.2 (https://arxiv.org/abs/1512.03385). Images are
    normalised first, so that the zeros of the border represent the mean colour.

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
    served: tuple[tuple[int, ...], int] | None = field(default=None, repr=False)

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
        device = images.device
        own, whole = (slice(None), n) if self.served is None else (list(self.served[0]), self.served[1])
        shifts = torch.randint(0, 2 * self.pad + 1, (2, whole, 1), generator=generator)
        top, left = send(shifts[:, own], device)
        rows, columns = top + torch.arange(height, device=device), left + torch.arange(width, device=device)
        if self.flip:
            mirrored = send(torch.rand((whole, 1), generator=generator)[own, :], device) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        pixels = rows[:, :, None] * (width + 2 * self.pad) + columns[:, None, :]
        pixels = pixels.reshape(n, 1, -1).expand(-1, channels, -1)
        return F.pad(images, (self.pad,) * 4).flatten(2).gather(2, pixels).view_as(images)

    def rows(self, rows: Sequence[int], whole: int) -> Augmentation:
        """Return what augments some rows of a batch as this does when it is given the whole batch.

        Args:
            rows: The rows.
            whole: Number of images in the whole batch.

        Example:
            >>> images, augment = torch.rand(4, 1, 3, 3), Augmentation(1)
            >>> whole = augment(images, torch.Generator().manual_seed(0))
            >>> part = augment.rows([0, 3], 4)(images[[0, 3]], torch.Generator().manual_seed(0))
            >>> bool((part == whole[[0, 3]]).all())
            True
        """
        return replace(self, served=(tuple(rows), whole))


@dataclass(frozen=True)
class Source:
    """Hold images of which ``members`` form the split, either in memory or opened one at a time."""

    classes: list[str]
    labels: np.ndarray
    members: np.ndarray
    size: int
    images: torch.Tensor | None = None  # uint8 (images, 3, height, width)
    open: Callable[[int], Image.Image] | None = None
    masks: torch.Tensor | None = None  # bool (images, size, size): where the object is, for images in memory
    open_mask: Callable[[int], Image.Image] | None = None  # the same for images in files, white on black
    native: int = 0
    zoom: float = 1.0  # the shorter side is resized to image_size * zoom before the centre crop
    mean: Sequence[float] = (0.485, 0.456, 0.406)  # ImageNet's
    std: Sequence[float] = (0.229, 0.224, 0.225)
    flip: bool = True
    files: list[Path] | None = None  # files that ``open`` opens; their folder is ``root``
    root: Path | None = None
    note: str = ""  # how the split was made, where the set has none of its own


class ImageDataset(Dataset):
    """Serve (normalised float32 image of shape (3, size, size), label), map-style, see `load_dataset`.

    Where objects are marked, there is a third item: the fraction of each pixel that the object covers, float32 (size,
    size). It has gone through the same resizing, cropping and augmentation as the image.

    Attributes:
        name: The set's name for captions; ``str(dataset)`` adds the split and the number of images.
        split: Part of the set that this is.
        classes: The classes' names, in the order of the labels.
        num_classes: Number of classes, whether or not each one is present here.
        targets: The labels, int64, shape (images,).
        indices: Each image's place in the source: the digits, CIFAR's train or test file, or the sorted file list.
        image_size: Height and width in pixels.
        mean: Value subtracted from each channel of images in 0..1, or None with a transform of your own.
        std: Value that each channel is divided by afterwards, or None.
        masks: Whether there are masks.
        part: The split, for captions; if the data set has no such split, it states that the split was made here.
        note: How the split was made then, or empty.
        files: The image files of this split, or None where images are in memory.
        root: The folder of these files, or None.
        flip: Whether an image's label holds for its mirror image.
        augmentation: Augmentation or None. `utilities.datasets.make_loader` applies it from the loader's seed; on
            indexing, it draws from torch's global generator.
    """

    def __init__(self, source: Source, name: str, split: str, transform: Callable | None = None) -> None:
        self.name, self.split, self.classes, self.num_classes = name, split, source.classes, len(source.classes)
        self.indices, self.targets = source.members, source.labels[source.members].astype(np.int64)
        self.image_size, self.augmentation, self._transform, self._zoom = source.size, None, transform, source.zoom
        self.mean, self.std = (tuple(source.mean), tuple(source.std)) if transform is None else (None, None)
        self.note, self.root, self._files, self.flip = source.note, source.root, source.files, source.flip
        self._labels = torch.from_numpy(self.targets)
        self._open, self._images = source.open, source.images
        if self._images is not None:
            self._images = self._images[torch.from_numpy(source.members)]
        self._masks, self._open_mask = source.masks, source.open_mask
        if self._masks is not None:
            self._masks = self._masks[torch.from_numpy(source.members)]
        self.masks = self._masks is not None or self._open_mask is not None
        if self.masks and transform is not None:
            refuse_random_transform(transform, self._pil(0))
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
        return f"{self.name} ({self.split}, {counted(len(self), 'image')})"

    @property
    def part(self) -> str:
        """Return the split, for captions, and whether it was made here."""
        return f"{self.split}, split here" if self.note else self.split

    @property
    def files(self) -> list[Path] | None:
        """Return the image files of this split, in its order."""
        return None if self._files is None else [self._files[i] for i in self.indices]

    @property
    def ids(self) -> list[str]:
        """Name the images of this split, whatever their size and normalisation: by their files, or by their places.

        Example:
            >>> from utilities.datasets import load_dataset
            >>> load_dataset("digits", n_images=2).ids[0][:12]
            'digits/test/'
        """
        if self._files is not None:
            start = len(str(self.root)) + 1
            return [str(file)[start:].replace(os.sep, "/") for file in self.files]
        part = "test" if self.split == "test" else "train"
        return [f"{self.name}/{part}/{index}" for index in self.indices.tolist()]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int] | tuple[torch.Tensor, int, torch.Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} is not in {self}")
        return self.__getitems__([int(index) % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, ...]]:
        images, labels, *masks = self.batch(indices)
        return list(zip(images.unbind(), labels.tolist(), *(mask.unbind() for mask in masks), strict=True))

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, ...]:
        """Read several images at once, much faster than one by one where they are in memory.

        Args:
            indices: Places in this dataset, from 0.

        Returns:
            Images, float32, shape (batch, 3, size, size); labels, int64, shape (batch,); and, if the dataset has
            ``masks``, the covered fraction of each pixel, float32, shape (batch, size, size).

        Raises:
            ValueError: If the dataset's own augmentation cannot move masks along with images.
        """
        rows = torch.as_tensor(indices)
        if self._transform is not None:
            images = torch.stack([_transformed(self._transform, self._pil(i)) for i in rows.tolist()])
        else:
            if self._images is not None:
                pixels = _resized(self._images[send(rows, self._images.device)], self.image_size)
            else:
                pixels = torch.stack([self._decoded(i) for i in rows.tolist()])
            mean, std = (send(torch.tensor(x).view(1, 3, 1, 1) * 255, pixels.device) for x in (self.mean, self.std))
            images = pixels.float().sub_(mean).div_(std)
        batch = images, self._labels[rows], *([self._read_masks(rows)] if self.masks else [])
        return batch if self.augmentation is None else tuple(augmented(self.augmentation, batch))

    def to(self, device: str | torch.device) -> ImageDataset:
        """Return a set whose decoded images lie on a device, where batches are then cut out and augmented.

        Args:
            device: The device. Nothing changes where images are decoded one at a time. Labels stay on the CPU.

        Example:
            >>> from utilities.datasets import load_dataset
            >>> load_dataset("digits").to("meta").batch([0, 1])[0].device
            device(type='meta')
        """
        other = copy.copy(self)
        if self._images is not None and self._transform is None and not self.masks:
            other._images = self._images.to(device)
        return other

    def repeated(self, count: int) -> ImageDataset:
        """Return a set of so many images, in which those of this one take turns; augmentation is kept.

        Args:
            count: Number of images; below the number here, the last ones are left out.

        Example:
            >>> from utilities.datasets import load_dataset
            >>> few = load_dataset("digits", n_images=3)
            >>> few.repeated(7).indices.tolist() == [*few.indices, *few.indices, few.indices[0]]
            True
        """
        rows, other = np.resize(np.arange(len(self)), count), copy.copy(self)
        other.indices, other.targets = self.indices[rows], self.targets[rows]
        for name in ("_labels", "_images", "_masks"):
            value = getattr(self, name)
            setattr(other, name, None if value is None else value[torch.from_numpy(rows)])
        return other

    def _pil(self, row: int) -> Image.Image:
        if self._images is not None:
            return TF.to_pil_image(self._images[row])
        return self._open(int(self.indices[row]))

    def _read_masks(self, rows: torch.Tensor) -> torch.Tensor:
        if self._transform is not None:
            transform = partial(_transformed, self._transform)
            return torch.stack([transformed_mask(transform, self._pil_mask(i)) for i in rows.tolist()])
        if self._masks is not None:
            return self._masks[rows].float()
        return torch.stack([self._cropped(TF.to_tensor(self._pil_mask(i)))[0] for i in rows.tolist()])

    def _pil_mask(self, row: int) -> Image.Image:
        """Return the mask as a picture of the image's size, white on black."""
        if self._masks is not None:
            return TF.to_pil_image(self._masks[row].to(torch.uint8) * 255)
        return self._open_mask(int(self.indices[row]))

    def _decode_all(self) -> torch.Tensor:
        pixels = torch.empty((len(self), 3, self.image_size, self.image_size), dtype=torch.uint8)
        for row in tqdm(range(len(self)), desc=f"reading {self}", disable=len(self) < 5000, leave=False):
            pixels[row] = self._decoded(row)
        return pixels

    def _decoded(self, row: int) -> torch.Tensor:
        return TF.pil_to_tensor(self._cropped(self._pil(row)))

    def _cropped(self, image: Any) -> Any:
        """Bring a picture, or a mask (1, height, width), to the size of this dataset."""
        if TF.get_image_size(image) != [self.image_size] * 2 or self._zoom != 1:
            image = TF.resize(image, round(self.image_size * self._zoom))
            image = TF.center_crop(image, self.image_size)
        return image


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


def augmented(
    augment: Callable[..., torch.Tensor], batch: Sequence[torch.Tensor], generator: torch.Generator | None = None
) -> list[torch.Tensor]:
    """Augment the images of a batch, and move masks along with them.

    Args:
        augment: The augmentation, such as `Augmentation`.
        batch: Images, labels and perhaps more; masks, (batch, height, width) like the images, come third.
        generator: Generator passed to the augmentation.

    Raises:
        ValueError: If there are masks, and ``augment`` is not an `Augmentation`.

    Example:
        >>> images, masks = torch.ones(2, 3, 4, 4), torch.ones(2, 4, 4)
        >>> moved, _, masks = augmented(Augmentation(1), (images, torch.zeros(2), masks))
        >>> bool((moved[:, 0] == masks).all())
        True
    """
    images, *rest = batch
    if len(rest) < 2 or not has_masks(images, rest[1]):
        return [augment(images, generator), *rest]
    masks = rest[1]
    check_masks(augment)
    moved = augment(torch.cat([images, masks[:, None].to(images.dtype)], dim=1), generator)
    return [moved[:, :-1], rest[0], moved[:, -1].to(masks.dtype), *rest[2:]]


def refuse_mirror_images(dataset: Dataset) -> None:
    """Refuse to test on mirror images where they show something else than their label says.

    Args:
        dataset: The images; those that do not say so, as a user's own, are taken to be like their mirror images.

    Raises:
        ValueError: If they are not.

    Example:
        >>> from utilities.datasets import load_dataset
        >>> refuse_mirror_images(load_dataset("digits", "test"))
        Traceback (most recent call last):
        ValueError: digits: a mirrored image is another symbol; test without mirror images (leave out --mirrored)
    """
    if not getattr(dataset, "flip", True):
        raise ValueError(
            f"{dataset.name}: a mirrored image is another symbol; test without mirror images (leave out --mirrored)"
        )


def mirror(batch: Sequence[torch.Tensor], which: torch.Tensor) -> list[torch.Tensor]:
    """Mirror some images of a batch, left and right, and their masks with them.

    Args:
        batch: Images, labels and perhaps more; masks, (batch, height, width) like the images, come third.
        which: A boolean for each image.

    Example:
        >>> images = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(2, 1, 1, 2)
        >>> mirror([images, torch.zeros(2)], torch.tensor([False, True]))[0].flatten()
        tensor([1., 2., 4., 3.])
    """
    images, *rest = batch
    flags = send(which, images.device)
    if len(rest) > 1 and has_masks(images, rest[1]):
        rest[1] = torch.where(flags[:, None, None], rest[1].flip(-1), rest[1])
    return [torch.where(flags[:, None, None, None], images.flip(-1), images), *rest]


def has_masks(images: torch.Tensor, part: Any) -> bool:
    """Tell whether a part of a batch is masks of its images."""
    return isinstance(part, torch.Tensor) and part.shape == images[:, 0].shape


def check_masks(augment: Callable) -> None:
    """Refuse an augmentation that would move masks differently from their images."""
    if not isinstance(augment, Augmentation):
        raise ValueError(
            f"{augment} cannot move masks along with images, which utilities.datasets.images.Augmentation does; "
            "load_dataset(..., masks=False) leaves the masks out"
        )
