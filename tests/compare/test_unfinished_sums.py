"""A comparison goes on from what a killed run saved, and from nothing else."""

import json

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from utilities.compare import compare
from utilities.compare import two_models as module
from utilities.compare.batch_sums import BatchSums, LayerStatistics
from utilities.compare.unfinished_sums import UnfinishedSums
from utilities.datasets import load_dataset, make_loader
from utilities.zoo import create_model


class Killed(Exception):
    pass


def killed_after(count, monkeypatch):
    seen = []

    def add(self, index, *images):
        if len(seen) == count:
            raise Killed
        seen.append(index)
        original(self, index, *images)

    original = module.Comparison.add
    monkeypatch.setattr(module.Comparison, "add", add)
    return seen


def test_a_killed_run_goes_on_from_its_last_saved_sums(tmp_path, monkeypatch):
    model = create_model("resnet18", 10, seed=0)
    loader = make_loader(load_dataset("digits", n_images=120), 24)
    options = {"layers1": ["layer1", "fc"], "device": "cpu", "permutations": 5, "per_batch": True, "progress": False}
    whole = compare(model, model, loader, **options)
    monkeypatch.setattr("utilities.compare.unfinished_sums.UnfinishedSums.seconds_between", 0)
    with monkeypatch.context() as patch:
        killed_after(3, patch)
        with pytest.raises(Killed):
            compare(model, model, loader, resume=tmp_path / "run", **options)
    assert [p.name for p in tmp_path.iterdir()] == ["run.partial0.npz"]
    other = create_model("resnet18", 10, seed=1)
    with pytest.raises(ValueError, match=r"run.partial0.npz belongs to another comparison"):
        compare(other, other, loader, resume=tmp_path / "run", **options)
    with monkeypatch.context() as patch:
        seen = killed_after(99, patch)
        result = compare(model, model, loader, resume=tmp_path / "run", **options)
    assert seen == [3, 4]
    for name in ("matrix", "stderr", "null_mean", "per_batch"):
        np.testing.assert_allclose(getattr(result, name), getattr(whole, name), atol=1e-12, err_msg=name)
    assert result.report().equals(whole.report())
    assert not list(tmp_path.iterdir())


def sums_of(*indices):
    sums = BatchSums(sides=(side(), side()))
    for index in indices:
        sums.add(index, 4, [torch.full((1, 1), 1.0 + index), torch.ones(1), torch.ones(1)])
    return sums


def side():
    return LayerStatistics(["a"], [3], torch.ones(1), torch.ones(1), torch.zeros(1, dtype=torch.long), [[3]])


def test_what_several_processes_left_is_merged_once(tmp_path):
    """A run that is killed while it merges leaves the merged sums and the parts."""
    for rank, indices in enumerate([(0, 2), (1, 3)]):
        UnfinishedSums(tmp_path / "run", "key", rank).save(sums_of(*indices))
    merged = UnfinishedSums(tmp_path / "run", "key").load()
    assert merged.done == {0, 1, 2, 3}
    assert merged.totals()[0].item() == 1 + 2 + 3 + 4
    UnfinishedSums(tmp_path / "run", "key", 0).save(merged)
    again = UnfinishedSums(tmp_path / "run", "key").load()
    assert again.totals()[0].item() == 10
    with pytest.raises(ValueError, match="batch 2 is in both"):
        merged.merge(sums_of(2, 7))
    (tmp_path / "run.partial1.npz").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"run.partial1.npz is damaged; delete it"):
        UnfinishedSums(tmp_path / "run", "key").load()


def test_sums_of_earlier_versions_have_no_shapes(tmp_path):
    sums = sums_of(0)
    UnfinishedSums(tmp_path / "run", "key").save(sums)
    (path,) = tmp_path.iterdir()
    arrays = dict(np.load(path))
    meta = json.loads(str(arrays["meta"]))
    assert meta["sides"] == [[["a"], [3], [[3]]]] * 2
    meta["sides"] = [one[:2] for one in meta["sides"]]
    np.savez(path, **{**arrays, "meta": np.array(json.dumps(meta))})
    old = UnfinishedSums(tmp_path / "run", "key").load()
    assert [one.details(4)["shape"] for one in old.sides] == [[None]] * 2
    old.merge(sums_of(1))
    assert old.sides[0].details(8)["shape"] == [None]


class Twice(torch.nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.one, self.act = torch.nn.Linear(8, 4), activation

    def forward(self, x):
        return self.act(self.one(x))


def test_other_images_functions_and_structures_are_not_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr("utilities.compare.unfinished_sums.UnfinishedSums.seconds_between", 0)
    x, other = torch.randn(2, 64, 8)
    one, two = Twice(torch.nn.ReLU()), Twice(torch.nn.Tanh())
    two.load_state_dict(one.state_dict())
    options = {"device": "cpu", "progress": False, "resume": tmp_path / "run"}
    with monkeypatch.context() as patch:
        killed_after(2, patch)
        with pytest.raises(Killed):
            compare(one, one, DataLoader(x, 16), view=lambda tensor: tensor * 2, **options)
    for model, images, view in ((one, other, 2), (two, x, 2), (one, x, 3)):
        function = (lambda tensor: tensor * 2) if view == 2 else (lambda tensor: tensor * 3)
        with pytest.raises(ValueError, match="belongs to another comparison"):
            compare(model, model, DataLoader(images, 16), view=function, **options)
    assert compare(one, one, DataLoader(x, 16), view=lambda tensor: tensor * 2, **options).n == 64


def test_finished_passes_are_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr("utilities.compare.unfinished_sums.UnfinishedSums.seconds_between", 0)
    model, loader = Twice(torch.nn.ReLU()), DataLoader(torch.randn(64, 8), 16)
    options = {"device": "cpu", "progress": False, "repeats": 3}
    whole = compare(model, model, loader, **options)
    with monkeypatch.context() as patch:
        killed_after(9, patch)
        with pytest.raises(Killed):
            compare(model, model, loader, resume=tmp_path / "run", **options)
    with monkeypatch.context() as patch:
        seen = killed_after(99, patch)
        result = compare(model, model, loader, resume=tmp_path / "run", **options)
    assert seen == [1, 2, 3]
    np.testing.assert_allclose(result.replicates, whole.replicates, atol=1e-12)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    model = Twice(torch.nn.ReLU())
    with pytest.raises(OSError, match="nothing can be written to"):
        compare(model, model, DataLoader(torch.randn(32, 8), 16), resume=tmp_path / "file" / "run", device="cpu")
