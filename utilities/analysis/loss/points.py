"""Finished points of a loss landscape on disk, so that a killed or shared run continues with the remaining ones."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from utilities.results.writing import check_writable, warning_of_failure, write_whole

SECONDS_BETWEEN = 30.0  # how often finished points are written


def unfinished(base: str | Path, model: str = "") -> list[Path]:
    """List the files of finished points that unfinished runs have left, for all parts; see `loss_landscape`.

    Args:
        base: The path given as ``resume``.
        model: The model's name in the provenance.

    Example:
        >>> unfinished("nowhere/run", "resnet18")
        []
    """
    return sorted(Path(base).parent.glob(f"{_points_name(base, model)}*.npz"))


def _points_name(base: str | Path, model: str) -> str:
    return ".".join(filter(None, [Path(base).name, re.sub(r"\W+", "-", model), "points"]))


class Points:
    """Finished points on disk, with one file per part of a shared run."""

    def __init__(self, base: str | Path, model: str, part: int) -> None:
        self.base, self.model, self.run, self._saved = Path(base), model, "", time.monotonic()
        self._path = self.base.with_name(f"{_points_name(base, model)}{part}.npz")
        check_writable(self._path)

    def load(self, run: str) -> dict[int, list[float]]:
        """Return the points of this run that earlier processes have finished, from all parts."""
        self.run, done = run, {}
        for path in unfinished(self.base, self.model):
            try:
                with np.load(path, allow_pickle=False) as content:
                    found, places, values = str(content["run"]), content["places"], content["values"]
            except Exception as error:  # numpy and zipfile raise a dozen types for a damaged file
                raise ValueError(f"{path} is damaged; delete it to start again") from error
            if found != run:
                raise ValueError(
                    f"{path} holds points of another run (other weights, images or settings); delete it, or write the "
                    "result elsewhere"
                )
            done |= dict(zip(places.tolist(), values.tolist(), strict=True))
        return done

    def save(self, done: Mapping[int, list[float]]) -> None:
        """Write the points that this process has finished."""
        places, values = np.array(list(done), dtype=np.int64), np.array(list(done.values())).reshape(-1, 4)
        write_whole(self._path, lambda path: np.savez(path, run=np.array(self.run), places=places, values=values))
        self._saved = time.monotonic()

    def save_now_and_then(self, done: Mapping[int, list[float]]) -> None:
        """Write the finished points if the last attempt is long enough ago.

        A failed write causes a warning, and is tried again after the same time.
        """
        if time.monotonic() - self._saved >= SECONDS_BETWEEN:
            self._saved = time.monotonic()
            with warning_of_failure():
                self.save(done)

    def remove(self) -> None:
        """Delete the files of all parts."""
        for path in unfinished(self.base, self.model):
            path.unlink(missing_ok=True)
