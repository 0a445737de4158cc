import numpy as np
import pytest

from utilities.plots.similarity import plot_calibration
from utilities.results.calibration import calibration_of

FACTS = {"model1": "resnet18", "model2": "vit", "measure": "linear CKA", "dataset": "digits (test)"}


def made(values):
    null = np.random.default_rng(0).random((99, 3, 2)) / 5
    return calibration_of(np.array(values), null, list("abc"), list("xy"), 12, 0.05, FACTS)


def test_curves_are_those_of_best_match_and_open_where_chance_will_do():
    result = made([[0.9, 0.3], [0.1, 0.05], [0.5, 0.6]])
    ax = plot_calibration({"one": result, "two": result}).axes[0]
    table = result.best_match()
    np.testing.assert_allclose(ax.lines[0].get_ydata(), table["similarity"])
    calibrated = next(line for line in ax.lines if line.get_label() == "calibrated")
    np.testing.assert_allclose(calibrated.get_ydata(), table["calibrated"])
    opened = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert [line.get_xdata().tolist() for line in opened] == [[0.5], [0.5]]
    assert ax.get_title() == "one"


def test_caption_says_what_it_was_made_from():
    caption = plot_calibration(made([[0.9, 0.3], [0.1, 0.05], [0.5, 0.6]])).caption
    assert "first: resnet18, second: vit" in caption
    assert "n = 12 images" in caption
    assert "99 permutations" in caption


def test_negative_values_stay_in_sight_and_nothing_is_refused():
    assert plot_calibration(made([[-0.1, -0.2]] * 3)).axes[0].get_ylim()[0] < -0.1
    with pytest.raises(ValueError, match="no results"):
        plot_calibration({})
