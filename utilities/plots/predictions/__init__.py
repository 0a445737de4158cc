"""Figures of accuracy, calibration, build-up, robustness, noise, attacks and perturbations."""

from utilities.plots.predictions.adversarial import plot_adversarial
from utilities.plots.predictions.build_up import plot_build_up
from utilities.plots.predictions.classification import plot_measures, plot_reliability
from utilities.plots.predictions.consistency import plot_consistency
from utilities.plots.predictions.noise_frequency import plot_noise_frequency
from utilities.plots.predictions.robustness import plot_examples, plot_kinds, plot_mce, plot_severity

__all__ = [
    "plot_adversarial",
    "plot_build_up",
    "plot_consistency",
    "plot_examples",
    "plot_kinds",
    "plot_mce",
    "plot_measures",
    "plot_noise_frequency",
    "plot_reliability",
    "plot_severity",
]
