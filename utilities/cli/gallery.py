"""The verb ``gallery``: turn results into a static site."""

from __future__ import annotations

import dataclasses
import os
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from utilities.cli.arguments import options_of, parse, position
from utilities.cli.user_errors import reporting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Site:
    """What is shown, and where it goes.

    Attributes:
        runs: Folder of executed notebooks, such as runs/quick, or of results that were kept.
        out: Folder of the site; default: a folder 'site' in RUNS.
        show: Whether to open it in a browser, where there is a display.
    """

    runs: Annotated[Path, position(metavar="RUNS")]
    out: Path | None = None
    show: bool = False


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line, less the verb.
    """
    about = "Turn results into a static site that opens from disk, without server, kernel or network."
    given = parse(options_of(Site), arguments or [], "python -m utilities gallery", about)
    with reporting():
        from utilities.gallery import build_gallery

        index = build_gallery(given.runs, given.out or given.runs / "site")
        print(f"open {index} in a browser")
        inside = sorted({path.parent for path in given.runs.glob("*/*.npz")})
        if inside:
            print(f"not shown: {', '.join(map(str, inside))}; each makes a site of its own", file=sys.stderr)
        if given.show and has_display():
            webbrowser.open(index.resolve().as_uri())


def has_display() -> bool:
    """Tell whether there is a screen that a browser could open on, and somebody before it.

    Example:
        >>> isinstance(has_display(), bool)
        True
    """
    if sys.platform in ("darwin", "win32"):
        return sys.stdout.isatty()
    return sys.stdout.isatty() and bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
