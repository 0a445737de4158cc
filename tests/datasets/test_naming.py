"""A result made in Python names its images where the data set knows its name, and says their number once."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision.datasets import FakeData, ImageFolder

from utilities.analysis.blocks.lesion import lesions
from utilities.analysis.predictions.classification import classify
from utilities.compare import CKA, compare
from utilities.datasets import load_dataset, make_loader
from utilities.datasets.images import Augmentation
from utilities.datasets.naming import data_name, known_facts
from utilities.plots.captions import origin
from utilities.resnet import resnet18


class Mine(TensorDataset):
    """A data set of a user's own, which knows its training part by a flag, as torchvision's do."""

    train = False


def digits(count: int = 40):
    return make_loader(load_dataset("digits", n_images=count), count // 2)


def test_sets_of_this_package_are_named_with_their_split():
    assert data_name(digits()) == "digits (test)"
    assert data_name(DataLoader(Subset(load_dataset("digits"), range(9)))) == "digits (test)"
    augmented = make_loader(load_dataset("digits", "train", n_images=20), 10, augment=Augmentation(1))
    assert data_name(augmented) == "digits (train, augmented)"


def test_other_sets_are_named_by_their_class_and_folders_by_their_path(tmp_path):
    assert data_name(DataLoader(FakeData())) == "FakeData"
    assert data_name(DataLoader(Mine(torch.zeros(2, 1)))) == "Mine (test)"
    (tmp_path / "pets" / "val" / "cat").mkdir(parents=True)
    folder = ImageFolder(tmp_path / "pets" / "val", allow_empty=True)
    assert data_name(DataLoader(folder)) == "folder:pets/val"


@pytest.mark.parametrize("loader", [[torch.zeros(2, 1)], DataLoader(TensorDataset(torch.zeros(2, 1))), iter([])])
def test_containers_have_no_name(loader):
    assert data_name(loader) == ""


def test_two_loaders_are_both_named_or_neither():
    other = DataLoader(FakeData())
    assert known_facts(None, digits(), other)["dataset"] == "digits (test) and FakeData"
    assert known_facts(None, digits(), digits())["dataset"] == "digits (test)"
    assert known_facts(None, digits(), [torch.zeros(2, 1)]) == {}


def test_the_line_of_a_figure_names_the_images_and_says_their_number_once():
    model, loader = nn.Sequential(nn.Flatten(), nn.Linear(768, 10)), digits()
    cka = CKA(model, model, device="cpu")
    cka.compare(loader)
    for result in (compare(model, model, loader, device="cpu"), cka.result):
        assert origin([result]) == "digits (test), n = 40 images"
    assert origin([classify(model, loader, device="cpu")]) == "digits (test), n = 40 images"
    assert origin([lesions(resnet18(10), loader, device="cpu")]) == "digits (test), n = 40 images"


def test_a_name_that_the_caller_gives_is_kept():
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
    result = compare(model, model, digits(), device="cpu", provenance={"dataset": "my digits"})
    assert result.provenance["dataset"] == "my digits"
