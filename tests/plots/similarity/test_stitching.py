import numpy as np
import pytest

from utilities.plots.similarity import plot_stitching, plot_stitching_matrix
from utilities.results.stitching import Stitching


def made(all_pairs=False, fits=("closed form",), scale=1.0):
    count, k = 3, len(fits)
    values = scale * np.linspace(0.9, 0.5, 9).reshape(count, count)[None].repeat(k, 0)
    values = values if all_pairs else np.where(np.eye(count, dtype=bool), values, np.nan)
    error, part = 0.01 * values, values[:1]
    return Stitching(
        ["a0", "a1", "a2"], ["b0", "b1", "b2"], list(fits), values, error, error, values, values, error,
        ["positions"], part, part, part, np.array([0.7, 0.95]), np.full(2, 0.01), np.ones(2), 0.1, 540,
        provenance={"model1": "resnet18", "model2": "vit_tiny", "dataset": "digits (test)", "n_train": 300,
                    "penalty": None, "epochs": 2 * (k - 1)},
    )  # fmt: skip


def lines_of(ax):
    return {line.get_label(): np.asarray(line.get_ydata(), float) for line in ax.lines}


def test_curves_stand_between_the_second_model_and_chance():
    figure = plot_stitching(made(fits=("closed form", "trained")), made(scale=0.5))
    ax = figure.axes[0]
    assert [box.get_label() for box in ax.containers] == [
        *("stitched, closed form", "stitched, trained", "untrained first model"),
    ]
    np.testing.assert_allclose(ax.containers[0].lines[0].get_ydata(), [90, 70, 50])
    np.testing.assert_allclose(ax.containers[2].lines[0].get_ydata(), [45, 35, 25])
    assert lines_of(ax)["second model alone"][0] == 95
    assert lines_of(ax)["chance"][0] == 10
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["a0 to b0", "a1 to b1", "a2 to b2"]
    for said in ("first: resnet18", "second: vit_tiny", "digits (test), n = 540", "300 other images", "2 epochs"):
        assert said in figure.caption


def test_several_have_a_panel_each_and_one_scale():
    figure = plot_stitching({"one": made(), "two": made(), "three": made(), "four": made()}, {"two": made(scale=0.5)})
    drawn = [ax for ax in figure.axes if ax.axison]
    assert [ax.get_title() for ax in drawn] == ["one", "two", "three", "four"]
    assert len({ax.get_ylim() for ax in drawn}) == 1
    assert drawn[0].get_ylim()[0] == 0
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert any("untrained" in text for text in named)  # which the first panel does not show


def test_all_pairs_are_scaled_from_chance_to_the_second_model():
    figure = plot_stitching_matrix(made(all_pairs=True))
    assert figure.axes[0].images[0].get_clim() == (0.1, 0.95)
    assert "from chance, 10.0%, to the accuracy of the second model by itself, 95.0%, and not" in figure.caption
    assert figure.axes[1].get_ylabel() == "accuracy of the stitched network, from chance to the second model"
    assert "Bars" not in figure.caption  # a heatmap has none


def test_a_scale_that_ends_elsewhere_says_so():
    figure = plot_stitching_matrix(made(all_pairs=True, scale=1.1))
    assert figure.axes[0].images[0].get_clim() == pytest.approx((0.1, 0.99))
    assert "from chance, 10.0%, to the highest accuracy of a stitched network, 99.0%, and not" in figure.caption


@pytest.mark.parametrize(
    ("results", "controls", "message"),
    [
        ({}, None, "no results"),
        ({"a": made()}, {"b": made()}, "the control 'b' is of none of a"),
        ({"a": made(all_pairs=True)}, None, "take plot_stitching_matrix"),
    ],
)
def test_what_cannot_be_drawn(results, controls, message):
    with pytest.raises(ValueError, match=message):
        plot_stitching(results, controls)
