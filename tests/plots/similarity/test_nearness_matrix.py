import numpy as np
import pytest

from tests.plots.similarity.test_nearness import FACTS
from tests.plots.similarity.test_nearness import made as curve
from utilities.plots.similarity import plot_nearness, plot_nearness_matrix
from utilities.results.matrix_difference import MatrixDifference


def made(rows=3, columns=4, **changes):
    difference = np.linspace(-0.1, 0.3, rows * columns).reshape(rows, columns)
    stderr = np.full(difference.shape, 0.05)
    values = {
        "layers": [f"layer{k}" for k in range(rows)], "matches1": [f"one{k}" for k in range(columns)],
        "matches2": [f"two{k}" for k in range(columns)], "similarity1": 0.5 + difference,
        "similarity2": np.full(difference.shape, 0.5), "difference": difference, "stderr": stderr,
        "low": difference - 0.1, "high": difference + 0.1, "p_value": stderr, "band_low": difference - 0.15,
        "band_high": difference + 0.15, "p_family": np.linspace(1, 0.01, rows * columns).reshape(rows, columns),
        "score": difference / stderr, "null_largest": np.linspace(0.5, 3.5, 200), "critical": 2.6, "n": 100,
        "provenance": FACTS | {"match": "all"},
        "whole": {"difference": 0.1, "low": 0.05, "high": 0.15, "p_value": 0.01},
    }  # fmt: skip
    return MatrixDifference(**{**values, **changes})


def test_cells_that_stand_out_among_all_are_marked_on_a_scale_around_zero():
    result = made()
    figure = plot_nearness_matrix(result)
    ax = figure.axes[0]
    np.testing.assert_array_equal(ax.images[0].get_array(), result.difference)
    assert ax.images[0].get_clim() == pytest.approx((-0.3, 0.3))
    assert ax.collections[0].get_offsets().tolist() == [[3.0, 2.0]]  # p of the others is above 0.05
    assert ax.get_ylabel() == "alternet18"
    assert "nearer to resnet18 (above 0)" in ax.get_title()
    figure.canvas.draw()
    assert "one3 / two3" in [tick.get_text() for tick in ax.get_xticklabels()]


def test_the_caption_counts_and_names_the_largest():
    caption = plot_nearness_matrix(made()).caption
    assert "p <= 0.05 among all pairs of layers, 1 of 12" in caption
    assert "Largest: +0.300, layer2 and one3 / two3, p = 0.01 among all" in caption
    assert "All layers: +0.100, p = 0.01" in caption
    assert "vit: accuracy 90.0%" in caption


def test_missing_cells_are_grey_and_unmarked():
    gap = np.full((3, 4), np.nan)
    result = made(difference=gap, score=gap, p_family=gap)
    figure = plot_nearness_matrix(result)
    assert len(figure.axes[0].collections[0].get_offsets()) == 0
    assert "Grey: no variance" in figure.caption
    assert "0 of 0" in figure.caption


def test_curves_and_matrices_have_plots_of_their_own():
    with pytest.raises(ValueError, match="plot_nearness draws it"):
        plot_nearness_matrix(curve())
    with pytest.raises(ValueError, match="plot_nearness_matrix draws it"):
        plot_nearness(made())
