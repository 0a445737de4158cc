"""Claims of Vilas et al. 2023, *Analyzing ViTs in Class Embedding Space*, https://arxiv.org/abs/2310.18969."""

from utilities.claims.vilas_2023.class_value import claims_of_class_value
from utilities.claims.vilas_2023.identifiability import claims_of_identifiability
from utilities.claims.vilas_2023.importance import claims_of_importance, claims_of_removal
from utilities.claims.vilas_2023.key_value import claims_of_key_value
from utilities.claims.vilas_2023.perturbation import claims_of_perturbation
from utilities.claims.vilas_2023.probes import claims_of_probes

__all__ = [
    "claims_of_class_value",
    "claims_of_identifiability",
    "claims_of_importance",
    "claims_of_key_value",
    "claims_of_perturbation",
    "claims_of_probes",
    "claims_of_removal",
]
