"""Two loaders of one data set in two orders are found out; what cannot be known is said; parts and other sets pass."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from utilities.compare import compare
from utilities.compare.orders import same_images
from utilities.compare.pairing import check_pairing
from utilities.compare.witnesses import fingerprints, in_another_order
from utilities.datasets import load_dataset, make_loader

N = 48
GENERATOR = torch.Generator().manual_seed(0)
IMAGES, LABELS = torch.randn(N, 6, generator=GENERATOR), torch.randint(0, 5, (N,), generator=GENERATOR)
DATA, OTHER = TensorDataset(IMAGES, LABELS), TensorDataset(torch.randn(N, 6, generator=GENERATOR), LABELS.sort().values)
BARE = TensorDataset(IMAGES)
ORDER = torch.randperm(N, generator=GENERATOR).tolist()
MODEL = nn.Sequential(nn.Linear(6, 5), nn.Tanh())


class Own(Sampler):
    """A sampler of the user's, of which nothing is known."""

    def __init__(self, order):
        self.order = order

    def __iter__(self):
        return iter(self.order)

    def __len__(self):
        return len(self.order)


class Prepared(Dataset):
    """A wrapper that prepares the images of another data set."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        image, *rest = self.dataset[index]
        return 2 * image, *rest


def load(data=DATA, **options):
    return DataLoader(data, **({} if "batch_sampler" in options else {"batch_size": 16}), **options)


def generator():
    return torch.Generator().manual_seed(7)


def run(loader, loader2, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return compare(MODEL, MODEL, loader, loader2, device="cpu", progress=False, **options).matrix[0, 0]


DIFFERING = {
    "one shuffled": (load(), load(shuffle=True)),
    "both shuffled": (load(shuffle=True), load(shuffle=True)),
    "by two seeds": (load(shuffle=True, generator=generator()), load(shuffle=True, generator=torch.Generator())),
    "subset sampler": (load(), load(sampler=SubsetRandomSampler(range(N)))),
    "weighted": (load(), load(sampler=WeightedRandomSampler(torch.ones(N), N))),
    "batch sampler": (load(), load(batch_sampler=BatchSampler(RandomSampler(DATA), 16, False))),
    "batches": (load(), load(batch_sampler=torch.tensor(ORDER).reshape(3, 16).tolist())),
    "list": (load(), load(sampler=ORDER)),
    "reversed": (load(), load(sampler=range(N - 1, -1, -1))),
    "distributed": (load(), load(sampler=DistributedSampler(DATA, 1, 0))),
    "subset": (load(), load(Subset(DATA, ORDER))),
    "subset of subset": (load(Subset(DATA, ORDER)), load(Subset(Subset(DATA, ORDER), ORDER))),
    "make_loader": (load(), make_loader(DATA, 16)),
    "two seeds of make_loader": (make_loader(DATA, 16, seed=1), make_loader(DATA, 16)),
    "copied data": (load(), load(TensorDataset(IMAGES.clone(), LABELS.clone()), sampler=ORDER)),
    "overlapping parts": (load(Subset(DATA, range(40))), load(Subset(DATA, range(8, 48)))),
    "own sampler, labels": (load(), load(sampler=Own(ORDER))),
    "wrapped, labels": (load(), load(Prepared(DATA), sampler=ORDER)),
    "one object": [load(shuffle=True)] * 2,
    "one object anew": [make_loader(DATA, 16, shuffle="every_epoch")] * 2,
    "one iterator": [iter(IMAGES.split(16))] * 2,
    "lists": (IMAGES.split(16), IMAGES.split(16)[::-1]),
}


@pytest.mark.parametrize("name", DIFFERING)
def test_one_data_set_in_two_orders_is_refused(name):
    with pytest.raises(ValueError, match=r"in two orders|shuffle|each time it is read"):
        run(*DIFFERING[name])


ALIKE = {
    "in order": (load(), load()),
    "one object": [load()] * 2,
    "as listed": (load(), load(sampler=range(N))),
    "a subset undone": (load(), load(Subset(DATA, ORDER), sampler=np.argsort(ORDER).tolist())),
    "batch sampler": (load(), load(batch_sampler=torch.arange(N).reshape(3, 16).tolist())),
    "once": (make_loader(DATA, 16), make_loader(DATA, 16)),
    "every epoch": [make_loader(DATA, 16, shuffle="every_epoch") for _ in range(2)],
    "by one seed": [load(shuffle=True, generator=generator()) for _ in range(2)],
    "own sampler, labels": [load(sampler=Own(ORDER)) for _ in range(2)],
    "wrapped, labels": (load(Prepared(DATA), sampler=ORDER), load(sampler=ORDER)),
    "copied data": (load(), load(copy.deepcopy(DATA))),
    "lists": (IMAGES.split(16), IMAGES.split(16)),
}


@pytest.mark.parametrize("name", ALIKE)
def test_the_same_order_passes_without_a_word(name):
    assert run(*ALIKE[name]) == pytest.approx(1, abs=1e-5)


APART = {
    "other data": (load(), load(OTHER, sampler=ORDER)),
    "one shuffled": (load(), load(OTHER, shuffle=True)),
    "two parts": (load(Subset(DATA, range(24))), load(Subset(DATA, range(24, 48)))),
    "two parts drawn": [load(sampler=SubsetRandomSampler(range(k, k + 24))) for k in (0, 24)],
    "lists": (IMAGES.split(16), IMAGES.flip(0).split(16)),
    "own samplers": (load(sampler=Own(ORDER)), load(OTHER, sampler=Own(ORDER))),
}


@pytest.mark.parametrize("name", APART)
def test_other_images_have_no_order_to_check(name):
    assert abs(run(*APART[name])) < 0.5


def test_two_sets_that_shuffle_are_warned_of_as_before():
    with pytest.warns(UserWarning, match="both loaders shuffle, each by itself"):
        assert not check_pairing(load(shuffle=True), load(OTHER, shuffle=True)).open


def test_what_cannot_be_known_is_said():
    loaders = load(BARE), load(BARE, sampler=Own(ORDER))
    with pytest.warns(UserWarning, match="neither their samplers nor labels tell"):
        compare(MODEL, MODEL, *loaders, device="cpu", progress=False)
    with pytest.raises(ValueError, match="in two orders"):  # for repeats the orders are read
        compare(MODEL, MODEL, *loaders, device="cpu", progress=False, repeats=2)


def test_names_and_numbers_that_come_with_images_tell_too():
    def collate(rows, first):
        numbers = [int(row[1]) for row in rows]
        images = torch.stack([row[0] for row in rows])
        names = [f"{number}.png" for number in numbers]
        return (torch.tensor(numbers), images, torch.zeros(len(rows))) if first else {"image": images, "path": names}

    data = TensorDataset(IMAGES[:, None], torch.arange(N))
    for first in (True, False):
        loaders = [
            load(data, sampler=Own(o), collate_fn=lambda rows, f=first: collate(rows, f)) for o in (ORDER, ORDER[::-1])
        ]
        with pytest.raises(ValueError, match=f"batch 0 has {'number' if first else 'path'} {ORDER[0]}"):
            compare(nn.Sequential(nn.Flatten(), MODEL), nn.Sequential(nn.Flatten(), MODEL), *loaders, device="cpu")


def test_checking_leaves_generators_as_they_were():
    own = generator()
    loaders = load(shuffle=True, generator=own), load(OTHER, shuffle=True)
    states = torch.get_rng_state(), own.get_state()
    with pytest.warns(UserWarning, match="both loaders shuffle"):
        check_pairing(*loaders)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(own.get_state(), states[1])


class Files(Dataset):
    """A set like torchvision's: by a list of files, or by arrays with labels."""

    def __init__(self, **facts):
        vars(self).update(facts)

    def __len__(self):
        return N


