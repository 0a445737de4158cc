"""Figures: honest scales, right extents, names where they belong."""

from itertools import pairwise

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from utilities.compare import Similarity, average
from utilities.plots.captions import describe_similarity
from utilities.plots.layer_ticks import MAX_LABELS
from utilities.plots.similarity.heatmap import plot_similarity, stage_boundaries, stage_of

mpl.use("Agg")
FACTS = {
    "model": "resnet18",
    "weights": "trained for 10 epochs on digits, seed 0",
    "accuracy": 0.9722,
    "dataset": "digits (test)",
    "batch_size": 180,
    "measure": "linear CKA",
    "estimator": "debiased",
    "profile": "quick",
}


def result(layers=40, low=0.2, **facts):
    names = ["bn1", *(f"layer{1 + 4 * i // layers}.{i}.relu" for i in range(layers - 2)), "fc"]
    matrix = np.linspace(low, 1, layers * layers).reshape(layers, layers)
    return Similarity(matrix, names, names, 540, provenance=FACTS | facts)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_scale_extent_and_aspect():
    figure = plot_similarity(result())
    ax = figure.axes[0]
    (image,) = ax.images
    assert image.get_clim() == (0, 1)
    assert image.origin == "lower"
    assert tuple(image.get_extent()) == (-0.5, 39.5, -0.5, 39.5)
    assert ax.get_aspect() == 1
    np.testing.assert_array_equal(image.get_array(), result().matrix)
    assert plot_similarity(result(), vmin=0.5, vmax=0.9).axes[0].images[0].get_clim() == (0.5, 0.9)


def test_labels_name_their_own_rows_and_are_few():
    figure = plot_similarity(result(layers=200))
    ax, names = figure.axes[0], result(layers=200).layers1
    for ticks, labels in ((ax.get_xticks(), ax.get_xticklabels()), (ax.get_yticks(), ax.get_yticklabels())):
        assert MAX_LABELS / 2 < len(ticks) <= MAX_LABELS
        assert names[int(ticks[-1])] == "fc"
        assert [names[int(tick)] for tick in ticks] == [label.get_text() for label in labels]


def test_no_text_is_clipped_or_overlaps():
    figure = plot_similarity(average([result(), result(low=0.1)]))
    figure.canvas.draw()
    page = figure.bbox
    for ax in figure.axes:
        boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
        assert all(page.x0 <= box.x0 and box.x1 <= page.x1 for box in boxes)
        assert all(one.y1 <= two.y0 + 1 for one, two in pairwise(boxes))
    caption_box = figure._supxlabel.get_window_extent()
    assert page.x0 <= caption_box.x0
    assert caption_box.x1 <= page.x1
    assert caption_box.y1 < figure.axes[0].get_tightbbox().y0 + 1


def test_missing_layers_are_grey_and_said_to_be():
    one = result()
    one.matrix[3] = np.nan
    figure = plot_similarity(one)
    assert np.ma.getmaskarray(figure.axes[0].images[0].get_array())[3].all()
    assert "Grey: no variance" in figure.caption


def test_values_off_the_scale_are_shown_by_a_pointed_end():
    one = result()
    one.matrix[0, 1] = -0.1
    (bar,) = [ax for ax in plot_similarity(one).axes if ax.get_label() == "<colorbar>"]
    assert bar._colorbar.extend == "min"


def test_spread_has_its_own_panel_and_scale():
    figure = plot_similarity(average([result(), result(low=0.1)]))
    images = [image for ax in figure.axes for image in ax.images]
    assert len(images) == 2
    np.testing.assert_allclose(images[1].get_array().max(), 0.1 / 2**0.5)
    assert images[1].get_clim()[0] == 0


def test_caption_says_what_it_was_made_from():
    text = describe_similarity(result())
    for fact in (
        "resnet18",
        "trained for 10 epochs",
        "97.2%",
        "digits (test)",
        "n = 540",
        "debiased",
        "Quick profile",
    ):
        assert fact in text
    pair = Similarity(np.eye(1), ["a"], ["b"], 10, provenance={"model1": "one", "accuracy1": 0.5, "model2": "two"})
    assert "rows: one, accuracy 50.0%. columns: two" in describe_similarity(pair).replace("Rows", "rows").replace(
        "Columns", "columns"
    )


def test_stages():
    names = ["conv1", "layer1.0.bn1", "layer1.1.bn1", "layer2.0.bn1", "avgpool", "fc"]
    assert stage_boundaries(names) == [1, 3, 4]
    others = ["stages.0.blocks.1.conv", "encoder.layers.encoder_layer_3.mlp", "layers.2.blocks.0.attn", "features.0.0"]
    assert [stage_of(name) for name in others] == [
        "stages.0",
        "encoder.layers.encoder_layer_3",
        "layers.2",
        "features.0",
    ]
