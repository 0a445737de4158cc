"""Put the similarities of compared layers together from sums over pairs of Gram matrices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from utilities.compare.matched_layers import Match, compared_layers

Key = tuple[int, int, str]  # side, number of the model, layer
# Standard errors by which a candidate may fall short of the best one and still be taken for as near. By simulation,
# less makes intervals of equal layers too wide, more makes those of nearly equal ones too narrow.
ABOUT_EQUAL = 1.25


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

    def of(self, sums: Mapping[Any, np.ndarray], whole: Mapping[Any, np.ndarray] | None = None) -> np.ndarray:
        """Compute similarities from sums of HSIC, (rows, compared, models, other models).

        Args:
            sums: Sums under weights, or without each image.
            whole: Sums whose first row says which candidate is the most similar one; None takes ``sums``.
        """
        table = self._empty(sums)
        for i, r, k, one, others in self._entries():
            best = _best(_similarities(sums if whole is None else whole, one, others)[0])
            table[:, i, r, k] = _cka(sums, one, others[best])
        return table

    def drawn(self, sums: Mapping[Any, np.ndarray]) -> np.ndarray:
        """Compute how the most similar candidate varies over resamples, the same shape; the first row as in `of`.

        In a resample, each candidate that may well be the best moves from its own similarity, and the largest move
        counts: the directional derivative of a maximum (Fang & Santos 2019, https://doi.org/10.1093/restud/rdy049),
        after a selection (Andrews & Soares 2010, https://doi.org/10.3982/ECTA7502). The best chosen anew would vary
        too much, since candidates that are equally near differ by chance already.

        Args:
            sums: Sums of the images as they are, and of resamples.
        """
        table = self._empty(sums)
        for i, r, k, one, others in self._entries():
            found = _similarities(sums, one, others)
            best = _best(found[0])
            short = found[0, best] - found[0]
            near = short <= ABOUT_EQUAL * (found[1:, [best]] - found[1:]).std(0, ddof=1)
            near[best] = True
            table[:, i, r, k] = found[0, best] + (found - found[0])[:, near].max(1)
        return table

    def _empty(self, sums: Mapping[Any, np.ndarray]) -> np.ndarray:
        return np.empty((len(next(iter(sums.values()))), len(self.compared), *self.counts))

    def matches(self, sums: Mapping[Any, np.ndarray]) -> list[str]:
        """Name the layer that each is compared with, of the first pair of models."""
        found = []
        for i, r, k, one, others in self._entries():
            if (r, k) == (0, 0):
                found.append(self.compared[i][1][_best(_similarities(sums, one, others)[0])])
        return found


def _similarities(sums: Mapping[Any, np.ndarray], one: Key, others: Sequence[Key]) -> np.ndarray:
    """Compute the similarity to each candidate, (rows, candidates)."""
    return np.stack([_cka(sums, one, two) for two in others], axis=1)


def _best(values: np.ndarray) -> int:
    return int(np.argmax(np.nan_to_num(values, nan=-np.inf)))


def _cka(sums: Mapping[Any, np.ndarray], one: Key, two: Key) -> np.ndarray:
    scale = sums[one, one] * sums[two, two]
    positive = (sums[one, one] > 0) & (sums[two, two] > 0)
    return np.where(positive, sums[one, two] / np.sqrt(np.where(positive, scale, 1)), np.nan)
