"""Unfinished work: kept now and then, whole or not at all, and taken up by the run that it belongs to."""

import warnings

import numpy as np
import pytest
from torch import nn

from utilities.results.unfinished import UnfinishedWork, code_of, fingerprint, list_unfinished
from utilities.zoo import create_model


class Counts(UnfinishedWork[np.ndarray]):
    refusal = "belongs to other counts"

    def _encode(self, work):
        return {"key": np.array(self.key), "counts": work}

    def _key_in(self, arrays):
        return str(arrays["key"])

    def _decode(self, arrays):
        return arrays["counts"]


def test_the_parts_of_all_processes_are_taken_up(tmp_path):
    for number in (1, 0):
        Counts(tmp_path / "run.counts", number, "key").save(np.array([number]))
    found = Counts(tmp_path / "run.counts", key="key")
    assert [path.name for path in found.paths()] == ["run.counts0.npz", "run.counts1.npz"]
    assert [part.tolist() for part in found.load_parts()] == [[0], [1]]
    found.remove(keep_own=True)
    assert [path.name for path in list_unfinished(tmp_path / "run.counts")] == ["run.counts0.npz"]
    found.remove()
    assert not list(tmp_path.iterdir())


def test_other_work_and_damaged_files_are_refused(tmp_path):
    Counts(tmp_path / "run", key="key").save(np.arange(2))
    with pytest.raises(ValueError, match=r"run0\.npz belongs to other counts; delete it"):
        Counts(tmp_path / "run", key="another").load_parts()
    (tmp_path / "run0.npz").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"run0\.npz is damaged; delete it"):
        Counts(tmp_path / "run", key="key").load_parts()
    np.savez(tmp_path / "run0.npz", counts=np.arange(2))  # without a key
    with pytest.raises(ValueError, match=r"run0\.npz is damaged"):
        Counts(tmp_path / "run", key="key").load_parts()


def test_work_is_saved_no_more_often_than_asked(tmp_path):
    work = Counts(tmp_path / "run", key="key")
    work.save_now_and_then(np.arange(2))
    assert not work.paths()
    work.save_now_and_then(np.arange(2), now=True)
    assert len(work.paths()) == 1
    work.seconds_between = 0
    work.save_now_and_then(np.arange(3))
    assert work.load_parts()[0].tolist() == [0, 1, 2]


def test_a_failure_is_warned_of_once_until_saving_works_again(tmp_path, monkeypatch):
    def fails(path, **arrays):
        raise OSError("the disk is away")

    work = Counts(tmp_path / "run", key="key")
    with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        patch.setattr(np, "savez", fails)
        for _ in range(3):
            work.save_now_and_then(np.arange(2), now=True)
        patch.undo()
        work.save_now_and_then(np.arange(2), now=True)
        patch.setattr(np, "savez", fails)
        work.save_now_and_then(np.arange(2), now=True)
    assert [str(one.message) for one in said] == [
        "not saved for now: the disk is away; going on without, and trying again later"
    ] * 2
    assert work.load_parts()[0].tolist() == [0, 1]


def test_a_key_sees_models_facts_and_the_code_of_functions():
    model = nn.Linear(2, 2)
    key = fingerprint([model], code_of(len))
    assert key == fingerprint([model], code_of(len))
    assert key != fingerprint([nn.Linear(2, 2)], code_of(len))
    assert key != fingerprint([model], code_of(sorted))
    assert key != fingerprint([model, model], code_of(len))


def test_the_code_of_a_function_is_not_its_docstring():
    def made(body):
        exec(f"def loss(x):\n    {body}", names := {})
        return code_of(names["loss"])

    assert made("'Return x.'; return x + 1") == made("'Return it.'; return x + 1")
    assert made("'Return x.'; return x + 1") != made("'Return x.'; return x + 2")


def test_the_fingerprint_sees_weights_and_options():
    one, two = create_model("resnet18", 10, seed=0), create_model("resnet18", 10, seed=0)
    assert fingerprint([one], 1) == fingerprint([two], 1)
    two.fc.bias.data[3] += 1e-3
    assert fingerprint([one], 1) != fingerprint([two], 1)
    assert fingerprint([one], 1) != fingerprint([one], 2)
