"""Decide which notebook runs next, so that no core waits: the longest first, and a turn lent is a turn taken.

Where two notebooks need the same model, one of them trains it and the other waits for its checkpoint. Meanwhile the
second leaves its core idle; it says so by a file, see `utilities.results.waiting`, and another notebook
starts in its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path


def longest_first(names: Iterable[str], seconds: Mapping[str, float | None]) -> list[str]:
    """Sort notebooks by the time that they take, so that no long one is left alone at the end.

    The shortest runs before all others, so that there is soon a figure to look at. Those without a time come next, in
    the order given: the first to run train what others use.

    Args:
        names: Names of the notebooks.
        seconds: Name -> seconds of its last run, or what its metadata say, or None.

    Example:
        >>> longest_first("abcd", {"a": 1.0, "b": None, "c": 20.0, "d": 5.0})
        ['a', 'b', 'c', 'd']
    """
    known = {name: value for name, value in seconds.items() if value is not None}
    ordered = sorted(names, key=lambda name: -known.get(name, math.inf))
    shortest = ordered[-1:] if ordered[-1:] and ordered[-1] in known else []
    return shortest + [name for name in ordered if name not in shortest]


def count_turns(jobs: int, marks: Iterable[Path]) -> int:
    """Count the notebooks that may run now: one more for each that waits for another, at most twice as many.

    Args:
        jobs: Number of notebooks to run at a time.
        marks: For each running notebook, the file that is there while it waits.

    Example:
        >>> count_turns(2, [Path("absent"), Path(".")])
        3
    """
    return jobs + min(jobs, sum(mark.exists() for mark in marks))
