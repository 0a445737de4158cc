"""State that this process waits for another one, so that a third can use its core meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

WAITING = "STUDY_WAITING"  # environment variable: path of the file that is there during a wait


@contextmanager
def waiting() -> Iterator[None]:
    """Keep the file that the environment variable `WAITING` names; without that variable, do nothing.

    Example:
        >>> with waiting():
        ...     pass
    """
    if WAITING not in os.environ:
        yield
        return
    mark = Path(os.environ[WAITING])
    with suppress(OSError):  # nobody may look any more
        mark.touch()
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)
