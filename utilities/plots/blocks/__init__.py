"""Figures of the analyses that go block by block."""

from utilities.plots.blocks.fourier import plot_gain, plot_high_frequency, plot_spectra
from utilities.plots.blocks.lesion import plot_lesions
from utilities.plots.blocks.variance import plot_variance

__all__ = ["plot_gain", "plot_high_frequency", "plot_lesions", "plot_spectra", "plot_variance"]
