"""Heatmaps of any shape: all that is written can be read, measured in the drawn figure, and little is left empty."""

import io
import pickle
import warnings
from itertools import combinations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from utilities.plots.resizing import resize_figure
from utilities.plots.similarity.batches import plot_batches
from utilities.plots.similarity.comparison import plot_difference, plot_results, plot_significance
from utilities.plots.similarity.depth import plot_best_match, plot_diagonal
from utilities.plots.similarity.heatmap import plot_similarity
from utilities.plots.similarity.panels import plot_panels
from utilities.plots.style import SMALLEST
from utilities.results.similarity import Similarity, average

mpl.use("Agg")
FACTS = {
    "model1": "resnet18",
    "weights1": "trained for 10 epochs on digits, seed 0",
    "model2": "timm/vit_small_patch14_dinov2.lvd142m",
    "weights2": "pretrained",
    "dataset": "imagenet (val)",
    "measure": "linear CKA",
}
SHORT = ("blocks.{}.attn.qkv", "layer{}.relu")
LONG = (
    "backbone.encoder.layers.{}.attention.self.query_projection",
    "model.vision_tower.blocks.{}.mixer.attn.in_projection_weight",
)
TITLE = "A title that says much more than it should about the two models, their training, their images, and the rest"
SHAPES = [(5, 5), (111, 39), (39, 111), (23, 60), (23, 225), (225, 23), (1, 40), (40, 1), (219, 219)]


def result(rows, columns, names=SHORT):
    a, b = np.linspace(0, 1, rows)[:, None], np.linspace(0, 1, columns)
    matrix = np.exp(-8 * (a - b) ** 2)
    layers = [[name.format(i) for i in range(n)] for name, n in zip(names, matrix.shape, strict=True)]
    p_value, batches = np.where(matrix < 0.5, 0.5, 0.01), np.stack([matrix, 0.9 * matrix, 0.8 * matrix])
    return Similarity(matrix, *layers, 5000, p_value=p_value, per_batch=batches, provenance=FACTS)


def texts_of(figure):
    """Collect all that is written: tick labels, labels of axes, titles, the caption."""
    artists = [figure._supxlabel] if figure._supxlabel else []
    for ax in figure.axes:
        artists += [ax.title, ax.xaxis.label, ax.yaxis.label]
        for axis in (ax.xaxis, ax.yaxis):
            ticks = axis.get_major_ticks() if axis.get_visible() else []
            artists += [label for tick in ticks for label in (tick.label1, tick.label2)]
    return [artist for artist in artists if artist.get_visible() and artist.get_text()]


def overlap(one, two):
    """Count the pixels that two boxes share along the axis on which they share fewer; at most 0 if they are apart."""
    return min(min(one.x1, two.x1) - max(one.x0, two.x0), min(one.y1, two.y1) - max(one.y0, two.y0))


def check(figure, share):
    """See that no text leaves the canvas or lies on another one or on a heatmap, to half a pixel, and none is small."""
    figure.canvas.draw()
    page, texts = figure.bbox, texts_of(figure)
    boxes = [text.get_window_extent() for text in texts]
    for text, box in zip(texts, boxes, strict=True):
        assert page.x0 - 0.5 <= box.x0 < box.x1 <= page.x1 + 0.5, text.get_text()
        assert page.y0 - 0.5 <= box.y0 < box.y1 <= page.y1 + 0.5, text.get_text()
        assert text.get_fontsize() >= SMALLEST
        assert all(overlap(box, ax.bbox) < 0.5 for ax in figure.axes), text.get_text()
    for (one, two), (a, b) in zip(combinations(boxes, 2), combinations(texts, 2), strict=True):
        assert overlap(one, two) < 0.5, (a.get_text(), b.get_text())
    maps = [ax.bbox for ax in figure.axes if ax.images]
    assert sum(box.width * box.height for box in maps) > share * page.width * page.height
    return maps


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("names", [SHORT, LONG], ids=["short", "long"])
def test_heatmaps_of_any_shape_can_be_read_and_fill_their_canvas(shape, names):
    """Shares were .03 to .22 of a canvas before, and half of the shapes lost their title or had overlapping names."""
    figure = plot_similarity(result(*shape, names), title=TITLE if names is LONG else None)
    (box, bar) = check(figure, 0.28 if names is SHORT else 0.2)[0], figure.axes[1].bbox
    rows, columns = shape
    assert box.height / box.width == pytest.approx(np.clip(rows / columns, 1 / 3, 3), rel=0.05)
    np.testing.assert_allclose([bar.y0, bar.y1], [box.y0, box.y1], atol=0.5)


