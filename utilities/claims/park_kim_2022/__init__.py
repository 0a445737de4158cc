"""Claims of Park & Kim 2022, *How Do Vision Transformers Work?*, https://arxiv.org/abs/2202.06709.

Those of `smoothing` are of their paper on blurs in CNNs, https://arxiv.org/abs/2105.12639.
"""

from utilities.claims.park_kim_2022.blocks import claims_of_fourier, claims_of_lesions, claims_of_variance
from utilities.claims.park_kim_2022.build_up import claims_of_build_up
from utilities.claims.park_kim_2022.classification import claims_of_classification
from utilities.claims.park_kim_2022.hessian import claims_of_hessian, claims_of_readings
from utilities.claims.park_kim_2022.landscape import claims_of_landscape
from utilities.claims.park_kim_2022.noise_frequency import claims_of_noise_frequency
from utilities.claims.park_kim_2022.robustness import claims_of_robustness
from utilities.claims.park_kim_2022.smoothing import (
    claims_of_adversarial,
    claims_of_consistency,
    claims_of_smooth_robustness,
    claims_of_smoothing,
)

__all__ = [
    "claims_of_adversarial",
    "claims_of_build_up",
    "claims_of_classification",
    "claims_of_consistency",
    "claims_of_fourier",
    "claims_of_hessian",
    "claims_of_landscape",
    "claims_of_lesions",
    "claims_of_noise_frequency",
    "claims_of_readings",
    "claims_of_robustness",
    "claims_of_smooth_robustness",
    "claims_of_smoothing",
    "claims_of_variance",
]
