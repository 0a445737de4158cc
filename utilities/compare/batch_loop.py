"""Run the loop over batches, shared among processes and resumable after it was killed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from tqdm.auto import tqdm

from utilities.compare.batches import batch_indices, length, paired_batches, prefetched
from utilities.compare.engine import Comparison
from utilities.compare.sums import Sums
from utilities.compare.unfinished_sums import PartialSums, code_of, fingerprint
from utilities.hooks.calls.nested import tensors_in


def collect(
    run: Comparison, loaders: tuple[Any, Any], sharded: bool, path: str | Path | None, progress: bool
) -> tuple[Sums, PartialSums | None]:
    """Feed a comparison this process's share of the batches, without those that are done.

    Args:
        run: The comparison.
        loaders: Loaders for both models; the second may be None.
        sharded: Whether the batches are shared among the processes of ``torch.distributed``.
        path: Path where unfinished sums are saved, or None.
        progress: Whether to show a bar.

    Returns:
        The sums over all batches, and the files they are saved in. The caller removes the files when no work is left
        that a killed run would have to repeat.

    Raises:
        ValueError: See `utilities.compare.compare`.
    """
    if sharded and not distributed.is_initialized():
        raise ValueError("sharded=True needs torch.distributed: start with torchrun and call init_process_group")
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if sharded else (0, 1)
    indices, saved = None, None
    if sharded or path is not None:
        batches = [batch_indices(one) for one in loaders if one is not None]
        run.batch_size = len(batches[0][0])
        count = min(map(len, batches))
        key = _key(run, loaders, batches, sharded)
        if path is not None:
            saved = PartialSums(path, key, rank)
            _take_up(run, saved, sharded)
        todo = [i for i in range(count) if i not in run.finished]
        indices = todo[rank::world]
    pairs = paired_batches(*loaders, run.options.min_images, indices, whole=run.whole)
    total = length(loaders[0]) if indices is None else len(indices)
    bar = tqdm(
        prefetched(pairs, run.devices[0]), total=total, desc="comparing", delay=2, disable=not progress or rank > 0
    )
    for index, batch1, batch2 in bar:
        run.add(index, batch1, batch2)
        if saved is not None:
            saved.save_now_and_then(run.sums)
    sums = run.sums.cpu()
    if sharded:
        parts: list[Any] = [None] * world
        distributed.all_gather_object(parts, sums)
        sums = parts[0]
        for part in parts[1:]:
            sums.merge(part)
    if not sums.n:
        raise ValueError(f"the loader has no batch of {run.options.min_images} images or more")
    if saved is not None and rank == 0:
        saved.save_now_and_then(sums, now=True)
    return sums, saved


def _key(run: Comparison, loaders: tuple[Any, Any], batches: list[Any], sharded: bool) -> str:
    """Tell this comparison from others, and check that all processes do the same one."""
    models = list(dict.fromkeys(recorder.model for recorder in run.recorders))
    options = [code_of(value) for value in vars(run.options).values()]
    _, *first = next(iter(paired_batches(*loaders, 0, [0], whole=run.whole)))
    images = [hashlib.sha256(x.contiguous().view(torch.uint8).numpy()).hexdigest() for x in tensors_in(first)]
    key = fingerprint(models, (options, [sorted(names) for names in run.names], batches, images))
    keys = [key]
    if sharded:
        keys = [None] * distributed.get_world_size()
        distributed.all_gather_object(keys, key)
    if len(set(keys)) > 1:
        raise ValueError("the processes do not compare the same models, images and options: seed all of them alike")
    return key


def _take_up(run: Comparison, saved: PartialSums, sharded: bool) -> None:
    """Resume from saved sums: the first process takes them over, and all skip the batches in them."""
    sums = saved.load()
    if sharded:
        distributed.barrier()
    if sums is not None:
        run.finished = set(sums.done)
        if saved.rank == 0:
            run.sums = sums
            saved.save(sums)
            saved.remove(keep_own=True)
    if sharded:
        distributed.barrier()
