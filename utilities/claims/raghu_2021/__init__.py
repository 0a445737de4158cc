"""Claims of Raghu et al. 2021, *Do Vision Transformers See Like CNNs?*, https://arxiv.org/abs/2108.08810."""

from utilities.claims.raghu_2021.attention import (
    claims_of_attention_distance,
    claims_of_head_windows,
    claims_of_little_data,
)
from utilities.claims.raghu_2021.localisation import claims_of_localisation
from utilities.claims.raghu_2021.probes import claims_of_layer_probes
from utilities.claims.raghu_2021.receptive_field import claims_of_receptive_field
from utilities.claims.raghu_2021.similarity import claims_of_similarity
from utilities.claims.raghu_2021.skips import claims_of_skips
from utilities.claims.raghu_2021.training import (
    claims_of_data_size,
    claims_of_fine_tuning,
    claims_of_missing_skip,
    claims_of_mixer,
)

__all__ = [
    "claims_of_attention_distance",
    "claims_of_data_size",
    "claims_of_fine_tuning",
    "claims_of_head_windows",
    "claims_of_layer_probes",
    "claims_of_little_data",
    "claims_of_localisation",
    "claims_of_missing_skip",
    "claims_of_mixer",
    "claims_of_receptive_field",
    "claims_of_similarity",
    "claims_of_skips",
]
