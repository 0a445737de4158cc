"""Run a command in the processes that torchrun starts, which share the batches; the first one speaks and writes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from utilities.hooks.calls.processes import Processes

# Shares of eigenvalues differ by more than half an hour; where a process ends, torchrun ends the others.
PATIENCE = timedelta(days=1)


@contextmanager
def together(given: SimpleNamespace) -> Iterator[Processes]:
    """Join the group that torchrun started, if it did, and share the batches of all analyses inside.

    Args:
        given: The options of a command; its device becomes that of this process.

    Yields:
        This process's place. All but the first print nothing but errors.

    Example:
        >>> with together(SimpleNamespace(device="cpu")) as processes:
        ...     processes
        Processes(rank=0, count=1)
    """
    from utilities.hooks.calls.processes import process_group
    from utilities.hooks.calls.sharing import sharing_batches

    with process_group(given.device, PATIENCE) as device, sharing_batches() as processes:
        if processes.count > 1:
            given.device = device
        if processes.rank == 0:
            yield processes
            return
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield processes
