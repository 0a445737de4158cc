"""Base class of all results: saving, loading and conversion to a table."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import Self

from utilities.results.writing import write_json, write_whole

_WHOLE = "__result__"  # the entry of the npz file that holds everything other than arrays


@dataclasses.dataclass(frozen=True)
class Result:
    """Base of the frozen dataclasses that analyses return: arrays are saved as npz, the rest as json.

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
        """Write ``path.npz`` (arrays) and ``path.json`` (the rest) without pickle, each completely or not at all.

        The npz file also holds the rest. It is a complete result, whatever an interruption has left beside it.

        Args:
            path: Path with or without the suffix ``.npz``. Its folder is created.

        Returns:
            The path of the npz file.
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        arrays = {name: value for name, value in fields.items() if isinstance(value, np.ndarray)}
        path = _base(path)
        rest = {name: value for name, value in fields.items() if name not in arrays}
        rest = {"type": type(self).__name__, "result_id": _digest(rest, arrays), **rest}
        arrays[_WHOLE] = np.frombuffer(json.dumps(rest).encode(), np.uint8)
        npz = path.with_name(path.name + ".npz")
        write_whole(npz, lambda p: np.savez_compressed(p, **arrays), sum(array.nbytes for array in arrays.values()))
        write_json(path.with_name(path.name + ".json"), rest)
        return npz

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Changes made by hand in the json file are kept. A json file from another run than the npz file is ignored with
        a warning, because the npz file is complete by itself.

        Args:
            path: Path with or without the suffix ``.npz``.

        Raises:
            FileNotFoundError: If the npz file is missing, or if its json file is missing and the npz file is of an
                earlier version that needs it.
            ValueError: If the files hold another kind of result, or are damaged.
        """
        path = _base(path)
        npz, text = path.with_name(path.name + ".npz"), path.with_name(path.name + ".json")
        if not npz.is_file():
            raise FileNotFoundError(f"{npz} is missing; a {cls.__name__} is saved as an npz and a json file")
        try:
            with np.load(npz, allow_pickle=False) as content:
                arrays = {name: content[name] for name in content.files}
            whole = arrays.pop(_WHOLE, None)
            own = None if whole is None else json.loads(whole.tobytes())
            beside = json.loads(text.read_text()) if text.is_file() else None
        except Exception as error:  # numpy and zipfile raise a dozen types for a damaged file
            raise ValueError(f"{npz} or its json file is damaged: {error}; make the result again") from error
        fields = {**_rest(own, beside, npz, text), **arrays}
        kind = fields.pop("type", None)
        if kind != cls.__name__:
            raise ValueError(f"{npz} holds a {kind}, not a {cls.__name__}")
        return cls(**fields)


def _digest(rest: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """Compute a digest of everything in a result, to tell it from others."""
    digest = hashlib.sha256(json.dumps(rest).encode())
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:16]


def _rest(own: dict[str, Any] | None, beside: dict[str, Any] | None, npz: Path, text: Path) -> dict[str, Any]:
    """Choose the values other than arrays from the npz file and the json file beside it."""
    if own is None:  # the file is of an earlier version
        if beside is None:
            raise FileNotFoundError(f"{text} is missing; {npz.name} is of an earlier version and needs it")
        if "result_id" in beside:
            raise ValueError(f"{text} is of another run than {npz.name}, which needs its own; make the result again")
        return beside
    if beside is not None and beside.get("result_id") != own["result_id"]:
        warnings.warn(f"{text} is of another run than {npz.name}, and is left out", stacklevel=3)
        beside = None
    rest = dict(own if beside is None else beside)
    del rest["result_id"]
    return rest


def _base(path: str | Path) -> Path:
    path = Path(path)
    return path.with_suffix("") if path.suffix in (".npz", ".json") else path
