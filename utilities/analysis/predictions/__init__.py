"""From logits alone: accuracy, calibration, uncertainty, and robustness to corruption, noise, attacks, perturbation.

The functions `adversarial`, `consistency`, `noise_frequency`, `robustness`, `robustness_on_files` and `prediction_time`
are in the modules of those names; `attacks`, `calibration`, `flips` and `paired_accuracy` hold the mathematics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utilities import hand_on

if TYPE_CHECKING:
    from utilities.analysis.predictions.adversarial import Adversarial
    from utilities.analysis.predictions.classification import Classification, classify
    from utilities.analysis.predictions.consistency import Consistency
    from utilities.analysis.predictions.noise_frequency import NoiseFrequency
    from utilities.analysis.predictions.robustness import Robustness
    from utilities.analysis.predictions.uncertainty import Ensemble, with_dropout

__all__ = [
    "Adversarial",
    "Classification",
    "Consistency",
    "Ensemble",
    "NoiseFrequency",
    "Robustness",
    "classify",
    "with_dropout",
]
__getattr__ = hand_on(
    __name__,
    {
        "adversarial": ["Adversarial"],
        "classification": ["Classification", "classify"],
        "consistency": ["Consistency"],
        "noise_frequency": ["NoiseFrequency"],
        "robustness": ["Robustness"],
        "uncertainty": ["Ensemble", "with_dropout"],
    },
)
