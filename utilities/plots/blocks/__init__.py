"""Figures of the analyses that go block by block."""

from utilities.plots.blocks.fourier import plot_gain, plot_high_frequency, plot_spectra
from utilities.plots.blocks.layer_probes import plot_layer_probes, plot_token_probes
from utilities.plots.blocks.lesion import plot_lesions
from utilities.plots.blocks.localisation import plot_localisation, plot_sharpness
from utilities.plots.blocks.receptive_field import plot_field_sizes, plot_receptive_fields
from utilities.plots.blocks.skip_ratios import plot_skip_cosines, plot_skip_heatmaps, plot_skip_lines
from utilities.plots.blocks.variance import plot_variance

__all__ = [
    "plot_field_sizes",
    "plot_gain",
    "plot_high_frequency",
    "plot_layer_probes",
    "plot_lesions",
    "plot_localisation",
    "plot_receptive_fields",
    "plot_sharpness",
    "plot_skip_cosines",
    "plot_skip_heatmaps",
    "plot_skip_lines",
    "plot_spectra",
    "plot_token_probes",
    "plot_variance",
]
