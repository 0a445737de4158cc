"""Processes share batches where they are asked to, and nowhere else; what fails in one of them ends all of them."""

import json

import pytest
import torch
from torch.utils.data import DataLoader

from tests.hooks.calls.shared_work import BATCHES, rows
from tests.torchrun import run_in_processes
from utilities.datasets import load_dataset
from utilities.datasets.factory import make_loader
from utilities.hooks.calls.shares import listed
from utilities.hooks.calls.sharing import sharing_batches

ALL = [[float(k) for k in range(7) for _ in range(3)], 21]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Let three processes work together, and return what each has found."""
    folder = tmp_path_factory.mktemp("work")
    run_in_processes(3, "tests.hooks.calls.shared_work", folder, timeout=300)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(3)]


@pytest.mark.slow
def test_all_processes_have_all_rows_in_the_order_of_one(found):
    for each in found:
        assert each["rows"] == each["outside"] == ALL
        assert each["end"] == [ALL[0][:9], 9]
        assert each["few"] == [ALL[0][:6], 6]  # fewer batches than processes: all of them in each


@pytest.mark.slow
def test_outside_the_context_one_process_works_alone(found):
    assert [each["alone"] for each in found] == [2, None, None]


@pytest.mark.slow
def test_an_error_in_one_process_ends_the_work_of_all(found):
    failed = "ChildProcessError: process 1 of 3 failed, reading: OSError: no such image"
    assert [each["failing"] for each in found] == [failed, "OSError: no such image", failed]
    inner = "ChildProcessError: process 2 of 3 failed, inner: OSError: no such image"
    assert [each["nested"] for each in found] == [inner, inner, "OSError: no such image"]


@pytest.mark.slow
def test_processes_are_in_step_after_an_error(found):
    assert all(each["after"] == each["at the end"] == ALL for each in found)


@pytest.mark.slow
def test_sums_that_are_forgotten_are_an_error_in_all(found):
    for each in found:
        assert "Forgetful.n holds a number, and it is not said how it adds up" in each["forgotten"]
        assert "a Linear is among the sums; models do not travel" in each["with model"]


@pytest.mark.slow
def test_other_models_images_or_work_are_refused(found):
    for each in found:
        for name in ("models", "images"):
            assert "the processes do not read the same images in the same order with the same model" in each[name]
        assert "the processes do different work: first, at the start and second, at the start" in each["points"]


def test_a_process_by_itself_shares_nothing():
    with sharing_batches() as processes:
        assert processes.count == 1
        assert rows(BATCHES) == (ALL[0], 21)


def _scaled(images, generator):
    return images * torch.rand(len(images), 1, 1, 1, generator=generator)


@pytest.mark.parametrize("augment", [False, _scaled], ids=["plain", "augmented"])
@pytest.mark.parametrize("shuffle", ["once", "every_epoch"])
def test_parts_of_a_loader_are_its_batches(augment, shuffle):
    loader = make_loader(load_dataset("digits", n_images=23), 5, shuffle=shuffle, augment=augment)
    whole = [images for images, _ in loader]
    loader.epoch = 0
    parts = listed(loader)
    assert parts.sizes == [5, 5, 5, 5, 3]
    for start, end in ((0, 2), (2, 5)):
        read = [images for images, _ in parts.read(start, end)]
        assert all(torch.equal(*pair) for pair in zip(read, whole[start:end], strict=True))
    assert loader.epoch == 1


def test_parts_of_other_loaders():
    data = torch.arange(10.0)[:, None]
    for loader in (data.split(4), DataLoader(data, batch_size=4)):
        parts = listed(loader)
        assert parts.sizes == [4, 4, 2]
        assert [batch.flatten().tolist() for batch in parts.read(1, 3)] == [[4, 5, 6, 7], [8, 9]]
    for loader in (DataLoader(data, shuffle=True), iter([data])):
        with pytest.raises(ValueError, match="the loader"):
            listed(loader)
