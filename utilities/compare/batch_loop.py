"""Run the loop over batches, shared among processes, and resume it after it was killed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import distributed
from tqdm.auto import tqdm

from utilities.compare.engine import Comparison
from utilities.compare.measured_precision import settled
from utilities.compare.paired_batches import PairedBatches, prefetched
from utilities.compare.unfinished_sums import UnfinishedSums
from utilities.hooks.calls.processes import Processes
from utilities.results.unfinished import code_of, fingerprint


def run_batches(
    comparison: Comparison, batches: PairedBatches, sharded: bool, path: str | Path | None, progress: bool
) -> UnfinishedSums | None:
    """Show the batches to a comparison, until its sums are those over all of them.

    Args:
        comparison: The comparison; of the batches it sees this process's share that is not done yet.
        batches: Images of both models.
        sharded: Whether to share the batches among the processes of ``torch.distributed``.
        path: Path where unfinished sums are saved, or None.
        progress: Whether to show a progress bar.

    Returns:
        The files of unfinished sums, which the caller removes when nothing is left to do that a killed run would have
        to repeat.

    Raises:
        ValueError: See `utilities.compare.compare`.
    """
    if sharded and not distributed.is_initialized():
        raise ValueError("sharded=True needs torch.distributed: start with torchrun and call init_process_group")
    rank, processes = (distributed.get_rank(), distributed.get_world_size()) if sharded else (0, 1)
    indices, saved = None, None
    if sharded or path is not None:
        comparison.batch_size = len(batches.listed[0][0])
        key = _key(comparison, batches, sharded)
        if path is not None:
            saved = UnfinishedSums(path, key, rank)
            _take_up(comparison, saved, sharded)
        indices = batches.share(comparison.finished, rank, processes)
    _show(comparison, batches, indices, saved, progress, Processes(rank, processes))
    comparison.sums = comparison.sums.cpu()
    if sharded:
        first, *others = _gathered(comparison.sums)
        for sums in others:
            first.merge(sums)
        comparison.sums = first
    if not comparison.sums.n:
        raise ValueError(f"the loader has no batch of {batches.min_images} images or more")
    if saved is not None and rank == 0:
        saved.save_now_and_then(comparison.sums, now=True)
    return saved


def _show(
    comparison: Comparison,
    batches: PairedBatches,
    indices: Sequence[int] | None,
    saved: UnfinishedSums | None,
    progress: bool,
    processes: Processes,
) -> None:
    """Show batches to a comparison, and save its sums now and then."""
    total = batches.length if indices is None else len(indices)
    pairs = prefetched(batches.read(indices), comparison.devices[0])
    if comparison.undecided:
        pairs = settled(comparison, pairs, total, processes)
    quiet = not progress or processes.rank > 0
    for index, batch1, batch2 in tqdm(pairs, total=total, desc="comparing", delay=2, disable=quiet):
        comparison.add(index, batch1, batch2)
        if saved is not None:
            saved.save_now_and_then(comparison.sums)


def _key(comparison: Comparison, batches: PairedBatches, sharded: bool) -> str:
    """Tell this comparison from others, and check that all processes do the same one."""
    models = list(dict.fromkeys(recorder.model for recorder in comparison.recorders))
    # The tolerance counts where it decides; the decision itself is kept with the sums.
    left_out = () if comparison.options.precision == "auto" else ("tolerance",)
    options = [code_of(value) for name, value in vars(comparison.options).items() if name not in left_out]
    key = fingerprint(models, (options, [sorted(names) for names in comparison.names], *batches.key()))
    if sharded and len(set(_gathered(key))) > 1:
        raise ValueError("the processes do not compare the same models, images and options: seed all of them alike")
    return key


def _gathered(value: Any) -> list[Any]:
    """Collect a value of each process, in all of them."""
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def _take_up(comparison: Comparison, saved: UnfinishedSums, sharded: bool) -> None:
    """Resume from saved sums: the first process takes them over, and all leave out what they hold."""
    sums = saved.load()
    if sharded:
        distributed.barrier()
    if sums is not None:
        comparison.finished, comparison.sums.decision = set(sums.done), sums.decision
        if saved.number == 0:
            comparison.sums = sums
            saved.save(sums)
            saved.remove(keep_own=True)
    if sharded:
        distributed.barrier()
