import numpy as np
import pytest

from utilities.plots.similarity import plot_nearness
from utilities.results.similarity_difference import SimilarityDifference

FACTS = {"model1": "alternet18", "model2": "resnet18", "model3": "vit", "accuracy3": 0.9, "measure": "linear CKA",
         "dataset": "digits (test)", "match": "depth"}  # fmt: skip


def made(count=5, **changes):
    difference = np.linspace(-0.1, 0.3, count)
    stderr = np.full(count, 0.05)
    values = {
        "layers": [f"layer{k}" for k in range(count)], "matches1": ["x"] * count, "matches2": ["u"] * count,
        "similarity1": 0.5 + difference, "similarity2": np.full(count, 0.5), "difference": difference, "stderr": stderr,
        "low": difference - 0.1, "high": difference + 0.1, "p_value": stderr, "band_low": difference - 0.15,
        "band_high": difference + 0.15, "p_family": np.linspace(1, 0.01, count), "score": difference / stderr,
        "null_largest": np.linspace(0.5, 3.5, 200), "critical": 2.6, "n": 100, "provenance": FACTS,
        "whole": {"difference": 0.1, "low": 0.05, "high": 0.15, "p_value": 0.01},
    }  # fmt: skip
    return SimilarityDifference(**{**values, **changes})


def test_all_layers_and_their_mean_are_drawn_with_the_largest_ringed():
    left, right = plot_nearness(made()).axes
    layers, mean, ring, zero = left.lines
    np.testing.assert_allclose(layers.get_ydata(), np.linspace(-0.1, 0.3, 5))
    assert (mean.get_xdata()[0], mean.get_ydata()[0]) == (5.5, 0.1)
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (4.0, 0.3)
    assert set(zero.get_ydata()) == {0}
    assert [text.get_text() for text in left.texts] == ["↑ nearer to resnet18", "↓ nearer to vit"]
    assert [tick.get_text() for tick in left.get_xticklabels()][-2:] == ["layer4", "all layers"]
    assert right.lines[1].get_xdata()[0] == pytest.approx(6.0)  # the largest score
    assert right.get_xlim()[1] > 6
    assert "6.0 at layer4" in right.get_title()


def test_two_equal_models_leave_an_axis_of_some_length():
    none = np.zeros(5)
    equal = made(difference=none, stderr=none, score=none, null_largest=np.zeros(200), critical=0.0)
    assert plot_nearness(equal).axes[1].get_xlim() == (0, 1.08)


def test_the_caption_states_models_images_and_the_whole():
    caption = plot_nearness(made()).caption
    assert "vit: accuracy 90.0%" in caption
    assert "digits (test), n = 100 images" in caption
    assert "the layer at the same relative depth" in caption
    assert "All layers: +0.100, p = 0.01" in caption


def test_missing_layers_leave_a_gap_and_are_not_the_largest():
    gap = np.array([0.1, np.nan, 0.2])
    bounds = dict.fromkeys(("low", "high", "band_low", "band_high", "p_family", "stderr", "score", "p_value"), gap)
    result = made(3, difference=gap, **bounds)
    assert result.largest == "layer2"
    assert np.isnan(plot_nearness(result).axes[0].lines[0].get_ydata()[1])
