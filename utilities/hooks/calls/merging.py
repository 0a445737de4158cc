"""Put together what several processes have summed, each over its own batches, in the order of one process.

Each process has a run of consecutive batches, so that what a later process has belongs behind what an earlier one has.
Lists are joined, dictionaries and tuples are merged entry by entry, and objects by their own method ``merge``. Anything
else is refused, because it cannot be told whether it adds up: a sum that is forgotten is an error and no wrong number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

NUMBERS = (int, float, np.ndarray, np.number, torch.Tensor)


def merged(one: Any, later: Any) -> Any:
    """Merge what two processes have summed, into the first one where it can be changed.

    Args:
        one: Sums of the process with the earlier batches: a list, a dictionary, a tuple, or an object with a method
            ``merge``; None where there is nothing yet.
        later: The same, of the process with the later ones.

    Returns:
        The sums over the batches of both.

    Raises:
        TypeError: If it cannot be told how something adds up.

    Example:
        >>> merged({"rows": [1, 2]}, {"rows": [3], "more": [4]})
        {'rows': [1, 2, 3], 'more': [4]}
        >>> merged(1, 2)
        Traceback (most recent call last):
        TypeError: an int cannot be merged over processes; put it into a Total, or rows of images into a list
    """
    if later is None:
        return one
    if one is None:
        return later
    if type(one) is type(later) and hasattr(one, "merge"):
        one.merge(later)
        return one
    if isinstance(one, Mapping) and isinstance(later, Mapping):
        for name, value in later.items():
            one[name] = merged(one[name], value) if name in one else value
        return one
    if isinstance(one, list) and isinstance(later, list):
        return [*one, *later]
    if isinstance(one, tuple) and isinstance(later, tuple) and len(one) == len(later):
        return tuple(merged(*pair) for pair in zip(one, later, strict=True))
    kind = type(one).__name__
    article = "an" if kind[0] in "aeiou" else "a"
    raise TypeError(
        f"{article} {kind} cannot be merged over processes; put it into a Total, or rows of images into a list"
    )


def adopt(own: Any, whole: Any) -> None:
    """Let sums of this process become those of all, in place.

    Args:
        own: What was given to `merged`, or to another process.
        whole: The sums over all processes.

    Raises:
        TypeError: If it cannot be changed in place.

    Example:
        >>> own = ({"a": [1]}, [])
        >>> adopt(own, ({"a": [1, 2], "b": [3]}, [4]))
        >>> own
        ({'a': [1, 2], 'b': [3]}, [4])
    """
    if own is whole:
        return
    if isinstance(own, list):
        own[:] = whole
    elif isinstance(own, Mapping):
        before = dict(own)
        own.clear()  # so that the order becomes that of the others, and with it the order of sums
        for name, value in whole.items():
            held = before.get(name)
            own[name] = held if _in_place(held) else value
            if _in_place(held):
                adopt(held, value)
    elif isinstance(own, tuple):
        for pair in zip(own, whole, strict=True):
            adopt(*pair)
    elif hasattr(own, "merge"):
        for name, value in vars(whole).items():
            before = getattr(own, name, None)
            if _in_place(before):
                adopt(before, value)
            else:
                setattr(own, name, value)
    else:
        raise TypeError(f"{type(own).__name__} cannot take over the sums of other processes; put it into a Total")


def _in_place(value: Any) -> bool:
    """Tell whether sums can be taken over in place, as others may hold references to them."""
    return hasattr(value, "merge") or (isinstance(value, (dict, list)) and len(value) > 0)


def added(one: Any, two: Any) -> Any:
    """Add numbers, arrays or tensors, or dictionaries of them.

    Example:
        >>> added({"a": 1}, {"a": 2, "b": 3})
        {'a': 3, 'b': 3}
    """
    if isinstance(one, Mapping):
        return {name: added(one.get(name, 0), two.get(name, 0)) for name in {**one, **two}}
    return one + two


class Total:
    """Sum numbers, arrays or tensors, one batch after the other, over all processes.

    Args:
        value: Where to start.

    Example:
        >>> total = Total()
        >>> total.add(np.array([1, 2]))
        >>> total.add(np.array([3, 4]))
        >>> total.value
        array([4, 6])
    """

    def __init__(self, value: Any = 0) -> None:
        self.value = value

    def add(self, value: Any) -> None:
        """Add to the sum."""
        self.value = self.value + value

    def merge(self, later: Total) -> None:
        """Add another sum."""
        self.add(later.value)


class Sums:
    """Give what sums over images a method ``merge``, attribute by attribute.

    Lists, dictionaries and what has a method ``merge`` are merged, see `merged`. What else holds numbers has to be
    named below, so that none is forgotten. All else, such as models, is each process's own and does not travel.

    Attributes:
        ADDS: Names of attributes that are numbers, arrays or dictionaries of them, and are added.
        KEEPS: Names of attributes that are the same in all processes, and travel, as what has not seen an image lacks
            them.
        OWN: Names of attributes with numbers, lists or dictionaries that are each process's own.

    Example:
        >>> class Mean(Sums):
        ...     ADDS = ("n",)
        ...     def __init__(self):
        ...         self.n, self.rows = 0, []
        >>> one, two = Mean(), Mean()
        >>> one.n, two.n, two.rows = 3, 4, ["x"]
        >>> one.merge(two)
        >>> one.n, one.rows
        (7, ['x'])
    """

    ADDS: ClassVar[tuple[str, ...]] = ()
    KEEPS: ClassVar[tuple[str, ...]] = ()
    OWN: ClassVar[tuple[str, ...]] = ()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if self._travels(name, value)}

    def _travels(self, name: str, value: Any) -> bool:
        if name in self.OWN:
            return False
        if name in (*self.ADDS, *self.KEEPS) or hasattr(value, "merge") or isinstance(value, (Mapping, list)):
            return True
        if isinstance(value, NUMBERS) and not isinstance(value, bool):
            raise TypeError(
                f"{type(self).__name__}.{name} holds a number, and it is not said how it adds up over processes: name "
                "it in ADDS, KEEPS or OWN"
            )
        return False

    def merge(self, later: Sums) -> None:
        """Add the sums of a process with later batches."""
        for name, value in later.__getstate__().items():
            mine = getattr(self, name, None)
            if name in self.KEEPS:
                whole = value if mine is None or (isinstance(mine, (Mapping, list)) and not mine) else mine
            else:
                whole = added(mine, value) if name in self.ADDS else merged(mine, value)
            setattr(self, name, whole)
