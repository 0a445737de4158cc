"""Block by block: what changes along the depth of a model.

Frequencies, variance and removal of units are those of Park & Kim 2022, localisation and probes those of Raghu et al.
2021. The functions `fourier`, `layer_probes` and `localisation` are in the modules of those names, `units` says what is
removed, `spectra` holds the mathematics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utilities import hand_on

if TYPE_CHECKING:
    from utilities.analysis.blocks.fourier import Fourier
    from utilities.analysis.blocks.layer_probes import LayerProbes
    from utilities.analysis.blocks.lesion import Lesions, lesions
    from utilities.analysis.blocks.localisation import Localisation
    from utilities.analysis.blocks.units import Unit, find_units
    from utilities.analysis.blocks.variance import Variance, feature_variance

__all__ = [
    "Fourier",
    "LayerProbes",
    "Lesions",
    "Localisation",
    "Unit",
    "Variance",
    "feature_variance",
    "find_units",
    "lesions",
]
__getattr__ = hand_on(
    __name__,
    {
        "fourier": ["Fourier"],
        "layer_probes": ["LayerProbes"],
        "lesion": ["Lesions", "lesions"],
        "localisation": ["Localisation"],
        "units": ["Unit", "find_units"],
        "variance": ["Variance", "feature_variance"],
    },
)
