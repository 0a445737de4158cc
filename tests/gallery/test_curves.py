import numpy as np

from utilities.analysis.attention.attention_distance import AttentionDistance
from utilities.analysis.blocks.lesion import Lesions
from utilities.analysis.blocks.skip_ratios import SkipRatios
from utilities.analysis.blocks.variance import Variance
from utilities.gallery.curves import as_data
from utilities.gallery.tables import kinds, read_result, write_table


def variance(scale=1.0):
    values = scale * np.array([1.0, np.nan, 1 / 3])
    return Variance(["a", "b", "c"], ["conv"] * 3, [0, 1, 1], *[values] * 10)


def test_results_of_a_kind_share_a_plot_and_keep_their_values():
    (plot,) = as_data({"one": variance(), "two": variance(2)}, {"one": "resnet18", "two": "vit"})
    assert plot["title"] == "variance of feature maps"
    first, second = plot["curves"]
    assert first == {
        "name": "resnet18", "points": ["a", "b", "c"], "x": [0.0, 0.5, 1.0],
        "y": [1.0, None, 0.3333], "errors": [1.0, None, 0.3333],
    }  # fmt: skip
    assert (second["name"], second["y"][2]) == ("vit", 0.6667)


def test_points_are_joined_only_where_each_has_a_depth_of_its_own():
    two = np.zeros(2)
    apart, together = (
        Lesions(["a", "b"], ["conv"] * 2, [0, 0], np.array(depth), two, two, two, two, 0.5)
        for depth in ([0.0, 1.0], [0.5, 0.5])
    )
    (plot,) = as_data({"a": apart}, {"a": "vit"})
    assert plot["joined"] is True
    (plot,) = as_data({"a": apart, "b": together}, {"a": "vit", "b": "cnn"})
    assert plot["joined"] is False


def test_each_head_is_a_curve():
    far = np.array([[1.0, 2.0], [3.0, 4.0]])
    result = AttentionDistance(["blocks.0", "blocks.1"], far, far / 10, far, far, far[:, 0], far[:, 0])
    (plot,) = as_data({"a": result}, {"a": "vit"})
    assert [curve["y"] for curve in plot["curves"]] == [[1.0, 3.0], [2.0, 4.0]]
    assert plot["curves"][1]["name"] == "vit, head 1"
    assert plot["curves"][1]["points"] == ["blocks.0, head 1", "blocks.1, head 1"]


def test_errors_are_over_images():
    ratios = np.array([[[1.0], [4.0]], [[3.0], [4.0]]])  # images, branches, groups
    none = np.zeros(2)
    tokens = [np.zeros((2, 1))] * 4
    counts = [none] * 3
    result = SkipRatios(["a", "b"], ["mlp"] * 2, ["spatial"], none, np.zeros((2, 2)), ratios, ratios, *tokens, *counts)
    (plot,) = as_data({"a": result}, {"a": "vit"})
    assert plot["curves"][0]["y"] == [2.0, 4.0]
    assert plot["curves"][0]["errors"] == [1.0, 0.0]


def test_all_kinds_of_results_are_read_and_tabulated(tmp_path):
    assert {"Similarity", "Fourier", "LayerMatching", "ImageContributions", "Robustness"} <= kinds().keys()
    variance().save(tmp_path / "a")
    result = read_result(tmp_path / "a.npz")
    assert type(result) is Variance
    assert write_table(result, tmp_path / "a.csv")
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 4
