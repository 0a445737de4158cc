"""Figures of several results, of depth and of batches: what they show, and that all of it can be read."""

import dataclasses
from itertools import combinations, pairwise

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from utilities.plots.similarity.batches import plot_batches
from utilities.plots.similarity.comparison import basis, heading, plot_difference, plot_results, plot_significance
from utilities.plots.similarity.depth import plot_best_match, plot_diagonal, plot_trend
from utilities.results.similarity import Similarity, average

mpl.use("Agg")
FACTS = {
    "model1": "resnet18",
    "weights1": "trained for 10 epochs on digits, seed 0",
    "accuracy1": 0.9722,
    "model2": "resnet34",
    "weights2": "trained for 10 epochs on digits, seed 1",
    "accuracy2": 0.981,
    "dataset": "digits (test)",
    "batch_size": 180,
    "measure": "linear CKA",
    "estimator": "debiased",
    "profile": "quick",
}


def names(layers):
    return ["bn1", *(f"layer{1 + 4 * i // layers}.{i}.relu" for i in range(layers - 2)), "fc"]


def result(rows=20, columns=20, seed=0, **facts):
    random = np.random.default_rng(seed)
    matrix = random.uniform(0.1, 0.9, (rows, columns))
    return Similarity(
        matrix,
        names(rows),
        names(columns),
        5400,
        stderr=random.uniform(0.05, 0.2, matrix.shape),
        per_batch=matrix + random.normal(0, 0.05, (30, *matrix.shape)),
        null_mean=random.uniform(0, 0.05, matrix.shape),
        p_value=random.uniform(0, 0.2, matrix.shape),
        provenance=FACTS | facts,
    )


def text_of(figure):
    return figure.caption


def bar_of(figure):
    (ax,) = [ax for ax in figure.axes if ax.get_label() == "<colorbar>"]
    return ax._colorbar


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


