"""The files that a command writes: the ending of ``--out`` decides which."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from utilities.plots.paper import inches
from utilities.plots.style import FORMATS, save_figures, split_picture
from utilities.results.writing import check_writable, write_whole

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from utilities.results.result import Result

RESULTS = (".npz", ".json")
UNKNOWN = re.compile(r"\.[a-z]{2,5}")  # what looks like a format; names may hold dots, such as seed0.5 or a.b2


@dataclass(frozen=True)
class Files:
    """Where results, tables and figures go, and which of them are wanted.

    Attributes:
        base: Path of all files, less their endings.
        result: Whether results are wanted.
        table: Whether tables are.
        formats: Formats of figures, none if there is none.
        width: Width of figures in inches, or None.
        caption: Whether something is written below them.
    """

    base: Path
    result: bool
    table: bool
    formats: tuple[str, ...]
    width: float | None = None
    caption: bool = True

    @classmethod
    def of(cls, given: SimpleNamespace) -> Files:
        """Read the options of `utilities.cli.options.Output`, and see that files can be written.

        Raises:
            OSError: If nothing can be written there.
            ValueError: If nothing is written in the format, or the width is no width.
        """
        width = None if given.width is None else inches(given.width)
        base, _ = split_picture(given.out)
        suffix = given.out.suffix.lower()
        kind = suffix if suffix in (*FORMATS, *RESULTS, ".csv") else ""
        if kind in (".json", ".csv"):
            base = given.out.with_suffix("")
        if not kind and UNKNOWN.fullmatch(suffix):
            known = ", ".join((*FORMATS, ".npz", ".csv"))
            raise ValueError(f"{given.out}: nothing is written as {suffix}; choose {known}, or no ending for all")
        if not kind and given.out.is_dir():
            raise IsADirectoryError(f"{given.out} is a folder; name the files in it, such as {given.out / 'result'}")
        check_writable(base)
        formats = (kind,) if kind in FORMATS else () if kind else (".png", ".pdf")
        return cls(base, kind in ("", *RESULTS), kind in ("", ".csv"), formats, width, given.caption)

    def none(self) -> Files:
        """Return the same with no file wanted, for a process beside the one that writes."""
        return replace(self, result=False, table=False, formats=())

    @property
    def everything(self) -> bool:
        """Whether all kinds of files are wanted."""
        return self.result and self.table

    def beside(self, *parts: str) -> Path:
        """Return the path of a file beside the others, without its ending.

        Example:
            >>> Files(Path("runs/a"), True, True, ()).beside("models/net.py:make").as_posix()
            'runs/a_models-net.py-make'
        """
        words = [re.sub(r"[^A-Za-z0-9_.-]+", "-", part) for part in parts if part]
        return self.base.with_name("_".join([self.base.name, *words]))

    def save(self, result: Result, *parts: str) -> list[Path]:
        """Write a result as npz and json, if results are wanted."""
        if not self.result:
            return []
        path = result.save(self.beside(*parts))
        return [path, path.with_name(f"{path.stem}.json")]

    def save_table(self, table: pd.DataFrame, *parts: str) -> list[Path]:
        """Write a table as CSV, if tables are wanted."""
        if not self.table:
            return []
        path = self.beside(*parts)
        path = path.with_name(f"{path.name}.csv")
        return [write_whole(path, lambda temporary: table.to_csv(temporary, index=False))]

    def save_figures(self, figures: Mapping[str, Figure]) -> list[Path]:
        """Write figures by the endings of their names, in each format that is wanted."""
        paths, look = [], {"width": self.width, "caption": self.caption}
        for suffix in self.formats:
            paths += save_figures(figures, self.base, suffix, **look)
            look = {}  # figures have it from now on
        return paths


def say_written(paths: list[Path], **more: Any) -> None:
    """Name the files that were written."""
    print(f"wrote {', '.join(map(str, paths))}", **more)
