"""Checkpoints on other classes: refused for accuracies, compared without one, taken on trust where they say nothing."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from utilities.cli.verbs import main
from utilities.study.study import Study
from utilities.zoo import create_model
from utilities.zoo.trained_on import TrainedOn, difference, other_classes

NAME = "plain_cnn8"


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in "abc":
            (tmp_path / "set" / part / name).mkdir(parents=True)
            for i in range(6):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "set" / part / name / f"{i}.png")
    return f"folder:{tmp_path / 'set'}"


def saved(tmp_path, count, **facts):
    path = tmp_path / "weights.pth"
    torch.save({"model": create_model(NAME, count, seed=0).state_dict(), **facts}, path)
    return str(path)


def commands(data, weights, out):
    one = [f"{NAME}={weights}", "--dataset", data, "--device", "cpu", "--out", str(out)]
    small = ["--k", "1", "--n-batches", "1", "--full-images", "4", "--full-sets", "1", "--batch-size", "4"]
    return {
        "evaluate": ["evaluate", *one[:-2]],
        "classify": ["analyse", "classify", *one],
        "lesions": ["analyse", "lesions", *one],
        "corruptions": ["analyse", "robustness", *one, "--kinds", "fog", "--severities", "1"],
        "noise": ["analyse", "noise_frequency", *one, "--bands", "2"],
        "attack": ["analyse", "adversarial", *one, "--radii", "2", "--steps", "1"],
        "landscape": ["analyse", "landscape", *one, "--points", "3", "--one-dimensional"],
        "hessian": ["analyse", "hessian", *one, *small],
        "variance": ["analyse", "variance", *one, "--layers", "block1", "conv"],
        "compare": ["compare", *one, "--batch-size", "6", "--layers1", "block1", "block1.1"],
    }


REFUSED = ["evaluate", "classify", "lesions", "corruptions", "noise", "attack", "landscape", "hessian"]


@pytest.mark.parametrize("name", REFUSED)
def test_commands_that_need_labels_refuse_other_classes(data, tmp_path, capsys, name):
    weights = saved(tmp_path, 3, classes=["x", "y", "z"])
    arguments = commands(data, weights, tmp_path / "out" / "run")[name]
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "weights.pth was not trained on the classes of folder:set: its classes are x, y, z, not a, b, c" in (
        capsys.readouterr().err
    )
    assert not list((tmp_path / "out").glob("run*"))


def test_another_number_of_classes_is_refused_where_they_have_no_names(data, tmp_path, capsys):
    arguments = commands(data, saved(tmp_path, 10), tmp_path / "run")["classify"]
    with pytest.raises(SystemExit):
        main(arguments)
    assert "it has 10 classes, not 3" in capsys.readouterr().err


@pytest.mark.parametrize("facts", [{}, {"classes": [str(i) for i in range(10)]}])
def test_a_comparison_runs_without_the_accuracy(data, tmp_path, facts):
    arguments = commands(data, saved(tmp_path, 10, **facts), tmp_path / "run")["compare"]
    with pytest.warns(UserWarning, match=r"not trained on the classes of folder:set: .*; the accuracy is left out"):
        main(arguments)
    provenance = json.loads((tmp_path / "run.json").read_text())["provenance"]
    assert provenance["weights"] == "weights.pth"
    assert not [key for key in provenance if key.startswith("accuracy")]


def test_what_needs_no_labels_runs(data, tmp_path):
    arguments = commands(data, saved(tmp_path, 10, classes=list("abcdefghij")), tmp_path / "run")["variance"]
    main(arguments)
    assert (tmp_path / "run.png").exists()


def test_the_same_classes_are_taken_and_an_order_of_ones_own_makes_them_so(data, tmp_path, recwarn):
    arguments = commands(data, saved(tmp_path, 3, classes=["c", "a", "b"]), tmp_path / "run")["compare"]
    main([*arguments, "--classes", "c", "a", "b"])
    assert not [one for one in recwarn if "classes" in str(one.message)]
    assert "accuracy" in json.loads((tmp_path / "run.json").read_text())["provenance"]


def test_an_older_checkpoint_works_with_a_warning(data, tmp_path):
    arguments = commands(data, saved(tmp_path, 3), tmp_path / "run")["classify"]
    with pytest.warns(UserWarning, match="does not name its classes; they are taken for those of folder:set"):
        main(arguments)
    assert (tmp_path / "run.png").exists()


def test_a_study_refuses_other_classes(tmp_path):
    model = create_model(NAME, 10, weights=saved(tmp_path, 10, classes=list("abcdefghij")))
    with pytest.raises(ValueError, match="not trained on the classes of digits"):
        Study("x", NAME, output_dir=tmp_path).accuracy(model)


def test_models_of_which_nothing_is_known_are_left_alone(data):
    assert other_classes(create_model(NAME, 5), None) == ""


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"classes": ["a", "b"]}, ("a", "b")),
        ({"class_to_idx": {"b": 1, "a": 0}}, ("a", "b")),
        ({"class_names": ("a",)}, ("a",)),
        ({"classes": 10}, None),
        ({"classes": [0, 1]}, None),
        ({}, None),
    ],
)
def test_what_files_call_their_classes(tmp_path, content, expected):
    assert TrainedOn.of(content, tmp_path, 2).classes == expected


def test_long_lists_are_cut_where_they_differ():
    ours = [str(i) for i in range(100)]
    theirs = [*ours[:50], "x", *ours[51:]]
    assert difference(ours, theirs) == "its classes are ..., x, 51, 52, 53, ..., not ..., 50, 51, 52, 53, ..."
    assert difference(ours, ours[:3]) == "its classes are 0, 1, 2, not 0, 1, 2, 3, ... (3 and 100)"