def test_the_same_images_are_known_by_files_pixels_or_labels():
    labels, files = LABELS.tolist(), [(f"{i}.png", i % 3) for i in range(N)]
    assert same_images(Files(samples=files), Files(samples=list(files)))
    assert same_images(Files(data=IMAGES.numpy()), Files(data=IMAGES.numpy().copy()))
    assert same_images(Files(data=IMAGES.numpy(), targets=labels), Files(data=IMAGES.numpy() + 1, targets=list(labels)))
    assert not same_images(Files(samples=files), Files(samples=files[::-1]))
    assert not same_images(Files(targets=sorted(labels)), Files(targets=sorted(labels)))  # so are many sets
    assert not same_images(Files(), Files())
    assert not same_images(ConcatDataset([DATA]), ConcatDataset([DATA]))


def test_sets_of_this_package_are_known_by_name_in_any_size():
    small, large = (load_dataset("digits", n_images=64, image_size=size) for size in (8, 16))
    model = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten())
    options = {"device": "cpu", "progress": False}
    compare(model, model, make_loader(small, 32), make_loader(large, 32), **options)
    with pytest.raises(ValueError, match="in two orders"):
        compare(model, model, make_loader(small, 32), make_loader(large, 32, seed=1), **options)


class Around(Dataset):
    """A wrapper with its data set under any name."""

    def __init__(self, name, dataset, scale=1.0):
        setattr(self, name, dataset)
        self._name, self.scale = name, scale

    def __len__(self):
        return len(getattr(self, self._name))

    def __getitem__(self, index):
        image, *rest = getattr(self, self._name)[index]
        return self.scale * image, *rest


BACK = list(range(N - 1, -1, -1))


