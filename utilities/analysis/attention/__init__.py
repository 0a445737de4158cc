"""From attention weights alone: how far heads look, and how alike their maps are.

The functions `attention_distance` and `lambda_reach`, its counterpart for lambda layers, are in the modules of those
names. `attention_maps` measures diversity, `eager` reads a running model's weights, `layers` knows where tokens lie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utilities import hand_on

if TYPE_CHECKING:
    from utilities.analysis.attention.attention_distance import AttentionDistance
    from utilities.analysis.attention.attention_maps import Diversity, attention_diversity
    from utilities.analysis.attention.lambda_reach import LambdaReach

__all__ = ["AttentionDistance", "Diversity", "LambdaReach", "attention_diversity"]
__getattr__ = hand_on(
    __name__,
    {
        "attention_distance": ["AttentionDistance"],
        "attention_maps": ["Diversity", "attention_diversity"],
        "lambda_reach": ["LambdaReach"],
    },
)
