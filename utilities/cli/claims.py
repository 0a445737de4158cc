"""The verb ``claims``: print the claims that notebooks have tested, as one table of all papers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from utilities.cli.arguments import options_of, parse, position
from utilities.cli.user_errors import reporting

MARKS = {"True": "holds", "False": "does not hold"}
PROJECT = Path(__file__).resolve().parents[2]
HEADS = ("claim", "source", "weights", "models", "images", "verdict", "numbers", "notebook")
LONG = 150  # characters of numbers; longer ones end where the next part would begin
NOT_SAID = "not said"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runs:
    """What is read.

    Attributes:
        runs: Folders of results of notebooks and commands; default: runs/quick and results, in the project's folder.
        full: Print all that was found, with what is known of each model, and not the numbers alone.
    """

    runs: Annotated[tuple[Path, ...], position(metavar="FOLDER ...")] = (
        PROJECT / "runs" / "quick",
        PROJECT / "results",
    )
    full: bool = False


def table(*folders: Path, full: bool = False) -> str:
    """Collect all claims in folders of results into one Markdown table, a row for each verdict.

    A claim's rows follow each other, in the order of whose weights they rest on: trained here, real ones, both. Only
    the first of them names the claim.

    Args:
        *folders: Folders with files NAME_claims.csv. Folders that are not there are passed over, unless none is.
        full: Whether to print all that was found, with what is known of each model.

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
    rows = pd.concat(
        [pd.read_csv(path, dtype=str).assign(notebook=path.stem.removesuffix("_claims")) for path in files]
    )
    rows["order"] = [_order(_said(row, "weights")) for row in rows.itertuples()]
    by_paper = rows.sort_values("source", key=lambda source: source.str.extract(r"^(.*?\d{4})")[0], kind="stable")
    lines = [f"| {' | '.join(HEADS)} |", "|" + "---|" * len(HEADS)]
    for (claim, source), found in by_paper.groupby(["claim", "source"], sort=False):
        for number, row in enumerate(found.sort_values("order", kind="stable").itertuples()):
            cells = ["" if number else claim, source, *_cells(row, full), row.notebook]
            cells = [cell.replace("|", r"\|") for cell in cells]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _order(weights: str) -> tuple[int, ...]:
    """Sort rows by whose weights they rest on; those that rest on none come last."""
    from utilities.claims.basis import KINDS

    kinds = weights.split(" + ") if weights else []
    return tuple(KINDS.index(kind) for kind in kinds if kind in KINDS) or (len(KINDS),)


def _cells(row: Any, full: bool) -> list[str]:
    """State whose weights, which models and which images a verdict rests on, the verdict, and its numbers."""
    models = _said(row, "about") if full else _said(row, "models")
    reason = _said(row, "reason")
    verdict = f"**{MARKS.get(row.holds, 'cannot be told')}**{f': {reason}' if reason else ''}"
    numbers = row.found if full else _said(row, "short") or shorten(row.found)
    kind, images = (_said(row, name) or NOT_SAID for name in ("weights", "data"))
    return [kind, models or NOT_SAID, images, verdict, numbers]


def shorten(text: str, most: int = LONG) -> str:
    """Cut a text where a part of it ends, and say so by an ellipsis.

    Example:
        >>> shorten("0.1 here, which is little; 0.2 there", 30), shorten("0.1 here", 30)
        ('0.1 here, which is little; ...', '0.1 here')
    """
    if len(text) <= most:
        return text
    ends = [text.rfind(mark, 0, most) for mark in ("; ", ", ")]
    end = max(ends) + 1 if max(ends) > 0 else text.rfind(" ", 0, most)
    return f"{text[: end if end > 0 else most]} ..."


def _said(row: Any, name: str) -> str:
    """Return a column that is missing in older tables and in some claims."""
    value = getattr(row, name, "")
    return value if isinstance(value, str) else ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table.

    Args:
        arguments: Command line, less the verb.
    """
    about = "Print the claims of papers that were put to the test, as one table: each verdict and what it rests on."
    given = parse(options_of(Runs), arguments or [], "python -m utilities claims", about)
    with reporting():
        print(table(*given.runs, full=given.full))
