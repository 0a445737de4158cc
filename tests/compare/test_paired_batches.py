"""Batches for two models: whole or images alone, cut, shuffled anew, and in the same order."""

import random
from collections import UserDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Sampler, SequentialSampler

from utilities.compare import compare
from utilities.compare.paired_batches import PairedBatches
from utilities.hooks.calls.batch_lists import batch_indices, reshuffled

IMAGES, LABELS = torch.randn(12, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


def batches(size=4):
    return [UserDict(image=IMAGES[i : i + size], label=LABELS[i : i + size]) for i in range(0, 12, size)]


def test_a_side_gets_whole_batches_where_it_asks_for_them():
    for index, whole, images in PairedBatches(batches(), min_images=4, whole=(True, False)).read():
        assert isinstance(whole, UserDict)
        assert torch.equal(whole["label"], LABELS[4 * index :][:4])
        assert images is whole["image"]
    for _, one, two in PairedBatches(batches(), min_images=4, whole=(True, True)).read():
        assert one is two
    for _, one, two in PairedBatches(batches(), min_images=4).read():
        assert one is two


def test_whole_batches_are_cut_to_their_partners_size():
    cut = PairedBatches(batches(), [IMAGES[:4], IMAGES[4:8], IMAGES[8:11]], min_images=2, whole=(True, False))
    with pytest.warns(UserWarning, match="4 and 3 images; 1 at the end have no partner"):
        pairs = list(cut.read())
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
    PairedBatches(DataLoader(Stream(), 4), min_images=4)


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


OTHER = list(torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(1)))


def rows(size=4):
    return DataLoader(list(IMAGES), size)


def read(batches, indices=None):
    return [(index, one.tolist(), two.tolist()) for index, one, two in batches.read(indices)]


def test_processes_share_the_batches_that_are_not_done():
    batches = PairedBatches(rows(), min_images=4)
    assert [batches.share(set(), rank, 2) for rank in (0, 1)] == [[0, 2], [1]]
    assert batches.share({0}, 0, 1) == [1, 2]
    assert read(batches, [2, 0]) == [read(batches)[2], read(batches)[0]]
    assert batches.length == 3


def test_of_two_loaders_the_batches_of_the_shorter_are_shared():
    with pytest.warns(UserWarning, match="3 and 2 batches"):
        batches = PairedBatches(rows(), DataLoader(OTHER, 4))
    assert batches.two_loaders
    assert batches.share(set(), 0, 1) == [0, 1]
    assert batches.listed == [[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]], [[0, 1, 2, 3], [4, 5, 6, 7]]]


def test_the_key_sees_order_and_images():
    key = PairedBatches(rows()).key()
    assert key == PairedBatches(rows()).key()
    assert key[0] == PairedBatches(DataLoader(OTHER + OTHER[:4], 4)).key()[0]
    assert key[1] != PairedBatches(DataLoader(OTHER + OTHER[:4], 4)).key()[1]
    assert key != PairedBatches(rows(size=6)).key()
    with pytest.raises(ValueError, match="no batch of 20 images or more"):
        PairedBatches(DataLoader(range(30), 40, drop_last=True), min_images=20).key()


def test_both_models_images_are_reshuffled_alike():
    batches = PairedBatches(rows(), DataLoader([2 * image for image in IMAGES], 4))
    orders = [[(one, two) for _, one, two in batches.reshuffled(seed).read()] for seed in (0, 1)]
    assert all(torch.equal(2 * one, two) for order in orders for one, two in order)
    assert not torch.equal(orders[0][0][0], orders[1][0][0])
    with pytest.raises(ValueError, match="batches of the same sizes"), pytest.warns(UserWarning, match="3 and 2"):
        PairedBatches(rows(), rows(size=6)).reshuffled(0)


def test_loaders_are_checked_when_they_are_paired():
    with pytest.raises(ValueError, match="batches hold 4 images; 5 or more"):
        PairedBatches(rows(), min_images=5)
    with pytest.raises(ValueError, match="the loader has 12 images; 13 or more"):
        PairedBatches(rows(size=64), min_images=13)
    with pytest.raises(TypeError, match="a loader should yield batches"):
        PairedBatches(rows(), IMAGES)
    data = list(IMAGES)
    with pytest.raises(ValueError, match="in two orders"):
        PairedBatches(DataLoader(data, 4), DataLoader(data, 4, sampler=range(11, -1, -1)))
