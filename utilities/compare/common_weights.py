"""Find weights that two models have in common, which make them alike whatever they have learnt.

Models of one seed begin with the same values wherever their first layers have the same shapes, even those of different
architectures, and a short training moves such weights little.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cosine_similarity

# Weights of this many values or more, whose cosine is above this, have a beginning in common: independent ones have a
# cosine of 0.1 or so, and those that a few epochs of training have moved apart one of 0.99.
LEAST_VALUES, ALIKE = 100, 0.9


def common_weights(one: nn.Module, two: nn.Module) -> list[str]:
    """Name the weights of two models that are nearly the same, as those of the same initial weights are.

    Convolutions and linear layers alone count: norms and biases begin as ones and zeros everywhere.

    Example:
        >>> make = lambda seed: nn.Sequential(nn.Linear(20, 20))
        >>> _ = torch.manual_seed(0); one, two = make(0), make(1)
        >>> common_weights(one, two)
        []
        >>> _ = two.load_state_dict(one.state_dict()); common_weights(one, two)
        ['0.weight']
    """
    others, found = dict(two.named_parameters()), []
    for name, weight in one.named_parameters():
        other = others.get(name)
        if other is None or weight.ndim < 2 or weight.numel() < LEAST_VALUES or weight.shape != other.shape:
            continue
        pair = (value.detach().flatten().to(weight.device, torch.float32) for value in (weight, other))
        if cosine_similarity(*pair, dim=0) > ALIKE:
            found.append(name)
    return found


def common_facts(one: Any, two: Any) -> dict[str, int]:
    """Return how many weights two models have in common, for the provenance; of one model with itself, nothing.

    Example:
        >>> model = nn.Linear(20, 20)
        >>> common_facts(model, model), common_facts(model, "kept features")
        ({}, {})
    """
    if one is two or not (isinstance(one, nn.Module) and isinstance(two, nn.Module)):
        return {}
    names = common_weights(one, two)
    return {"common_weights": len(names)} if names else {}


def model_facts(one: nn.Module, two: nn.Module, provenance: Mapping[str, Any] | None) -> dict[str, Any]:
    """Name two models by their classes, unless a caller's facts name them, and state what weights they have in common.

    Example:
        >>> model_facts(nn.Linear(2, 2), nn.Bilinear(2, 2, 2), None)
        {'model1': 'Linear', 'model2': 'Bilinear'}
        >>> model_facts(nn.Linear(2, 2), nn.Bilinear(2, 2, 2), {"model1": "mine", "model2": "yours"})
        {}
    """
    named = {"model", "model1"} & set(provenance or {})
    names = {} if named else {"model1": type(one).__name__, "model2": type(two).__name__}
    return names | common_facts(one, two)
