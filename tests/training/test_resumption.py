"""Resuming looks at the data, the weights and the precision; what cannot be kept is said, and nothing false is left."""

import errno
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from torch import nn

from utilities import train
from utilities.cli.train import main
from utilities.datasets import load_dataset
from utilities.datasets.factory import make_loader
from utilities.datasets.fingerprint import fingerprint
from utilities.results import writing
from utilities.train import fit
from utilities.training import resumption
from utilities.training.resumption import locked
from utilities.training.trainer import Recipe, Trainer

DIGITS = Recipe("digits", epochs=2, batch_size=20, n_images=40, image_size=8, learning_rate=0.01)
OPTIONS = {"device": "cpu", "precision": "float32"}


def write(folder, count, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i}.png")


@pytest.fixture
def folder(tmp_path):
    for part, count in (("train", 8), ("val", 2), ("test", 2)):
        for i, name in enumerate("abc"):
            write(tmp_path / "set" / part / name, count, seed=i)
    return tmp_path / "set"


@pytest.fixture
def small(monkeypatch):
    """A linear model in the place of ResNet-18, which learns the same files in no time."""
    monkeypatch.setattr(train, "_create", lambda name, classes, *rest: nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(192), nn.Linear(192, classes)
    ))  # fmt: skip


def run(folder, out, epochs=2, report=lambda line: None, **options):
    recipe = Recipe(f"folder:{folder}", epochs=epochs, batch_size=8, learning_rate=0.01)
    return fit("resnet18", recipe, 0, out, report=report, **{**OPTIONS, "resume": True, **options})


def interrupted(run_one, monkeypatch, after=1):
    """Kill a run after some epochs, with a file to resume from."""
    run_epoch = Trainer.run_epoch

    def killed(self, progress=True):
        if len(self.history) == after:
            raise KeyboardInterrupt
        return run_epoch(self, progress)

    with monkeypatch.context() as patch:
        patch.setattr(train, "RESUME_EVERY", -1)
        patch.setattr(Trainer, "run_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            run_one()


def rename_classes(folder):
    for part in ("train", "val", "test"):
        for old, new in zip("abc", "xyz", strict=True):
            (folder / part / old).rename(folder / part / new)


def load(path):
    return torch.load(path, weights_only=True)


# ---------------------------------------------------------------- data


def test_a_checkpoint_keeps_classes_data_and_precision(folder, tmp_path, small):
    content = load(run(folder, tmp_path / "out"))
    assert content["classes"] == ["a", "b", "c"]
    parts = [load_dataset(f"folder:{folder}", part) for part in resumption.SPLITS]
    assert list(content["data"].values()) == [fingerprint(part) for part in parts]
    assert (content["precision"], content["precisions"]) == ("float32", [[2, "float32"]])


def test_a_finished_run_on_other_classes_is_not_there_already(folder, tmp_path, small):
    path = run(folder, tmp_path / "out")
    rename_classes(folder)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"on other data than .*set holds now: its classes are a, b, c, not x, y, z; "):
        run(folder, tmp_path / "out")
    assert path.read_bytes() == before
    run(folder, tmp_path / "out", resume=False)  # the remedy
    assert load(path)["classes"] == ["x", "y", "z"]


def test_an_interrupted_run_does_not_go_on_with_other_labels(folder, tmp_path, small, monkeypatch):
    interrupted(lambda: run(folder, tmp_path / "out"), monkeypatch)
    rename_classes(folder)
    with pytest.raises(ValueError, match=r"resume\.pth was trained on other data .*another folder, or anew"):
        run(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "train" / "a" / "3.png").unlink(), "its train images were others"),
        (lambda folder: write(folder / "test" / "b", 2, seed=9), "its test images were others"),
        (lambda folder: (folder / "val" / "c" / "0.png").rename(folder / "val" / "b" / "9.png"), "validation images"),
    ],
)
def test_other_files_of_the_same_classes_are_noticed(folder, tmp_path, small, change, message):
    run(folder, tmp_path / "out", epochs=1)
    change(folder)
    with pytest.raises(ValueError, match=message):
        run(folder, tmp_path / "out", epochs=1)


def test_a_folder_may_move(folder, tmp_path, small):
    """Only within its place: the recipe names the folder."""
    before = fingerprint(load_dataset(f"folder:{folder}"))
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert fingerprint(load_dataset(f"folder:{tmp_path / 'elsewhere'}")) == before


