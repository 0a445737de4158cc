"""Figures of similarities: heatmaps on one scale, trends over depth, spread over batches, stitched networks."""

from utilities.plots.similarity.batches import plot_batches
from utilities.plots.similarity.calibration import plot_calibration
from utilities.plots.similarity.comparison import plot_difference, plot_results, plot_significance
from utilities.plots.similarity.contributions import plot_extremes, plot_without
from utilities.plots.similarity.depth import plot_best_match, plot_diagonal, plot_trend
from utilities.plots.similarity.heatmap import plot_similarity
from utilities.plots.similarity.measure_tests import plot_measure_tests
from utilities.plots.similarity.nearness import plot_nearness
from utilities.plots.similarity.nearness_matrix import plot_nearness_matrix
from utilities.plots.similarity.panels import plot_panels
from utilities.plots.similarity.stitching import plot_stitching, plot_stitching_matrix

__all__ = [
    "plot_batches",
    "plot_best_match",
    "plot_calibration",
    "plot_diagonal",
    "plot_difference",
    "plot_extremes",
    "plot_measure_tests",
    "plot_nearness",
    "plot_nearness_matrix",
    "plot_panels",
    "plot_results",
    "plot_significance",
    "plot_similarity",
    "plot_stitching",
    "plot_stitching_matrix",
    "plot_trend",
    "plot_without",
]
