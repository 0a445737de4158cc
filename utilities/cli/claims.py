"""Run the command ``python -m utilities.claims``: print the claims that notebooks have tested, as one table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from utilities.utils import PROJECT_ROOT

MARKS = {True: "holds", False: "does not hold"}


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
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m utilities.claims", description=__doc__)
    parser.add_argument(
        "results", nargs="?", default=PROJECT_ROOT / "runs" / "quick", type=Path, help="a folder of runs"
    )
    try:
        print(table(parser.parse_args(arguments).results))
    except FileNotFoundError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
