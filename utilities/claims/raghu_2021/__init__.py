"""Claims of Raghu et al. 2021, *Do Vision Transformers See Like CNNs?*, https://arxiv.org/abs/2108.08810."""

from utilities.claims.raghu_2021.training import (
    claims_of_data_size,
    claims_of_fine_tuning,
    claims_of_mixer,
    claims_of_skips,
)

__all__ = ["claims_of_data_size", "claims_of_fine_tuning", "claims_of_mixer", "claims_of_skips"]
