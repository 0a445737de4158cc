"""The command: in one process, in several, in parts, and after it was killed."""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest

from utilities.analysis.loss import unfinished_landscape as module
from utilities.analysis.loss.directions import Directions, random_directions
from utilities.analysis.loss.landscape import Landscape, loss_landscape
from utilities.cli.analyse import main
from utilities.datasets import load_dataset, make_loader
from utilities.zoo import create_model

COMMON = ["landscape", "plain_cnn8", "--model-seeds", "0", "--data-seed", "0", "--dataset", "digits",
          "--n-images", "20", "--batch-size", "10", "--points", "3",
          "--weight-decay", "0.05", "--seed", "1", "--device", "cpu"]  # fmt: skip
VALUES = ("x", "y", "nll", "stderr", "rise_stderr", "accuracy", "l2")


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    path = tmp_path_factory.mktemp("single") / "run.npz"
    main([*COMMON, "--out", str(path)])
    return path


def assert_equal(one, two):
    """One thread in every process: nothing is summed in another order."""
    for name in VALUES:
        assert np.array_equal(getattr(one, name), getattr(two, name)), name


def test_the_command_writes_result_directions_and_pictures(single):
    names = {"run.npz", "run.json", "run_directions.npz", "run_directions.json"}
    assert {p.name for p in single.parent.iterdir()} == names
    result = Landscape.load(single)
    model = create_model("plain_cnn8", 10, seed=0)
    loader = make_loader(load_dataset("digits", "train", n_images=20, augment=True), 10)
    direct = loss_landscape(model, loader, points=3, weight_decay=0.05, seed=1, report=None, device="cpu")
    assert_equal(result, direct)
    facts = result.provenance
    assert (facts["model"], facts["weights"]) == ("plain_cnn8", "untrained, seed 0")
    assert (facts["dataset"], facts["direction_seed"]) == ("digits (train, augmented)", 1)
    saved = Directions.load(single.with_name("run_directions"))
    assert np.array_equal(saved.first, random_directions(model, 1).first)


def test_jobs_give_the_result_of_one(single, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    main([*COMMON, "--jobs", "2", "--no-directions", "--out", str(tmp_path / "run")])
    assert_equal(Landscape.load(tmp_path / "run"), Landscape.load(single))
    assert not list(tmp_path.glob("*points*"))
    assert not list(tmp_path.glob("*directions*"))


def test_parts_are_put_together_by_a_last_call(single, tmp_path, capsys):
    out = ["--no-directions", "--out", str(tmp_path / "run.npz")]
    for part in ("1", "0"):
        main([*COMMON, "--part", part, "2", *out])
    assert "part 0 of 2 is done" in capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {f"run.plain_cnn8.points{part}.npz" for part in (0, 1)}
    main([*COMMON, *out])
    assert "9 points" not in capsys.readouterr().out  # nothing was measured again
    assert_equal(Landscape.load(tmp_path / "run"), Landscape.load(single))


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_or_starts_again_as_asked(single, tmp_path, monkeypatch, capsys):
    def kill(self, done):
        if len(done) == 4:
            raise Killed

    out = ["--no-directions", "--out", str(tmp_path / "run")]
    for switch, left in (("--resume", "5 points"), ("--no-resume", "9 points")):
        with monkeypatch.context() as patch:
            patch.setattr(module.UnfinishedLandscape, "save_now_and_then", kill)
            with pytest.raises(Killed):
                main([*COMMON, *out])
        capsys.readouterr()
        main([*COMMON, switch, *out])
        assert left in capsys.readouterr().out
        assert_equal(Landscape.load(tmp_path / "run"), Landscape.load(single))


def test_mixing_and_lines(tmp_path):
    mixed = ["--mixup", "0.8", "--cutmix", "1.0", "--label-smoothing", "0.1", "--one-dimensional", "--no-augment"]
    main([*COMMON, *mixed, "--no-directions", "--out", str(tmp_path / "run")])
    result = Landscape.load(tmp_path / "run")
    assert result.nll.shape == (1, 3)
    assert (result.provenance["mix"], result.provenance["dataset"]) == ("Mixup", "digits (train)")
    assert {p.name for p in tmp_path.iterdir()} == {
        f"run{ending}" for ending in (".npz", ".json", ".csv", ".png", ".pdf", "_claims.csv")
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "resnet81"], "unknown model 'resnet81'"),
        (["--models", "plain_cnn8=nowhere.pth"], "nowhere.pth"),
        (["--points", "4"], "points=4 should be odd"),
        (["--n-images", "21", "--mixup", "0.8"], "mixing takes images in pairs, but there are 21 in batches of 10"),
        (["--jobs", "0"], "--jobs 0 should be 1 or more"),
        (["--jobs", "2", "--part", "0", "2"], "1 beside --part"),
        (["--part", "2", "2"], "part=(2, 2) should be"),
        (["--image-size", "9999999", "--n-images", "0"], "n_images"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([*COMMON, *arguments, "--out", str(tmp_path / "run")])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_job_that_fails_ends_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(SystemExit) as exit_:
        main([*COMMON, "--jobs", "2", "--out", str(tmp_path / "run")])
    assert exit_.value.code == 2
    assert "of 2 ended with status 1; what is done is kept" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
