"""Read results of any kind, and write their numbers as CSV."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import utilities.analysis
import utilities.compare
from utilities.results.result import Result
from utilities.results.writing import read_json, write_whole

MOST_ROWS = 100_000  # of a table that is written


@cache
def kinds() -> dict[str, type[Result]]:
    """Return all kinds of results by name."""
    for room in (utilities.analysis, utilities.compare):
        for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            import_module(module.name)
    return {kind.__name__: kind for kind in _below(Result)}


def _below(kind: type[Result]) -> Iterator[type[Result]]:
    for one in kind.__subclasses__():
        yield one
        yield from _below(one)


def read_result(path: Path) -> Result:
    """Read a result, whatever its kind.

    Raises:
        ValueError: If its kind is not known here, or its files are damaged.
    """
    name = read_json(path.with_suffix(".json")).get("type")
    if name not in kinds():
        raise ValueError(f"{path} holds a {name}, which is no result of this package")
    return kinds()[name].load(path)


def write_table(result: Result, path: Path) -> bool:
    """Write a result's table as CSV, unless it has too many rows; tell whether it was written."""
    table = result.to_frame()
    if len(table) > MOST_ROWS:
        return False
    plain = table.index.name is None and table.index.dtype.kind == "i"  # just numbers the rows
    write_whole(path, lambda place: table.to_csv(place, index=not plain))
    return True
