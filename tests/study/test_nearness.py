import numpy as np
import pytest

from tests.plots.similarity.test_nearness import made
from tests.plots.similarity.test_nearness_matrix import made as matrix
from utilities.study import Group, findings
from utilities.study.nearness import describe_nearness, nearness_of

WHOLE = {"similarity1": 0.6, "similarity2": 0.4, "low": 0.1, "high": 0.3}


@pytest.mark.parametrize(
    ("difference", "p", "said"),
    [
        (0.2, 0.01, "alternet18 is nearer to resnet18 (linear CKA 0.60) than to vit (0.40)"),
        (-0.2, 0.01, "alternet18 is nearer to vit (0.40) than to resnet18 (linear CKA 0.60)"),
        (0.2, 0.2, "is not shown to be nearer to resnet18"),
    ],
)
def test_it_says_which_is_nearer_where_the_numbers_do(difference, p, said):
    text = describe_nearness(made(whole={**WHOLE, "difference": difference, "p_value": p})).replace("\n", " ")
    assert said in text
    assert "Of 5 layers, 1 is nearer to resnet18 and 0 to vit, at p <= 0.05 among all of them" in text
    assert "largest difference is at layer4, +0.300, p = 0.01" in text


def test_of_a_whole_matrix_it_counts_pairs_of_layers():
    whole = {**WHOLE, "difference": 0.2, "p_value": 0.01}
    text = describe_nearness(matrix(whole=whole)).replace("\n", " ")
    assert "Of 12 pairs of layers, 1 is nearer to resnet18 and 0 to vit, at p <= 0.05 among all of them" in text
    assert "largest difference is at layer2 and one3 / two3, +0.300, p = 0.01 among all pairs." in text


def test_a_saved_result_is_stated_as_a_finding(tmp_path):
    results = [kind(whole={**WHOLE, "difference": 0.2, "p_value": 0.01}) for kind in (matrix, made)]
    for result in results:
        result.save(tmp_path / "Which_One")
        found = findings("Which_One", tmp_path, folders=())
        assert found.lines == (describe_nearness(result),)
    assert found.data == "digits (test), n = 100"


def test_three_models_are_needed_before_any_is_trained():
    with pytest.raises(ValueError, match="there are 2"):
        nearness_of(Group("Nearer", ["resnet18", "resnet34"]))
    with pytest.raises(TypeError, match="matches"):
        nearness_of(Group("Nearer", ["resnet18", "resnet34", "resnet50"]), matches="best")


def test_a_result_whose_layers_are_all_missing_names_none_nearer():
    nothing = np.full(5, np.nan)
    whole = {"difference": np.nan, "p_value": np.nan, "similarity1": np.nan, "similarity2": np.nan}
    assert made(difference=nothing, score=nothing, p_family=nothing, whole=whole).nearer == 0
