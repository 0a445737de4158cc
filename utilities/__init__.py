"""What does attention change in what a vision model learns? Tools to compare inner representations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def hand_on(face: str, names: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Make a room's ``__getattr__``, which imports a public name when it is asked for: torch alone takes seconds.

    Args:
        face: Name of the room.
        names: Module of the room -> the public names that it defines. None is that of a module.

    Returns:
        A function from a name to what it names; it raises AttributeError for any other name.

    Example:
        >>> hand_on("utilities", {"metrics": ["cka"]})("cka").__name__
        'cka'
    """
    homes = {name: module for module, defined in names.items() for name in defined}

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {face!r} has no attribute {name!r}")
        return getattr(import_module(f"{face}.{homes[name]}"), name)

    return __getattr__
