"""Whole files: what is said on a full disk, and which temporary files are cleared."""

import errno
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from utilities.analysis.loss.unfinished_landscape import UnfinishedLandscape
from utilities.compare import compare
from utilities.results import writing
from utilities.results.writing import check_writable, clear_killed, write_json, write_whole
from utilities.train import fit
from utilities.training.recipes import Recipe
from utilities.zoo.checkpoints import tensor_bytes, write_torch


def full(path):
    path.write_bytes(b"x" * 3_000_000)
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_named_with_what_is_needed_and_what_is_free(tmp_path):
    with pytest.raises(
        OSError, match=r"no room for .*a\.npz: it needs more than 3\.0 MB, and [\d,.]+ [MG]B are free in"
    ):
        write_whole(tmp_path / "a.npz", full)
    with pytest.raises(OSError, match=r"it needs about 8\.0 MB") as error:
        write_whole(tmp_path / "a.npz", full, needs=8_000_000)
    assert error.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_small_amounts_are_not_rounded_to_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 8_192))

    def fail(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    for needs, amount in ((900, "900 bytes"), (1, "1 byte"), (20_480, r"20\.5 kB"), (2_000_000, r"2\.0 MB")):
        with pytest.raises(OSError, match=rf"a\.npz: it needs about {amount}, and 8\.2 kB are free in"):
            write_whole(tmp_path / "a.npz", fail, needs=needs)
    with pytest.raises(OSError, match=r"a\.npz: 8\.2 kB are free in"):  # nothing is known of what it needs
        write_whole(tmp_path / "a.npz", fail)


def test_training_names_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    opened = os.open

    def read_only(path, flags, *args, **options):
        if str(path).startswith(str(tmp_path)) and flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", read_only)
    recipe = Recipe("digits", epochs=0, image_size=8, n_images=20, batch_size=10)
    with pytest.raises(OSError, match=rf"nothing can be written to {re.escape(str(tmp_path))}: Read-only file system"):
        fit("resnet18", recipe, 0, tmp_path, report=lambda line: None)


def test_a_full_disk_that_torch_reports_in_its_own_words(tmp_path, monkeypatch):
    def save(content, file):
        try:
            file.write(b"x")
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError, match=r"no room for .*a\.pth: it needs about 4\.0 MB"):
        write_torch(tmp_path / "a.pth", {"model": {"weight": torch.zeros(1_000_000)}})


def test_other_errors_stay_what_they_are(tmp_path):
    def fail(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(PermissionError):
        write_whole(tmp_path / "a.txt", fail)
    assert not list(tmp_path.iterdir())


def test_room_is_looked_at_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 0))
    check_writable(tmp_path / "a.pth")
    with pytest.raises(OSError, match=r"no room for .*a\.pth: it needs about 5\.0 MB, and 0 bytes are free"):
        check_writable(tmp_path / "a.pth", needs=5_000_000)


def test_the_bytes_of_tensors_are_counted_once():
    x = torch.zeros(100)
    assert tensor_bytes({"a": x, "b": [x[:10], torch.zeros(3, dtype=torch.int64)], "c": "text"}) == 424


def test_files_of_a_killed_save_are_cleared_by_the_next_one(tmp_path):
    """A true process that is killed in the middle of its save."""
    code = (
        "import os, sys; from utilities.results.writing import write_whole\n"
        "write_whole(sys.argv[1], lambda p: (p.write_text('half'), os.kill(os.getpid(), 9)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.v1.json")])
    assert done.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".a.v1-")
    write_json(tmp_path / "b.json", {})
    write_json(tmp_path / "a.json", {})
    assert left.exists()  # of other files
    write_json(tmp_path / "a.v1.json", {"n": 1})
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "b.json", "a.v1.json"}


def test_running_processes_keep_their_files(tmp_path):
    seen = []

    def write(path):
        clear_killed(tmp_path / "a.json")
        write_json(tmp_path / "a.json", {"by": "another"})
        seen.append(path.exists())
        path.write_text("mine")

    write_whole(tmp_path / "a.json", write)
    assert seen == [True]
    assert (tmp_path / "a.json").read_text() == "mine"


def test_files_of_other_machines_and_earlier_versions_are_cleared_after_a_day(tmp_path):
    dead = 999_999_999
    names = ["a-abcdefgh.json", f"a-abcdefgh.00000000-{dead}.json"]  # no process; a process elsewhere
    others = [f"a-abcdefgh.{writing._place()}-{dead}.npz", f"a-b-abcdefgh.{writing._place()}-{dead}.json"]
    for name in names + others:
        (tmp_path / f".{name}").touch()
    clear_killed(tmp_path / "a.json")
    assert len(list(tmp_path.iterdir())) == 4
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    clear_killed(tmp_path / "a.json")
    assert {path.name for path in tmp_path.iterdir()} == {f".{name}" for name in others}


def test_work_goes_on_where_it_cannot_be_saved_in_between(tmp_path, monkeypatch):
    points = UnfinishedLandscape(tmp_path / "run", "cnn", 0)
    points.load("key")
    monkeypatch.setattr("utilities.analysis.loss.unfinished_landscape.UnfinishedLandscape.seconds_between", -1)
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", lambda path, **_: full(path))
        with pytest.warns(UserWarning, match=r"not saved for now: there is no room for .*points0\.npz.*trying again"):
            points.save_now_and_then({0: [1.0] * 4})
        with pytest.raises(OSError, match="no room"):  # what is asked for at the end is no option
            points.save({0: [1.0] * 4})
    points.save_now_and_then({0: [1.0] * 4})
    assert points.load("key") == {0: [1.0] * 4}


def test_a_comparison_goes_on_where_its_sums_cannot_be_saved(tmp_path, monkeypatch):
    monkeypatch.setattr("utilities.compare.unfinished_sums.UnfinishedSums.seconds_between", -1)
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.randn(24, 3, 2, 2)
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), 8)
    expected = compare(model, model, batches, layers1="1", device="cpu").matrix
    monkeypatch.setattr(np, "savez", lambda path, **_: full(path))
    with pytest.warns(UserWarning, match="not saved for now: there is no room for"):
        result = compare(model, model, batches, layers1="1", device="cpu", resume=tmp_path / "run")
    np.testing.assert_array_equal(result.matrix, expected)


def test_a_folder_that_cannot_be_made_is_named_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    for call in (check_writable, lambda path: write_whole(path, lambda place: place.write_text(""))):
        with pytest.raises(OSError, match=rf"nothing can be written to {tmp_path}/file: .*; choose another folder"):
            call(tmp_path / "file" / "a.txt")
