"""The words of a command line: which are options, and which belong to them."""

from __future__ import annotations

import re
import types
import typing
from collections import abc
from collections.abc import Mapping, Sequence
from typing import Any


def is_flag(word: str) -> bool:
    """Tell whether a word is an option's name; numbers below zero are not."""
    return bool(re.match(r"--?[A-Za-z]", word))


def in_front(arguments: Sequence[str], many: str, options: Mapping[str, Any]) -> list[str]:
    """Take words without an option's name to the front, and those after ``--NAME`` with them, in their order.

    Args:
        arguments: The words.
        many: The NAME.
        options: Their names, as they are written, and types.

    Example:
        >>> in_front(["a", "--seed", "1", "b", "--models", "c", "--models=d"], "models", {"--seed": int})
        ['a', 'b', 'c', 'd', '--seed', '1']
    """
    takes = {name: _length(own) for name, own in options.items()}
    takes |= {f"--{many}": None} if many else {}
    front, rest, left, own = [], [], 0, False  # how many words the last option still takes; None is any number
    for word in arguments:
        if is_flag(word):
            name, equals, value = word.partition("=")
            name = name.replace("_", "-")
            own = bool(many) and name == f"--{many}"
            left = 0 if equals or name[:5] == "--no-" else takes.get(name, None if own or name in takes else 1)
            (front if own else rest).extend(([value] if equals else []) if own else [word])
        elif own or left == 0:
            front.append(word)
        else:
            rest.append(word)
            left = None if left is None else left - 1
    return [*front, *rest]


def _length(annotation: Any) -> int | None:
    """Count the words that an option takes; None is any number."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is bool:
        return 0
    if origin in (types.UnionType, typing.Union):
        counts = {_length(one) if one is not bool else 1 for one in inner if one is not type(None)}
        return counts.pop() if len(counts) == 1 else None
    if origin is tuple:
        return None if Ellipsis in inner else len(inner)
    return None if origin in (abc.Mapping, dict) else 1
