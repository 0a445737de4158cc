"""What is taken for images, labels and masks in batches of every kind."""

import itertools
from collections import UserDict, namedtuple

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

from utilities.analysis.loss.hessian import hessian_spectra
from utilities.analysis.loss.landscape import loss_landscape
from utilities.analysis.predictions.robustness import robustness
from utilities.compare import compare
from utilities.datasets.masks import split_masks
from utilities.hooks.calls.batch_parts import check_loader, first_images, images_in
from utilities.utils import evaluate, split_batch

IMAGES, LABELS = torch.randn(4, 3, 8, 8), torch.tensor([2, 0, 1, 1])
NAMES = ["a.png", "b.png", "c.png", "d.png"]
Named = namedtuple("Named", "image label")


@pytest.mark.parametrize(
    "batch",
    [
        (IMAGES, LABELS),
        [IMAGES, LABELS, torch.rand(4, 8, 8)],
        Named(IMAGES, LABELS),
        (torch.arange(4), IMAGES, LABELS),
        (torch.arange(4)[:, None], IMAGES, LABELS),
        (NAMES, IMAGES, LABELS),
        (tuple(NAMES), torch.arange(4), IMAGES, LABELS),
        (IMAGES, NAMES, LABELS),
        {"image": IMAGES, "label": LABELS},
        UserDict(pixel_values=IMAGES, labels=LABELS, path=NAMES),
        UserDict(img=IMAGES, fine_label=LABELS),
    ],
    ids=map(str, range(11)),  # the workers of a parallel run need the same names
)
def test_images_and_labels_are_found_wherever_they_are(batch):
    images, labels = split_batch(batch)
    assert images is IMAGES
    assert labels is LABELS


@pytest.mark.parametrize(
    ("batch", "images", "labels"),
    [
        ((torch.zeros(4, 5), LABELS), (4, 5), LABELS),  # features
        ((torch.ones(4, 7, dtype=int), LABELS), (4, 7), LABELS),  # tokens
        ((torch.ones(4, 7, dtype=int), IMAGES), (4, 7), None),
        ((torch.zeros(4), LABELS), (4,), LABELS),
        ((torch.arange(4), LABELS), (4,), LABELS),
        ((IMAGES.byte(), torch.rand(4, 8, 8)), (4, 3, 8, 8), None),
        ((torch.zeros(4, 5), torch.zeros(4, 6, 6)), (4, 5), None),
        ((torch.zeros(4, 3, 2, 8, 8), LABELS), (4, 3, 2, 8, 8), LABELS),  # videos
        ((IMAGES, [2, 0, 1, 1]), (4, 3, 8, 8), None),
    ],
)
def test_what_is_no_image_is_left_as_it_was(batch, images, labels):
    found = split_batch(batch)
    assert found[0] is batch[0]
    assert found[0].shape == images
    assert found[1] is (batch[1] if labels is None else labels)


def test_masks_follow_the_images_and_their_labels():
    masks = torch.rand(4, 8, 8)
    for batch in ((torch.arange(4), IMAGES, LABELS, masks), UserDict(images=IMAGES, masks=masks)):
        assert torch.equal(split_masks(batch), masks)
    assert split_masks((torch.arange(4), IMAGES, LABELS)) is None


def test_batches_without_images_say_what_they_hold():
    with pytest.raises(TypeError, match=r"UserDict: its keys are 'pixels' \(Tensor\), 'size' \(int\)"):
        split_batch(UserDict(pixels=IMAGES, size=3))
    with pytest.raises(TypeError, match="images should be a tensor, not a list; its keys are 'image'"):
        split_batch({"image": [IMAGES[0]]})
    with pytest.raises(TypeError, match="it holds tuple, Tensor"):
        split_batch(((IMAGES, IMAGES), LABELS))
    with pytest.raises(TypeError, match="batch of type str"):
        split_batch("image")


def test_batches_of_pictures_say_each_kind_once_and_what_to_do():
    pictures, remedy = [Image.new("RGB", (8, 8))] * 16, "give the data set a transform to tensors, such as torchvision"
    with pytest.raises(TypeError, match=rf"it holds 16 of Image; {remedy}"):
        split_batch(pictures)
    with pytest.raises(TypeError, match=rf"it holds 15 of Image, Tensor; {remedy}"):
        split_batch([*pictures[1:], LABELS])
    for batch in ((pictures, LABELS), {"image": pictures, "label": LABELS}, [(picture, 0) for picture in pictures]):
        with pytest.raises(TypeError, match=remedy):
            split_batch(batch)


