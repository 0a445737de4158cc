"""Digits on noise: what is where, which splits share nothing, and what the seed decides."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision import transforms

from utilities.datasets import load_dataset
from utilities.datasets.canvas import COUNTS, NOISE, in_turns, paste
from utilities.datasets.factory import SPLITS, Augmentation, make_loader
from utilities.train import load_sets
from utilities.training.recipes import Recipe


def pixels(dataset):
    """The grey levels 0..1 of every image, and the masks."""
    images, _, masks = dataset.batch(range(len(dataset)))
    return images[:, 0] * dataset.std[0] + dataset.mean[0], masks


def resized_digits(split, side):
    """The digits of a split as canvases show them, and their labels."""
    digits = load_dataset("digits", split, image_size=8, mean=(0, 0, 0), std=(1, 1, 1))
    images, labels = digits.batch(range(len(digits)))
    images = F.interpolate(images[:, :1] * 255, size=(side, side), mode="bilinear", antialias=True)
    return {tuple(one): int(label) for one, label in zip(grey(images[:, 0]), labels, strict=True)}


def grey(values):
    """Whole grey levels, as lists."""
    return values.round().flatten(1).tolist()


def cut_out(values, masks):
    """The square that each mask marks, (images, side, side)."""
    side = round(float(masks[0].sum()) ** 0.5)
    return values[masks > 0].view(-1, side, side)


@pytest.mark.parametrize(("size", "side"), [(24, 12), (25, 12), (4, 2), (5, 2), (48, 24)])
def test_a_digit_replaces_a_square_of_noise(size, side):
    dataset = load_dataset("canvas", "validation", image_size=size)
    values, masks = pixels(dataset)
    assert masks.dtype == torch.float32
    assert masks.shape == (COUNTS["validation"], size, size)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    rows, columns = masks.amax(2), masks.amax(1)
    assert (rows.sum(1) == side).all()
    assert (columns.sum(1) == side).all()
    assert (masks == rows[:, :, None] * columns[:, None]).all()  # a square, not only as many pixels
    known = resized_digits("validation", side)
    assert {tuple(one) for one in grey(cut_out(values, masks) * 255)} <= set(known)


def test_the_noise_is_uniform():
    values, masks = pixels(load_dataset("canvas"))
    noise = values[masks == 0]
    level = round(NOISE * 255) / 255
    assert abs(float(noise.max()) - level) < 1e-5
    # Of 466,560 uniform values the error of the mean is level / sqrt(12 n) = 0.0003.
    assert abs(float(noise.mean()) - level / 2) < 0.002
    assert abs(float(noise.var()) - level**2 / 12) < 0.001


def test_places_are_uniform():
    masks = load_dataset("canvas", "train").batch(range(8000))[2]
    top, left = masks.amax(2).argmax(1), masks.amax(1).argmax(1)
    counts = torch.bincount(top * 13 + left, minlength=169)
    assert len(counts) == 169
    # Chi-square with 168 degrees of freedom: mean 168, deviation 18.3.
    assert float(((counts - 8000 / 169) ** 2 / (8000 / 169)).sum()) < 168 + 5 * 18.3


def test_sizes_and_classes():
    for split in SPLITS:
        dataset = load_dataset("canvas", split)
        expected = sum(COUNTS[part] for part in split.split("+"))
        assert len(dataset) == expected
        assert np.bincount(dataset.targets).tolist() == [expected // 10] * 10
        assert (dataset.image_size, dataset.num_classes) == (24, 10)


def test_splits_share_no_digit():
    shown = {}
    for split in SPLITS[:3]:
        values, masks = pixels(load_dataset("canvas", split))
        shown[split] = {tuple(one) for one in grey(cut_out(values, masks) * 255)}
        digits = load_dataset("digits", split)
        assert len(shown[split]) == len(digits)  # each one is used
    assert not shown["train"] & shown["validation"]
    assert not shown["train"] & shown["test"]
    assert not shown["validation"] & shown["test"]


def test_labels_are_those_of_the_digits():
    dataset = load_dataset("canvas")
    values, masks = pixels(dataset)
    label = resized_digits("test", 12)
    assert [label[tuple(one)] for one in grey(cut_out(values, masks) * 255)] == dataset.targets.tolist()


def test_digits_of_a_class_take_turns():
    labels = np.array([1, 0, 1, 1, 0])
    chosen = in_turns(labels, 11)
    assert labels[chosen].tolist() == [0, 1] * 5 + [0]
    assert chosen.tolist() == [1, 0, 4, 2, 1, 3, 4, 0, 1, 2, 4]


def test_the_seed_decides_on_places_and_noise_alone():
    first, again, other = (load_dataset("canvas", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.batch(range(50))[0], again.batch(range(50))[0])
    (a, mask_a), (b, mask_b) = pixels(first), pixels(other)
    assert (mask_a != mask_b).flatten(1).any(1).float().mean() > 0.95  # 1 of 169 places is the same by chance
    torch.testing.assert_close(cut_out(a, mask_a), cut_out(b, mask_b))
    some = load_dataset("canvas", n_images=30)
    assert torch.equal(some.batch([7])[0], first.batch([int(some.indices[7])])[0])
    both, train = load_dataset("canvas", "train+validation"), load_dataset("canvas", "train")
    assert torch.equal(both.batch([7999])[0], train.batch([7999])[0])
    assert torch.equal(both.batch([8005])[2], load_dataset("canvas", "validation").batch([5])[2])


def test_canvases_are_normalised_by_the_training_images():
    train = load_dataset("canvas", "train")
    images = train.batch(range(len(train)))[0]
    assert images.shape == (8000, 3, 24, 24)
    assert images.mean().abs() < 1e-3
    assert (images.std() - 1).abs() < 1e-3


def test_items_batches_and_loaders_agree():
    dataset = load_dataset("canvas", n_images=30)
    image, label, mask = dataset[3]
    assert (image.shape, type(label), mask.shape) == ((3, 24, 24), int, (24, 24))
    for workers in (0, 1):
        images, labels, masks = next(iter(make_loader(dataset, 30, shuffle="never", workers=workers)))
        assert torch.equal(images[3], image)
        assert int(labels[3]) == label
        assert torch.equal(masks, dataset.batch(range(30))[2])


def test_masks_can_be_left_out():
    plain, full = load_dataset("canvas", masks=False), load_dataset("canvas", masks=True)
    assert (plain.masks, full.masks) == (False, True)
    assert len(plain[0]) == len(plain.batch([0])) == 2
    assert torch.equal(plain[5][0], full[5][0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "canvas", "image_size": 3}, "image_size=3 is too small .* take 4 or more"),
        ({"name": "digits", "masks": True}, "digits has no masks; sets that have them: canvas, imagenet-s50"),
        ({"name": "canvass"}, "close: canvas"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(**arguments)


# ---------------------------------------------------------------- masks go where images go


def test_augmentation_moves_image_and_mask_together():
    dataset = load_dataset("canvas", "train", n_images=64, augment=True)
    loader = make_loader(dataset, 64, shuffle="never")
    (images, _, masks), (later, *_) = next(iter(loader)), next(iter(loader))
    assert (images != later).any()
    plain = load_dataset("canvas", "train", n_images=64)
    assert (masks != plain.batch(range(64))[2]).any()
    # Marking the object in the image itself has to give the same as marking it in the mask.
    marked, _, still = plain.batch(range(64))
    marked = torch.where(still[:, None] > 0, 9.0, marked)
    generator = torch.Generator().manual_seed(4)
    moved = Augmentation(3, flip=True)(torch.cat([marked, still[:, None]], 1), generator)
    assert torch.equal((moved[:, 0] == 9).float(), moved[:, 3])


def test_masks_do_not_change_what_is_drawn():
    """The same crops with and without masks, and those of the fourth channel."""
    options = {"n_images": 40, "augment": True}
    with_masks, without = (make_loader(load_dataset("canvas", "train", masks=m, **options), 20) for m in (True, False))
    for (images, _, _), (expected, _) in zip(with_masks, without, strict=True):
        assert torch.equal(images, expected)
    one = load_dataset("canvas", "train", n_images=1, augment=True)
    torch.manual_seed(3)
    image, _, mask = one[0]
    inside = image[0] * one.std[0] + one.mean[0]
    background = inside[mask == 0]
    assert float(background.max()) <= round(NOISE * 255) / 255 + 1e-5  # no stroke of the digit is outside the mask


def test_other_augmentations_are_refused():
    dataset = load_dataset("canvas", n_images=4)
    with pytest.raises(ValueError, match=r"cannot move masks .* masks=False"):
        make_loader(dataset, 4, augment=lambda images, generator: images)
    dataset.augmentation = lambda images, generator=None: images
    with pytest.raises(ValueError, match="masks=False"):
        dataset.batch([0])
    wrapped = torch.utils.data.Subset(load_dataset("canvas", n_images=4), [0, 1])
    with pytest.raises(ValueError, match="masks=False"):
        next(iter(make_loader(wrapped, 2, augment=lambda images, generator: images)))


def test_a_transform_moves_the_mask_too():
    steps = [transforms.Resize(36), transforms.CenterCrop(24), transforms.ToTensor()]
    usual = transforms.Compose([*steps, transforms.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))])
    masks = load_dataset("canvas", n_images=5, transform=usual).batch(range(5))[2]
    plain = load_dataset("canvas", n_images=5).batch(range(5))[2]
    expected = F.interpolate(plain[:, None], size=(36, 36), mode="bilinear", antialias=True)[:, 0, 6:30, 6:30]
    torch.testing.assert_close(masks, expected, atol=1 / 183, rtol=0)  # twice rounded to one of 183 levels


def test_a_transform_by_chance_is_refused():
    chance = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor()])
    with pytest.raises(ValueError, match=r"draws random numbers.*masks=False"):
        load_dataset("canvas", n_images=2, transform=chance)
    assert len(load_dataset("canvas", n_images=2, transform=chance, masks=False)[0]) == 2


def test_training_gets_no_masks():
    sets = load_sets(Recipe("canvas", n_images=20))
    assert [data.masks for data in sets] == [False] * 3


def test_paste_puts_objects_everywhere():
    objects = np.full((400, 2, 2), 255, np.uint8)
    canvases, masks = paste(objects, 4, np.random.default_rng(0))
    assert ((canvases == 255) == masks).all()
    assert len({tuple(np.argwhere(mask)[0]) for mask in masks}) == 9
    whole, everywhere = paste(objects, 2, np.random.default_rng(0))
    assert everywhere.all()
    assert (whole == 255).all()
