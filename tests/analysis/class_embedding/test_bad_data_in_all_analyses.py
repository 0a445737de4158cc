"""Data that do not belong together are refused in every analysis of class-embedding space, before numbers come out."""

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from utilities.analysis.class_embedding.identifiability import identifiability
from utilities.analysis.class_embedding.importance import importance
from utilities.analysis.class_embedding.key_value import key_value_agreement
from utilities.analysis.class_embedding.perturbation import perturb
from utilities.analysis.class_embedding.probes import linear_probes
from utilities.analysis.class_embedding.removal import removal_curves
from utilities.analysis.class_embedding.space import LensOptions
from utilities.analysis.class_embedding.spaces import class_space, transformer_space
from utilities.analysis.class_embedding.tuned import TunedLens
from utilities.datasets import load_dataset
from utilities.datasets.factory import make_loader
from utilities.zoo import create_model

N = 6
IMAGES = torch.randn(N, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 4, 2, 2, 1, 3])
MASKS = (torch.arange(8) < 4).float().expand(N, 8, 8)
CPU = {"device": "cpu", "progress": False}
READING = {
    "identifiability": identifiability,
    "key_value": key_value_agreement,
    "perturb": perturb,
    "importance": importance,
    "relevance": lambda model, loader, **options: importance(model, loader, method="relevance", **options),
    "removal": lambda model, loader, **options: removal_curves(model, loader, {}, random=1, **options),
}
each_analysis = pytest.mark.parametrize("analysis", READING.values(), ids=READING)


def vit(**options):
    size = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}
    return VisionTransformer(**{**size, **options})


@each_analysis
@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([(IMAGES, LABELS[:4])], "a batch of 6 images has 4 labels"),
        ([(IMAGES, LABELS), (IMAGES, None)], "labels are needed|some batches come with labels or masks"),
        (
            [(IMAGES.permute(0, 2, 3, 1), LABELS)],
            r"images have channels last, 6x8x8x3, and VisionTransformer takes .* use images\.permute\(0, 3, 1, 2\)",
        ),
        ([(torch.randn(2, 3, 16, 16), LABELS[:2])], "images have 16x16 pixels, the VisionTransformer takes 8x8"),
    ],
)
def test_parts_that_do_not_belong_together(analysis, batches, message):
    with pytest.raises(ValueError, match=message):
        analysis(vit(), batches, **CPU)


@pytest.mark.parametrize("name", [name for name in READING if name != "removal"])  # which looks at no masks
@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([(IMAGES, LABELS, MASKS[:5])], "a batch of 6 images has 5 masks"),
        ([(IMAGES.permute(0, 2, 3, 1), LABELS, MASKS)], r"images have channels last, 6x8x8x3"),
        ([(IMAGES, LABELS, MASKS.repeat(1, 2, 1))], "masks of 16x8 pixels do not lie on images of 8x8"),
        ([(IMAGES, LABELS, MASKS), (IMAGES, LABELS)], "some batches come with labels or masks"),
    ],
)
def test_masks_that_do_not_belong_to_the_images(name, batches, message):
    with pytest.raises(ValueError, match=message):
        READING[name](vit(), batches, **CPU)


@pytest.mark.parametrize("name", ["importance", "relevance", "removal"])
def test_maps_are_of_the_models_own_grid(name):
    """A model that takes any size has as many tokens as the image has patches: maps of one grid would not fit."""
    with pytest.raises(ValueError, match=r"16x16 pixels|2x2 patches"):
        READING[name](vit(dynamic_img_size=True), [(torch.randn(2, 3, 16, 16), LABELS[:2])], **CPU)


def test_masks_of_another_size_but_the_same_shape_are_taken():
    larger = MASKS.repeat_interleave(2, 1).repeat_interleave(2, 2)
    one, two = (identifiability(vit(), [(IMAGES, LABELS, m)], resamples=10, **CPU).n_masked for m in (MASKS, larger))
    assert one == two == N


@pytest.mark.parametrize("make", [class_space, transformer_space])
def test_more_classes_than_ranks_can_tell_apart(make):
    with pytest.raises(ValueError, match="40000 classes are too many"):
        make(vit(num_classes=40000))


def test_a_tuned_lens_of_another_depth():
    with pytest.raises(ValueError, match="3 blocks was not fitted to these 2 blocks"):
        identifiability(vit(), [(IMAGES, LABELS)], lens=LensOptions(tuned=TunedLens([16] * 3)), **CPU)


def test_probes_are_not_tested_on_what_they_were_fitted_to():
    model = create_model("vit_tiny_patch4_24", num_classes=10, depth=1, seed=0)
    few, more = (make_loader(load_dataset("canvas", n_images=n), 20) for n in (20, 40))
    with pytest.raises(ValueError, match="20 of the images to test probes on"):
        linear_probes(model, more, few, **CPU)
    train = make_loader(load_dataset("canvas", "train", n_images=20), 20)
    assert np.isfinite(linear_probes(model, train, few, tokens="shared", **CPU).accuracy[0]).any()
