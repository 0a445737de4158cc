"""Block by block: what changes along the depth of a model.

Frequencies, variance and removal of units are those of Park & Kim 2022; receptive fields, skips beside their branches,
localisation and probes those of Raghu et al. 2021. The functions `fourier`, `receptive_field`, `skip_ratios`,
`layer_probes` and `localisation` are in the modules of these names. `units` says what is removed, `spectra` and
`gradient_extent` hold mathematics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utilities import hand_on

if TYPE_CHECKING:
    from utilities.analysis.blocks.fourier import Fourier
    from utilities.analysis.blocks.layer_probes import LayerProbes
    from utilities.analysis.blocks.lesion import Lesions, lesions
    from utilities.analysis.blocks.localisation import Localisation
    from utilities.analysis.blocks.receptive_field import ReceptiveField
    from utilities.analysis.blocks.skip_ratios import SkipRatios
    from utilities.analysis.blocks.units import Unit, find_units
    from utilities.analysis.blocks.variance import Variance, feature_variance

__all__ = [
    "Fourier",
    "LayerProbes",
    "Lesions",
    "Localisation",
    "ReceptiveField",
    "SkipRatios",
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
        "receptive_field": ["ReceptiveField"],
        "skip_ratios": ["SkipRatios"],
        "units": ["Unit", "find_units"],
        "variance": ["Variance", "feature_variance"],
    },
)
