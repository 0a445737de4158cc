"""The functions of the wing `blocks`, module `fourier`, under the path they had before."""

from utilities.plots.blocks.fourier import plot_gain, plot_high_frequency, plot_spectra

__all__ = ["plot_gain", "plot_high_frequency", "plot_spectra"]
