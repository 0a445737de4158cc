"""Refuse options before the work begins: unknown ones that functions pass on, and numbers that are not whole."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral
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


def _options_of(function: Callable[..., Any]) -> list[str]:
    """List the parameters of a function that are given by name alone, or may be left out."""
    parameters = inspect.signature(function).parameters.values()
    empty, alone = inspect.Parameter.empty, inspect.Parameter.KEYWORD_ONLY
    return [one.name for one in parameters if one.kind is alone or one.default is not empty]
