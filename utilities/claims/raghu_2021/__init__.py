"""Claims of Raghu et al. 2021, *Do Vision Transformers See Like CNNs?*, https://arxiv.org/abs/2108.08810."""

from utilities.claims.raghu_2021.attention import (
    claims_of_attention_distance,
    claims_of_head_windows,
    claims_of_little_data,
)
from utilities.claims.raghu_2021.similarity import claims_of_similarity

__all__ = [
    "claims_of_attention_distance",
    "claims_of_head_windows",
    "claims_of_little_data",
    "claims_of_similarity",
]