def test_the_order_of_the_classes_is_data(folder, tmp_path, small, capsys):
    path = run(folder, tmp_path / "out", classes=["c", "b", "a"])
    assert load(path)["classes"] == ["c", "b", "a"]
    with pytest.raises(ValueError, match="its classes are in another order: c, b, a, not a, b, c"):
        run(folder, tmp_path / "out")
    arguments = ["resnet18", "2", "0", str(tmp_path / "out"), "--dataset", f"folder:{folder}", "--device", "cpu"]
    arguments += ["--batch-size", "8", "--learning-rate", "0.01", "--resume"]
    main([*arguments, "--classes", "c", "b", "a"])
    assert "is there already" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*arguments, "--classes", "natural"])


def test_an_older_checkpoint_is_kept_with_a_warning(folder, tmp_path, small, monkeypatch):
    path = run(folder, tmp_path / "out")
    content = load(path)
    torch.save({key: value for key, value in content.items() if key not in ("classes", "data")}, path)
    with pytest.warns(UserWarning, match="does not say what images it was trained on; they are taken for those of"):
        assert run(folder, tmp_path / "out") == path
    interrupted(lambda: run(folder, tmp_path / "b"), monkeypatch)
    resume = tmp_path / "b" / "resnet18_seed_0_epochs_2.resume.pth"
    old = {key: value for key, value in load(resume).items() if key not in ("classes", "data", "precisions")}
    torch.save(old, resume)
    with pytest.warns(UserWarning, match="does not say what images"):
        content = load(run(folder, tmp_path / "b"))
    assert content["precision"] == "unknown for 1 epoch, then float32 for 1 epoch"


def test_sets_that_a_name_fixes_are_kept_without_being_read(tmp_path, small, monkeypatch, recwarn):
    path = fit("resnet18", DIGITS, 0, tmp_path, report=lambda line: None, **OPTIONS)
    monkeypatch.setattr(train, "load_sets", None)
    assert fit("resnet18", DIGITS, 0, tmp_path, resume=True, report=lambda line: None, **OPTIONS) == path
    assert not recwarn.list


def test_a_teacher_that_learnt_other_classes_is_refused(folder, tmp_path, monkeypatch):
    recipe = Recipe(f"folder:{folder}", epochs=0, batch_size=8)
    teacher = fit("plain_cnn8", recipe, 0, tmp_path / "out", report=lambda line: None, **OPTIONS)
    rename_classes(folder)
    with pytest.raises(ValueError, match="its classes are a, b, c, not x, y, z"):
        fit("plain_cnn8", recipe, 1, tmp_path / "out", teacher=teacher, report=lambda line: None, **OPTIONS)


# ---------------------------------------------------------------- precision


def test_the_precision_of_each_part_is_kept(folder, tmp_path, small, monkeypatch):
    interrupted(lambda: run(folder, tmp_path / "out", epochs=3, precision="bfloat16"), monkeypatch, after=2)
    lines = []
    content = load(run(folder, tmp_path / "out", epochs=3, report=lines.append))
    assert content["precisions"] == [[2, "bfloat16"], [1, "float32"]]
    assert content["precision"] == "bfloat16 for 2 epochs, then float32 for 1 epoch"
    assert "so far in bfloat16, from here on in float32" in lines


# ---------------------------------------------------------------- divergence


def broken_in_the_last_step(monkeypatch):
    """The last step's update overflows: its loss, taken before, is finite."""
    step = torch.optim.SGD.step

    def overflowing(self, *args, **kwargs):
        result = step(self, *args, **kwargs)
        self.steps_taken = getattr(self, "steps_taken", 0) + 1
        if self.steps_taken == 4:  # two epochs of two steps
            with torch.no_grad():
                self.param_groups[0]["params"][2].mul_(math.inf)
        return result

    monkeypatch.setattr(torch.optim.SGD, "step", overflowing)


def test_a_loss_that_diverges_in_the_last_step_is_not_saved_as_finished(tmp_path, small, monkeypatch):
    broken_in_the_last_step(monkeypatch)
    with pytest.raises(FloatingPointError, match=r"2\.weight is not finite after epoch 2.*smaller --learning-rate"):
        fit("resnet18", DIGITS, 0, tmp_path, save_every=1, report=lambda line: None, **OPTIONS)
    assert {path.name[24:] for path in tmp_path.iterdir()} == {"_at_0.pth", "_at_1.pth"}


