"""Block by block: frequencies, variance, removal of units, receptive fields, and skips beside their branches.

The functions `fourier`, `receptive_field` and `skip_ratios` are in the modules of these names. `units` says what is
removed, `spectra` and `gradient_extent` hold mathematics. The papers are Park & Kim 2022 and Raghu et al. 2021.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utilities import hand_on

if TYPE_CHECKING:
    from utilities.analysis.blocks.fourier import Fourier
    from utilities.analysis.blocks.lesion import Lesions, lesions
    from utilities.analysis.blocks.receptive_field import ReceptiveField
    from utilities.analysis.blocks.skip_ratios import SkipRatios
    from utilities.analysis.blocks.units import Unit, find_units
    from utilities.analysis.blocks.variance import Variance, feature_variance

__all__ = [
    "Fourier",
    "Lesions",
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
        "lesion": ["Lesions", "lesions"],
        "receptive_field": ["ReceptiveField"],
        "skip_ratios": ["SkipRatios"],
        "units": ["Unit", "find_units"],
        "variance": ["Variance", "feature_variance"],
    },
)