def test_single_images_are_no_batches():
    loader = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=None)
    with pytest.raises(TypeError, match=r"one image at a time, and no batches: use utilities.datasets.make_loader"):
        split_batch(next(iter(loader)))
    whole = DataLoader([(IMAGES, LABELS)], batch_size=None)
    assert split_batch(next(iter(whole)))[0] is IMAGES


class Pictures(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return IMAGES[index], int(LABELS[index])


@pytest.mark.parametrize(
    ("loader", "match"),
    [
        (Pictures(), r"this is a data set \(Pictures\): use utilities.datasets.make_loader"),
        (TensorDataset(IMAGES, LABELS), r"this is a data set \(TensorDataset\)"),
        (IMAGES, r"one tensor, torch.float32 \(4, 3, 8, 8\): pass \[images\]"),
        (IMAGES.numpy(), r"one array, float32 \(4, 3, 8, 8\)"),
        ((IMAGES, LABELS), r"a single tuple; put a batch into a list, \[batch\]"),
        ({"pixel_values": IMAGES}, "a single dict"),
        ("digits", "a single str"),
        (None, "of type NoneType: use"),
        (3, "of type int: use"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_loader_is_refused(loader, match):
    with pytest.raises(TypeError, match=match):
        check_loader(loader)


@pytest.mark.parametrize(
    "loader",
    [
        [],
        [IMAGES],
        IMAGES.split(2),
        [IMAGES, IMAGES],
        ((IMAGES, LABELS), (IMAGES, LABELS)),
        iter([IMAGES]),
        DataLoader(Pictures(), batch_size=2),
        [torch.zeros(4, 5), torch.zeros(4, 5)],
    ],
    ids=lambda value: type(value).__name__,
)
def test_loaders_of_every_kind_are_let_through(loader):
    check_loader(loader)


def test_whole_batches_are_counted_and_cut_image_by_image():
    batch = UserDict(input_ids=torch.ones(5, 7), pair=(torch.arange(5), torch.ones(2)), name="x")
    assert images_in(batch) == 5
    assert first_images(batch, 5) is batch
    cut = first_images(batch, 3)
    assert cut["input_ids"].shape == (3, 7)
    assert torch.equal(cut["pair"][0], torch.arange(3))
    assert cut["pair"][1].shape == (2,)
    assert images_in((torch.arange(4), IMAGES, LABELS)) == 4
    with pytest.raises(TypeError, match="cannot find images"):
        images_in({"name": "x"})


@pytest.mark.parametrize(
    "wrong",
    [Pictures(), IMAGES, (IMAGES, LABELS), {"image": IMAGES, "label": LABELS}],
    ids=["data set", "tensor", "pair", "mapping"],
)
@pytest.mark.parametrize(
    "analysis",
    [
        lambda model, loader: compare(model, model, loader, device="cpu"),
        lambda model, loader: compare(model, model, [IMAGES], loader, device="cpu"),
        lambda model, loader: evaluate(model, loader, device="cpu"),
        lambda model, loader: loss_landscape(model, loader, report=None, device="cpu"),
        lambda model, loader: hessian_spectra(model, loader, batch_size=4, n_batches=1, device="cpu"),
        lambda model, loader: robustness(model, loader, device="cpu"),
    ],
    ids=["compare", "compare 2", "evaluate", "landscape", "hessian", "robustness"],
)
def test_every_analysis_refuses_what_is_no_loader(analysis, wrong):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 3))
    with pytest.raises(TypeError, match="a loader should yield batches, and this is"):
        analysis(model, wrong)


def test_images_one_by_one_are_not_counted_by_their_channels():
    images = [torch.zeros(3, 8 + i, 8) for i in range(6)]
    for function, batch in itertools.product((images_in, split_batch), ((images, torch.zeros(6)), images)):
        with pytest.raises(TypeError, match=r"a batch is a list of 6 images: stack them"):
            function(batch)
