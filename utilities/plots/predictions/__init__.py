"""Figures of accuracy, calibration, build-up, robustness and noise."""

from utilities.plots.predictions.build_up import plot_build_up
from utilities.plots.predictions.classification import plot_measures, plot_reliability
from utilities.plots.predictions.noise_frequency import plot_noise_frequency
from utilities.plots.predictions.robustness import plot_examples, plot_kinds, plot_mce, plot_severity

__all__ = [
    "plot_build_up",
    "plot_examples",
    "plot_kinds",
    "plot_mce",
    "plot_measures",
    "plot_noise_frequency",
    "plot_reliability",
    "plot_severity",
]
