"""What is kept of a layer's batch: its Gram matrix, or its features."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from utilities.compare.measures.measure import centered
from utilities.hooks.features import as_real, unit_scale
from utilities.hooks.precision import Precision


@dataclass(frozen=True)
class KeptLayer:
    """Hold one layer's batch: the centred Gram matrix, or centred float64 features for measures other than CKA."""

    value: torch.Tensor
    exponent: torch.Tensor  # exponent of the scale removed from the features, see `utilities.hooks.features.exponent`
    width: int
    shape: tuple[int, ...] = ()  # of the layer's output for one image, before a view has chosen from it


def gram_layer(features: torch.Tensor, precision: Precision) -> KeptLayer:
    """Keep the Gram matrix of features (n, p)."""
    return KeptLayer(*precision.gram_of(features), features.shape[1])


def feature_layer(features: torch.Tensor, precision: Precision) -> KeptLayer:
    """Keep features (n, p) themselves, in float64."""
    scaled, power = unit_scale(as_real(features.detach().cpu()).double())
    return KeptLayer(centered(scaled), power, scaled.shape[1])


def exponents(layers: dict[str, KeptLayer], device: torch.device) -> torch.Tensor:
    """Return the exponents of all layers, in float64."""
    return torch.stack([layer.exponent for layer in layers.values()]).to(device).double()


def self_products(layers: dict[str, KeptLayer]) -> torch.Tensor:
    """Multiply the features of each layer with themselves, (layers, n, n)."""
    return torch.stack([layer.value @ layer.value.T for layer in layers.values()])
