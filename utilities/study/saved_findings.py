"""What was found before with a notebook: its kept results in words, to begin with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from utilities.results.image_contributions import ImageContributions
from utilities.results.matrix_difference import MatrixDifference
from utilities.results.measure_tests import MeasureTests
from utilities.results.result import Result
from utilities.results.similarity import Similarity
from utilities.results.similarity_difference import SimilarityDifference
from utilities.study.image_contributions import describe_contributions
from utilities.study.measure_tests import describe_measure_tests
from utilities.study.nearness import describe_nearness
from utilities.study.wording import describe
from utilities.utils import PROJECT_ROOT

# Natural images and real weights tell more than a quick run.
FOLDERS = ("results/natural", "results", "runs/paper", "runs/natural", "runs/quick")
MOST = 6  # claims whose numbers are stated
DESCRIBED: Mapping[type[Result], Callable[[Any], str]] = {
    Similarity: describe,
    SimilarityDifference: describe_nearness,
    MatrixDifference: describe_nearness,
    MeasureTests: describe_measure_tests,
    ImageContributions: describe_contributions,
}
LISTED = (MeasureTests, ImageContributions)  # kinds whose words have a sentence a line
_WORDS = {"True": "holds", "False": "does not hold", "": "cannot be told"}


@dataclass(frozen=True)
class Findings:
    """What was found, as text; a notebook shows it as Markdown.

    Attributes:
        lines: A line for each finding.
        where: The results that it is read from, or an empty string.
        data: Their images, as far as known.
    """

    lines: tuple[str, ...]
    where: str = ""
    data: str = ""

    def __str__(self) -> str:
        if not self.lines:
            return "Nothing is saved in results or runs yet: this run will say."
        of = f", {self.data}" if self.data else ""
        return "\n".join([f"Found before ({self.where}{of}):", "", *(f"- {line}" for line in self.lines)])

    def _repr_markdown_(self) -> str:
        return str(self).replace("_", r"\_")


def findings(name: str, output_dir: str | Path | None = None, folders: Sequence[str] = FOLDERS) -> Findings:
    """State what was found with a notebook before: its claims, or else what its similarity shows.

    Args:
        name: Name of the notebook.
        output_dir: Folder of the notebook's results, looked at last; None is among the others.
        folders: Where results are looked for, the best ones first, in the project's folder.

    Example:
        >>> print(findings("No_Such_Notebook"))
        Nothing is saved in results or runs yet: this run will say.
    """
    for folder in [*(PROJECT_ROOT / one for one in folders), *([] if output_dir is None else [Path(output_dir)])]:
        where = folder.relative_to(PROJECT_ROOT).as_posix() if folder.is_relative_to(PROJECT_ROOT) else str(folder)
        if (folder / f"{name}_claims.csv").is_file():
            return _claims(folder / f"{name}_claims.csv", where)
        if (folder / f"{name}.npz").is_file() and (found := _result(folder / name, where)):
            return found
    return Findings(())


def sentences(result: Result) -> tuple[str, ...]:
    """State what a result shows; kinds without words give nothing.

    Example:
        >>> sentences(Result())
        ()
    """
    words = DESCRIBED.get(type(result))
    if words is None:
        return ()
    text = words(result)
    return tuple(text.splitlines()) if isinstance(result, LISTED) else (text,)


def _claims(path: Path, where: str) -> Findings:
    """Put a table of claims into lines."""
    table = pd.read_csv(path, dtype=str).fillna("")
    if "short" not in table:
        table["short"] = ""
    lines = []
    for row in table.to_dict("records"):
        found = "" if len(table) > MOST else f", {(row['short'] or row['found']).replace('+-', '±')}"
        lines.append(f"{row['claim']} ({row['source'].partition(', http')[0]}): **{_WORDS[row['holds']]}**{found}")
    data = dict.fromkeys(table["data"]) if "data" in table else {}
    return Findings(tuple(lines), where, "; ".join(one for one in data if one))


def _result(path: Path, where: str) -> Findings | None:
    """Put a result of a kind that is `DESCRIBED` into lines; another kind gives None."""
    for kind in DESCRIBED:
        try:
            result = kind.load(path)
        except ValueError:
            continue
        n = result.provenance["n"] if isinstance(result, MeasureTests) else result.n
        data = result.provenance.get("dataset", "")
        return Findings(sentences(result), where, f"{data}, n = {n:,}".strip(", "))
    return None
