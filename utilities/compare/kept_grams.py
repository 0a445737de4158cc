"""Keep the Gram matrices of all batches, for what needs more of them than their sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from utilities.compare.engine import Comparison
from utilities.compare.gram_shares import Grams
from utilities.compare.kept_layers import KeptLayer
from utilities.hooks.calls.batch_parts import split_batch


class KeptGrams(Comparison):
    """Compare two models, and keep the Gram matrices of all batches with the labels of their images.

    Attributes:
        grams: For each batch, the Gram matrices of either side by layer, float64, without a removed scale.
        labels: Labels of each batch, -1 where there are none.
        indices: Indices of the batches.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.grams: list[list[dict[str, torch.Tensor]]] = []
        self.labels: list[np.ndarray] = []
        self.indices: list[int] = []

    def add_batch(self, index: int, batch1: Any, batch2: Any) -> None:
        """Run both models on whole batches as the loaders yield them."""
        (images, labels), (images2, _) = split_batch(batch1), split_batch(batch2)
        known = isinstance(labels, torch.Tensor) and labels.shape == images.shape[:1]
        self.labels.append(labels.cpu().numpy() if known else np.full(len(images), -1))
        self.indices.append(index)
        self.add(index, images, images2)

    def _add_grams(self, index: int, n: int, recorded: list[dict[str, KeptLayer]]) -> None:
        super()._add_grams(index, n, recorded)
        once = {id(layer): _unscaled(layer) for side in recorded for layer in side.values()}  # sides may share layers
        self.grams.append([{name: once[id(layer)] for name, layer in side.items()} for side in recorded])

    def of_pair(self, pair: tuple[str, str]) -> list[Grams]:
        """Return the Gram matrices of a pair of layers, for each batch.

        Raises:
            ValueError: If a layer does not run.
        """
        for name, side in zip(pair, self.grams[0], strict=True):
            if name not in side:
                calls = [other for other in side if other.partition("#")[0] == name.partition("#")[0]]
                raise ValueError(f"layer {name!r} does not run; there are {', '.join(calls)}")
        return [(first[pair[0]], second[pair[1]]) for first, second in self.grams]


def _unscaled(layer: KeptLayer) -> torch.Tensor:
    return layer.value.cpu().double() * torch.exp2(2 * layer.exponent.cpu().double())
