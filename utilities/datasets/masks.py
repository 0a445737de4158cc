"""Take masks of objects out of a batch, put them through an image's transform, and average them over patches.

Vilas et al. 2023 (https://arxiv.org/abs/2310.18969) call a token class-labelled where the object is in its patch. A
patch that is half object, half background is neither. So the covered fraction of each patch is computed first, and a
threshold is applied afterwards.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL import Image

from utilities.hooks.calls.batch_parts import place_of_images
from utilities.hooks.calls.options import check_number

GREYS = 36, 219  # cubic filters overshoot by up to 15 % of the contrast, which black or white must not clip


def split_masks(batch: Any) -> torch.Tensor | None:
    """Take the masks out of a batch, besides what `utilities.utils.split_batch` takes.

    Args:
        batch: ``images``, ``(images, labels)``, ``(images, labels, masks)`` or a mapping, perhaps with ``mask`` or
            ``masks``.

    Returns:
        The covered fraction of each pixel, floating point, (batch, height, width), or None where there are none.

    Raises:
        ValueError: If the third item is not a mask: not a tensor (batch, height, width) or (batch, 1, height, width)
            of finite numbers in 0..1.

    Example:
        >>> images, labels = torch.zeros(2, 3, 4, 4), torch.zeros(2)
        >>> split_masks((images, labels, torch.ones(2, 1, 4, 4))).shape
        torch.Size([2, 4, 4])
        >>> split_masks((images, labels)) is None
        True
    """
    masks = None
    if isinstance(batch, Mapping):
        masks = next((batch[key] for key in ("mask", "masks") if key in batch), None)
    elif isinstance(batch, (tuple, list)) and batch:
        place = place_of_images(batch) + 2
        if len(batch) > place and getattr(batch[place], "ndim", 0) > 1:
            masks = batch[place]  # otherwise these are paths, or the images' numbers
    if masks is None:
        return None
    if not isinstance(masks, torch.Tensor):
        raise ValueError(f"masks should be a tensor (batch, height, width), got {type(masks).__name__}")
    if masks.ndim == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    if masks.ndim != 3:
        raise ValueError(f"masks should be (batch, height, width) or (batch, 1, height, width), got {_shape(masks)}")
    masks = masks if masks.is_floating_point() else masks.float()
    if not ((masks >= 0) & (masks <= 1)).all():  # NaN fails this too
        low, high = masks.min().item(), masks.max().item()
        raise ValueError(
            f"masks should say what fraction of each pixel is covered, 0 to 1; got {low:g} to {high:g}: divide "
            "8-bit masks by 255, and compare class ids with the class first"
        )
    return masks


def token_coverage(masks: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Average masks over the patches of a grid, exactly: a pixel in two patches counts in both by its area.

    The mean over patches is the mean over pixels, and a constant mask stays constant, whether or not the grid divides
    the image.

    Args:
        masks: Covered fraction of each pixel, (batch, height, width).
        grid: Rows and columns of patches, such as a timm ViT's ``patch_embed.grid_size``.

    Returns:
        Covered fraction of each patch, (batch, rows * columns), row by row like the patch tokens of timm.

    Raises:
        ValueError: If the masks are not a batch, or the grid is finer than they are.

    Example:
        >>> mask = torch.tensor([[[1.0, 1, 0, 0], [1, 1, 1, 0]]])
        >>> token_coverage(mask, (1, 2))
        tensor([[1.0000, 0.2500]])
    """
    if masks.ndim != 3 or not masks.is_floating_point():
        raise ValueError(f"masks should be floating point (batch, height, width), got {masks.dtype} {_shape(masks)}")
    rows, columns = grid
    height, width = masks.shape[1:]
    if not (1 <= rows <= height and 1 <= columns <= width):
        raise ValueError(
            f"grid {rows}x{columns} should have a patch or more, and none smaller than a pixel of "
            f"the {height}x{width} masks"
        )
    down, across = (_shares(n, length).to(masks.device) for n, length in ((rows, height), (columns, width)))
    return (down @ masks.double() @ across.T).flatten(1).to(masks.dtype)


