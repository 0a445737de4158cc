"""Thresholds, calibrated values and p-values of known nulls, and the maximum over layers."""

import numpy as np
import pytest

from utilities.results.calibration import Calibration, calibrated_of, calibration_of, p_value_of, threshold_of


def test_by_hand():
    null = np.arange(99) / 100  # 0 to 0.98; with the observed value 100 values, of which the 95th counts
    assert threshold_of(np.array(0.995), null) == pytest.approx(0.94)
    assert calibrated_of(np.array(0.995), null) == pytest.approx((0.995 - 0.94) / 0.06)
    assert p_value_of(np.array(0.995), null) == pytest.approx(0.01)
    assert threshold_of(np.array(0.5), null) == pytest.approx(0.93)  # the observed value stands below the threshold
    assert calibrated_of(np.array(0.5), null) == 0
    assert p_value_of(np.array(0.5), null) == pytest.approx((1 + 49) / 100)


def test_a_perfect_match_stays_one_and_a_saturated_null_gives_nothing():
    assert calibrated_of(np.array(1.0), np.full(99, 0.8)) == 1
    assert calibrated_of(np.array(1.0), np.ones(99)) == 0
    assert p_value_of(np.array(1.0), np.ones(99)) == 1


@pytest.mark.parametrize("count", [19, 20, 99, 200, 250])
@pytest.mark.parametrize("level", [0.05, 0.1, 0.5])
def test_above_zero_where_p_is_at_most_the_level(count, level):
    rng = np.random.default_rng(count)
    values, null = rng.random(500), rng.random((count, 500))
    np.testing.assert_array_equal(calibrated_of(values, null, level) > 0, p_value_of(values, null) <= level + 1e-12)


@pytest.mark.parametrize(("count", "level"), [(18, 0.05), (0, 0.05), (98, 0.01)])
def test_too_few_permutations_are_refused(count, level):
    with pytest.raises(ValueError, match="cannot show anything"):
        threshold_of(np.zeros(()), np.zeros(count), level)
    threshold_of(np.zeros(()), np.zeros(round(1 / level) - 1), level)


@pytest.mark.parametrize("level", [0, 1, -0.1])
def test_a_level_is_a_share(level):
    with pytest.raises(ValueError, match="above 0 and below 1"):
        threshold_of(np.zeros(()), np.zeros(99), level)


def made():
    matrix = np.array([[0.5, 0.9, 0.1], [0.2, 0.3, np.nan], [np.nan] * 3])
    null = np.random.default_rng(0).random((99, 3, 3)) / 2
    null[:, np.isnan(matrix)] = np.nan
    return calibration_of(matrix, null, list("abc"), list("xyz"), 20, 0.05, {"measure": "linear CKA"}), null


def test_best_match_takes_the_maximum_in_each_permutation():
    result, null = made()
    table = result.best_match()
    assert table["match"].to_dict() == {"a": "y", "b": "y"}  # c has no value
    np.testing.assert_allclose(table.loc["a", "threshold"], threshold_of(np.array(0.9), null[:, 0].max(1)))
    np.testing.assert_allclose(table.loc["b", "null_mean"], null[:, 1, :2].max(1).mean())
    whole = result.maximum()
    assert (whole["layer1"], whole["layer2"]) == ("a", "y")
    assert whole["null_mean"] == pytest.approx(np.nanmax(null, axis=(1, 2)).mean())
    assert whole["null_mean"] > table["null_mean"].max()  # more pairs, more chances


def test_missing_layers_stay_missing(tmp_path):
    result, _ = made()
    for table in (result.calibrated, result.p_value, result.threshold):
        np.testing.assert_array_equal(np.isnan(table), np.isnan(result.matrix))
    again = Calibration.load(result.save(tmp_path / "a"))
    np.testing.assert_array_equal(again.null_best, result.null_best)
    assert len(result.to_frame()) == 9
    assert result.to_similarity().provenance["measure"] == "calibrated linear CKA"
    with pytest.raises(ValueError, match="no pair of layers has a value"):
        calibration_of(np.full((1, 1), np.nan), np.full((99, 1, 1), np.nan), ["a"], ["b"], 9).maximum()
