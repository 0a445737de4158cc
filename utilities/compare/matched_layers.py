"""Choose the layer of another model that a layer is compared with: at the same relative depth, or the best match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Match = Literal["depth", "best"]


def candidates(layers: Sequence[str], others: Sequence[str], match: Match = "depth") -> list[list[str]]:
    """List for each layer those of another model among which the most similar one is taken.

    Args:
        layers: Layers of a model, in the order of execution.
        others: Layers of another model, the same.
        match: ``"depth"``: the one at the nearest relative depth (0 first, 1 last), the earlier of two as near.
            ``"best"``: all of them.

    Returns:
        One list for each layer.

    Raises:
        ValueError: For another match, or no layers.

    Example:
        >>> candidates(["a", "b", "c"], ["u", "v", "w", "x", "y"])
        [['u'], ['w'], ['y']]
        >>> candidates(["a"], ["u", "v"], "best")
        [['u', 'v']]
    """
    if match not in ("depth", "best"):
        raise ValueError(f"match={match!r}: choose 'depth' or 'best'")
    if not layers or not others:
        raise ValueError("a model has no layers to compare")
    if match == "best":
        return [list(others) for _ in layers]
    last, end = max(1, len(layers) - 1), len(others) - 1
    # Rounded half down, in whole numbers.
    return [[others[(2 * i * end + last - 1) // (2 * last)]] for i in range(len(layers))]
