"""Collect what comes with the images of two loaders, and tell whether it is the same in another order.

If nothing shows that two data sets are one, labels, names and the images themselves can still tell, once all have
passed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

PIXELS, SAMPLED, RUN = "pixels", 16384, 256  # bytes of each image, evenly spread in runs, which are fast to read
# Below this number, labels of two data sets may hold each class equally often by chance, as in balanced sets.
FEWEST_CLASSES, FEWEST_LABELS = 5, 20


def fingerprints(images: Any) -> list[int]:
    """Return a number for each image, equal for equal images; an empty list for images outside main memory.

    Example:
        >>> one, two, three = fingerprints(torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]))
        >>> one == three, one == two
        (True, False)
    """
    if not isinstance(images, torch.Tensor) or images.device.type != "cpu" or images.layout != torch.strided:
        return []
    if images.is_quantized or images.ndim < 2 or not images.numel():
        return []
    rows = images.detach().resolve_conj().resolve_neg().flatten(1).contiguous().view(torch.uint8).numpy()
    if (width := rows.shape[1]) > SAMPLED:  # in NumPy: torch's threads cost more than the work
        rows = rows[:, : width // RUN * RUN].reshape(len(rows), -1, RUN)[:, :: -(-width // SAMPLED)]
    return [hash(row.tobytes()) for row in rows]


def in_another_order(one: list[Any], two: list[Any]) -> bool:
    """Tell whether two lists are the same in two orders, and not just by chance.

    For names, which differ from image to image, more than half must be in both lists. For labels, each class must come
    equally often in both, but not all classes equally often, as in all balanced sets.

    Example:
        >>> in_another_order(["a", "b", "c"], ["b", "c", "a"]), in_another_order(["a", "b"], ["c", "d"])
        (True, False)
        >>> in_another_order([0, 1, 0, 1], [1, 1, 0, 0])  # as of any two balanced sets
        False
    """
    parts = set(one), set(two)
    shared = parts[0] & parts[1]
    moved = sum(a != b and a in shared for a, b in zip(one, two, strict=False))
    if not moved:
        return False
    if all(2 * len(part) > len(whole) for part, whole in zip(parts, (one, two), strict=True)):
        running = all(isinstance(part, int) and 0 <= part < 2 * len(one) for part in parts[0])  # in any set
        return not running and 2 * len(shared) > min(map(len, parts)) and 20 * moved > len(shared)
    counts = Counter(one)
    unequal = len(counts) >= FEWEST_CLASSES and len(one) >= FEWEST_LABELS and len(set(counts.values())) > 1
    return unequal and counts == Counter(two)


class Witnesses:
    """Collect what comes with the images of two loaders.

    Args:
        ignored: Kinds of facts that do not count.

    Example:
        >>> seen = Witnesses()
        >>> for one, two in (("ab", "cb"), ("cd", "da")):
        ...     seen.add({"name": list(one)}, {"name": list(two)})
        >>> seen.telling()
        'name'
    """

    def __init__(self, ignored: tuple[str, ...] = ()) -> None:
        self._ignored = ignored
        self._seen: dict[str, tuple[list[Any], list[Any]]] = {}

    def add(self, facts1: Mapping[str, list[Any]], facts2: Mapping[str, list[Any]]) -> None:
        """Add what comes with two paired batches, by kind of fact."""
        for what in facts1.keys() & facts2.keys() - set(self._ignored):
            for values, new in zip(self._seen.setdefault(what, ([], [])), (facts1[what], facts2[what]), strict=True):
                values.extend(new)

    def telling(self) -> str | None:
        """Return a kind of facts that is the same in another order."""
        return next((what for what, lists in sorted(self._seen.items()) if in_another_order(*lists)), None)
