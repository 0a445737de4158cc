"""The command line as a whole: its verbs, what they list, and what they need not import."""

import dataclasses
import subprocess
import sys

import pytest

from utilities.cli.datasets import DATASETS
from utilities.cli.verbs import VERBS, main
from utilities.datasets.corrupted import CLEAN
from utilities.datasets.factory import NAMES
from utilities.datasets.perturbed import KINDS
from utilities.training.recipes import RECIPES
from utilities.utils import PROJECT_ROOT

HEAVY = ("torch", "timm", "pandas", "matplotlib", "papermill", "sklearn")


def refused(capsys, *arguments):
    """The one line that a command ends with, with exit status 2."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("verb", VERBS)
def test_help_imports_nothing_heavy(verb):
    code = (
        f"import sys; from utilities.cli.verbs import main\ntry: main([{verb!r}, '--help'])\nexcept SystemExit: pass\n"
        f"assert not {set(HEAVY)!r} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT_ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert f"python -m utilities {verb}" in done.stdout


@pytest.mark.parametrize("program", [["-m", "utilities.train"], ["-m", "utilities"], ["utilities/train.py"]])
def test_other_ways_to_call_are_as_light(program):
    code = (
        f"import runpy, sys; sys.argv = ['x', '--help']\ntry: {_run(program)}\nexcept SystemExit: pass\n"
        f"assert not {set(HEAVY)!r} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT_ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: python -m utilities" in done.stdout


def _run(program):
    if program[0] == "-m":
        return f"runpy.run_module({program[1]!r}, run_name='__main__')"
    return f"runpy.run_path({program[0]!r}, run_name='__main__')"


def test_alone_it_lists_the_verbs(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {verb} " in printed for verb in VERBS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["comprae"], "there is no verb 'comprae'; close: compare"),
        (["analyse", "furier"], "there is no analysis 'furier'; close: fourier"),
        (["analyse", "fourier", "resnet18", "--datset", "digits"], "has no option --datset; close: --dataset"),
        (["analyse", "fourier", "resnet18", "--out", "a"], "--dataset is missing"),
        (["compare", "resnet18", "--dataset", "digts", "--out", "a"], "close: digits"),
        (["compare", "resnet81", "--dataset", "digits", "--out", "a"], "close: resnet18"),
        (["compare", "resnet18", "--dataset", "digits", "--layers1", "layr4", "--out", "a"], "close: layer4"),
        (["compare", "resnet18", "--dataset", "digits", "--split", "tst", "--out", "a"], "close: test"),
        (["compare", "resnet18", "--dataset", "digits", "--n-images", "x", "--out", "a"], "--n-images"),
        (["compare", "--dataset", "digits", "--out", "a"], "no model is named"),
        (["train", "resnet18", "1", "0", "runs", "--recipe", "cifar-vit"], "close: cifar_vit"),
        (["train", "resnet18", "1", "0"], "missing: DIR\n"),
        (["train", "resnet18", "1"], "missing: SEED, DIR\n"),
        (["train", "resnet18=random", "1", "0", "runs"], "training starts from random weights"),
        (["compare", "resnet18=pretraind", "--dataset", "digits", "--out", "a"], "close: pretrained"),
        (["compare", "resnet18", "--dataset", "digits", "--measure", "ckb", "--out", "a"], "close: cka"),
        (["analyse", "fourier", "resnet18", "--dataset", "digits", "--path", "radail", "--out", "a"], "close: radial"),
        (["compare", "resnet18", "--dataset", "digits", "--out", "a.txt"], "choose .png, .pdf, .svg, .eps, .npz, .csv"),
        (["compare", "resnet18", "--dataset", "digits", "--out", "."], "is a folder; name the files in it"),
        (["layers", "plain_cnn"], "python -m utilities models lists all"),
        (["analyse", "layer_matching", "resnet18", "--dataset", "digits", "--out", "a"], "--layers is missing"),
        (["models", "resnt18"], "close: resnet18"),
        (["models", "--weights", "foo"], "--weights 'foo' is not known; known: wheel\n"),
        (["datasets", "cifar"], "close: cifar10"),
        (["fetch", "cifar11"], "close: cifar10"),
        (["fetch"], "nothing is named"),
        (["layers", "resnet18", "layr*"], "'layr*' is not in ResNet"),
        (["evaluate", "resnet18", "--dataset", "digits", "--out", "a.pdf"], "written as .csv alone"),
        (["models", __file__], "is a file; name a model, or a folder of checkpoints"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *arguments)
    assert not list(tmp_path.iterdir())


def test_models_and_data_sets_are_listed(capsys):
    main(["models", "vgg1[13]", "torchvision/resnet1?"])
    assert capsys.readouterr().out.split() == ["vgg11", "vgg13", "torchvision/resnet18"]
    main(["datasets", "cifar*"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "cifar10",
        "cifar100",
        "cifar10-c",
        "cifar100-c",
        "cifar10-p",
    ]
    assert set(DATASETS) == {*NAMES, *CLEAN, *KINDS}


def test_layers_have_types_and_shapes(capsys):
    main(["layers", "vit_tiny_patch2_16", "blocks.0.attn*", "!*.qkv", "--num-classes", "10"])
    lines = capsys.readouterr().out.splitlines()
    found = {line.split()[0] for line in lines if line.startswith("blocks")}
    assert "blocks.0.attn.proj" in found
    assert "blocks.0.attn.qkv" not in found
    assert "(65, 96)" in next(line for line in lines if line.startswith("blocks.0.attn.proj "))
    main(["layers", "resnet18", "--main", "--image-size", "16"])
    assert len([line for line in capsys.readouterr().out.splitlines() if line.startswith("layer")]) == 32


def test_evaluate_writes_its_table(capsys, tmp_path):
    on = ["--dataset", "digits", "--n-images", "30", "--device", "cpu"]
    main(["evaluate", "--models", "plain_cnn8", "vit_tiny_patch2_16", *on, "--out", str(tmp_path / "a.csv")])
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0] == "model,weights,dataset,loss,top1,top5,n"
    assert [line.split(",")[0] for line in lines[1:]] == ["plain_cnn8", "vit_tiny_patch2_16"]
    assert "digits (test)" in capsys.readouterr().out


def test_options_of_train_change_single_values_of_a_recipe(monkeypatch):
    seen = []
    monkeypatch.setattr("utilities.train.fit", lambda *args, **given: seen.append((args, given)))
    words = ["--recipe", "cifar_vit", "--rand-augment", "none", "--milestones", "3", "5", "--mixup", "0", "--resume"]
    main(["train", "vgg11", "7", "1", "runs", *words, "--dataset", "digits", "--classes", "natural"])
    ((model, recipe, seed, folder), given) = seen[0]
    assert (model, seed, folder) == ("vgg11", 1, "runs")
    changed = {"epochs": 7, "rand_augment": None, "milestones": (3, 5), "mixup": 0, "dataset": "digits"}
    assert recipe == dataclasses.replace(RECIPES["cifar_vit"], **changed)
    assert (given["resume"], given["classes"], given["teacher"]) == (True, "natural", None)


@pytest.mark.parametrize(
    ("word", "precision"),
    [("half", "bfloat16"), ("exact", "float32"), ("float16", "float16"), ("bfloat16", "bfloat16")],
)
def test_train_knows_the_words_of_compare_for_a_precision(word, precision, monkeypatch):
    seen = []
    monkeypatch.setattr("utilities.train.fit", lambda *args, **given: seen.append(given))
    main(["train", "vgg11", "7", "1", "runs", "--precision", word])
    assert seen[0]["precision"] == precision


def test_training_for_no_epochs_is_warned_of(monkeypatch):
    monkeypatch.setattr("utilities.train.fit", lambda *args, **given: None)
    with pytest.warns(UserWarning, match="0 epochs: the weights of vgg11 stay random"):
        main(["train", "vgg11", "0", "1", "runs"])
