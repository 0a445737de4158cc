"""Batches for two models: whole or images alone, cut, shuffled anew, and in the same order."""

from collections import UserDict

import pytest
import torch

from utilities.batches import paired_batches

IMAGES, LABELS = torch.randn(12, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


def batches(size=4):
    return [UserDict(image=IMAGES[i : i + size], label=LABELS[i : i + size]) for i in range(0, 12, size)]


def test_a_side_gets_whole_batches_where_it_asks_for_them():
    for index, whole, images in paired_batches(batches(), None, 4, whole=(True, False)):
        assert isinstance(whole, UserDict)
        assert torch.equal(whole["label"], LABELS[4 * index :][:4])
        assert images is whole["image"]
    for _, one, two in paired_batches(batches(), None, 4, whole=(True, True)):
        assert one is two
    for _, one, two in paired_batches(batches(), None, 4):
        assert one is two


def test_whole_batches_are_cut_to_their_partners_size():
    with pytest.warns(UserWarning, match="4 and 3 images; 1 at the end have no partner"):
        pairs = list(paired_batches(batches(), [IMAGES[:4], IMAGES[4:8], IMAGES[8:11]], 2, whole=(True, False)))
    assert [len(one["label"]) for _, one, _ in pairs] == [4, 4, 3]
    assert [len(two) for _, _, two in pairs] == [4, 4, 3]
