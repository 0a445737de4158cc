"""Masks of a batch, and how much of each patch an object covers."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision import transforms

from utilities.datasets.masks import (
    class_tokens,
    refuse_random_transform,
    split_masks,
    token_coverage,
    transformed_mask,
)


def random_masks(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_a_loop(mask, rows, columns):
    """Each pixel's share of each patch, one by one, from the edges of both."""
    height, width = mask.shape
    result = torch.zeros(rows, columns, dtype=torch.float64)
    for i in range(rows):
        for j in range(columns):
            for y in range(height):
                for x in range(width):
                    down = min((i + 1) * height / rows, y + 1) - max(i * height / rows, y)
                    across = min((j + 1) * width / columns, x + 1) - max(j * width / columns, x)
                    result[i, j] += mask[y, x] * max(down, 0) * max(across, 0)
    return (result / (height * width / (rows * columns))).flatten()


@pytest.mark.parametrize(("size", "grid"), [((8, 8), (2, 2)), ((6, 9), (2, 3)), ((7, 5), (3, 2)), ((5, 5), (5, 5))])
def test_coverage_equals_a_plain_loop(size, grid):
    masks = random_masks(2, *size)
    expected = torch.stack([by_a_loop(mask, *grid) for mask in masks])
    torch.testing.assert_close(token_coverage(masks, grid), expected, atol=1e-12, rtol=0)


def test_coverage_of_whole_patches_is_average_pooling():
    masks = random_masks(3, 12, 8)
    pooled = F.adaptive_avg_pool2d(masks[:, None], (3, 2)).flatten(1)
    torch.testing.assert_close(token_coverage(masks, (3, 2)), pooled, atol=1e-12, rtol=0)


def test_a_mask_of_one_patch_is_one_hot_in_the_order_of_the_tokens():
    convolution = torch.nn.Conv2d(1, 1, 4, 4, bias=False)
    torch.nn.init.constant_(convolution.weight, 1 / 16)
    for token in range(6):
        mask = torch.zeros(1, 8, 12)
        row, column = divmod(token, 3)
        mask[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 1
        coverage = token_coverage(mask, (2, 3))
        assert torch.equal(coverage, F.one_hot(torch.tensor([token]), 6).float())
        embedded = convolution(mask[:, None]).flatten(2).transpose(1, 2)[..., 0]  # as timm's PatchEmbed
        torch.testing.assert_close(coverage, embedded.detach())


@pytest.mark.parametrize(("size", "grid"), [(24, 6), (24, 5), (7, 3)])
def test_coverage_keeps_means_and_constants(size, grid):
    masks = random_masks(4, size, size)
    means = token_coverage(masks, (grid, grid)).mean(1)
    torch.testing.assert_close(means, masks.mean((1, 2)), atol=1e-12, rtol=0)
    constant = token_coverage(torch.full((1, size, size), 0.3), (grid, grid))
    torch.testing.assert_close(constant, torch.full_like(constant, 0.3))
    assert (token_coverage(torch.ones(1, size, size), (grid, grid)) == 1).all()


def test_nearest_pixels_miss_what_is_partly_covered():
    """One pixel of a patch says nothing about the rest of it."""
    mask = torch.zeros(1, 8, 8)
    mask[:, 1:5, 1:5] = 1  # 9, 3, 3 and 1 pixels of the four patches of 16
    nearest = F.interpolate(mask[:, None], size=(2, 2), mode="nearest").flatten(1)
    coverage = token_coverage(mask, (2, 2))
    assert (coverage * 16).tolist() == [[9, 3, 3, 1]]
    assert class_tokens(coverage).tolist() == [[True, False, False, False]]
    assert nearest.tolist() == [[0, 0, 0, 1]]  # just the wrong way round


def test_thresholds():
    coverage = torch.tensor([[0.0, 0.25, 0.5, 1.0]])
    assert class_tokens(coverage).tolist() == [[False, False, True, True]]
    assert class_tokens(coverage, 0.25).tolist() == [[False, True, True, True]]
    assert class_tokens(coverage, 1).tolist() == [[False, False, False, True]]
    for threshold in (0, -0.5, 1.5, float("nan")):
        with pytest.raises(ValueError, match="threshold"):
            class_tokens(coverage, threshold)


def test_masks_of_batches():
    images, labels, masks = torch.zeros(2, 3, 4, 4), torch.zeros(2), torch.ones(2, 4, 4)
    assert split_masks(images) is None
    assert split_masks((images, labels)) is None
    assert split_masks({"pixel_values": images}) is None
    for batch in ((images, labels, masks), [images, labels, masks[:, None]], {"image": images, "masks": masks}):
        assert torch.equal(split_masks(batch), masks)
    assert split_masks({"mask": masks.bool()}).dtype == torch.float32
    assert split_masks((images, labels, None)) is None


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (torch.zeros(2, 3, 4, 4), r"should be \(batch, height, width\) .* got 2x3x4x4"),
        (torch.zeros(2, 4), "got 2x4"),
        (torch.full((2, 4, 4), 255.0), "got 255 to 255: divide 8-bit masks by 255"),
        (torch.full((2, 4, 4), -0.1), "0 to 1"),
        (torch.full((2, 4, 4), float("nan")), "0 to 1"),
        (np.zeros((2, 4, 4)), "should be a tensor"),
    ],
)
def test_what_is_no_mask_is_refused(masks, message):
    with pytest.raises(ValueError, match=message):
        split_masks((torch.zeros(2, 3, 4, 4), torch.zeros(2), masks))


