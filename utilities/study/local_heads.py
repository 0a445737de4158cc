"""Compare the heads of an opened ViT with the early layers of an opened CNN, for notebooks."""

from __future__ import annotations

from typing import Any

from utilities.analysis.attention.attention_distance import AttentionDistance
from utilities.compare.all_pairs import pair_facts
from utilities.compare.head_windows import compare_head_windows
from utilities.hooks.recorder import Layers
from utilities.results.head_windows import HeadWindowSimilarity
from utilities.study.real_weights import OWN, Opened


def heads_against_cnn(
    vit: Opened, cnn: Opened, distances: AttentionDistance, layers: Layers, **options: Any
) -> HeadWindowSimilarity:
    """Compare windows of a ViT's heads with layers of a CNN, each model with its own preparation of the same images.

    Args:
        vit: From `utilities.study.real_weights.open_models`.
        cnn: The same.
        distances: Attention distances of the ViT.
        layers: Layers of the CNN.
        **options: Options of `utilities.compare.head_windows.compare_head_windows`.

    Returns:
        The similarity, with what is known of both models.
    """
    sides = [{key: side.facts[key] for key in OWN if key in side.facts} for side in (vit, cnn)]
    facts = {key: value for key, value in vit.facts.items() if key not in OWN} | pair_facts(*sides)
    return compare_head_windows(
        vit.model, cnn.model, vit.loader, cnn.loader, distances=distances, layers=layers, provenance=facts, **options
    )
