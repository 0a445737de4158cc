"""Run a verb on models: read its options, do its work, and list the files that it has written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

from utilities.cli.arguments import Option, parse
from utilities.cli.user_errors import reporting


def run_on_models(
    verb: str,
    about: str,
    options: Sequence[Option],
    arguments: Sequence[str] | None,
    run: Callable[[SimpleNamespace], list[Path]],
) -> None:
    """Run a verb whose positional words are models.

    Args:
        verb: Its name.
        about: What it does, for its help.
        options: Its options.
        arguments: Command line, less the verb.
        run: Does the work with what was given, and returns the files.
    """
    given = parse(options, arguments or [], f"python -m utilities {verb}", about, many="models")
    with reporting():
        from utilities.cli.files import say_written  # heavy

        say_written(run(given))