@pytest.mark.parametrize("what", ["running_var", "loss"])
def test_finite_weights_with_statistics_or_a_loss_that_are_not(tmp_path, small, monkeypatch, what):
    def evaluated(model, loader, *options, autocast):
        if what == "running_var" and len(loader.dataset) == 540:
            model[1].running_var.fill_(math.inf)
        return {"loss": math.nan if what == "loss" else 1.0, "top1": 0.5, "top5": 0.5, "n": len(loader.dataset)}

    monkeypatch.setattr(train, "evaluate_shared", evaluated)
    message = "the loss on test images is nan" if what == "loss" else r"1\.running_var is not finite"
    with pytest.raises(FloatingPointError, match=message + " after epoch 2; nothing is saved as finished"):
        fit("resnet18", DIGITS, 0, tmp_path, report=lambda line: None, **OPTIONS)
    assert not list(tmp_path.iterdir())


def test_held_out_images_may_overflow_before_the_end(tmp_path, small, monkeypatch):
    """Statistics that are estimated anew at the end mend it: the table shows NaN, and training goes on."""
    run_epoch = Trainer.run_epoch

    def overflowing(self, progress=True):
        handle = self.model[1].register_forward_hook(lambda module, _, out: None if module.training else out / 0)
        row = run_epoch(self, progress)
        handle.remove()
        return row

    monkeypatch.setattr(Trainer, "run_epoch", overflowing)
    path = fit("resnet18", replace(DIGITS, norm_images=40), 0, tmp_path, report=lambda line: None, **OPTIONS)
    content = load(path)
    assert [math.isnan(row["loss"]) for row in content["history"]] == [True, True]
    assert math.isfinite(content["test"]["loss"])


def test_a_finished_file_that_diverged_is_not_kept(tmp_path, small, monkeypatch):
    path = fit("resnet18", DIGITS, 0, tmp_path, report=lambda line: None, **OPTIONS)
    content, lines = load(path), []
    content["model"]["2.bias"][1] = math.nan
    torch.save(content, path)
    fit("resnet18", DIGITS, 0, tmp_path, resume=True, report=lines.append, **OPTIONS)
    assert "diverged: 2.bias is not finite; training anew" in lines[0]
    assert torch.isfinite(load(path)["model"]["2.bias"]).all()
    run_one = lambda: fit("resnet18", DIGITS, 1, tmp_path, resume=True, report=lines.append, **OPTIONS)  # noqa: E731
    interrupted(run_one, monkeypatch)
    resume = tmp_path / "resnet18_seed_1_epochs_2.resume.pth"
    state = load(resume)
    state["model"]["2.weight"].fill_(math.inf)
    torch.save(state, resume)
    lines.clear()
    run_one()
    assert "diverged: 2.weight is not finite; starting anew" in lines[0]


# ---------------------------------------------------------------- space and locks


def test_a_resume_file_without_room_does_not_end_a_training(tmp_path, small, monkeypatch):
    monkeypatch.setattr(train, "RESUME_EVERY", -1)
    save, tries = torch.save, []

    def full(content, file):
        if "optimizer" in content:
            tries.append(len(content["history"]))
            raise OSError(errno.ENOSPC, "No space left on device")
        save(content, file)

    monkeypatch.setattr(torch, "save", full)
    lines = []
    path = fit("resnet18", DIGITS, 0, tmp_path, report=lines.append, **OPTIONS)
    assert tries == [0, 1, 1, 2]  # within each epoch of two steps, and after it
    said = [line for line in lines if "not saved for now" in line]
    assert len(said) == 4
    assert "no room for" in said[0]
    assert "resume.pth: it needs about" in said[0]
    assert {file.suffix for file in tmp_path.iterdir()} == {".pth", ".lock", ".json"}
    assert len(load(path)["history"]) == 2


def test_files_of_killed_saves_are_cleared_by_the_next_run(tmp_path, small):
    base = "resnet18_seed_0_epochs_2"
    for name in (base, f"{base}.resume"):
        (tmp_path / f".{name}-abcdefgh.{writing._place()}-999999999.pth").touch()
    fit("resnet18", DIGITS, 0, tmp_path, report=lambda line: None, **OPTIONS)
    assert {file.name for file in tmp_path.iterdir()} == {f"{base}.pth", f"{base}.lock", f"{base}.json"}


