"""Run a command of this package in a process of its own, with its progress, and end it at any time."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from utilities.explorer.request import PROJECT_ROOT

PATIENCE = 5.0  # seconds between asking a process to end and ending it
_PROGRESS = re.compile(r"^(?P<what>.*?):?\s+(?P<percent>\d+)%\|.*\|\s*(?P<rest>.*)$")
_COLOURS = ("FORCE_COLOR", "CLICOLOR_FORCE", "CLICOLOR")  # set in a kernel; they would stand in what is read


@dataclass(frozen=True)
class Progress:
    """How far a command is.

    Attributes:
        what: What it does.
        share: Share of that which is done.
        rest: Counts and times.
    """

    what: str
    share: float
    rest: str


@dataclass(frozen=True)
class Ending:
    """How a command ended.

    Attributes:
        error: What is wrong, in a sentence; empty after success, and where it was cancelled.
        cancelled: Whether it was cancelled.
        warnings: What it warned of.
        seconds: How long it took.
    """

    error: str
    cancelled: bool
    warnings: list[str]
    seconds: float

    @property
    def succeeded(self) -> bool:
        """Whether there is a result."""
        return not self.error and not self.cancelled


def read_progress(line: str) -> Progress | None:
    """Read a line of a progress bar; another line gives None.

    Example:
        >>> read_progress("batches:  40%|####      | 2/5 [00:01<00:02,  1.4it/s]")
        Progress(what='batches', share=0.4, rest='2/5 [00:01<00:02,  1.4it/s]')
        >>> read_progress("warning: no layer")
    """
    found = _PROGRESS.match(line.strip())
    return None if found is None else Progress(found["what"].strip(), int(found["percent"]) / 100, found["rest"])


class Job:
    """A command that runs. Both functions are called from a thread of the job's own.

    Args:
        words: The command, less ``python -m utilities``.
        report: Gets the progress.
        done: Gets the ending, once.
    """

    def __init__(
        self, words: Sequence[str], report: Callable[[Progress], None], done: Callable[[Ending], None]
    ) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in _COLOURS} | {"NO_COLOR": "1"}
        paths = [str(PROJECT_ROOT), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        self.started, self._cancelled = time.monotonic(), False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "utilities", *words],
            cwd=PROJECT_ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._thread = threading.Thread(target=self._follow, args=(report, done), daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Ask the command to end, as Ctrl-C does; end it where it does not."""
        self._cancelled = True
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)
            threading.Timer(PATIENCE, self._process.kill).start()

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the end."""
        self._thread.join(timeout)

    def _follow(self, report: Callable[[Progress], None], done: Callable[[Ending], None]) -> None:
        said: list[str] = []
        for line in lines(self._process.stderr):
            progress = read_progress(line)
            if progress is None:
                said.append(line)
            else:
                report(progress)
        code = self._process.wait()
        warned = [line.removeprefix("warning: ") for line in said if line.startswith("warning: ")]
        error = "" if code == 0 or self._cancelled else _sentence(said, code)
        done(Ending(error, self._cancelled and code != 0, warned, time.monotonic() - self.started))


def lines(stream: IO[str]) -> Iterator[str]:
    r"""Read lines as they come, those of progress bars too, which end in a carriage return.

    Example:
        >>> import io
        >>> list(lines(io.StringIO("one\r two\nthree")))
        ['one', ' two', 'three']
    """
    kept = ""
    while piece := stream.read(1):
        if piece in "\r\n":
            if kept:
                yield kept
            kept = ""
        else:
            kept += piece
    if kept:
        yield kept


def _sentence(said: Sequence[str], code: int) -> str:
    """Choose what a command says of its failure."""
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    if errors:
        return errors[-1]
    last = said[-1].strip() if said else ""
    return last or f"the command ended with status {code}" + (", perhaps for want of memory" if code == -9 else "")
