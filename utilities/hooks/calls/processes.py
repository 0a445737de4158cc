"""Work in the group of processes that torchrun starts: who is who, shares of a batch, and sums over all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed, nn

from utilities.hooks.calls.evaluating import resolve_device

_LOST = re.compile(
    r"gloo.*connection|connection (closed|reset|refused)|remote process exited", re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True)
class Processes:
    """State this process's place among those that work together.

    Attributes:
        rank: Number of this process, from 0. The first one writes files.
        count: Number of processes.

    Example:
        >>> Processes(rank=0, count=2).share(6), Processes(rank=1, count=2).share(6)
        ([0, 5], [1, 2, 3, 4])
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def now(cls) -> Processes:
        """Return the place of this process in the group that it has joined; alone if in none."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    def share(self, n: int) -> list[int]:
        """Choose this process's rows of a batch of n images.

        Rows i and n - 1 - i stay together, in the order of the batch: reversed, a share is that of the reversed batch,
        as mixup pairs images. A share is empty where there are fewer pairs than processes.
        """
        pairs = (n + 1) // 2
        first = range(pairs * self.rank // self.count, pairs * (self.rank + 1) // self.count)
        return [*first, *(n - 1 - i for i in reversed(first) if n - 1 - i >= pairs)]

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all processes, in each of them."""
        if self.count == 1:
            return values
        summed = values.detach().clone()
        distributed.all_reduce(summed)
        return summed

    def first(self, value: Any) -> Any:
        """Return the first process's value, in all of them; it must be possible to pickle it."""
        if self.count == 1:
            return value
        held = [value]
        distributed.broadcast_object_list(held, src=0)
        return held[0]

    def same_buffers(self, model: nn.Module) -> None:
        """Copy the first process's buffers to all, such as the averages of batch norms."""
        if self.count > 1:
            for buffer in model.buffers():
                distributed.broadcast(buffer, src=0)


@contextmanager
def process_group(device: str | torch.device, patience: timedelta | None = None) -> Iterator[torch.device]:
    """Join the group that torchrun started, if it did, and leave it on exit.

    Sums in main memory travel by gloo, gradients on GPUs by NCCL where each process has a GPU of its own.

    Args:
        device: Asked for; under torchrun ``auto`` and ``cuda`` give each process a GPU of its own.
        patience: How long a process waits for the others; None is torch's default, half an hour or less.

    Yields:
        This process's device.

    Raises:
        ConnectionError: If another process of the group has ended meanwhile.

    Example:
        >>> with process_group("cpu") as device:
        ...     device, Processes.now()
        (device(type='cpu'), Processes(rank=0, count=1))
    """
    own = resolve_device(device)
    if "RANK" not in os.environ:
        yield own
        return
    backend = "gloo"
    if own.type == "cuda" and own.index is None:
        local, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        own = torch.device("cuda", local % gpus)
        torch.cuda.set_device(own)
        if distributed.is_nccl_available() and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) <= gpus:
            backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=patience)
    try:
        yield own
    except RuntimeError as error:
        if not _LOST.search(str(error)):
            raise
        rank = distributed.get_rank()
        raise ConnectionError(f"process {rank}: another process of the group has ended; it may say why") from error
    finally:
        distributed.destroy_process_group()
