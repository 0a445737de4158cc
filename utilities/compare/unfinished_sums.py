"""Keep unfinished comparisons on disk, so that a killed run can continue, with any number of processes."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from utilities.compare.sums import Side, Sums
from utilities.results.writing import check_writable, warning_of_failure, write_whole

SECONDS_BETWEEN = 60.0


def fingerprint(models: list[nn.Module], facts: Any) -> str:
    """Return a string that tells one comparison from another.

    Args:
        models: Models; their printed structure, parameters and buffers count.
        facts: Anything whose ``repr`` states what else the sums depend on.

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

    Example:
        >>> code_of(lambda x: x + 1) == code_of(lambda x: x + 2), code_of("gap")
        (False, 'gap')
    """
    code = getattr(value, "__code__", None)
    if code is None:
        return getattr(value, "__qualname__", value)
    constants = [c for c in code.co_consts if not hasattr(c, "co_code")]
    return value.__qualname__, code.co_code.hex(), constants, code.co_names


class PartialSums:
    """Manage the files of one comparison, one for each process, ``BASE.partial0.npz`` and so on.

    Args:
        base: Path of the files, without their ending.
        key: See `fingerprint`: sums of another comparison are refused.
        rank: This process's number.
    """

    def __init__(self, base: str | Path, key: str, rank: int = 0) -> None:
        self.base, self.key, self.rank = Path(base), key, rank
        check_writable(self._path(rank))
        self._saved = time.monotonic()

    def _path(self, rank: int) -> Path:
        return self.base.with_name(f"{self.base.name}.partial{rank}.npz")

    def paths(self) -> list[Path]:
        """List the existing files, of all processes of an earlier run."""
        return sorted(self.base.parent.glob(f"{self.base.name}.partial*.npz"))

    def load(self) -> Sums | None:
        """Merge what an earlier run left; return None where there is nothing.

        Raises:
            ValueError: If a file is damaged or belongs to another comparison.
        """
        loaded = sorted((self._read(path) for path in self.paths()), key=lambda sums: -len(sums.done))
        if not loaded:
            return None
        whole = loaded[0]
        for sums in loaded[1:]:
            if not sums.done <= whole.done:  # a run killed while merging leaves some sums twice
                whole.merge(sums)
        return whole

    def _read(self, path: Path) -> Sums:
        try:
            with np.load(path, allow_pickle=False) as content:
                meta, arrays = json.loads(str(content["meta"])), {k: content[k] for k in content.files}
        except Exception as error:  # numpy and zipfile raise a dozen types for a damaged file
            raise ValueError(f"{path} is damaged; delete it to start again") from error
        if meta["key"] != self.key:
            raise ValueError(f"{path} belongs to another comparison; delete it, or write the result elsewhere")
        return _from_arrays(meta, {name: torch.from_numpy(a) for name, a in arrays.items() if name != "meta"})

    def save(self, sums: Sums) -> None:
        """Write this process's sums, whole or not at all."""
        meta, arrays = _to_arrays(sums.cpu())
        text = np.array(json.dumps({**meta, "key": self.key}))
        needs = sum(array.nbytes for array in (text, *arrays.values()))
        write_whole(self._path(self.rank), lambda path: np.savez(path, meta=text, **arrays), needs)
        self._saved = time.monotonic()

    def save_now_and_then(self, sums: Sums, now: bool = False) -> None:
        """Write the sums if the last time was a while ago, or if ``now``; a failure to write causes a warning."""
        if now or time.monotonic() - self._saved >= SECONDS_BETWEEN:
            self._saved = time.monotonic()
            with warning_of_failure():
                self.save(sums)

    def remove(self, keep_own: bool = False) -> None:
        """Delete the files, of all processes."""
        for path in self.paths():
            if not (keep_own and path == self._path(self.rank)):
                path.unlink(missing_ok=True)


def _to_arrays(sums: Sums) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    arrays = {f"block {key} {i}": block[i].numpy() for key, block in sums.blocks.items() for i in range(3)}
    arrays |= {
        f"batch {key} {i}": x.numpy() for key, terms in (sums.per_batch or {}).items() for i, x in enumerate(terms)
    }
    if sums.null is not None:
        arrays["null"] = sums.null.numpy()
    for which, side in enumerate(sums.sides or ()):
        arrays |= {f"side {which} {name}": getattr(side, name).numpy() for name in ("first", "share", "image")}
    meta = {name: getattr(sums, name) for name in ("confounded", "stride", "n", "largest")}
    meta |= {"done": sorted(sums.done), "counts": {key: block[3] for key, block in sums.blocks.items()}}
    meta |= {"sides": [[s.names, s.widths] for s in sums.sides or ()], "batches": sorted(sums.per_batch or [])}
    return {**meta, "per_batch": sums.per_batch is not None}, arrays


def _from_arrays(meta: dict[str, Any], arrays: dict[str, torch.Tensor]) -> Sums:
    blocks = {int(k): [arrays[f"block {k} {i}"] for i in range(3)] + [count] for k, count in meta["counts"].items()}
    batches = {k: [arrays[f"batch {k} {i}"] for i in range(3)] for k in meta["batches"]}
    sides = [
        Side(*names_widths, *(arrays[f"side {which} {name}"] for name in ("first", "share", "image")))
        for which, names_widths in enumerate(meta["sides"])
    ]
    return Sums(
        confounded=meta["confounded"],
        stride=meta["stride"],
        blocks=blocks,
        null=arrays.get("null"),
        per_batch=batches if meta["per_batch"] else None,
        done=set(meta["done"]),
        n=meta["n"],
        largest=meta["largest"],
        sides=tuple(sides) if sides else None,
    )