def test_a_finished_model_without_room_says_how_to_go_on(tmp_path, small, monkeypatch):
    monkeypatch.setattr(train, "RESUME_EVERY", -1)
    save = torch.save

    def full(content, file):
        if "test" in content:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(content, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"no room for .*epochs_2\.pth.*; --resume then goes on from .*resume\.pth"):
        fit("resnet18", DIGITS, 0, tmp_path, report=lambda line: None, **OPTIONS)
    monkeypatch.setattr(torch, "save", save)
    lines = []
    fit("resnet18", DIGITS, 0, tmp_path, resume=True, report=lines.append, **OPTIONS)
    assert lines[0] == "going on after epoch 2 of 2"


def test_room_for_the_checkpoint_is_looked_at_before_training(tmp_path, small, monkeypatch):
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 100))
    monkeypatch.setattr(Trainer, "run_epoch", None)
    with pytest.raises(OSError, match=r"no room for .*epochs_2\.pth: it needs about [\d.]+ kB, and 100 bytes are free"):
        fit("resnet18", DIGITS, 0, tmp_path, report=lambda line: None, **OPTIONS)


def test_a_second_training_says_that_it_waits(tmp_path):
    lines, path = [], tmp_path / "a.pth"
    held = FileLock(path.with_suffix(".lock"))
    held.acquire()

    def release(line):
        lines.append(line)
        held.release()

    with locked(path, release):
        assert lines == [f"waiting for another process that trains {path}"]


@pytest.mark.parametrize(
    "wrong", [{"dataset": "folder:absent"}, {"n_images": 10**6}, {"image_size": 4}, {"drop_path": 0.3}]
)
def test_a_refused_training_leaves_no_lock(tmp_path, wrong):
    with pytest.raises((ValueError, FileNotFoundError)):
        fit("resnet18", replace(DIGITS, **wrong), 0, tmp_path, report=lambda line: None, **OPTIONS)
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_says_what_to_do(tmp_path):
    for name, remedy in (("", "delete it to train anew"), (".resume", "delete it to train from the start")):
        path = tmp_path / f"resnet18_seed_0_epochs_2{name}.pth"
        path.write_bytes(b"PK cut short")
        with pytest.raises(ValueError, match=f"{path.name} cannot be read as weights: .*{remedy}$"):
            fit("resnet18", DIGITS, 0, tmp_path, resume=True, report=lambda line: None, **OPTIONS)
        path.unlink()


def test_a_loader_that_learns_in_float32_says_so():
    data = make_loader(load_dataset("digits", "train", n_images=40), 20, shuffle="every_epoch")
    trainer = Trainer(nn.Sequential(nn.Flatten(), nn.Linear(768, 10)), DIGITS.resolved("linear"), data, data, **OPTIONS)
    assert trainer.precision_facts() == {"precision": "float32", "precisions": []}


def test_an_interrupted_run_is_not_lost_to_other_options(tmp_path, monkeypatch):
    """Two teachers of one file's name, or another number of images: a run goes on with what it began with."""
    recipe = replace(DIGITS, epochs=0)
    teachers = [tmp_path / name / "teacher.pth" for name in "ab"]
    for seed, teacher in enumerate(teachers):
        path = fit("plain_cnn8", recipe, seed, tmp_path, report=lambda line: None, **OPTIONS)
        teacher.parent.mkdir()
        path.rename(teacher)
    lines = []
    one, two = (
        lambda teacher=teacher: fit(
            "plain_cnn8", DIGITS, 0, tmp_path, teacher=teacher, resume=True, report=lines.append, **OPTIONS
        )
        for teacher in teachers
    )
    interrupted(one, monkeypatch)
    lines.clear()
    with pytest.raises(ValueError, match=r"resume\.pth .* other options \(another teacher or start\); repeat its"):
        two()
    fewer = replace(DIGITS, n_images=30)
    with pytest.raises(ValueError, match=r"other options \(n_images \w+, here 30\).*or delete it to start anew"):
        fit("plain_cnn8", fewer, 0, tmp_path, teacher=teachers[0], resume=True, report=lines.append, **OPTIONS)
    assert list(tmp_path.glob("*.resume.pth"))
    one()
    assert any(line.startswith("going on after epoch") for line in lines)
