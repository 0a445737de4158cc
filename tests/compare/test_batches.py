"""Batches for two models: whole or images alone, cut, shuffled anew, and in the same order."""

import random
from collections import UserDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Sampler, SequentialSampler

from utilities.compare import compare
from utilities.compare.batches import batch_indices, check_loaders, paired_batches, reshuffled

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


def start(number):
    pass


def test_a_loader_shuffled_anew_reads_as_the_first_one_does():
    given = {
        "num_workers": 2,
        "prefetch_factor": 3,
        "persistent_workers": True,
        "timeout": 5,
        "worker_init_fn": start,
        "generator": torch.Generator(),
        "collate_fn": torch.tensor,
    }
    again = reshuffled(DataLoader(range(10), 4, multiprocessing_context="spawn", **given), seed=0)
    assert {name: getattr(again, name) for name in given} == given
    assert again.multiprocessing_context.get_start_method() == "spawn"


class Stream(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.zeros(3)


class Endless(Sampler):
    def __iter__(self):
        while True:
            yield 0


class Forever(SequentialSampler):
    def __iter__(self):
        return iter(Endless())


@pytest.mark.parametrize(
    ("loader", "match"),
    [
        (DataLoader(Stream(), 4), "Stream is an IterableDataset"),
        (DataLoader(Stream(), None), "Stream is an IterableDataset"),
        (DataLoader(range(8), 4, sampler=Endless()), "perhaps has no end"),
        (DataLoader(range(8), 4, sampler=Forever(range(8))), "gave 12 images of 8, more than it should"),
        (DataLoader([IMAGES, IMAGES], None), "of a map-style data set"),
        ([IMAGES], "of a map-style data set"),
    ],
)
def test_what_has_no_end_or_no_order_is_refused_at_once(loader, match):
    with pytest.raises(ValueError, match=match):
        reshuffled(loader, 0)
    with pytest.raises(ValueError, match=match.replace("of a map-style data set", "use a DataLoader of a")):
        batch_indices(loader)
    model = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(ValueError, match=match):
        compare(model, model, loader, repeats=2, device="cpu")


def test_a_sampler_is_read_without_a_trace_in_the_random_state():
    loader = DataLoader(range(12), 4, shuffle=True)
    states = torch.get_rng_state(), np.random.get_state()[1], random.getstate()  # noqa: NPY002
    with pytest.raises(ValueError, match="another order each time"):
        batch_indices(loader)
    assert sorted(i for batch in reshuffled(loader, 0).batch_sampler for i in batch) == list(range(12))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert random.getstate() == states[2]


def test_ready_made_batches_are_not_counted_as_images():
    whole = DataLoader([(IMAGES, LABELS), (IMAGES + 1, LABELS)], batch_size=None)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    options = {"device": "cpu", "progress": False}
    found, expected = (compare(model, model, data, **options) for data in (whole, [IMAGES, IMAGES + 1]))
    assert found.n == 24
    assert (found.matrix == expected.matrix).all()
    check_loaders(DataLoader(Stream(), 4), None, 4)


def test_batches_of_every_kind_give_one_comparison():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    kinds = [
        [IMAGES, IMAGES.flip(0)],
        [(torch.arange(12), IMAGES, LABELS), (torch.arange(12), IMAGES.flip(0), LABELS)],
        [UserDict(pixel_values=IMAGES), UserDict(pixel_values=IMAGES.flip(0))],
    ]
    results = [compare(model, model, kind, device="cpu", progress=False).matrix for kind in kinds]
    assert (results[0] == results[1]).all()
    assert (results[0] == results[2]).all()


def test_keys_of_another_kind_than_numbers_can_be_shuffled():
    data = {f"image {i}": IMAGES[i] for i in range(8)}
    loader = DataLoader(data, batch_sampler=[list(data)[:4], list(data)[4:]])
    order = [key for batch in reshuffled(loader, 0).batch_sampler for key in batch]
    assert order != list(data)
    assert sorted(order) == list(data)
