"""Refuse options before the work begins: unknown ones that functions pass on, and numbers that do not fit."""

from __future__ import annotations

import difflib
import inspect
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any


def check_options(
    caller: Callable[..., Any], given: Mapping[str, Any], taker: Callable[..., Any], but: Iterable[str] = ()
) -> None:
    """Refuse options that neither a function nor the one that it passes them on to takes.

    Args:
        caller: Function that is given the options.
        given: Options that are not its own.
        taker: Function that it passes them on to.
        but: Options of that function which the caller sets itself.

    Raises:
        TypeError: If there are such options; the message names the closest ones, and all.

    Example:
        >>> def one(images, *, width=1, **options): ...
        >>> def two(images, *, seed=0): ...
        >>> check_options(one, {"sed": 1}, two)
        Traceback (most recent call last):
        TypeError: one() has no option 'sed'; close: seed; its options are width, seed
    """
    known = [name for name in dict.fromkeys([*_options_of(caller), *_options_of(taker)]) if name not in set(but)]
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in inspect.signature(taker).parameters.values()):
        return
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, cutoff=0.5)
            hint = f"; close: {', '.join(close)}" if close else ""
            raise TypeError(f"{caller.__name__}() has no option {name!r}{hint}; its options are {', '.join(known)}")


def check_whole(name: str, value: Any, least: int) -> None:
    """Refuse an option that is no whole number, or too small a one.

    Args:
        name: Name of the option.
        value: Its value.
        least: Smallest value.

    Raises:
        ValueError: If it is; the message names both.

    Example:
        >>> check_whole("steps", 2.5, 1)
        Traceback (most recent call last):
        ValueError: steps=2.5 should be a whole number, 1 or more
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}={value!r} should be a whole number, {least} or more")


def check_number(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = math.inf,
    hint: str = "",
) -> None:
    """Refuse an option that is no real number, NaN, or out of range.

    Args:
        name: Name of the option.
        value: Its value.
        least: Smallest value.
        above: What it has to be above.
        most: Largest value.
        below: What it has to be below; None lets it be infinite.
        hint: What else the message says.

    Raises:
        ValueError: If it is; the message names option, value and what is wanted.

    Example:
        >>> check_number("penalty", "x", above=0, hint=", such as 1e-3")
        Traceback (most recent call last):
        ValueError: penalty='x' should be a number above 0, such as 1e-3
        >>> check_number("share", 1.5, least=0, most=1)
        Traceback (most recent call last):
        ValueError: share=1.5 should be a number of 0 or more and at most 1
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    bounds = {"above {:g}": above, "of {:g} or more": least, "below {:g}": below, "at most {:g}": most}
    ways = operator.gt, operator.ge, operator.lt, operator.le
    checks = [bound is None or (number and way(value, bound)) for way, bound in zip(ways, bounds.values(), strict=True)]
    if number and value == value and all(checks):  # NaN equals nothing
        return
    named = [text.format(bound) for text, bound in bounds.items() if bound is not None and bound != math.inf]
    wanted = f"a number {' and '.join(named)}" if named else "a finite number"
    raise ValueError(f"{name}={value!r} should be {wanted}{hint}")


def _options_of(function: Callable[..., Any]) -> list[str]:
    """List the parameters of a function that are given by name alone, or may be left out."""
    parameters = inspect.signature(function).parameters.values()
    empty, alone = inspect.Parameter.empty, inspect.Parameter.KEYWORD_ONLY
    return [one.name for one in parameters if one.kind is alone or one.default is not empty]
