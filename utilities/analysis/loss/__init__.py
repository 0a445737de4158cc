"""Around trained weights: the loss landscape, the path of training, and the spectrum of the Hessian.

The functions `spectral_density` and `trajectory` are in the modules of those names; `directions` in weight space,
`eigenvalues` and `lanczos` hold the mathematics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utilities import hand_on

if TYPE_CHECKING:
    from utilities.analysis.loss.hessian import HessianSpectra, after_start, hessian_spectra, over_training
    from utilities.analysis.loss.landscape import Landscape, join_landscapes, loss_landscape
    from utilities.analysis.loss.layer_hessian import LayerHessians, layer_hessians
    from utilities.analysis.loss.readings import both_readings, readings_table
    from utilities.analysis.loss.spectral_density import SpectralDensity
    from utilities.analysis.loss.trajectory import Trajectory

__all__ = [
    "HessianSpectra",
    "Landscape",
    "LayerHessians",
    "SpectralDensity",
    "Trajectory",
    "after_start",
    "both_readings",
    "hessian_spectra",
    "join_landscapes",
    "layer_hessians",
    "loss_landscape",
    "over_training",
    "readings_table",
]
__getattr__ = hand_on(
    __name__,
    {
        "hessian": ["HessianSpectra", "after_start", "hessian_spectra", "over_training"],
        "landscape": ["Landscape", "join_landscapes", "loss_landscape"],
        "layer_hessian": ["LayerHessians", "layer_hessians"],
        "readings": ["both_readings", "readings_table"],
        "spectral_density": ["SpectralDensity"],
        "trajectory": ["Trajectory"],
    },
)
