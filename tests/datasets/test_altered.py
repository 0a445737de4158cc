"""Altered labels and marks: as many as asked, reproducible, and the original left as it was."""

import numpy as np
import pytest
import torch

from utilities.datasets import load_dataset
from utilities.datasets.altered import COLOURS, with_marks, with_random_labels


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", "test", image_size=8)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_labels_is_drawn(digits, share):
    drawn = with_random_labels(digits, share, seed=1)
    differing = (drawn.targets != digits.targets).mean()
    assert differing == pytest.approx(0.9 * share, abs=0.06)  # one in ten draws is right; three errors at 540
    assert (drawn.batch(range(len(drawn)))[1].numpy() == drawn.targets).all()
    np.testing.assert_array_equal(drawn.targets, with_random_labels(digits, share, seed=1).targets)
    with pytest.raises(ValueError, match="should be a number of 0 or more and at most 1"):
        with_random_labels(digits, 1.5, seed=0)


def test_a_mark_tells_the_class_and_touches_its_corner_alone(digits):
    before = digits.batch(range(20))[0].clone()
    marked = with_marks(digits, digits.targets)
    images = marked.batch(range(20))[0]
    changed = (images != before).any(1)
    assert not changed[:, 2:].any()
    assert not changed[:, :, 2:].any()
    corners = images[:, :, 0, 0]
    labels = digits.targets[:20]
    for i in range(20):
        for j in range(20):
            assert bool(torch.equal(corners[i], corners[j])) == (labels[i] == labels[j])
    torch.testing.assert_close(digits.batch(range(20))[0], before)
    assert len(set(COLOURS)) == 27
    with pytest.raises(ValueError, match="give one for each image"):
        with_marks(digits, [0, 1])
