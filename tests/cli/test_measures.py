"""The verb measures: the scores of the function, models that are kept, a figure, and sentences for what is wrong."""

import numpy as np
import pytest

from utilities.cli.verbs import main
from utilities.results.measure_tests import MeasureTests
from utilities.study.measure_tests import run_measure_tests

SMALL = ["--kinds", "hybrid", "--seeds", "2", "--epochs", "1", "--n-images", "100"]


def test_scores_are_those_of_the_function_on_models_that_are_kept(tmp_path, capsys):
    folder = tmp_path / "trained"
    main(["measures", "cka", "cca", *SMALL, "--checkpoints", str(folder), "--out", str(tmp_path / "a")])
    found = MeasureTests.load(tmp_path / "a")
    assert (found.kinds, found.measures) == (["hybrid"], ["cka", "cca"])
    printed = capsys.readouterr().out
    assert "order of layers: " in printed
    assert "(error unknown), last" in printed  # two networks leave no pair when one is left out
    assert "nan" not in printed
    assert "Mean rank over 12 tests" in printed
    assert {"a.png", "a.pdf", "a.csv", "a.json"} <= {path.name for path in tmp_path.iterdir()}
    before = {path: path.stat().st_mtime_ns for path in folder.glob("hybrid/*/*.pth")}
    assert len(before) == 5 * 2
    own = run_measure_tests(["hybrid"], ["cka", "cca"], seeds=2, epochs=1, n_images=100, folder=folder)
    np.testing.assert_array_equal(found.scores, own.scores)
    main(["measures", "rsa", *SMALL, "--checkpoints", str(folder), "--out", str(tmp_path / "b.csv")])
    assert {path: path.stat().st_mtime_ns for path in folder.glob("hybrid/*/*.pth")} == before
    assert (tmp_path / "b.csv").read_text().splitlines()[1].startswith("hybrid,rsa,order of layers")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ckas"], "measure 'ckas' is not known; close: cka, cka_biased, cca; choose from cka, cka_biased"),
        (["cka", "rsa", "cka"], "give each measure once"),
        (["--kinds", "RNN"], "--kinds 'RNN' is not known"),
        (["cca", "--n-images", "60"], "hybrids: with 64 features of 60 images every canonical correlation is 1"),
        (["--seeds", "1"], "a group has two models or more"),
        (["--dataset", "digts"], "close: digits"),
        (["--image-size", "16"], "has no option --image-size"),
    ],
)
def test_what_is_wrong_is_a_sentence_before_anything_is_trained(words, said, tmp_path, capsys):
    folder = tmp_path / "trained"
    with pytest.raises(SystemExit) as stop:
        main(["measures", *SMALL, *words, "--checkpoints", str(folder), "--out", str(tmp_path / "a")])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert not folder.exists()
