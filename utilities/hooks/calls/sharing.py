"""Share the batches of a loader among the processes that torchrun started, and add up what each of them has summed.

Nothing is shared outside `sharing_batches`: whoever calls an analysis in a group of processes of his own, in the first
process alone, say, is served as in a process by itself.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import distributed, nn

from utilities.hooks.calls.merging import adopt, merged
from utilities.hooks.calls.packing import packed_sums, unpacked_sums
from utilities.hooks.calls.processes import Processes
from utilities.hooks.calls.shares import listed

SAMPLE = 64  # numbers of each weight that are compared between processes


@dataclass
class _Sharing:
    """What the processes have agreed on.

    Attributes:
        processes: This process's place among them.
        told: The errors that all processes know of.
    """

    processes: Processes
    told: list[BaseException] = field(default_factory=list)

    def knows(self, error: BaseException | None) -> bool:
        """Tell whether all processes know of an error, or of what it came from."""
        return error is not None and (
            any(error is one for one in self.told) or self.knows(error.__cause__ or error.__context__)
        )

    def exchange(self, what: str, value: Any = None, error: BaseException | None = None) -> list[Any]:
        """Collect a value of each process in all of them, at a point that all have to reach.

        Args:
            what: Names the point.
            value: This process's value.
            error: Why this process does not go on.

        Raises:
            ChildProcessError: If another process has failed.
            ValueError: If the processes are at different points.
        """
        found: list[Any] = [None] * self.processes.count
        distributed.all_gather_object(found, (what, value, _in_words(error)))
        failed = [(rank, text) for rank, (_, _, text) in enumerate(found) if text is not None]
        if error is not None:
            self.told.append(error)
            return []
        if failed:
            self._refuse(ChildProcessError(f"process {failed[0][0]} of {len(found)} failed, {what}: {failed[0][1]}"))
        points = list(dict.fromkeys(point for point, _, _ in found))
        if len(points) > 1:
            self._refuse(ValueError(f"the processes do different work: {' and '.join(points)}"))
        return [value for _, value, _ in found]

    def _refuse(self, error: Exception) -> None:
        self.told.append(error)
        raise error


_now: _Sharing | None = None


@contextmanager
def sharing_batches() -> Iterator[Processes]:
    """Share the batches of all analyses inside among the processes that have joined a group.

    Every process has to call the same analyses with the same models, images and options. Each serves its share of the
    batches; sums are merged once, at the end of each pass, and the result is that of one process, in all of them. A
    loader that shuffles anew each time and a stream are read in whole by each process.

    Yields:
        This process's place among the others; the first one should write files.

    Example:
        >>> from utilities.hooks.calls.processes import process_group
        >>> with process_group("cpu") as device, sharing_batches() as processes:
        ...     processes
        Processes(rank=0, count=1)
    """
    global _now
    before, processes = _now, Processes.now()
    _now = _Sharing(processes) if processes.count > 1 else None
    try:
        yield processes
    finally:
        _now = before


def sharing_processes() -> Processes:
    """Return this process's place among those that share batches; alone outside `sharing_batches`.

    Example:
        >>> sharing_processes()
        Processes(rank=0, count=1)
    """
    return Processes() if _now is None else _now.processes


class Served:
    """Serve batches one after the other, and say where they lie among those of all processes.

    Args:
        batches: The batches of this process.
        before: Number of images of each batch before them.
        total: Number of batches, or None where it is not known.

    Attributes:
        number: Number of the current batch.
        first: Number of its first image, kept up to date by who counts the images.

    Example:
        >>> served = Served([torch.zeros(3, 1), torch.zeros(3, 1)], [4, 4])
        >>> served.first, [(served.number, len(batch)) for batch in served]
        (8, [(2, 3), (3, 3)])
    """

    def __init__(self, batches: Iterable[Any], before: Iterable[int] = (), total: int | None = None) -> None:
        self._batches, self.before, self.total = batches, list(before), total
        self.number, self.first = len(self.before), sum(self.before)

    def __iter__(self) -> Iterator[Any]:
        start = self.number
        for place, batch in enumerate(self._batches):
            self.number = start + place
            yield batch


@contextmanager
def shared_pass(
    loader: Iterable[Any],
    sums: Any,
    what: str,
    *,
    model: nn.Module | None = None,
    device: torch.device | str = "cpu",
    most: int | None = None,
    least: int = 1,
) -> Iterator[Served]:
    """Serve this process's share of a loader's batches inside; on exit, all processes have the sums over all batches.

    Outside `sharing_batches`, and of a loader whose batches cannot be told in advance, all batches are served.

    Args:
        loader: Yields batches that `utilities.utils.split_batch` understands.
        sums: All that is summed inside, see `utilities.hooks.calls.merging.merged`. None is not known: nothing is
            shared, with a warning. An empty tuple has nothing to be summed: nothing is shared.
        what: What is done, for messages.
        model: The processes have to agree on its weights.
        device: Where tensors of the sums are put that are not in main memory.
        most: Number of images after which the work ends; None takes all.
        least: Number of images that a batch has to have to be of use; a smaller one at the end goes to the process of
            the one before it.

    Raises:
        ChildProcessError: If another process fails inside.
        ValueError: If the processes differ in model or images.

    Example:
        >>> rows = []
        >>> with shared_pass([torch.zeros(2, 1), torch.ones(1, 1)], rows, "an example") as batches:
        ...     rows += [len(batch) for batch in batches]
        >>> rows
        [2, 1]
    """
    served = None if _now is None else _share(loader, sums, what, model, most, least)
    if served is None:
        yield Served(loader, total=_length(loader))
        return
    with adding_up(sums, what, device):
        yield served


@contextmanager
def adding_up(sums: Any, what: str, device: torch.device | str = "cpu") -> Iterator[Processes]:
    """Do this process's part of some work inside; on exit, all processes have the sums of all.

    Args:
        sums: All that is summed inside, see `shared_pass`.
        what: What is done.
        device: See there.

    Yields:
        This process's place among those that share the work.

    Example:
        >>> found = {}
        >>> with adding_up(found, "squares") as processes:
        ...     found |= {number: number**2 for number in range(4)[processes.rank :: processes.count]}
        >>> found
        {0: 0, 1: 1, 2: 4, 3: 9}
    """
    sharing = _now
    if sharing is None:
        yield Processes()
        return
    try:
        yield sharing.processes
        sharing.exchange(what)
    except Exception as error:
        if not sharing.knows(error):
            sharing.exchange(what, error=error)
        raise
    _add_up(sums, sharing, what, device)


def _share(loader: Any, sums: Any, what: str, model: nn.Module | None, most: int | None, least: int) -> Served | None:
    """Choose this process's batches, after all processes have agreed on what there is; None serves all in each."""
    if isinstance(sums, tuple) and not sums:
        return None
    sharing, batches, reason = _now, None, "it does not say what it sums"
    if sums is not None:
        try:
            batches = listed(loader)
        except ValueError as error:
            reason = str(error)
    counts = [] if batches is None else batches.sizes
    marks = _marks(model, batches)
    found = sharing.exchange(f"{what}, at the start", (marks, batches is None))
    if any(one != found[0] for one in found):
        sharing._refuse(
            ValueError(
                f"{what}: the processes do not read the same images in the same order with the same model: seed all of "
                "them alike, and give each the whole set"
            )
        )
    if batches is None and sharing.processes.rank == 0:
        warnings.warn(f"{what} is not shared, and each process reads all images: {reason}", stacklevel=4)
    needed = end = _enough(counts, most)
    while end and counts[end - 1] < least:
        end -= 1
    processes = sharing.processes
    if end < processes.count:
        return None
    start, end = (end * (processes.rank + i) // processes.count for i in (0, 1))
    end = needed if processes.rank == processes.count - 1 else end
    return Served(batches.read(start, end), counts[:start], end - start)


def _enough(sizes: list[int], most: int | None) -> int:
    """Count the batches that hold the first ``most`` images."""
    seen = 0
    for place, size in enumerate(sizes):
        if most is not None and seen >= most:
            return place
        seen += size
    return len(sizes)


def _marks(model: nn.Module | None, batches: Any) -> str:
    """Compute a checksum of what the batches hold, and of some numbers of each of the model's weights."""
    digest = hashlib.sha256(repr(None if batches is None else batches.key).encode())
    for name, value in () if model is None else model.state_dict().items():
        flat = value.detach().flatten()
        some = flat[:: max(1, len(flat) // SAMPLE)].cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(some.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _in_words(error: BaseException | None) -> str | None:
    return None if error is None else f"{type(error).__name__}: {error}"


def _length(loader: Any) -> int | None:
    return len(loader) if hasattr(loader, "__len__") else None


def _add_up(sums: Any, sharing: _Sharing, what: str, device: torch.device | str) -> None:
    """Merge sums pair by pair towards the first process, in the order of the processes, and let all take them over."""
    own, count = sharing.processes.rank, sharing.processes.count
    whole, error, step = sums, None, 1
    while step < count and own % (2 * step) == 0:
        if own + step < count:
            text, received = _receive(own + step)
            try:
                if text is not None:
                    raise ChildProcessError(text)
                whole = merged(whole, unpacked_sums(received, device)) if error is None else whole
            except Exception as fault:
                error = error or fault
        step *= 2
    packed = None
    if error is None:
        try:
            packed = packed_sums(whole)
        except Exception as fault:
            error = fault
    text = _in_words(error)
    if own:
        distributed.send_object_list([text, packed], dst=own - step)
    text, packed = sharing.processes.first((text, packed))
    if error is not None:
        sharing._refuse(error)
    if text is not None:
        sharing._refuse(ChildProcessError(f"the sums of {what} could not be merged: {text}"))
    adopt(sums, whole if own == 0 else unpacked_sums(packed, device))


def _receive(source: int) -> list[Any]:
    found: list[Any] = [None, None]
    distributed.recv_object_list(found, src=source)
    return found
