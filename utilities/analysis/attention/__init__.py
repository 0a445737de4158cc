"""From attention weights alone: how alike they are between heads, queries and layers.

`attention_maps` reads the weights while a model runs, and measures them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utilities import hand_on

if TYPE_CHECKING:
    from utilities.analysis.attention.attention_maps import Diversity, attention_diversity

__all__ = ["Diversity", "attention_diversity"]
__getattr__ = hand_on(__name__, {"attention_maps": ["Diversity", "attention_diversity"]})
