"""The verb ``claims``: print the claims that notebooks have tested, as one table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from utilities.cli.arguments import options_of, parse, position
from utilities.cli.user_errors import reporting

MARKS = {True: "holds", False: "does not hold"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runs:
    """What is read.

    Attributes:
        runs: A folder of results of notebooks.
    """

    runs: Annotated[Path, position(metavar="RUNS")] = Path(__file__).resolve().parents[2] / "runs" / "quick"


def table(folder: Path) -> str:
    """Collect all claims in a folder of results into one Markdown table.

    Args:
        folder: Folder with files NAME_claims.csv.

    Raises:
        FileNotFoundError: If there is no such file.

    Example:
        >>> table(Path("nowhere"))
        Traceback (most recent call last):
        FileNotFoundError: nowhere holds no *_claims.csv; run the notebooks first, with: make figures
    """
    import pandas as pd

    files = sorted(folder.glob("*_claims.csv"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no *_claims.csv; run the notebooks first, with: make figures")
    lines = ["| notebook | claim | what the run shows | |", "|---|---|---|---|"]
    for path in files:
        claims = pd.read_csv(path)
        for row in claims.itertuples():
            mark, about, reason = MARKS.get(row.holds, "cannot be told"), *(_said(row, n) for n in ("about", "reason"))
            mark, found = mark + (f": {reason}" if reason else ""), row.found + (f"; of {about}" if about else "")
            lines.append(f"| {path.stem.removesuffix('_claims')} | {row.claim} ({row.source}) | {found} | {mark} |")
    return "\n".join(lines)


def _said(row: Any, name: str) -> str:
    """Return a column that is missing in older tables and in some claims."""
    value = getattr(row, name, "")
    return value if isinstance(value, str) else ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table.

    Args:
        arguments: Command line, less the verb.
    """
    about = "Print the claims that notebooks have put to the test, as one table."
    given = parse(options_of(Runs), arguments or [], "python -m utilities claims", about)
    with reporting():
        print(table(given.runs))
