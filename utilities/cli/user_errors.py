"""Report errors that the user of a command can mend in one line, without a traceback."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

# torch's RuntimeErrors about images become ValueErrors in `utilities.hooks.calls.inputs.explaining`; others are faults.
USER_ERRORS = (ValueError, TypeError, OSError, FloatingPointError)


@contextmanager
def reporting(parser: argparse.ArgumentParser) -> Iterator[None]:
    """End a command with one line and status 2 on an error of the user's.

    Example:
        >>> with reporting(argparse.ArgumentParser()):
        ...     raise ValueError("no such layer")
        Traceback (most recent call last):
        SystemExit: 2
    """
    try:
        yield
    except USER_ERRORS as error:
        parser.exit(2, f"error: {' '.join(str(error).split())}\n")
