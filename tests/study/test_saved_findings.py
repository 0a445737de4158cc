"""What was found before is that of the best results there are, or said to be nothing."""

import numpy as np
import pandas as pd
import pytest

from utilities.analysis.blocks.variance import Variance
from utilities.results.measure_tests import MeasureTests
from utilities.results.similarity import Similarity
from utilities.study import findings

CLAIM = {
    "claim": "a_b holds",
    "source": "One 2020, Fig. 1, https://x",
    "found": "1 +- 0.1",
    "short": "",
    "data": "digits",
}


def write(folder, *verdicts):
    folder.mkdir(exist_ok=True)
    pd.DataFrame([{**CLAIM, "holds": verdict} for verdict in verdicts]).to_csv(folder / "N_claims.csv", index=False)
    return folder


def test_claims_are_stated_with_their_numbers(tmp_path):
    text = str(findings("N", folders=[tmp_path / "none", write(tmp_path / "a", "True", "False", "")]))
    assert text.splitlines()[0] == f"Found before ({tmp_path / 'a'}, digits):"
    assert "- a_b holds (One 2020, Fig. 1): **holds**, 1 ± 0.1" in text
    assert "**does not hold**" in text
    assert "**cannot be told**" in text
    assert r"a\_b" in findings("N", folders=[tmp_path / "a"])._repr_markdown_()


def test_many_claims_are_stated_without_numbers(tmp_path):
    assert "±" not in str(findings("N", folders=[write(tmp_path / "a", *["True"] * 7)]))


def test_the_first_folder_counts(tmp_path):
    one, two = (write(tmp_path / name, verdict) for name, verdict in (("a", "True"), ("b", "False")))
    assert "does not hold" not in str(findings("N", folders=[one, two]))
    assert "does not hold" in str(findings("N", folders=[two, one]))


def test_a_similarity_speaks_where_there_are_no_claims(tmp_path):
    matrix = np.array([[1, 0.25], [0.25, 1]])
    facts = {"model": "net", "dataset": "digits (test)"}
    Similarity(matrix, ["a", "b"], ["a", "b"], 1200, provenance=facts).save(tmp_path / "N")
    text = str(findings("N", folders=[tmp_path]))
    assert "digits (test), n = 1,200" in text
    assert "from a to b, 0.25" in text


def test_tests_of_measures_speak_line_by_line(tmp_path):
    scores, names = np.array([[[0.9, 0.5], [0.7, 0.6]]]), (["CNN"], ["cka", "rsa"], ["order", "labels"])
    facts = {"dataset": "digits (test)", "n": 540}
    MeasureTests(*names, scores, scores / 10, np.array([0.5, 0.3]), facts).save(tmp_path / "N")
    found = findings("N", folders=[tmp_path])
    assert len(found.lines) == 3
    assert "- labels: rsa 0.60 ± 0.06, last cka 0.50 (chance 0.30)." in str(found)
    assert "digits (test), n = 540" in str(found)


@pytest.mark.parametrize("kind", ["none", "another kind"])
def test_where_nothing_can_be_said_that_is_said(kind, tmp_path):
    if kind != "none":
        depth = np.arange(3.0)
        Variance(["a", "b", "c"], ["conv"] * 3, [0, 1, 1], depth, *[0 * depth] * 9).save(tmp_path / "N")
    assert str(findings("N", folders=[tmp_path])) == "Nothing is saved in results or runs yet: this run will say."