@pytest.mark.parametrize("name", ["base", "ds", "_inner", "_Around__data"])
def test_a_data_set_is_found_in_wrappers_under_any_name(name):
    one, two = Around(name, DATA), Around(name, DATA, 2)
    assert run(load(one), load(two)) > 0.9
    for other in (load(two, shuffle=True), load(Around(name, Subset(DATA, BACK), 2)), load(two, sampler=Own(ORDER))):
        with pytest.raises(ValueError, match=r"in two orders|one shuffles"):
            run(load(one), other)
    bare = Around(name, BARE), Around(name, Subset(BARE, BACK), 2)
    with pytest.warns(UserWarning, match="neither their samplers nor labels tell"):
        compare(MODEL, MODEL, load(bare[0]), load(bare[1]), device="cpu", progress=False)
    assert abs(run(load(one), load(Around(name, OTHER), shuffle=True))) < 0.5


class Synthetic(Dataset):
    """Images made from their numbers, as those of torchvision's FakeData."""

    def __init__(self, seed, transform=None):
        self.seed, self.transform = seed, transform

    def __len__(self):
        return N

    def __getitem__(self, index):
        own = torch.Generator().manual_seed(1000 * self.seed + index)
        image = torch.randn(6, generator=own)
        return image if self.transform is None else self.transform(image)


def test_two_sets_of_one_class_with_equal_attributes_are_warned_of_before_they_are_read():
    loader = load(Synthetic(0))
    for other in (load(Synthetic(0, torch.sin), shuffle=True), load(Synthetic(0), sampler=ORDER)):
        with pytest.warns(UserWarning, match="two Synthetic with equal attributes are probably one data set; then"):
            check_pairing(loader, other)
    assert run(loader, load(Synthetic(0))) > 0.9
    assert abs(run(loader, load(Synthetic(1), shuffle=True))) < 0.5


class Batches:
    """An object that yields batches, of which nothing is known."""

    def __init__(self, order, images=IMAGES, **facts):
        self.batches = [{"image": images[part]} for part in torch.tensor(order).split(16)]
        for name, values in facts.items():
            for batch, part in zip(self.batches, torch.tensor(order).split(16), strict=True):
                batch[name] = values[part] if isinstance(values, torch.Tensor) else [values[i] for i in part]

    def __iter__(self):
        return iter(self.batches)


NAMES, PREPARED = [f"{i:x}.png" for i in range(N)], IMAGES.sin()
LABELLED = Batches(range(N), PREPARED, label=LABELS)


@pytest.mark.parametrize(
    ("loader", "loader2", "what"),
    [
        (Batches(range(N), image_id=NAMES), Batches(ORDER, PREPARED, image_id=NAMES), "images by their image_ids"),
        (LABELLED, Batches(ORDER, label=LABELS), "images by their labels"),
        (Batches(range(N)), Batches(ORDER), "images"),
    ],
)
def test_the_same_names_labels_or_pixels_in_another_order_are_warned_of(loader, loader2, what):
    with pytest.warns(UserWarning, match=f"both loaders serve the same {what}, but in two orders"):
        compare(MODEL, MODEL, loader, loader2, device="cpu", progress=False)
    assert run(loader, loader) > 0.9


def test_other_data_sets_that_yield_names_and_labels_pass_without_a_word():
    others = torch.randn(N, 6, generator=torch.Generator().manual_seed(5))
    for facts, facts2 in (
        ({"image_id": NAMES}, {"image_id": [f"other {name}" for name in NAMES]}),
        ({"index": torch.arange(N)}, {"index": torch.arange(N)}),
        ({"label": torch.arange(N) % 6}, {"label": torch.arange(N) % 6}),  # of balanced sets
        ({"label": LABELS}, {"label": LABELS.roll(1).clamp(1)}),
    ):
        assert abs(run(Batches(range(N), **facts), Batches(ORDER, others, **facts2))) < 0.5  # warnings are errors here


def test_lists_are_the_same_in_another_order_if_that_is_no_chance():
    assert in_another_order(NAMES[:40], NAMES[:3:-1])  # the last batch of each dropped
    assert not in_another_order(NAMES, NAMES)
    assert not in_another_order(NAMES[:24], NAMES[24:])
    assert not in_another_order([0, 0, 1], [1, 0, 0])  # too few to be no chance
    assert in_another_order(LABELS.tolist(), LABELS.flip(0).tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.bool, torch.complex64])
def test_fingerprints_are_of_each_image_alone(dtype):
    images = torch.randint(0, 256, (5, 3, 40, 41), generator=torch.Generator().manual_seed(0)).to(dtype)
    if dtype == torch.bool:
        images = torch.rand(5, 3, 40, 41, generator=torch.Generator().manual_seed(0)) < 0.5
    found = fingerprints(images)
    assert len(set(found)) == 5
    assert fingerprints(images.flip(0)) == found[::-1]
    assert fingerprints(images.to(memory_format=torch.channels_last)) == found
    assert fingerprints(images.to("meta")) == fingerprints(images.to_sparse()) == []
