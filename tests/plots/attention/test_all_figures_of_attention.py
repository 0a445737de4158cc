"""Figures of attention show the numbers of the results, and say what they are of."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection

from utilities.analysis.attention.attention_distance import AttentionDistance, attention_distance
from utilities.analysis.attention.lambda_reach import lambda_reach
from utilities.plots.attention import plot_distance_over_depth, plot_head_windows, plot_lambda_reach, plot_sorted_heads
from utilities.results.head_windows import HeadWindowSimilarity
from utilities.zoo import create_model

IMAGES = [torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))]
FACTS = {"model": "a model", "weights": "untrained", "dataset": "noise"}


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def caption(figure):
    return figure.caption


@pytest.fixture(scope="module")
def result():
    return attention_distance(create_model("swin_tiny_patch2_16", 5, seed=0), IMAGES, device="cpu", provenance=FACTS)


def test_heads_of_the_ends_are_sorted_over_an_axis_from_zero(result):
    figure = plot_sorted_heads({"one": result, "two": result})
    for ax in figure.axes:
        for line, block in zip(ax.lines, (0, 1, 4, 5), strict=False):
            heads = 2 if block < 2 else 4
            np.testing.assert_array_equal(line.get_ydata(), result.sorted_distance[block, :heads])
        even = {line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == "--"}
        assert even == {round(value, 6) for value in result.uniform_distance[[0, 1, 4, 5]]}
        assert ax.get_ylim()[0] == 0
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["first block", "second block", "last block but one", "last block"]
    assert "noise, n = 4 images" in caption(figure)


def test_a_model_of_one_block_is_drawn_once():
    model = create_model("vit_tiny_patch2_16", 5, seed=0, depth=1)
    figure = plot_sorted_heads(attention_distance(model, IMAGES, device="cpu"))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["first block"]


def test_all_heads_stand_over_depth_with_their_entropy(result):
    figure = plot_distance_over_depth(result)
    for ax, values, even in zip(
        figure.axes, (result.distance, result.entropy), (result.uniform_distance, result.uniform_entropy), strict=True
    ):
        heads = [each for each in ax.collections if isinstance(each, PathCollection)]
        points = np.ma.concatenate([each.get_offsets()[:, 1] for each in heads]).compressed()
        np.testing.assert_array_equal(np.unique(points), np.unique(values[np.isfinite(values)]))
        np.testing.assert_array_equal(ax.lines[-1].get_ydata(), even)


def test_no_marker_is_cut_where_all_heads_look_nearly_as_far():
    """Over an axis from zero, a share of the values' own range is no room: here it is 0.1 percent of the axis."""
    one, even = np.array([[9.8, 10.0], [9.9, 9.9]]), np.full(2, 9.9)
    close = AttentionDistance(["a", "b"], one, one / 99, one, one / 99, even, even)
    for plot in (plot_sorted_heads, plot_distance_over_depth):
        for ax in plot(close).axes:
            low, high = ax.get_ylim()
            assert low == 0
            assert (high - 10.0) / (high - low) > 0.03


def test_a_curve_for_each_layer_of_the_cnn_over_distance():
    matrix, facts = (
        np.array([[0.9, 0.5], [0.4, 0.3]]),
        {"measure": "linear CKA", "heads": [[1], [0]], "block": "blocks.0.attn"},
    )
    facts |= {"model1": "vit", "model2": "cnn", "weights1": "pretrained"}
    one = HeadWindowSimilarity(
        matrix,
        ["heads 1", "heads 0"],
        ["conv1", "conv2"],
        9,
        matrix / 9,
        provenance=facts,
        distance=np.array([20.0, 60.0]),
    )
    figure = plot_head_windows({"first": one, "second": one})
    ax = figure.axes[0]
    for container, column in zip(ax.containers, (0, 1), strict=True):
        np.testing.assert_array_equal(container.lines[0].get_xydata(), np.stack([one.distance, matrix[:, column]], 1))
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()] == ["conv1", "conv2"]
    assert ax.get_ylabel() == "linear CKA"
    assert caption(figure).count("pretrained") == 1
    assert "Each point is a head of blocks.0.attn" in caption(figure)


def test_parts_of_lambda_layers():
    result = lambda_reach(create_model("lambda_resnet26", 5, seed=0), IMAGES, device="cpu", provenance=FACTS)
    figure = plot_lambda_reach(result)
    distance, share = figure.axes
    drawn = {line.get_label(): line.get_ydata() for ax in (share, distance) for line in ax.lines}
    np.testing.assert_allclose(drawn["content"], result.content_distance.mean(1))
    np.testing.assert_allclose(drawn["both"], result.distance.mean(1))
    np.testing.assert_allclose(drawn["equal weights"], result.uniform_distance)
    shares = {line.get_label(): line.get_ydata() for line in share.lines}
    np.testing.assert_allclose(shares["position"], result.position_share.mean(1))
    assert [text.get_text() for text in share.get_xticklabels()] == result.names
