"""What every result can do: be saved, loaded and turned into a table."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import Self

from utilities.utils import write_json, write_whole


@dataclasses.dataclass(frozen=True)
class Result:
    """Base of the frozen dataclasses that analyses return: arrays go to an npz file, the rest to json.

    Example:
        >>> import tempfile
        >>> @dataclasses.dataclass(frozen=True)
        ... class Curve(Result):
        ...     y: np.ndarray
        ...     unit: str
        >>> path = Curve(np.arange(3.0), "px").save(Path(tempfile.mkdtemp()) / "curve")
        >>> Curve.load(path)
        Curve(y=array([0., 1., 2.]), unit='px')
    """

    def save(self, path: str | Path) -> Path:
        """Write ``path.npz`` (arrays) and ``path.json`` (all else), each whole or not at all, without pickle.

        Args:
            path: With or without the suffix ``.npz``; its folder is made.

        Returns:
            The path of the npz file.
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        arrays = {name: value for name, value in fields.items() if isinstance(value, np.ndarray)}
        path = _base(path)
        npz = write_whole(path.with_name(path.name + ".npz"), lambda p: np.savez_compressed(p, **arrays))
        rest = {name: value for name, value in fields.items() if name not in arrays}
        write_json(path.with_name(path.name + ".json"), {"type": type(self).__name__, **rest})
        return npz

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Args:
            path: With or without the suffix ``.npz``.

        Raises:
            FileNotFoundError: If one of the two files is missing.
            ValueError: If the files hold another kind of result, or are damaged.
        """
        path = _base(path)
        npz, text = path.with_name(path.name + ".npz"), path.with_name(path.name + ".json")
        for file in (npz, text):
            if not file.is_file():
                raise FileNotFoundError(f"{file} is missing; a {cls.__name__} is saved as an npz and a json file")
        try:
            rest: dict[str, Any] = json.loads(text.read_text())
            with np.load(npz, allow_pickle=False) as arrays:
                fields = {**rest, **{name: arrays[name] for name in arrays.files}}
        except Exception as error:  # numpy and zipfile raise a dozen types for a damaged file
            raise ValueError(f"{npz} or its json file is damaged: {error}") from error
        kind = fields.pop("type", None)
        if kind != cls.__name__:
            raise ValueError(f"{text} holds a {kind}, not a {cls.__name__}")
        return cls(**fields)


def _base(path: str | Path) -> Path:
    path = Path(path)
    return path.with_suffix("") if path.suffix in (".npz", ".json") else path
