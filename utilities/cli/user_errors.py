"""Report errors that the user of a command can mend in one line, without a traceback."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn

# torch's RuntimeErrors about images become ValueErrors in `utilities.hooks.calls.inputs.explaining`; others are faults.
USER_ERRORS = (ValueError, TypeError, OSError, FloatingPointError)


@contextmanager
def reporting() -> Iterator[None]:
    """End a command with one line and status 2 on an error of the user's.

    Example:
        >>> with reporting():
        ...     raise ValueError("no such layer")
        Traceback (most recent call last):
        SystemExit: 2
    """
    try:
        yield
    except USER_ERRORS as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """End the process with status 2 and one line."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


def nearest(word: str, known: Iterable[str]) -> str:
    """Name the closest of the words that are known; nothing if none is close.

    Example:
        >>> nearest("comprae", ["compare", "train"])
        '; close: compare'
    """
    close = difflib.get_close_matches(word, list(known), cutoff=0.5)
    return f"; close: {', '.join(close)}" if close else ""
