"""Choose the layers of another model that a layer is compared with: at the same relative depth, the best match, all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Match = Literal["depth", "best", "all"]


def compared_layers(
    layers: Sequence[str], others: Sequence[str], match: Match = "depth"
) -> list[tuple[str, list[str]]]:
    """List what is compared: layers of a model, each with those of another among which the most similar one is taken.

    Args:
        layers: Layers of a model, in the order of execution.
        others: Layers of another model, the same.
        match: ``"depth"``: the one at the nearest relative depth (0 first, 1 last), the earlier of two as near.
            ``"best"``: all of them together. ``"all"``: each of them by itself.

    Returns:
        A layer and candidates, one pair for each layer; for ``"all"``, for each cell of the matrix, row by row.

    Raises:
        ValueError: For another match, or no layers.

    Example:
        >>> compared_layers(["a", "b", "c"], ["u", "v", "w", "x", "y"])
        [('a', ['u']), ('b', ['w']), ('c', ['y'])]
        >>> compared_layers(["a"], ["u", "v"], "best"), compared_layers(["a"], ["u", "v"], "all")
        ([('a', ['u', 'v'])], [('a', ['u']), ('a', ['v'])])
    """
    if match not in ("depth", "best", "all"):
        raise ValueError(f"match={match!r}: choose 'depth', 'best' or 'all'")
    if not layers or not others:
        raise ValueError("a model has no layers to compare")
    if match == "all":
        return [(layer, [other]) for layer in layers for other in others]
    if match == "best":
        return [(layer, list(others)) for layer in layers]
    last, end = max(1, len(layers) - 1), len(others) - 1
    # Rounded half down, in whole numbers.
    return [(layer, [others[(2 * i * end + last - 1) // (2 * last)]]) for i, layer in enumerate(layers)]


def refuse_unpaired(first: Sequence[str], second: Sequence[str]) -> None:
    """Refuse to pair the layers of two models of which one has more.

    Raises:
        ValueError: If their numbers differ.

    Example:
        >>> refuse_unpaired(["a", "b"], ["x", "y"])
    """
    if len(first) != len(second):
        raise ValueError(
            f"match='all' pairs the layers of both other models in their order, but the first has {len(first)} and the "
            f"second {len(second)}: choose equally many by layers1 and layers2, or match='depth'"
        )
