"""Put the similarities of compared layers together from sums over pairs of Gram matrices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from utilities.compare.matched_layers import Match, compared_layers

Key = tuple[int, int, str]  # side, number of the model, layer


class ComparedLayers:
    """Know which layers of the shared model and another one are compared, and put their similarities together.

    Args:
        grams: Mapping with a key for each layer of each model.
        counts: Number of models of each side.
        layers: Layers of each side.
        other: Which side is compared with the shared one, 1 or 2.
        match: See `utilities.compare.compare_similarities`.

    Raises:
        ValueError: If a model of a side lacks a layer.

    Example:
        >>> grams = {(side, 0, "a"): None for side in range(3)}
        >>> ComparedLayers(grams, [1, 1, 1], [["a"]] * 3, 1, "depth").pairs[0]
        ((0, 0, 'a'), (1, 0, 'a'))
    """

    def __init__(
        self,
        grams: Mapping[Key, Any],
        counts: Sequence[int],
        layers: Sequence[Sequence[str]],
        other: int,
        match: Match,
    ) -> None:
        self.other, self.counts = other, (counts[0], counts[other])
        self.compared = compared_layers(layers[0], layers[other], match)
        missing = [key for side, number in ((0, counts[0]), (other, counts[other])) for k in range(number)
                   for layer in layers[side] if (key := (side, k, layer)) not in grams]  # fmt: skip
        if missing:
            raise ValueError(
                f"models of one side should have the same layers, but {missing[0][2]!r} is not in all of them"
            )

    @property
    def pairs(self) -> list[tuple[Key, Key]]:
        """Pairs of Gram matrices whose HSIC is needed."""
        cross = [(one, two) for _, _, _, one, others in self._entries() for two in others]
        return cross + [(key, key) for pair in cross for key in pair]

    def _entries(self) -> Iterable[tuple[int, int, int, Key, list[Key]]]:
        for i, (layer, names) in enumerate(self.compared):
            for r in range(self.counts[0]):
                for k in range(self.counts[1]):
                    yield i, r, k, (0, r, layer), [(self.other, k, name) for name in names]

    def of(self, sums: Mapping[Any, np.ndarray]) -> np.ndarray:
        """Compute similarities from sums of HSIC, (rows, compared, models, other models)."""
        rows = len(next(iter(sums.values())))
        table = np.empty((rows, len(self.compared), *self.counts))
        for i, r, k, one, others in self._entries():
            table[:, i, r, k] = np.fmax.reduce([_cka(sums, one, two) for two in others])
        return table

    def matches(self, sums: Mapping[Any, np.ndarray]) -> list[str]:
        """Name the layer that each is compared with, of the first pair of models."""
        found = []
        for i, r, k, one, others in self._entries():
            if (r, k) == (0, 0):
                own = np.nan_to_num([_cka(sums, one, two)[0] for two in others], nan=-np.inf)
                found.append(self.compared[i][1][int(np.argmax(own))])
        return found


def _cka(sums: Mapping[Any, np.ndarray], one: Key, two: Key) -> np.ndarray:
    scale = sums[one, one] * sums[two, two]
    positive = (sums[one, one] > 0) & (sums[two, two] > 0)
    return np.where(positive, sums[one, two] / np.sqrt(np.where(positive, scale, 1)), np.nan)
