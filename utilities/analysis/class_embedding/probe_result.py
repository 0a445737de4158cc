"""What linear probes read off tokens beside the lens: accuracies, their differences, and the importance of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from utilities.analysis.class_embedding.statistics import mean_and_stderr, paired_p
from utilities.results import Result

READINGS = ("probe", "lens", "tuned")


@dataclass(frozen=True)
class LinearProbes(Result):
    """How often probe and lens name the class of an image that neither was fitted to.

    Attributes:
        names: Of the blocks that were read.
        blocks: Their indices, from 0, of ``num_blocks``.
        num_blocks: Of the model.
        parts: What was read of each block.
        groups: ``CLS``, where there is one, and ``image``.
        readings: ``probe``, ``lens`` and, where one was given, the ``tuned`` lens, which reads block outputs alone.
        accuracy: Top-1 accuracy of each token position, 0 to 1, (readings, parts, blocks, positions), CLS first; NaN
            where a block has fewer positions than another, or a reading cannot read it. Of m equal
            scores each counts for 1/m.
        correct: Share of a group's tokens that are read right in each image, (images, readings, parts, blocks, groups).
        interval: Lower and upper end of the bootstrap interval of its mean over images, (2, readings, parts, blocks,
            groups).
        rank_sum: Rank of the true class in the probes of block outputs, from 0, summed over blocks, for each image
            token, (images, image tokens); no columns without block outputs or where grids differ.
        labels: True class of each image.
        num_classes: Of model and probes.
        provenance: What it was made from.
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
        """The standard error over images of ``accuracy``; NaN of a single image."""
        n = len(self.labels)
        return np.sqrt(self.accuracy * (1 - self.accuracy) / (n - 1 if n > 1 else np.nan))

    @property
    def probe_importance(self) -> np.ndarray:
        """How important each image token is by its probes: ``-rank_sum``, the larger the more important.

        Raises:
            ValueError: If there are no ranks.
        """
        if not self.rank_sum.shape[1]:
            raise ValueError("no importance of tokens: it needs probes of part 'block' in blocks that share one grid")
        return -self.rank_sum

    def of(self, reading: str, part: str, group: str = "image") -> np.ndarray:
        """Give ``correct`` of one reading, part and group of tokens: (images, blocks).

        Raises:
            ValueError: If it was not read.
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
            one: A reading.
            two: Another.

        Returns:
            Columns part, group, block (from 1), name, difference (one less two), stderr, and p: the chance of a mean
            difference as large or larger if the signs of images were random.
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
        """Tabulate accuracies: reading, part, group, block (from 1), name, accuracy, stderr, low, high."""
        values = dict(zip(("accuracy", "stderr"), mean_and_stderr(self.correct), strict=True))
        values |= dict(zip(("low", "high"), self.interval, strict=True))
        tables = []
        for (r, reading), (p, part), (g, group) in product(*map(enumerate, (self.readings, self.parts, self.groups))):
            columns = {name: array[r, p, :, g] for name, array in values.items()}
            tables.append(self._table({"reading": reading, "part": part, "group": group}, columns))
        return pd.concat(tables, ignore_index=True)

    def _table(self, labels: Mapping[str, str], columns: Mapping[str, np.ndarray]) -> pd.DataFrame:
        return pd.DataFrame({**labels, "block": np.array(self.blocks) + 1, "name": self.names, **columns})
