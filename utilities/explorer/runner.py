"""A button that runs a command, another one that cancels it, and what there is to say meanwhile and afterwards."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import ipywidgets as widgets

from utilities.cli.user_errors import USER_ERRORS
from utilities.explorer.job import Ending, Job, Progress
from utilities.explorer.request import FOLDER, PROJECT_ROOT, place

EVERY = 0.2  # seconds between two changes of the bar


class Runner(widgets.VBox):
    """Run, cancel, progress, and a line of text.

    Args:
        label: What the button says.
        words: Gives the command when the button is pressed; a ValueError of it is shown as a sentence.
        done: Gets the path of what was written, without ending, after a success.
        folder: Where it is written.
        tooltip: What the button does.
    """

    def __init__(
        self,
        label: str,
        words: Callable[[], Sequence[str]],
        done: Callable[[Path], None],
        folder: Path = FOLDER,
        tooltip: str = "",
    ) -> None:
        self._words, self._done, self._folder, self.job = words, done, folder, None
        self.run = widgets.Button(description=label, button_style="primary", tooltip=tooltip)
        self.stop = widgets.Button(description="Cancel", disabled=True, tooltip="End what runs")
        self.bar = widgets.FloatProgress(min=0, max=1, layout={"visibility": "hidden"})
        self.text = widgets.HTML()
        self.run.on_click(lambda _: self._start())
        self.stop.on_click(lambda _: self.cancel())
        super().__init__([widgets.HBox([self.run, self.stop, self.bar]), self.text])

    def say(self, text: str, error: bool = False) -> None:
        """Show a sentence; an error is marked, and read out by screen readers."""
        role, colour = ("alert", "#b00020") if error else ("status", "inherit")
        self.text.value = f'<div role="{role}" style="color:{colour};line-height:1.4">{html.escape(text)}</div>'

    def cancel(self) -> None:
        """End what runs."""
        if self.job is not None:
            self.stop.disabled = True
            self.say("ending ...")
            self.job.cancel()

    def _start(self) -> None:
        try:
            words = list(self._words())
            out = PROJECT_ROOT / place(words, self._folder)
            out.parent.mkdir(parents=True, exist_ok=True)
            self.run.disabled, self.stop.disabled, self._changed = True, False, 0.0
            self.bar.value, self.bar.layout.visibility = 0, "visible"
            self.say("starting ...")
            self.job = Job([*words, "--out", str(out)], self._report, lambda ending: self._end(ending, out))
        except USER_ERRORS as error:
            self.run.disabled, self.stop.disabled = False, True
            self.say(str(error), error=True)

    def _report(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._changed > EVERY and not self.stop.disabled:
            self._changed, self.bar.value = now, progress.share
            self.say(f"{progress.what or 'running'}: {progress.rest}")

    def _end(self, ending: Ending, out: Path) -> None:
        try:
            if ending.succeeded:
                self._done(out)
                self.say(" ".join([f"done in {ending.seconds:.0f} s.", *ending.warnings]))
            else:
                self.say(ending.error or "cancelled; the same again goes on or begins anew", bool(ending.error))
        except USER_ERRORS as error:
            self.say(str(error), error=True)
        finally:
            self.job = None
            self.run.disabled, self.stop.disabled = False, True
            self.bar.layout.visibility = "hidden"
