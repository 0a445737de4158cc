"""Block by block: frequencies, variance and removal of units along the depth of a model (Park & Kim 2022).

The function `fourier` is in the module of that name, `units` says what is removed, `spectra` holds the mathematics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utilities import hand_on

if TYPE_CHECKING:
    from utilities.analysis.blocks.fourier import Fourier
    from utilities.analysis.blocks.lesion import Lesions, lesions
    from utilities.analysis.blocks.units import Unit, find_units
    from utilities.analysis.blocks.variance import Variance, feature_variance

__all__ = ["Fourier", "Lesions", "Unit", "Variance", "feature_variance", "find_units", "lesions"]
__getattr__ = hand_on(
    __name__,
    {
        "fourier": ["Fourier"],
        "lesion": ["Lesions", "lesions"],
        "units": ["Unit", "find_units"],
        "variance": ["Variance", "feature_variance"],
    },
)
