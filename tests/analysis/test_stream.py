"""What all analyses ask of a loader's batches: labels where they are needed, images that a model takes."""

import numpy as np
import pytest
import torch
from torch import nn

from utilities.analysis.attention.attention_distance import attention_distance
from utilities.analysis.attention.attention_maps import attention_diversity
from utilities.analysis.blocks.fourier import fourier
from utilities.analysis.blocks.variance import feature_variance
from utilities.analysis.class_embedding.importance import importance
from utilities.analysis.class_embedding.lens import lens
from utilities.analysis.predictions.classification import classify
from utilities.analysis.stream import stream
from utilities.zoo.vit import vit_tiny_patch2_16

CPU = {"device": "cpu", "progress": False}
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
NO_NUMBERS = {
    "names": ["a", "b", "c", "d"],
    "nothing": [None] * 4,
    "boxes": [{"boxes": torch.zeros(2, 4), "labels": torch.tensor([1, 2])} for _ in range(4)],
    "a dictionary": {"boxes": torch.zeros(4, 4)},
}
WITHOUT_LABELS = {
    "fourier": lambda model, loader: fourier(model, loader, **CPU).delta,
    "variance": lambda model, loader: feature_variance(model, loader, **CPU).variance,
    "variance over samples": lambda model, loader: feature_variance(model, loader, over="samples", **CPU).variance,
    "diversity": lambda model, loader: attention_diversity(model, loader, **CPU).diversity,
    "distance": lambda model, loader: attention_distance(model, loader, **CPU).distance,
    "lens": lambda model, loader: lens(model, loader, target="prediction", **CPU).logit,
    "importance": lambda model, loader: importance(model, loader, target=3, **CPU).maps,
}
each_analysis = pytest.mark.parametrize("analysis", WITHOUT_LABELS.values(), ids=WITHOUT_LABELS)


def vit() -> nn.Module:
    torch.manual_seed(0)
    return vit_tiny_patch2_16(5, depth=1).eval()


@each_analysis
@pytest.mark.parametrize("labels", NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_labels_that_are_not_needed_are_taken_as_if_there_were_none(analysis, labels):
    model = vit()
    np.testing.assert_array_equal(analysis(model, [(IMAGES, labels)]), analysis(model, [IMAGES]))


def test_labels_that_are_needed_are_refused_where_they_are_no_numbers():
    for labels in NO_NUMBERS.values():
        with pytest.raises(TypeError, match="labels should be whole numbers"):
            classify(vit(), [(IMAGES, labels)], **CPU)


def test_labels_are_served_as_far_as_they_are_asked_for():
    numbers, names = (IMAGES, torch.arange(4)), (IMAGES, ["a"] * 4)
    for labelled, batch, there in ((None, numbers, False), (False, numbers, True), (False, names, False)):
        with stream(nn.Flatten(), [batch], labelled=labelled, **CPU) as batches:
            assert [labels is not None for _, labels in batches] == [there]


@each_analysis
def test_bytes_are_refused_with_what_to_do(analysis):
    with pytest.raises(ValueError, match="batch holds uint8: divide 8-bit images by 255 and normalise"):
        analysis(vit(), [IMAGES.to(torch.uint8)])


@each_analysis
@pytest.mark.parametrize("batch", [IMAGES[0], (IMAGES[0], torch.tensor([1]))], ids=["alone", "with a label"])
def test_a_single_image_is_told_how_to_become_a_batch(analysis, batch):
    with pytest.raises(ValueError, match=r"give a single image as images\[None\]"):
        analysis(vit(), [batch])


def test_a_single_image_with_a_label_that_is_needed():
    with pytest.raises(ValueError, match=r"3 images has 1 labels; give a single image as images\[None\]"):
        classify(vit(), [(IMAGES[0], torch.tensor([1]))], **CPU)
    with pytest.raises(ValueError, match=r"a batch of 4 images has 1 labels$"):
        classify(vit(), [(IMAGES, torch.tensor(1))], **CPU)
