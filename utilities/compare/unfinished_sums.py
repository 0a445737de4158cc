"""Unfinished comparisons on disk, so that a killed run goes on, with any number of processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utilities.compare.batch_sums import BatchSums, LayerStatistics
from utilities.results.unfinished import Arrays, UnfinishedWork


class UnfinishedSums(UnfinishedWork[BatchSums]):
    """Keep the sums of one comparison in files, one for each process, ``BASE.partial0.npz`` and so on.

    Args:
        base: Path of the files, without their ending.
        key: See `utilities.results.unfinished.fingerprint`; sums of another comparison are refused.
        rank: Number of this process.
    """

    refusal = "belongs to another comparison"

    def __init__(self, base: str | Path, key: str, rank: int = 0) -> None:
        super().__init__(Path(base).with_name(f"{Path(base).name}.partial"), rank, key)

    def load(self) -> BatchSums | None:
        """Merge what an earlier run left; None where there is nothing.

        Raises:
            ValueError: If a file is damaged or belongs to another comparison.
        """
        loaded = sorted(self.load_parts(), key=lambda sums: -len(sums.done))
        if not loaded:
            return None
        whole = loaded[0]
        for sums in loaded[1:]:
            if not sums.done <= whole.done:  # a run that was killed while it merged leaves some twice
                whole.merge(sums)
        return whole

    def _encode(self, work: BatchSums) -> Arrays:
        meta, arrays = _to_arrays(work.cpu())
        return {"meta": np.array(json.dumps({**meta, "key": self.key})), **arrays}

    def _key_in(self, arrays: Arrays) -> str:
        return json.loads(str(arrays["meta"]))["key"]

    def _decode(self, arrays: Arrays) -> BatchSums:
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items() if name != "meta"}
        return _from_arrays(json.loads(str(arrays["meta"])), tensors)


def _to_arrays(sums: BatchSums) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    arrays = {f"block {key} {i}": block[i].numpy() for key, block in sums.blocks.items() for i in range(3)}
    arrays |= {
        f"batch {key} {i}": x.numpy() for key, terms in (sums.per_batch or {}).items() for i, x in enumerate(terms)
    }
    if sums.null is not None:
        arrays["null"] = sums.null.numpy()
    for which, side in enumerate(sums.sides or ()):
        arrays |= {f"side {which} {name}": getattr(side, name).numpy() for name in ("first", "share", "image")}
    meta = {name: getattr(sums, name) for name in ("confounded", "stride", "n", "largest", "decision")}
    meta |= {"done": sorted(sums.done), "counts": {key: block[3] for key, block in sums.blocks.items()}}
    meta |= {"sides": [[s.names, s.widths, s.shapes] for s in sums.sides or ()]}
    meta |= {"batches": sorted(sums.per_batch or [])}
    return {**meta, "per_batch": sums.per_batch is not None}, arrays


def _from_arrays(meta: dict[str, Any], arrays: dict[str, torch.Tensor]) -> BatchSums:
    blocks = {int(k): [arrays[f"block {k} {i}"] for i in range(3)] + [count] for k, count in meta["counts"].items()}
    batches = {k: [arrays[f"batch {k} {i}"] for i in range(3)] for k in meta["batches"]}
    sides = [
        LayerStatistics(
            *(names, widths),
            *(arrays[f"side {which} {name}"] for name in ("first", "share", "image")),
            shapes=shapes[0] if shapes else [None] * len(names),  # sums of earlier versions have none
        )
        for which, (names, widths, *shapes) in enumerate(meta["sides"])
    ]
    return BatchSums(
        confounded=meta["confounded"],
        stride=meta["stride"],
        blocks=blocks,
        null=arrays.get("null"),
        per_batch=batches if meta["per_batch"] else None,
        done=set(meta["done"]),
        n=meta["n"],
        largest=meta["largest"],
        sides=tuple(sides) if sides else None,
        decision=meta.get("decision"),
    )
