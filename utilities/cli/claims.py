"""The verb ``claims``: print the claims that notebooks have tested, as one table of all papers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from utilities.cli.arguments import options_of, parse, position
from utilities.cli.user_errors import reporting

if TYPE_CHECKING:
    import pandas as pd

MARKS = {True: "holds", False: "does not hold"}
PROJECT = Path(__file__).resolve().parents[2]
COLUMNS = {"small": "small models trained here", "real": "real weights"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runs:
    """What is read.

    Attributes:
        runs: Folders of results of notebooks and commands; default: runs/quick and results, in the project's folder.
    """

    runs: Annotated[tuple[Path, ...], position(metavar="FOLDER ...")] = (
        PROJECT / "runs" / "quick",
        PROJECT / "results",
    )


def table(*folders: Path) -> str:
    """Collect all claims in folders of results into one Markdown table, with a column for real weights.

    Args:
        *folders: Folders with files NAME_claims.csv. Folders that are not there are passed over, unless none is.

    Raises:
        FileNotFoundError: If there is no such file.

    Example:
        >>> table(Path("nowhere"))
        Traceback (most recent call last):
        FileNotFoundError: nowhere holds no *_claims.csv; run the notebooks first, with: make figures
    """
    import pandas as pd

    files = [path for folder in folders for path in sorted(folder.glob("*_claims.csv"))]
    if not files:
        raise FileNotFoundError(
            f"{', '.join(map(str, folders))} holds no *_claims.csv; run the notebooks first, with: make figures"
        )
    rows = pd.concat([pd.read_csv(path).assign(notebook=path.stem.removesuffix("_claims")) for path in files])
    rows["column"] = ["real" if _said(row, "weights") == "real" else "small" for row in rows.itertuples()]
    heads = ["claim", *COLUMNS.values()]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    by_paper = rows.sort_values("source", key=lambda source: source.str.extract(r"^(.*?\d{4})")[0], kind="stable")
    for (claim, source), found in by_paper.groupby(["claim", "source"], sort=False):
        cells = [_cell(found[found["column"] == kind]) for kind in COLUMNS]
        lines.append(f"| {claim} ({source}) | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(rows: pd.DataFrame) -> str:
    """State the verdict of each run, its numbers, and what it is about."""
    texts = []
    for row in rows.itertuples():
        about, reason = (_said(row, name) for name in ("about", "reason"))
        mark = MARKS.get(row.holds, "cannot be told") + (f" ({reason})" if reason else "")
        texts.append(f"**{mark}**: {row.found}{f'; of {about}' if about else ''} ({row.notebook})")
    return "<br>".join(texts) or "-"


def _said(row: Any, name: str) -> str:
    """Return a column that is missing in older tables and in some claims."""
    value = getattr(row, name, "")
    return value if isinstance(value, str) else ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table.

    Args:
        arguments: Command line, less the verb.
    """
    about = "Print the claims of papers that were put to the test, as one table: small models, and real weights."
    given = parse(options_of(Runs), arguments or [], "python -m utilities claims", about)
    with reporting():
        print(table(*given.runs))
