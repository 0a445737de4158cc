"""The similarity of windows of attention heads to the layers of a CNN: `utilities.compare.head_windows` returns it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from utilities.results.similarity import Similarity


@dataclass(frozen=True, repr=False)
class HeadWindowSimilarity(Similarity):
    """Similarity of windows of heads, from the most local to the most global, to layers of another model.

    Attributes:
        distance: Mean attention distance of each row's heads, in pixels of the image.
        distance_stderr: Its standard error at most: the mean of the heads' errors.

    Example:
        >>> HeadWindowSimilarity(np.eye(2), ["a", "b"], ["x", "y"], 10, distance=np.array([20.0, 60.0])).distance
        array([20., 60.])
    """

    distance: np.ndarray = field(default_factory=lambda: np.zeros(0))
    distance_stderr: np.ndarray = field(default_factory=lambda: np.zeros(0))
