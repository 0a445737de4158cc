"""A folder of kept features: one memory map a layer, and a file that says what they are.

``features.json`` has the layers (name, file, shape, type, checksum, axes), the ids of the images in the order of the
rows, the sizes of the batches, the view, and the provenance with its versions. ``0.npy``, ``1.npy``, ... hold a layer
each, a row for each image, as `numpy.load` reads them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from utilities.compare.features.rows import Rows

FILE = "features.json"
FORMAT = 1  # raised when the meaning of the files changes
UNFINISHED = ".unfinished"  # ending of the folder that is being written


class KeptLayerOutput(nn.Module):
    """Stand for a layer whose outputs were kept.

    Attributes:
        facts: The ``shape`` of its output for one image, and what is told about its axes, see
            `utilities.hooks.layout.Layout.facts_of`.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        super().__init__()
        self.facts = facts


class KeptFeatures(nn.Module):
    """Hold features that `save_features` wrote; `open_features` makes one, and `compare` takes it for a model.

    Attributes:
        path: The folder.
        ids: Names of the images, in the order of the rows.
        view: What was kept of each output: ``"flatten"`` is all of it, so that any view can be taken later.
        batches: Number of images in each batch in which they were computed.
        provenance: Model, weights, dataset, versions, ...
        layout_facts: What is told about the model as a whole, see `utilities.hooks.layout.Layout.facts`.
    """

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        super().__init__()
        self.path, self._content = path, content
        self.ids, self.view, self.batches = content["ids"], content["view"], content["batches"]
        self.provenance, self.layout_facts = content["provenance"], content["layout"]
        self.layers = {one["name"]: one for one in content["layers"]}
        self.outputs = _Hidden({name: KeptLayerOutput(one["facts"]) for name, one in self.layers.items()})
        self.maps = {name: np.load(path / one["file"], mmap_mode="r") for name, one in self.layers.items()}

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """Yield the kept layers under their names in the model, each once, so that globs choose among them."""
        yield prefix, self
        for name, output in self.outputs.held.items():
            if "#" not in name:
                yield f"{prefix}.{name}" if prefix else name, output

    def forward(self, *_: Any, **__: Any) -> torch.Tensor:
        """Refuse to run.

        Raises:
            ValueError: Always: the model itself is needed.
        """
        raise ValueError(f"{self.path} holds features, not a model that can be run; name the model itself")

    def extra_repr(self) -> str:
        """Tell one folder of features from another, wherever it lies."""
        return f"{self.checksum}, {len(self.ids)} images, {self.view}"

    @property
    def checksum(self) -> str:
        """Digest of all layers' checksums, their names and the ids."""
        parts = [[one["name"], one["sha256"]] for one in self.layers.values()]
        return hashlib.sha256(json.dumps([parts, self.ids]).encode()).hexdigest()[:16]

    def facts(self) -> dict[str, Any]:
        """State in a result's provenance which features these are."""
        made = self.provenance.get("versions")
        return {"folder": self.path.name, "checksum": self.checksum, "dtype": self._content["dtype"], "versions": made}

    def loader(self, batch_size: int | None = None) -> DataLoader:
        """Make a loader of the rows, for `compare`.

        Args:
            batch_size: Images in a batch; None is the batches in which the features were computed.
        """
        count = len(self.ids)
        sizes = self.batches if batch_size is None else [batch_size] * -(-count // batch_size)
        ends = np.cumsum(sizes).tolist()
        listed = [list(range(end - size, min(end, count))) for size, end in zip(sizes, ends, strict=True)]
        return DataLoader(Rows(self.ids), batch_sampler=listed)

    def read(self, name: str, rows: np.ndarray) -> torch.Tensor:
        """Read some rows of a layer, (rows, ...); float16 comes as float32."""
        whole, ordered = self.maps[name], bool((np.diff(rows) == 1).all())
        values = whole[rows[0] : rows[-1] + 1] if ordered else whole[rows]
        return torch.from_numpy(np.array(values, np.float64 if values.dtype == np.float64 else np.float32))

    def verify(self) -> None:
        """Read every file, and compare its checksum.

        Raises:
            ValueError: For a file that is not what was written.
        """
        for one in self.layers.values():
            if sha256(self.path / one["file"]) != one["sha256"]:
                raise ValueError(
                    f"{self.path / one['file']} (layer {one['name']!r}) is not what was written; keep the features anew"
                )


class _Hidden:
    """Hold modules without registering them as children, whose names could not have dots."""

    def __init__(self, held: dict[str, KeptLayerOutput]) -> None:
        self.held = held


def open_features(path: str | Path, *, verify: bool = True) -> KeptFeatures:
    """Open a folder that `save_features` wrote; features stay on disk until they are needed.

    Args:
        path: The folder.
        verify: Whether to compare the checksums of all files, which reads them once.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it is unfinished, damaged, or of another kind.

    Example:
        >>> open_features("nowhere")
        Traceback (most recent call last):
        FileNotFoundError: nowhere holds no kept features: there is no features.json in it; save_features, or ...
    """
    path = Path(path)
    if not (path / FILE).is_file():
        begun = path.with_name(path.name + UNFINISHED)
        begun = path if path.name.endswith(UNFINISHED) else begun
        if begun.is_dir():
            raise ValueError(f"the features in {begun} are unfinished; the call that began them goes on from there")
        raise FileNotFoundError(
            f"{path} holds no kept features: there is no {FILE} in it; save_features, or python -m utilities "
            "features, writes them"
        )
    try:
        content = json.loads((path / FILE).read_text())
        if content["format"] != FORMAT:
            raise ValueError(f"it is of format {content['format']}, and {FORMAT} is known here")
        kept = KeptFeatures(path, content)
        for name, one in kept.layers.items():
            shape, dtype = [len(kept.ids), *one["shape"]], content["dtype"]
            if list(kept.maps[name].shape) != shape or kept.maps[name].dtype != dtype:
                raise ValueError(f"{one['file']} is {kept.maps[name].dtype} {kept.maps[name].shape}, not {shape}")
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise ValueError(f"the features in {path} are damaged: {error}; keep them anew") from error
    if verify:
        kept.verify()
    return kept


def is_kept(path: str | Path) -> bool:
    """Tell whether a path is a folder of kept features, finished or not.

    Example:
        >>> is_kept("nowhere")
        False
    """
    path = Path(path)
    return (path / FILE).is_file() or path.with_name(path.name + UNFINISHED).is_dir()


def sha256(path: Path) -> str:
    """Return the checksum of a file, read in parts."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**22):
            digest.update(part)
    return digest.hexdigest()
