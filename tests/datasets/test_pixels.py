"""Whether images were normalised as is said: told by what undoing it gives."""

import itertools
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from torchvision import transforms

from utilities.datasets import load_dataset
from utilities.datasets.pixels import KNOWN, check_scale, normalisation, to_images, to_pixels

HALF, NONE = ((0.5,) * 3, (0.5,) * 3), ((0.0,) * 3, (1.0,) * 3)
IMAGENET = KNOWN["ImageNet's"]
CIFAR = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
SCALES = {"half": HALF, "none": NONE, "imagenet": IMAGENET, "cifar": CIFAR, "raw": ((0.0,) * 3, (1 / 255,) * 3)}


def photographs(size=32, seed=0):
    """Smooth 8-bit images with black and white in them."""
    small = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return (F.interpolate(small, size=(size, size), mode="bicubic") * 90 + 128).round().clamp(0, 255).byte()


def accepted(images, scale):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what is right is not rounded
        return to_pixels(images, *scale)


@pytest.mark.parametrize(("true", "told"), list(itertools.permutations(SCALES, 2)))
def test_another_normalisation_than_the_images_own_is_refused(true, told):
    images = to_images(photographs(), *SCALES[true])
    with pytest.raises(ValueError, match=r"pass (the )?mean="):
        check_scale(images, *SCALES[told])


@pytest.mark.parametrize("true", SCALES)
def test_images_come_back_bit_by_bit_from_their_own(true):
    pixels = photographs()
    assert (accepted(to_images(pixels, *SCALES[true]), SCALES[true]) == pixels).all()


def test_the_remedy_names_the_normalisation_that_explains_the_images():
    images = photographs().float() / 255
    with pytest.raises(ValueError, match=r"none \(images in 0\.\.1\): pass mean=\(0\.0, 0\.0, 0\.0\)"):
        check_scale(images, *HALF)
    with pytest.raises(ValueError, match="ImageNet's: pass mean="):
        check_scale(to_images(photographs(), *IMAGENET), *HALF)


@pytest.mark.parametrize("name", ["digits", "canvas", "photos"])
@pytest.mark.parametrize("size", [None, 20])
def test_the_packages_own_images_are_taken(name, size):
    data = load_dataset(name, n_images=20, **({} if size is None else {"image_size": size}))
    pixels = accepted(data.batch(range(20))[0], (data.mean, data.std))
    assert 0 <= pixels.min() < pixels.max() <= 255


@pytest.mark.parametrize("scale", [HALF, NONE, IMAGENET])
def test_images_of_other_kinds_are_taken_where_the_normalisation_is_theirs(scale):
    shift, factor = (torch.tensor(values).view(1, 3, 1, 1) for values in scale)
    pixels = photographs().float() / 255
    kinds = {
        "resized as tensors": F.interpolate(pixels, size=(24, 24), mode="bilinear", antialias=True),
        "noise": torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)),
        "digits in 0..16": torch.arange(17.0).repeat(8 * 3 * 64).view(8, 3, 32, 34) / 16,
        "16 bits": (65535 * pixels.sqrt()).round() / 65535,
        "darkened": pixels * 0.9,
    }
    for name, images in kinds.items():
        with pytest.warns(UserWarning, match="are rounded"):
            to_pixels((images - shift) / factor, *scale)
        assert check_scale((images - shift) / factor, *scale) is False, name
    for name, images in {"black": 0 * pixels, "grey": 0 * pixels + 100 / 255, "two levels": pixels.round()}.items():
        assert check_scale((images - shift) / factor, *scale), name
    for dtype in (torch.float16, torch.float64):
        assert check_scale(((pixels - shift) / factor).to(dtype), *scale)


def test_images_in_0_to_1_that_reach_neither_end_are_refused_where_a_mean_is_named():
    images = 0.1 + 0.8 * torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"the images lie in 0\.\.1, as if nothing had been subtracted"):
        check_scale(images, *HALF)
    assert check_scale(images, *NONE) is False


def test_a_normalisation_that_nobody_knows_is_told_by_its_levels():
    pixels = photographs().clamp(20, 200)
    images = to_images(pixels, (0.4,) * 3, (0.33,) * 3)
    assert check_scale(images, (0.4,) * 3, (0.33,) * 3)
    with pytest.raises(ValueError, match="on a few levels that are not whole"):
        check_scale(images, (0.4,) * 3, (0.25,) * 3)


def test_what_the_data_set_knows_comes_before_what_is_said():
    data = load_dataset("digits", n_images=20)
    loader = SimpleNamespace(dataset=torch.utils.data.Subset(data, [0, 1]))
    assert normalisation(loader) == (data.mean, data.std)
    assert normalisation(loader, data.mean, data.std) == (data.mean, data.std)
    with pytest.raises(ValueError, match=r"mean=\(0\.5, 0\.5, 0\.5\) is not the data set's own"):
        normalisation(loader, *HALF)
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize(*IMAGENET)])
    folder = SimpleNamespace(dataset=SimpleNamespace(transform=steps))
    assert normalisation(folder) == IMAGENET
    with pytest.raises(ValueError, match="std="):
        normalisation(folder, IMAGENET[0], (1.0,) * 3)
    plain = SimpleNamespace(dataset=SimpleNamespace(transform=transforms.ToTensor()))
    with pytest.raises(ValueError, match="does not say how its images were normalised"):
        normalisation(plain)
    assert normalisation(plain, *NONE) == NONE
