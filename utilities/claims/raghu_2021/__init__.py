"""Claims of Raghu et al. 2021, *Do Vision Transformers See Like CNNs?*, https://arxiv.org/abs/2108.08810."""

from utilities.claims.raghu_2021.localisation import claims_of_localisation
from utilities.claims.raghu_2021.probes import claims_of_layer_probes
from utilities.claims.raghu_2021.similarity import claims_of_similarity

__all__ = ["claims_of_layer_probes", "claims_of_localisation", "claims_of_similarity"]
