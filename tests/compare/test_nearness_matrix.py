"""The difference of whole matrices of similarities: equal to curves where both hold, known answers, and refusals."""

import numpy as np
import pytest
import torch

from tests.compare.test_nearness import QUIET, disturbed, loader, net, similarity
from utilities.compare import compare_similarities
from utilities.compare.gram_differences import difference_of_grams
from utilities.metrics import center
from utilities.results.matrix_difference import MatrixDifference

CELLS = ("similarity1", "similarity2", "difference", "stderr", "low", "high", "p_value", "score")


def whole(model, first, second, **options):
    return compare_similarities(model, first, second, loader(), match="all", **{**QUIET, **options})


def test_its_diagonal_is_the_curve_and_its_family_is_larger():
    model, first, second = net(), net(1), net(2)
    matrix, curve = whole(model, first, second), compare_similarities(model, first, second, loader(), **QUIET)
    for name in CELLS:
        np.testing.assert_allclose(getattr(matrix, name).diagonal(), getattr(curve, name), rtol=1e-9, atol=1e-12)
    assert (matrix.null_largest >= curve.null_largest).all()
    assert (matrix.p_family.diagonal() >= curve.p_family).all()
    assert matrix.critical > curve.critical


def test_both_similarities_are_the_matrices_of_compare():
    model, first, second = net(), net(1, (18, 5)), net(2, (9, 7))
    found = whole(model, first, second)
    assert found.difference.shape == (3, 2)
    for other, names, values in (
        (first, found.matches1, found.similarity1),
        (second, found.matches2, found.similarity2),
    ):
        expected = similarity(model, other, found.layers, names).to_frame().loc[found.layers, names]
        np.testing.assert_allclose(values, expected, atol=1e-10)
    assert found.whole["similarity1"] == pytest.approx(found.similarity1.mean())


def test_a_slightly_disturbed_model_is_nearer_at_its_own_layers():
    model = net()
    found = whole(model, disturbed(model, 0.1, 1), net(5))
    assert found.nearer == 1
    assert found.p_family.diagonal().max() <= 0.02
    swapped = whole(model, net(5), disturbed(model, 0.1, 1))
    np.testing.assert_allclose(swapped.difference, -found.difference, rtol=1e-9)
    np.testing.assert_allclose(swapped.p_family, found.p_family)


def test_models_that_are_equal_in_distribution_are_found_to_differ_about_as_often_as_by_chance():
    generator, family, single = torch.Generator().manual_seed(0), 0, 0
    for seed in range(60):
        x, *noise = torch.randn(10, 40, 4, generator=generator, dtype=torch.float64)
        features = {
            (0, 0): x, (0, 1): x + noise[0], (0, 2): x + noise[1],
            **{(side, k): x + noise[3 * side + k - 1] for side in (1, 2) for k in range(3)},
        }  # fmt: skip
        grams = {(side, 0, str(k)): [center(y @ y.T)] for (side, k), y in features.items()}
        found = difference_of_grams(grams, match="all", resamples=100, seed=seed)
        family += found.p_family.min() <= 0.05
        single += found.p_value.min() <= 0.05
    assert family <= 9  # of 60 at 5%, more than 9 have a probability of 0.1%
    assert single >= 2 * max(family, 1)  # nine cells by themselves would make findings


def test_it_is_saved_loaded_and_tabulated_by_pairs_of_layers(tmp_path):
    found = whole(net(), net(1), net(2, (18, 14, 9)), provenance={"model1": "hybrid"})
    again = MatrixDifference.load(found.save(tmp_path / "a"))
    table = again.to_frame()
    assert table.equals(found.to_frame())
    assert len(table) == 9 + 1
    row, column = found.place
    cell = table.iloc[3 * row + column]
    assert (cell.name, cell["match2"]) == (found.layers[row], found.matches2[column])
    assert cell["difference"] == found.difference[row, column]
    assert cell["p_family"] == table["p_family"].min()
    assert repr(again).startswith("<MatrixDifference: 3 x 3 pairs of layers")
    drawn = again.to_similarity()
    np.testing.assert_array_equal(drawn.matrix, found.difference)
    assert drawn.provenance["measure"] == "difference of linear CKA"


def test_layers_without_variance_are_missing_rows_and_columns_and_named():
    model, first = net(), net(1, (18, 5))
    with torch.no_grad():
        model[5].weight.zero_()
        first[3].weight.zero_()
    with pytest.warns(UserWarning, match="shown as missing: 5, 3$"):
        found = whole(model, first, net(2, (9, 7)))
    np.testing.assert_array_equal(np.isnan(found.difference), [[False, True], [False, True], [True, True]])
    assert found.whole["difference"] == pytest.approx(np.nanmean(found.difference))


def test_models_with_different_numbers_of_layers_are_refused_before_they_run():
    class Untouched:
        def __iter__(self):
            raise AssertionError("images were read")

    with pytest.raises(ValueError, match="the first has 3 and the second 5: choose equally many"):
        compare_similarities(net(), net(1), net(2, (18, 14, 9, 7, 5)), Untouched(), match="all", **QUIET)
    grams = {(side, 0, str(k)): [torch.zeros(20, 20)] for side in range(3) for k in range(1 + side)}
    with pytest.raises(ValueError, match="the first has 2 and the second 3"):
        difference_of_grams(grams, match="all")
