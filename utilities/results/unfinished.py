"""Unfinished work on disk, so that a killed run goes on where it was, with any number of processes."""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import nn

from utilities.results.writing import check_writable, warning_of_failure, write_whole

Work = TypeVar("Work")
Arrays = dict[str, np.ndarray]


def fingerprint(models: list[nn.Module], facts: Any) -> str:
    """Return a key that tells one piece of work from another.

    Args:
        models: Models whose structure, as they print it, parameters and buffers count.
        facts: Anything whose ``repr`` contains what else the work depends on.

    Example:
        >>> fingerprint([nn.Identity()], 1) == fingerprint([nn.Identity()], 2)
        False
    """
    digest = hashlib.sha256(repr(facts).encode())
    for model in models:
        digest.update(f"{type(model).__qualname__} {model!r}".encode())
        for name, value in model.state_dict().items():
            # Bytes, not sums: a sum depends on the number of threads, which other processes may have.
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def code_of(value: Any) -> Any:
    """Return a function's code, to tell it from another of the same name; return other values as they are.

    Its docstring is left out: rewording it makes no other function.

    Example:
        >>> code_of(lambda x: x + 1) == code_of(lambda x: x + 2), code_of("gap")
        (False, 'gap')
    """
    code = getattr(value, "__code__", None)
    if code is None:
        return getattr(value, "__qualname__", value)
    constants = [c for c in code.co_consts if not hasattr(c, "co_code") and c != value.__doc__]
    return value.__qualname__, code.co_code.hex(), constants, code.co_names


class UnfinishedWork(ABC, Generic[Work]):
    """Keep unfinished work in files, one for each process, ``STEM0.npz`` and so on.

    A subclass says how the work becomes arrays and back, and where in them the key is.

    Args:
        stem: Path of the files, without the process's number and the ending.
        number: Number of this process.
        key: See `fingerprint`; files with another key are refused.

    Raises:
        OSError: If nothing can be written there.
    """

    seconds_between = 60.0  # between two saves
    refusal = "belongs to another run"  # what is said of a file with another key

    def __init__(self, stem: str | Path, number: int = 0, key: str = "") -> None:
        self._stem, self.number, self.key = Path(stem), number, key
        self._saved, self._failed = time.monotonic(), False
        check_writable(self._path)

    @property
    def _path(self) -> Path:
        return self._stem.with_name(f"{self._stem.name}{self.number}.npz")

    @abstractmethod
    def _encode(self, work: Work) -> Arrays:
        """Turn work into arrays, the key among them."""

    @abstractmethod
    def _key_in(self, arrays: Arrays) -> str: ...

    @abstractmethod
    def _decode(self, arrays: Arrays) -> Work: ...

    def paths(self) -> list[Path]:
        """List the existing files, of all processes of an earlier run."""
        return list_unfinished(self._stem)

    def load_parts(self) -> list[Work]:
        """Read what the processes of an earlier run left, in the order of `paths`.

        Raises:
            ValueError: If a file is damaged or belongs to other work.
        """
        return [self._read(path) for path in self.paths()]

    def _read(self, path: Path) -> Work:
        try:
            with np.load(path, allow_pickle=False) as content:
                arrays = {name: content[name] for name in content.files}
            found = self._key_in(arrays)
            work = self._decode(arrays) if found == self.key else None
        except Exception as error:  # numpy and zipfile raise a dozen types for a damaged file
            raise ValueError(f"{path} is damaged; delete it to start again") from error
        if found != self.key:
            raise ValueError(f"{path} {self.refusal}; delete it, or write the result elsewhere")
        return work

    def save(self, work: Work) -> None:
        """Write this process's work, whole or not at all.

        Raises:
            OSError: If it cannot be written.
        """
        arrays = self._encode(work)
        needs = sum(array.nbytes for array in arrays.values())
        write_whole(self._path, lambda path: np.savez(path, **arrays), needs)
        self._saved, self._failed = time.monotonic(), False

    def save_now_and_then(self, work: Work, now: bool = False) -> None:
        """Write the work if the last time is a while ago, or now; warn once of what cannot be written."""
        if not now and time.monotonic() - self._saved < self.seconds_between:
            return
        self._saved = time.monotonic()
        with warning_of_failure((lambda text: None) if self._failed else None):
            self._failed = True
            self.save(work)

    def remove(self, keep_own: bool = False) -> None:
        """Delete the files of all processes."""
        for path in self.paths():
            if not (keep_own and path == self._path):
                path.unlink(missing_ok=True)


def list_unfinished(stem: str | Path) -> list[Path]:
    """List the files that unfinished runs have left, of all processes.

    Args:
        stem: Path of the files, without the process's number and the ending.

    Example:
        >>> list_unfinished("nowhere/run.points")
        []
    """
    return sorted(Path(stem).parent.glob(f"{Path(stem).name}*.npz"))