def test_grids_are_checked():
    with pytest.raises(ValueError, match="none smaller than a pixel of the 4x4 masks"):
        token_coverage(torch.zeros(1, 4, 4), (5, 2))
    with pytest.raises(ValueError, match="grid 0x2"):
        token_coverage(torch.zeros(1, 4, 4), (0, 2))
    with pytest.raises(ValueError, match="floating point"):
        token_coverage(torch.zeros(1, 4, 4, dtype=torch.bool), (2, 2))


def test_an_object_stays_where_it_is_in_the_image():
    """The picture of an object and its mask, through the same centre crop."""
    mask = Image.new("L", (40, 30), 0)
    mask.paste(255, (12, 5, 25, 20))
    image = Image.merge("RGB", [mask.point(lambda grey: 200 if grey else 30)] * 3)
    for steps in ([transforms.CenterCrop(20)], [transforms.CenterCrop(50)], [transforms.Pad(3)]):
        transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize([0.4] * 3, [0.2] * 3)])
        found = transformed_mask(transform, mask)
        bright = (transform(image)[0] * 0.2 + 0.4) * 255
        torch.testing.assert_close(found, (bright > 100).float())
    resized = transforms.Compose([transforms.Resize(15), transforms.ToTensor()])
    expected = (resized(image)[0] * 255 - 30) / 170
    torch.testing.assert_close(transformed_mask(resized, mask), expected, atol=0.01, rtol=0)  # 8 bits, twice


def test_a_cubic_filter_does_not_leave_the_range():
    mask = Image.new("L", (40, 40), 0)
    mask.paste(255, (10, 10, 30, 30))
    cubic = transforms.Compose([transforms.Resize(90, transforms.InterpolationMode.BICUBIC), transforms.ToTensor()])
    found = transformed_mask(cubic, mask)
    assert (float(found.min()), float(found.max())) == (0, 1)
    assert abs(float(found.mean()) - 0.25) < 0.01


def test_only_chance_is_refused():
    image = Image.new("RGB", (8, 8))
    refuse_random_transform(transforms.Compose([transforms.Resize(4), transforms.ToTensor()]), image)
    with pytest.raises(ValueError, match="draws random numbers"):
        refuse_random_transform(transforms.RandomCrop(4), image)


@pytest.mark.parametrize("third", [torch.arange(2), ["a.png", "b.png"]])
def test_numbers_and_paths_of_images_are_no_masks(third):
    assert split_masks((torch.zeros(2, 3, 4, 4), torch.zeros(2), third)) is None
