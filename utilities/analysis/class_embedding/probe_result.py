"""What linear probes read from tokens, compared with the lens: accuracies, differences, and importance of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from utilities.results.result import Result
from utilities.results.statistics import mean_and_stderr, paired_p

READINGS = ("probe", "lens", "tuned")


@dataclass(frozen=True)
class LinearProbes(Result):
    """How often probe and lens name the class of an image that neither was fitted to.

    Attributes:
        names: Names of the blocks read.
        blocks: Indices of these blocks, from 0 to ``num_blocks`` - 1.
        num_blocks: Number of blocks of the model.
        parts: Parts read of each block.
        groups: ``CLS``, if there is a class token, and ``image``.
        readings: ``probe``, ``lens`` and, if one was given, the ``tuned`` lens, which only reads block outputs.
        accuracy: Top-1 accuracy of each token position, 0 to 1, (readings, parts, blocks, positions), CLS first. NaN
            where a block has fewer positions than another, or a reading cannot read it. Each of m tied scores counts
            1/m.
        correct: Share of a group's tokens read correctly in each image, (images, readings, parts, blocks, groups).
        interval: Lower and upper end of the bootstrap interval of the mean of ``correct`` over images, (2, readings,
            parts, blocks, groups).
        rank_sum: Rank of the true class, from 0, in the probes of block outputs, summed over blocks for each image
            token, (images, image tokens). It has no columns without block outputs or if grids differ.
        labels: True class of each image, (images,).
        num_classes: Number of classes of model and probes.
        provenance: What the result was made from.
    """

    names: list[str]
    blocks: list[int]
    num_blocks: int
    parts: list[str]
    groups: list[str]
    readings: list[str]
    accuracy: np.ndarray
    correct: np.ndarray
    interval: np.ndarray
    rank_sum: np.ndarray
    labels: np.ndarray
    num_classes: int
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def accuracy_stderr(self) -> np.ndarray:
        """Standard error of ``accuracy`` over images; NaN for a single image."""
        n = len(self.labels)
        return np.sqrt(self.accuracy * (1 - self.accuracy) / (n - 1 if n > 1 else np.nan))

    @property
    def probe_importance(self) -> np.ndarray:
        """Importance of each image token according to its probes, ``-rank_sum``; a larger value is more important.

        Raises:
            ValueError: If there are no ranks.
        """
        if not self.rank_sum.shape[1]:
            raise ValueError("no importance of tokens: it needs probes of part 'block' in blocks that share one grid")
        return -self.rank_sum

    def of(self, reading: str, part: str, group: str = "image") -> np.ndarray:
        """Return ``correct`` of one reading, part and group of tokens: (images, blocks).

        Raises:
            ValueError: If the reading, part or group was not read.
        """
        places = []
        for value, known in ((reading, self.readings), (part, self.parts), (group, self.groups)):
            if value not in known:
                raise ValueError(f"{value!r} was not read; there are {', '.join(known)}")
            places.append(known.index(value))
        return self.correct[:, places[0], places[1], :, places[2]].astype(np.float64)

    def difference(self, one: str = "probe", two: str = "lens") -> pd.DataFrame:
        """Compare two readings of the same tokens, image by image.

        Args:
            one: Name of a reading.
            two: Name of the reading to subtract.

        Returns:
            Columns part, group, block (from 1), name, difference (one minus two), stderr and p. The p-value is the
            probability of a mean difference as large or larger if the signs of images were random.
        """
        options = {name: self.provenance[name] for name in ("resamples", "seed") if name in self.provenance}
        tables = []
        for part, group in product(self.parts, self.groups):
            gaps = self.of(one, part, group) - self.of(two, part, group)
            difference, stderr = mean_and_stderr(gaps)
            columns = {"difference": difference, "stderr": stderr, "p": paired_p(gaps, **options)}
            tables.append(self._table({"part": part, "group": group}, columns))
        return pd.concat(tables, ignore_index=True)

    def to_frame(self) -> pd.DataFrame:
        """Tabulate accuracies: columns reading, part, group, block (from 1), name, accuracy, stderr, low, high."""
        values = dict(zip(("accuracy", "stderr"), mean_and_stderr(self.correct), strict=True))
        values |= dict(zip(("low", "high"), self.interval, strict=True))
        tables = []
        for (r, reading), (p, part), (g, group) in product(*map(enumerate, (self.readings, self.parts, self.groups))):
            columns = {name: array[r, p, :, g] for name, array in values.items()}
            tables.append(self._table({"reading": reading, "part": part, "group": group}, columns))
        return pd.concat(tables, ignore_index=True)

    def _table(self, labels: Mapping[str, str], columns: Mapping[str, np.ndarray]) -> pd.DataFrame:
        return pd.DataFrame({**labels, "block": np.array(self.blocks) + 1, "name": self.names, **columns})
