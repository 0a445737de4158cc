"""Write a folder of features batch by batch: whole or not at all, and to be gone on with after an interruption."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utilities.compare.features.folder import FILE, FORMAT, UNFINISHED, sha256
from utilities.results.writing import read_json, write_json

PROGRESS = "progress.json"
SECONDS_BETWEEN = 60.0  # between two states from which an interrupted run goes on


class UnfinishedFolder:
    """Hold the memory maps of features that are being computed, in ``PATH.unfinished`` until `finish` renames it.

    Args:
        path: The folder to make.
        key: What tells this work from other work, see `utilities.results.unfinished.fingerprint`.

    Attributes:
        layers: What is known of each layer, in order; None before `begin`.
        ids: Names of the images so far.
        batches: Number of images in each batch so far.

    Raises:
        ValueError: If an unfinished folder of other work is there.
    """

    def __init__(self, path: str | Path, key: str) -> None:
        self.path, self._key = Path(path), key
        self.folder = self.path.with_name(self.path.name + UNFINISHED)
        self.layers: list[dict[str, Any]] | None = None
        self.ids: list[str] = []
        self.batches: list[int] = []
        self._maps: dict[str, np.memmap] = {}
        self._saved = time.monotonic()
        if self.folder.is_dir():
            self._take_up()

    def _take_up(self) -> None:
        begun = read_json(self.folder / PROGRESS)
        if not begun:  # killed before the first state was saved
            shutil.rmtree(self.folder)
            return
        if begun["key"] != self._key:
            raise ValueError(
                f"{self.folder} belongs to other features (model, layers, images or options); delete it, or write "
                "these elsewhere"
            )
        self.layers, self.ids, self.batches = begun["layers"], begun["ids"], begun["batches"]
        self._maps = {one["name"]: np.load(self.folder / one["file"], mmap_mode="r+") for one in self.layers}

    def begin(self, layers: Sequence[Mapping[str, Any]], total: int, dtype: str) -> None:
        """Make empty files.

        Args:
            layers: ``name``, ``shape`` (of one image) and ``facts`` of each layer, in the order of execution.
            total: Number of images.
            dtype: Type of the values on disk.
        """
        self.folder.mkdir(parents=True)
        self.layers = [{**one, "shape": list(one["shape"]), "file": f"{i}.npy"} for i, one in enumerate(layers)]
        for one in self.layers:
            self._maps[one["name"]] = np.lib.format.open_memmap(
                self.folder / one["file"], "w+", np.dtype(dtype), (total, *one["shape"])
            )
        self.save()

    def add(self, names: Sequence[str], values: Mapping[str, torch.Tensor]) -> None:
        """Write the rows of a batch.

        Raises:
            ValueError: If layers or shapes are not those of the batch before, or values do not fit the type.
        """
        first = len(self.ids)
        if list(values) != list(self._maps):
            raise ValueError("the model ran other layers, or in another order, than on the batch before")
        for name, value in values.items():
            rows = self._maps[name]
            if value.shape[1:] != rows.shape[1:]:
                raise ValueError(
                    f"layer {name!r} gives {tuple(value.shape[1:])}, and gave {rows.shape[1:]} on the batch before: "
                    "give all images one size, or take view='gap'"
                )
            rows[first : first + len(names)] = _fitted(name, value, rows.dtype)
        self.ids += names
        self.batches.append(len(names))
        if time.monotonic() - self._saved > SECONDS_BETWEEN:
            self.save()

    def save(self) -> None:
        """Bring everything to disk, and note how far it is."""
        for rows in self._maps.values():
            rows.flush()
        state = {"key": self._key, "layers": self.layers, "ids": self.ids, "batches": self.batches}
        write_json(self.folder / PROGRESS, state)
        self._saved = time.monotonic()

    def finish(self, about: Mapping[str, Any]) -> Path:
        """Add the checksums and the facts, and give the folder its name."""
        self.save()
        self._maps.clear()
        layers = [{**one, "sha256": sha256(self.folder / one["file"])} for one in self.layers]
        content = {"format": FORMAT, **about, "batches": self.batches, "layers": layers, "ids": self.ids}
        write_json(self.folder / FILE, content)
        (self.folder / PROGRESS).unlink()
        return self.folder.rename(self.path)


def _fitted(name: str, value: torch.Tensor, dtype: np.dtype) -> np.ndarray:
    """Convert values, and refuse what is not finite or becomes so."""
    wide = value.double().numpy() if value.dtype == torch.float64 else value.float().numpy()
    if not np.isfinite(wide).all():
        raise ValueError(f"layer {name!r} gives NaN or infinite features; look at the images' scale and the weights")
    with np.errstate(over="ignore"):
        narrow = wide.astype(dtype)
    if not np.isfinite(narrow).all():
        raise ValueError(
            f"layer {name!r} has values up to {np.abs(wide).max():.3g}, which {dtype} does not hold; take a wider dtype"
        )
    return narrow