@pytest.mark.parametrize("shape", [(5, 5), (111, 39), (23, 225)], ids=str)
@pytest.mark.parametrize("names", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("width", ["column", "page", 4.5])
def test_a_given_width_is_kept_and_text_can_be_read_at_it(shape, names, width):
    figure = plot_similarity(result(*shape, names), width=width, caption=False, title=TITLE)
    check(figure, 0.12)
    assert figure.get_figwidth() == {"column": 3.25, "page": 6.75}.get(width, width)
    assert figure._supxlabel.get_text() == ""


FIGURES = {
    "spread": lambda **o: plot_similarity(average([result(40, 40), result(40, 40)]), **o),
    "results": lambda **o: plot_results([result(36, 68), result(20, 20), result(68, 36), result(23, 225)], **o),
    "wide results": lambda **o: plot_results([result(23, 225, LONG)] * 2, **o),
    "difference": lambda **o: plot_difference(result(23, 60), result(23, 60), **o),
    "significance": lambda **o: plot_significance(result(111, 39), **o),
    "panels": lambda **o: plot_panels([[result(36, 36), result(36, 36)]] * 3, **o),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
@pytest.mark.parametrize("width", [None, "page", "column"])
def test_figures_of_several_share_the_layout(draw, width):
    """Where panels beside each other would be too slim to read, they come below each other."""
    assert check(draw(width=width), 0.1)


def test_curves_and_batches_can_be_read_with_long_names():
    square, wide = result(60, 60, LONG), result(23, 60, LONG)
    for figure in (plot_diagonal(square), plot_best_match(wide), plot_best_match(wide, axis=0)):
        figure.canvas.draw()
        for ax in figure.axes:
            for axis in (ax.xaxis, ax.yaxis):
                boxes = [label.get_window_extent() for label in axis.get_ticklabels() if label.get_text()]
                assert all(overlap(one, two) < 0.5 for one, two in combinations(boxes, 2))
        assert figure.axes[0].bbox.height > 0.25 * figure.bbox.height
    figure = plot_batches([result(3, 3), result(3, 3)], SHORT[0].format(0), SHORT[1].format(0))
    figure.canvas.draw()
    (bar,) = figure.axes[1].child_axes
    np.testing.assert_allclose([bar.bbox.y0, bar.bbox.y1], [figure.axes[1].bbox.y0, figure.axes[1].bbox.y1], atol=1)


def test_ticks_are_those_that_were_asked_for():
    one = result(60, 40)
    figure = plot_similarity(one, ticks=["blocks.0.*", "blocks.59.*", "layer1?.relu"], width="page")
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["blocks.0.attn.qkv", "blocks.59.attn.qkv"]
    assert ax.get_yticks().tolist() == [0, 59]
    assert ax.get_xticks().tolist() == list(range(10, 20))
    assert not plot_similarity(one, ticks=[]).axes[0].get_xticklabels()
    assert plot_results([one, one], ticks="layer3.relu").axes[1].get_xticks().tolist() == [3]
    with pytest.raises(ValueError, match=r"no layer 'layr3.relu' to label; did you mean one of layer3.relu"):
        plot_similarity(one, ticks="layr3.relu")
    with pytest.warns(UserWarning, match="choose fewer, or a wider figure"):
        plot_similarity(result(219, 219), ticks="*")


def test_captions_and_titles_can_be_left_out_and_widths_are_checked():
    figure = plot_similarity(result(5, 5), title="", caption=False)
    assert (figure.axes[0].get_title(), figure._supxlabel.get_text()) == ("", "")
    for width in ("colum", 0.5, "-3", 200):
        with pytest.raises(ValueError, match="'column', 'page' or inches from 2 to 60, not"):
            plot_similarity(result(2, 2), width=width)


def test_what_the_user_changes_later_is_laid_out_too():
    figure = plot_similarity(result(23, 60))
    figure.axes[0].set_title(TITLE, fontsize=9)
    figure.axes[0].set_ylabel("another name for the rows")
    figure.set_size_inches(8, 4)
    check(figure, 0.2)
    assert figure.axes[0].get_title().replace("\n", " ") == TITLE
    assert figure.get_size_inches().tolist() == [8, 4]


@pytest.mark.parametrize("dpi", [72, 300])
@pytest.mark.parametrize("shape", [(5, 5), (23, 225), (111, 39)], ids=str)
def test_the_layout_holds_at_every_resolution_and_in_a_pdf(dpi, shape):
    """Glyphs are rounded to pixels, so that text is wider here and narrower there; a PDF has 72 dots an inch."""
    figure = plot_similarity(result(*shape), width="column")
    before = figure.axes[0].get_position().bounds
    figure.savefig(io.BytesIO(), format="pdf")
    np.testing.assert_allclose(figure.axes[0].get_position().bounds, before, atol=0.03)
    figure = pickle.loads(pickle.dumps(figure))
    figure.set_dpi(dpi)
    check(figure, 0.12)


def test_names_are_no_formulas():
    names = ["$", "a$b", "$x$", "W" * 200, ""]
    figure = plot_similarity(Similarity(np.eye(5), names, names, 10), title="W" * 300)
    check(figure, 0.2)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()][:3] == names[:3]


def test_any_figure_can_be_resized():
    figure = plot_diagonal([result(36, 36), result(36, 36)], ["one", "the other"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resize_figure(figure, "column")
        figure.canvas.draw()
    assert figure.get_figwidth() == 3.25
    for artist in (figure._supxlabel, *figure.legends, *(ax.xaxis.label for ax in figure.axes)):
        box = artist.get_window_extent()
        assert 0 <= box.x0 <= box.x1 <= figure.bbox.x1
    assert "5,000 images" in figure._supxlabel.get_text().replace("\n", " ")
    heatmap = plot_similarity(result(23, 60))
    resize_figure(heatmap, "column", caption=False)
    check(heatmap, 0.15)
