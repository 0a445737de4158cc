"""Tell the two models of a comparison apart, so that a claim is weighed with each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from utilities.results.similarity import Similarity

_OF_ONE = ("model", "weights", "accuracy")


@dataclass(frozen=True)
class Side:
    """One model of a comparison, as `utilities.claims.evidence.weigh` looks at it.

    Attributes:
        n: Number of images compared.
        provenance: Facts about this model.
    """

    n: int
    provenance: dict[str, Any]


def sides(result: Similarity) -> tuple[Side, Side]:
    """Return the model of the rows and that of the columns.

    Example:
        >>> import numpy as np
        >>> facts = {"model1": "vit", "accuracy1": 0.9, "model2": "cnn", "num_classes": 10}
        >>> one, two = sides(Similarity(np.eye(1), ["a"], ["a"], 540, provenance=facts))
        >>> one.provenance, two.provenance
        ({'num_classes': 10, 'model': 'vit', 'accuracy': 0.9}, {'num_classes': 10, 'model': 'cnn'})
    """
    facts = result.provenance
    shared = {key: value for key, value in facts.items() if not key.startswith(_OF_ONE)}
    one, two = (
        shared | {name: facts[f"{name}{side}"] for name in _OF_ONE if f"{name}{side}" in facts} for side in "12"
    )
    return Side(result.n, one), Side(result.n, two)