FIGURES = {
    "results": lambda: plot_results([result(36, 68), result(20, 20), result(68, 36), result(36, 68)]),
    "one result": lambda: plot_results([result(36, 36)]),
    "wide results": lambda: plot_results([result(10, 68), result(10, 68)], ["trained", "untrained " * 20]),
    "difference": lambda: plot_difference(result(36, 68), result(36, 68, seed=1, weights1="untrained")),
    "significance": lambda: plot_significance(result(68, 36)),
    "diagonal": lambda: plot_diagonal([result(36, 36), result(36, 36, seed=1)]),
    "diagonals of other layers": lambda: plot_diagonal([result(36, 36), result(68, 68)], ["shallow", "deep"]),
    "best match": lambda: plot_best_match(result(36, 68)),
    "best matches": lambda: plot_best_match([result(36, 68, seed=i) for i in range(4)]),
    "trend": lambda: plot_trend([result(36, 36, seed=i) for i in range(5)], range(5)),
    "batches of one": lambda: plot_batches(result(), "bn1", "fc"),
    "batches": lambda: plot_batches([result(), result(seed=1)], "bn1", "fc", ["student of the teacher", "alone"]),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_nothing_is_clipped_or_hidden_and_the_caption_is_complete(draw):
    figure = draw()
    figure.canvas.draw()
    page, caption = figure.bbox, figure._supxlabel.get_window_extent()
    boxes = [ax.get_tightbbox() for ax in figure.axes]
    for box in (caption, *boxes, *(legend.get_window_extent() for legend in figure.legends)):
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        assert page.y0 <= box.y0 < box.y1 <= page.y1
    assert all(caption.y1 <= box.y0 + 1 for box in boxes)
    assert not any(legend.get_window_extent().overlaps(ax.bbox) for legend in figure.legends for ax in figure.axes)
    titles = [ax.title.get_window_extent() for ax in figure.axes if ax.get_title()]
    assert not any(one.overlaps(two) for one, two in combinations(titles, 2))
    for ax in figure.axes:
        for axis in (ax.yaxis, ax.xaxis):
            extents = [label.get_window_extent() for label in axis.get_ticklabels() if label.get_text()]
            gaps = [max(b.y0 - a.y1, b.x0 - a.x1) for a, b in pairwise(extents)]
            assert all(gap > -1 for gap in gaps)
    for fact in ("digits (test)", "n = 5,400 images", "debiased", "Quick profile"):
        assert fact in text_of(figure)


def test_results_share_one_scale_and_one_colour_bar():
    one, two = result(5, 8), result(4, 4)
    two.matrix[1] = np.nan
    two.matrix[0, 0], one.matrix[0, 0] = -0.25, 1.5
    figure = plot_results([one, two, one], columns=2, vmin=0.1, vmax=0.8)
    axes = [ax for ax in figure.axes if ax.images]
    for ax, drawn in zip(axes, (one, two, one), strict=True):
        assert ax.images[0].get_clim() == (0.1, 0.8)
        np.testing.assert_array_equal(ax.images[0].get_array().filled(np.nan), drawn.matrix)
    assert bar_of(figure).extend == "both"
    assert np.allclose(axes[1].images[0].cmap.get_bad(), (0.75, 0.75, 0.75, 1))
    assert "Values from -0.25 to 1.50 over all panels. Grey: no variance." in text_of(figure)
    assert (axes[0].get_ylabel(), axes[0].get_xlabel()) == ("resnet18", "resnet34")
    assert bar_of(plot_results([result()])).extend == "neither"
    assert bar_of(plot_results([one])).extend == "max"
    assert "Grey" not in text_of(plot_results([result()]))


def test_titles_name_models_and_titles_given_leave_that_to_the_caption():
    title = plot_results([result()]).axes[0].get_title().replace("\n", " ")
    assert title.startswith("resnet18 x resnet34 rows: trained for 10 epochs on digits, seed 0, accuracy 97.2%")
    figure = plot_results([result(), result(weights1="untrained", accuracy1=None)], ["A", "B"])
    assert [ax.get_title() for ax in figure.axes[:2]] == ["A", "B"]
    assert "B: resnet18 x resnet34, rows: untrained, columns:" in text_of(figure)
    assert heading(Similarity(np.eye(1), ["a"], ["a"], 5, provenance={"model": "vit"})) == "vit"
    with pytest.raises(ValueError, match="2 results, but 1 titles"):
        plot_results([result(), result()], ["A"])
    with pytest.raises(ValueError, match="no results"):
        plot_results([])


def test_ticks_name_their_own_layers():
    ax = plot_results([result(68, 36)]).axes[0]
    for axis, layers in ((ax.yaxis, names(68)), (ax.xaxis, names(36))):
        assert [layers[int(tick)] for tick in axis.get_ticklocs()] == [t.get_text() for t in axis.get_ticklabels()]
        assert 5 < len(axis.get_ticklocs()) < len(layers)
        assert axis.get_ticklabels()[-1].get_text() == "fc"


def test_what_results_were_made_from_is_said_of_each_where_it_differs():
    quick, full = result(), result(profile="full")
    assert (
        basis([quick, result(seed=1, model1="vit")]).partition(" Standard")[0]
        == basis([quick]).partition(" Standard")[0]
    )
    assert "not comparable with published figures. Standard errors " in basis([full, quick])
    assert basis([full, quick]).startswith("Result 1: digits (test), n = 5,400 images in batches of 180. Linear CKA")


def test_a_difference_is_symmetric_around_nought_and_marks_what_is_within_its_error():
    one, two = result(3, 4), result(3, 4, seed=1, weights1="untrained")
    two.matrix[0, 0] = np.nan
    figure = plot_difference(one, two)
    image = figure.axes[0].images[0]
    difference = one.matrix - two.matrix
    np.testing.assert_array_equal(image.get_array().filled(np.nan), difference)
    assert image.get_clim() == (-np.nanmax(abs(difference)), np.nanmax(abs(difference)))
    within = np.abs(difference) < 2 * np.sqrt(one.stderr**2 + two.stderr**2)
    assert 0 < within.sum() < 11
    marks = {(int(y), int(x)) for x, y in figure.axes[0].collections[0].get_offsets()}
    assert marks == {(int(y), int(x)) for y, x in np.argwhere(within)}
    text = text_of(figure)
    assert text.index("seed 0, accuracy 97.2%") < text.index("minus second") < text.index("untrained")
    assert f"Dots: below 2.0 standard errors (95%), √(se₁² + se₂²), {within.sum()} of 11 pairs" in text
    assert "Grey: no variance" in text
    assert figure.axes[0].get_title().splitlines() == [
        "resnet18 x resnet34",
        "rows: trained for 10 epochs on digits, seed 0, accuracy 97.2%",
        "\N{MINUS SIGN} rows: untrained, accuracy 97.2%",
    ]
    plain = plot_difference(one, dataclasses.replace(two, stderr=None), title="mine")
    assert not plain.axes[0].collections
    assert "no standard errors" in text_of(plain)
    assert plain.axes[0].get_title() == "mine"


def test_equal_results_have_a_scale_too():
    assert plot_difference(result(), result()).axes[0].images[0].get_clim() == (-0.01, 0.01)


def test_a_difference_of_other_layers_is_refused():
    renamed = dataclasses.replace(result(), layers2=[*names(20)[:3], "other", *names(20)[4:]])
    with pytest.raises(ValueError, match=r"layers2\[3\] is 'layer1.2.relu' against 'other'"):
        plot_difference(result(), renamed)
    with pytest.raises(ValueError, match=r"layers1\[2\] is 'fc' against 'layer2.1.relu'"):
        plot_difference(result(3), result(4))


def test_pairs_that_chance_explains_are_marked():
    one = result(6, 9)
    figure = plot_significance(one)
    marks = figure.axes[0].collections[0]
    above = np.argwhere(one.p_value > 0.05)
    np.testing.assert_array_equal(marks.get_offsets()[:, ::-1], above)
    assert f"Dots: p > 0.05, each pair tested by itself, {len(above)} of 54 pairs" in text_of(figure)
    dark = one.matrix[tuple(above.T)] < 0.5
    assert (marks.get_facecolors()[dark, 0] > 0.8).all()
    assert (marks.get_facecolors()[~dark, 0] < 0.2).all()
    with pytest.raises(ValueError, match=r"compare\(..., permutations=100\)"):
        plot_significance(dataclasses.replace(one, p_value=None))


def test_the_diagonal_has_a_band_of_one_standard_error_and_the_null():
    one = result()
    figure = plot_diagonal(one)
    ax = figure.axes[0]
    curve, null = ax.lines[:2]
    np.testing.assert_array_equal(curve.get_ydata(), np.diagonal(one.matrix))
    np.testing.assert_array_equal(null.get_ydata(), np.diagonal(one.null_mean))
    assert null.get_linestyle() == "--"
    vertices = ax.collections[0].get_paths()[0].vertices
    for i, (value, error) in enumerate(zip(np.diagonal(one.matrix), np.diagonal(one.stderr), strict=True)):
        drawn = vertices[vertices[:, 0] == i][:, 1]
        np.testing.assert_allclose([drawn.min(), drawn.max()], [value - error, value + error])
    assert ax.get_ylim()[0] <= 0 < 1 <= ax.get_ylim()[1]
    labels = [t.get_text() for t in figure.legends[0].get_texts()]
    assert labels[0].startswith("resnet18 x resnet34")
    assert labels[1:] == ["by chance"]
    assert [names(20)[int(t)] for t in ax.get_xticks()] == [t.get_text() for t in ax.get_xticklabels()]


def test_the_band_of_an_average_is_over_its_replicates():
    mean = average([result(), result(seed=1), result(seed=2)])
    paths = [
        plot_diagonal(each).axes[0].collections[0].get_paths()[0].vertices
        for each in (mean, dataclasses.replace(mean, stderr=None))
    ]
    np.testing.assert_allclose(paths[0], paths[1])
    assert "over 3 replicates" in text_of(plot_diagonal(mean))
    bare = plot_diagonal(dataclasses.replace(result(), stderr=None, null_mean=None))
    assert not bare.axes[0].collections
    assert bare.axes[0].get_ylim()[0] <= 0
    assert "Bands" not in text_of(bare)
    assert "Dashed" not in text_of(bare)


def test_diagonals_of_other_layers_are_over_relative_depth():
    ax = plot_diagonal([result(5, 5), result(9, 9)], ["a", "b"]).axes[0]
    solid = [line for line in ax.lines if line.get_linestyle() == "-"]
    np.testing.assert_array_equal(solid[1].get_xdata(), np.linspace(0, 1, 9))
    assert "relative depth" in ax.get_xlabel()
    with pytest.raises(ValueError, match="5 and 6"):
        plot_diagonal(result(5, 6))


@pytest.mark.parametrize("axis", [0, 1])
def test_best_matches_are_those_of_the_result(axis):
    one = result(9, 14)
    one.matrix[3] = np.nan
    table = one.best_match(axis)
    figure = plot_best_match(one, axis=axis)
    top, below = figure.axes
    np.testing.assert_array_equal(top.collections[0].get_offsets(), table[["depth", "match_depth"]])
    np.testing.assert_array_equal(below.collections[0].get_offsets(), table[["depth", "similarity"]])
    np.testing.assert_array_equal(top.collections[0].get_array(), table["similarity"])
    assert top.collections[0].get_clim() == (0, 1)
    along, up = (one.layers1, one.layers2)[:: 1 if axis else -1]
    assert [up[round(y * (len(up) - 1))] for y in top.get_yticks()] == [t.get_text() for t in top.get_yticklabels()]
    assert [along[round(x * (len(along) - 1))] for x in below.get_xticks()] == [
        t.get_text() for t in below.get_xticklabels()
    ]
    assert top.get_ylabel() == ("best match in resnet34" if axis else "best match in resnet18")
    assert below.get_xlabel() == ("layer of resnet18" if axis else "layer of resnet34")


def test_several_best_matches_differ_in_size_by_similarity():
    results = [result(6, 7), result(9, 5, seed=1)]
    (ax,) = plot_best_match(results, ["a", "b"]).axes
    for marks, each in zip(ax.collections, results, strict=True):
        table = each.best_match()
        np.testing.assert_array_equal(marks.get_offsets(), table[["depth", "match_depth"]])
        assert (np.argsort(marks.get_sizes()) == np.argsort(table["similarity"])).all()
    with pytest.raises(ValueError, match="at most 4"):
        plot_best_match([result()] * 5)


def test_a_trend_is_in_the_order_of_steps():
    results = [result(seed=i) for i in range(3)]
    figure = plot_trend(results, [20, 0, 10], layers=["fc", "bn1"], xlabel="step")
    ax = figure.axes[0]
    fc, bn1 = ax.lines
    np.testing.assert_array_equal(fc.get_xdata(), [0, 10, 20])
    np.testing.assert_array_equal(fc.get_ydata(), [results[i].matrix[-1, -1] for i in (1, 2, 0)])
    np.testing.assert_array_equal(bn1.get_ydata(), [results[i].matrix[0, 0] for i in (1, 2, 0)])
    vertices = ax.collections[1].get_paths()[0].vertices
    drawn = vertices[vertices[:, 0] == 20][:, 1]
    value, error = results[0].matrix[0, 0], results[0].stderr[0, 0]
    np.testing.assert_allclose([drawn.min(), drawn.max()], [value - error, value + error])
    assert ax.get_xlabel() == "step"
    assert text_of(figure).startswith("At step 20: resnet18")


def test_a_trend_chooses_layers_evenly_and_darkens_the_first():
    ax = plot_trend([result(15, 15)] * 2, [0, 1]).axes[0]
    assert [line.get_label() for line in ax.lines] == names(15)[::2]
    brightness = [sum(line.get_color()[:3]) for line in ax.lines]
    assert brightness == sorted(brightness)


def test_a_trend_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="1 results, but 2 steps"):
        plot_trend([result()], [0, 1])
    with pytest.raises(ValueError, match="at epoch 5"):
        plot_trend([result(), result(5, 5)], [0, 5])
    with pytest.raises(ValueError, match=r"no layer 'layer1.2.rellu'; did you mean one of layer1.2.relu"):
        plot_trend([result()], [0], layers=["layer1.2.rellu"])