def class_tokens(coverage: torch.Tensor, threshold: float = 0.5) -> torch.Tensor:
    """Tell which tokens show the object: those covered by it to a fraction of at least ``threshold``.

    Args:
        coverage: Covered fractions, from `token_coverage`.
        threshold: Least covered fraction, above 0 and at most 1.

    Returns:
        Booleans of the same shape; False marks context tokens.

    Raises:
        ValueError: If the threshold is out of range.

    Example:
        >>> class_tokens(torch.tensor([0.2, 0.5, 1.0]))
        tensor([False,  True,  True])
    """
    check_number("threshold", threshold, above=0, most=1)
    return coverage >= threshold


def transformed_mask(transform: Callable[[Image.Image], torch.Tensor], mask: Image.Image) -> torch.Tensor:
    """Put a mask through its image's transform, and read the covered fraction of each pixel off the result.

    Three pictures are transformed: all dark, all light, and the mask, light on dark. Then
    f = (t(mask) - t(dark)) / (t(light) - t(dark)). That is exact for every deterministic transform that is affine in
    the grey levels, such as the evaluation transforms of timm and torchvision, up to the rounding of grey levels
    between their steps.

    Args:
        transform: Function from an RGB picture to (channels, height, width).
        mask: Picture of the mask, white on black.

    Returns:
        Float32, (height, width), 0 to 1.

    Example:
        >>> from torchvision.transforms import functional as TF
        >>> mask = Image.new("L", (4, 2), "white")
        >>> transformed_mask(lambda image: TF.pad(TF.to_tensor(image), 1) - 0.5, mask)[1]
        tensor([0., 1., 1., 1., 1., 0.])
    """
    dark, light = GREYS
    drawn = mask.point(lambda level: dark + level * (light - dark) // 255).convert("RGB")
    blank = (Image.new("RGB", mask.size, (grey,) * 3) for grey in GREYS)
    part, none, full = (transform(picture) for picture in (drawn, *blank))
    contrast = full - none
    inside = contrast != 0  # False in a border that the transform adds, where there is no object
    fraction = torch.where(inside, (part - none) / torch.where(inside, contrast, 1.0), 0.0)
    return fraction.mean(0).clamp(0, 1).float()  # see GREYS


def refuse_random_transform(transform: Callable[[Image.Image], torch.Tensor], image: Image.Image) -> None:
    """Refuse a transform that draws random numbers: it would move the mask differently from the image.

    Raises:
        ValueError: If it does; the message names the remedy.

    Example:
        >>> from torchvision.transforms import RandomCrop
        >>> refuse_random_transform(RandomCrop(2), Image.new("RGB", (4, 4)))
        Traceback (most recent call last):
        ValueError: the transform draws random numbers, so that it would move each mask otherwise than its image...
    """
    before = torch.get_rng_state(), random.getstate()  # the generators that torchvision and timm draw from
    transform(image)
    if random.getstate() != before[1] or not torch.equal(torch.get_rng_state(), before[0]):
        raise ValueError(
            "the transform draws random numbers, so that it would move each mask otherwise than its image: leave its "
            "random parts out, or load the set with masks=False"
        )


def _shares(patches: int, pixels: int) -> torch.Tensor:
    """Return the share of each patch that each pixel of a line makes up, (patches, pixels); rows sum to 1."""
    # In units of 1 / patches of a pixel, all edges are whole numbers, so the overlaps are exact.
    patch, pixel = torch.arange(patches)[:, None] * pixels, torch.arange(pixels) * patches
    overlap = torch.minimum(patch + pixels, pixel + patches) - torch.maximum(patch, pixel)
    return overlap.clamp(min=0).double() / pixels


def _shape(masks: torch.Tensor) -> str:
    return "x".join(map(str, masks.shape))
