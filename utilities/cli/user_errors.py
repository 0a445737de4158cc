"""Report errors that the user of a command can mend in one line, without a traceback; warnings and Ctrl-C likewise."""

from __future__ import annotations

import difflib
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn

# torch's RuntimeErrors about images become ValueErrors in `utilities.hooks.calls.inputs.explaining`; others are faults.
USER_ERRORS = (ValueError, TypeError, OSError, FloatingPointError)
INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it
# What the package says of a word that is not among those it knows.
_CHOICE = re.compile(r"'([^']+)' (?:is not known|is no mean over images|has no memories)(?P<close>; close: [^;]*)?; ")
_CHOICES = re.compile(r"(?:choose from|known:) ([^;]+)")


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
        fail(in_words_of_commands(str(error)))


def in_words_of_commands(message: str) -> str:
    """Name what a command would need, where the package says it in Python; and name the nearest of the choices.

    Example:
        >>> in_words_of_commands("name its layers with their kinds: layers={'NAME': 'conv'}")
        "name its layers with their kinds: layers={'NAME': 'conv'}, as options --layers NAME conv"
        >>> in_words_of_commands("path 'radail' is not known; choose from radial, diagonal")
        "path 'radail' is not known; close: radial; choose from radial, diagonal"
    """
    message = re.sub(r"layers=\{'([^']*)': '([^']*)'\}", r"\g<0>, as options --layers \1 \2", message)
    word, known = _CHOICE.search(message), _CHOICES.search(message)
    if word and known and not word["close"]:
        close = nearest(word[1], re.split(r", (?:and )?", known[1].replace("'", "")))
        message = message.replace(word[0], f"{word[0].removesuffix('; ')}{close}; ", 1)
    return message


@contextmanager
def plainly(kept: str) -> Iterator[None]:
    """Run a command with warnings as lines of their own, and end it on Ctrl-C with one line and status 130.

    Args:
        kept: What an interrupted command leaves, and how to go on.

    Example:
        >>> with plainly("nothing is kept"):
        ...     raise KeyboardInterrupt
        Traceback (most recent call last):
        SystemExit: 130
    """
    before = warnings.formatwarning
    if "RANK" in os.environ:  # torchrun passes Ctrl-C on to its processes as SIGTERM
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Of a library that curvlinops needs; nothing that a user could mend.
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
    warnings.formatwarning = lambda message, *place, **more: f"warning: {' '.join(str(message).split())}\n"
    try:
        yield
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":  # one of torchrun's processes speaks for all
            print(f"\nstopped; {kept}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except ModuleNotFoundError as error:
        if (error.name or "utilities").partition(".")[0] == "utilities":
            raise
        if "pip install" in str(error):  # an extra, which says itself how it is installed
            fail(str(error))
        fail(
            f"{error.name} is not installed in this Python ({sys.executable}); activate the environment with "
            "source .venv/bin/activate, or pip install -r requirements.txt"
        )
    finally:
        warnings.formatwarning = before


def fail(message: str) -> NoReturn:
    """End the process with status 2 and one line."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


def refuse_torchrun(what: str) -> None:
    """Refuse to run in one of several processes of torchrun.

    Args:
        what: The reason.

    Raises:
        ValueError: If torchrun started more than one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(f"{what}: start it without torchrun")


def nearest(word: str, known: Iterable[str]) -> str:
    """Name the closest of the words that are known; nothing if none is close.

    Example:
        >>> nearest("comprae", ["compare", "train"])
        '; close: compare'
    """
    close = difflib.get_close_matches(word, list(known), cutoff=0.5)
    return f"; close: {', '.join(close)}" if close else ""