def test_batches_are_sorted_in_a_square_on_one_scale():
    one, two = result(), result(seed=1)
    two.per_batch[4, 2, 7] = np.nan
    first, second = names(20)[2], names(20)[7]
    figure = plot_batches([one, two], first, second, ["A", "B"])
    for ax, each, missing in zip(figure.axes, (one, two), (6, 7), strict=False):
        values = each.per_batch[:, 2, 7]
        shown = ax.images[0].get_array()
        assert shown.shape == (6, 6)
        np.testing.assert_array_equal(shown.compressed(), np.sort(values[np.isfinite(values)]))
        np.testing.assert_array_equal(np.ma.getmaskarray(shown).ravel(), np.arange(36) >= 36 - missing)
        assert np.allclose(ax.images[0].cmap.get_bad(), (0.75, 0.75, 0.75, 1))
        assert ax.images[0].get_clim() == (0, 1)
        assert f"median {np.nanmedian(values):.3f} of 30 batches" in ax.get_title()
    strip = figure.axes[2]
    np.testing.assert_array_equal(strip.collections[0].get_offsets()[:, 1], np.sort(one.per_batch[:, 2, 7]))
    assert strip.lines[0].get_ydata()[0] == np.median(one.per_batch[:, 2, 7])
    assert [t.get_text() for t in strip.get_xticklabels()] == ["A", "B"]
    assert text_of(figure).startswith(f"{first} (rows' model) against {second} (columns' model).")
    assert "1 without a value, grey too." in text_of(figure)
    square = dataclasses.replace(one, per_batch=one.per_batch[:25])
    assert "Grey" not in text_of(plot_batches(square, first, second))


def test_batches_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match=r"compare\(..., per_batch=True\)"):
        plot_batches(dataclasses.replace(result(), per_batch=None), "bn1", "fc")
    with pytest.raises(ValueError, match="no layer 'bn2'; did you mean one of bn1"):
        plot_batches(result(), "bn2", "fc")
    with pytest.raises(ValueError, match=r"no layer 'nothing'; did you mean one of bn1, \.\.\., fc"):
        plot_batches(result(), "bn1", "nothing")


def test_errors_from_few_samples_are_judged_by_students_t():
    """From two models a difference of ten standard errors may be chance: t(0.975, 1) = 12.7."""
    one, two = (
        Similarity(np.array([[v]]), ["a"], ["a"], 10, stderr=np.array([[0.01]]), provenance={"error_samples": k})
        for v, k in ((0.9, 10), (0.76, 2))
    )
    figure = plot_difference(one, two)
    assert len(figure.axes[0].collections[0].get_offsets()) == 1
    assert "below 12.7 standard errors" in text_of(figure)
