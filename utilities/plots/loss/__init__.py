"""Figures of loss landscapes, training paths and Hessian spectra."""

from utilities.plots.loss.hessian import plot_over_training, plot_spectra, plot_spectral_density
from utilities.plots.loss.landscape import plot_contours, plot_cuts, plot_surfaces
from utilities.plots.loss.layer_hessian import plot_layer_hessians
from utilities.plots.loss.trajectory import plot_trajectories

__all__ = [
    "plot_contours",
    "plot_cuts",
    "plot_layer_hessians",
    "plot_over_training",
    "plot_spectra",
    "plot_spectral_density",
    "plot_surfaces",
    "plot_trajectories",
]
