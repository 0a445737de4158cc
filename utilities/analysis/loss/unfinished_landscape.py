"""Finished points of an unfinished loss landscape on disk, so that a killed or shared run continues with the others."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from utilities.results.unfinished import Arrays, UnfinishedWork, list_unfinished

Points = dict[int, list[float]]  # place in the grid -> [nll, stderr, rise_stderr, accuracy]


def unfinished_files(base: str | Path, model: str = "") -> list[Path]:
    """List the files of finished points that unfinished runs have left, for all parts; see `loss_landscape`.

    Args:
        base: The path given as ``resume``.
        model: The model's name in the provenance.

    Example:
        >>> unfinished_files("nowhere/run", "resnet18")
        []
    """
    return list_unfinished(_stem(base, model))


class UnfinishedLandscape(UnfinishedWork[Points]):
    """Keep finished points in files, one for each part of a shared run.

    Args:
        base: The path given as ``resume``.
        model: The model's name in the provenance.
        part: Number of this process's part.
    """

    seconds_between = 30.0
    refusal = "holds points of another run (other weights, images or settings)"

    def __init__(self, base: str | Path, model: str, part: int) -> None:
        super().__init__(_stem(base, model), part)

    def load(self, key: str) -> Points:
        """Return the points that earlier processes have finished, of all parts.

        Args:
            key: The run's, known once its images have been read.

        Raises:
            ValueError: If a file is damaged or holds points of another run.
        """
        self.key = key
        return {place: values for part in self.load_parts() for place, values in part.items()}

    def _encode(self, work: Points) -> Arrays:
        values = np.array(list(work.values())).reshape(-1, 4)
        return {"run": np.array(self.key), "places": np.array(list(work), dtype=np.int64), "values": values}

    def _key_in(self, arrays: Arrays) -> str:
        return str(arrays["run"])

    def _decode(self, arrays: Arrays) -> Points:
        return dict(zip(arrays["places"].tolist(), arrays["values"].tolist(), strict=True))


def _stem(base: str | Path, model: str) -> Path:
    name = ".".join(filter(None, [Path(base).name, re.sub(r"\W+", "-", model), "points"]))
    return Path(base).parent / name
