"""The verb ``claims``: print the claims that notebooks have tested, as one table of all papers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from utilities.cli.arguments import options_of, parse, position
from utilities.cli.user_errors import reporting

if TYPE_CHECKING:
    import pandas as pd

MARKS = {"True": "holds", "False": "does not hold"}
PROJECT = Path(__file__).resolve().parents[2]
HEADS = ("claim", "source", "weights", "models", "images", "verdict", "numbers", "notebook")
COLUMNS = ("digits", "natural images", "real weights")  # of the overview: trained here on the first two, and by others
SMALL = re.compile(r"digits|canvas")  # what is bundled with this package, and learnt in seconds
SPLIT = re.compile(r" \((test|train|validation|crops)[^()]*\)")
TRAINED = re.compile(r"trained for [^()]*? on ([^,;()]+)")
COUNT = re.compile(r"[\d,]+ images?")
LONG = 150  # characters of numbers; longer ones end where the next part would begin
NOT_SAID = "not said"
BAR = r"\|"  # within a cell


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runs:
    """What is read.

    Attributes:
        runs: Folders of results of notebooks and commands; default: runs/quick, results, results/gpu and
            results/natural, in the project's folder.
        rows: Print a row for each verdict, with its numbers and what it rests on, in place of one for each claim.
        full: Print all that was found, a row for each verdict, with what is known of each model.
    """

    runs: Annotated[tuple[Path, ...], position(metavar="FOLDER ...")] = (
        PROJECT / "runs" / "quick",
        PROJECT / "results",
        PROJECT / "results" / "gpu",
        PROJECT / "results" / "natural",
    )
    rows: bool = False
    full: bool = False


def overview(*folders: Path) -> str:
    """Collect all claims in folders of results into one Markdown table, a row for each claim.

    The columns tell what was found on small models trained here on digits, on models trained here on natural images,
    and on real weights; a verdict that rests on real weights and others stands with the real ones. Behind a verdict
    stand the images, where they are not digits, and how often it was found.

    Args:
        *folders: See `table`.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    lines = [f"| claim | source | {' | '.join(COLUMNS)} |", "|" + "---|" * 5]
    for (claim, source), found in _claims(*folders):
        cells: dict[str, dict[str, int]] = {column: {} for column in COLUMNS}
        for row in found.itertuples():
            column, verdict = _verdict(row)
            cells[column][verdict] = cells[column].get(verdict, 0) + 1
        said = ["; ".join(f"{verdict}{f' x {n}' if n > 1 else ''}" for verdict, n in cells[c].items()) for c in COLUMNS]
        lines.append(_line([claim, source, *said]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |"


def _verdict(row: Any) -> tuple[str, str]:
    """Return the column of a verdict, and the verdict with the images that it was found on."""
    kinds, data = _said(row, "weights").split(" + "), SPLIT.sub("", _said(row, "data"))
    named = [part.partition(",")[0] for part in data.split("; ")]
    learnt = TRAINED.findall(_said(row, "models"))  # a claim on weights alone has no images but those
    images = ", ".join(dict.fromkeys(name for name in named if name and not COUNT.fullmatch(name))) or ", ".join(learnt)
    small = not images or all(SMALL.search(part) for part in images.split(", "))
    column = COLUMNS[2] if "real" in kinds else COLUMNS[0 if small else 1]
    verdict = "not tried" if _said(row, "reason") == "not tried" else MARKS.get(row.holds, "cannot be told")
    return column, verdict if images == "digits" else f"{verdict} ({images or 'images not said'})"


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
    lines = [f"| {' | '.join(HEADS)} |", "|" + "---|" * len(HEADS)]
    for (claim, source), found in _claims(*folders):
        for number, row in enumerate(found.sort_values("order", kind="stable").itertuples()):
            lines.append(_line(["" if number else claim, source, *_cells(row, full), row.notebook]))
    return "\n".join(lines)


def _claims(*folders: Path) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """Yield each claim, with its source, and the verdicts on it, paper by paper."""
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
    rows["place"] = [_place(source) for source in rows["source"]]
    by_paper = rows.sort_values("place", kind="stable")
    yield from by_paper.groupby(["claim", "source"], sort=False)


def _place(source: str) -> tuple[str, str, int]:
    """Sort sources by paper, and then by figure, those of the appendix last.

    Example:
        >>> sorted(["B 2022, Fig. 10", "A 2021, Fig. C.4", "B 2022, Fig. 2a", "A 2021, Fig. 7", "B 2022"], key=_place)
        ['A 2021, Fig. 7', 'A 2021, Fig. C.4', 'B 2022', 'B 2022, Fig. 2a', 'B 2022, Fig. 10']
    """
    paper = re.match(r".*?\d{4}", source)
    figure = re.search(r"Fig\. (?:([A-Z])\.?)?(\d+)", source)
    return paper[0] if paper else source, (figure[1] or "") if figure else "", int(figure[2]) if figure else 0


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
    about = "Print the claims of papers that were put to the test, as one table: what was found of each, and on what."
    given = parse(options_of(Runs), arguments or [], "python -m utilities claims", about)
    with reporting():
        print(table(*given.runs, full=given.full) if given.rows or given.full else overview(*given.runs))
