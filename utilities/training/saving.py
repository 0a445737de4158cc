"""Save what an interrupted training continues from: now and then, and when the process is told to end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from utilities.results.writing import warning_of_failure
from utilities.training.trainer import Trainer
from utilities.zoo.checkpoints import write_torch

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and what a cluster sends before it kills


class Saving:
    """Save a trainer's state at regular times and, told to end by a signal, after the step at hand.

    A second signal ends the process at once. Between two saves, an interruption costs what was trained since the first.

    Args:
        trainer: The trainer; with several processes, each of them has one, and they save together.
        path: File to write.
        facts: What else it holds.
        every: Seconds between saves.
        report: Function that receives what a user should know.

    Example:
        >>> with Saving(None, Path("run.resume.pth"), {}, 60, print) as saving:
        ...     saving.told is None
        True
    """

    def __init__(
        self, trainer: Trainer, path: Path, facts: Mapping[str, Any], every: float, report: Callable[[str], None]
    ) -> None:
        self.trainer, self.path, self.facts, self.every, self.report = trainer, path, facts, every, report
        self.told: int | None = None
        self.saved = time.monotonic()

    def __enter__(self) -> Saving:
        self._before = {}
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            self._before = {number: signal.signal(number, self._tell) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        if self.told is not None:
            self._end(number)
        self.told = number
        self.report(f"saving after this step, then ending; {signal.Signals(number).name} once more ends at once")

    @staticmethod
    def _end(number: int) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    def __call__(self, due: bool = False) -> None:
        """Save if it is time, or due by other reasons; call this after each step and each epoch, in all processes."""
        due, told = due or time.monotonic() - self.saved > self.every, self.told is not None
        if self.trainer.processes.count > 1:
            due, told = map(bool, self.trainer.processes.total(torch.tensor([int(due), int(told)])))
        if not (due or told):
            return
        state = self.facts | self.trainer.state()
        if self.trainer.processes.rank == 0:
            with warning_of_failure(self.report):  # if this fails, an interruption costs more
                write_torch(self.path, state)
        self.saved = time.monotonic()
        if told:
            self._end(self.told or signal.SIGTERM)
