"""Describe a self-similarity by two blocks of layers, or by a fall with the distance of the layers."""

from __future__ import annotations

import numpy as np


def two_blocks(matrix: np.ndarray) -> tuple[int, float, float]:
    """Find the best split of layers into two blocks, and compare it with a fall of similarity with distance.

    Both describe the pairs of different layers with three numbers: two blocks by the means within the first, within the
    second and between them; the fall by a parabola in the distance of the layers.

    Args:
        matrix: Self-similarity, (layers, layers). Missing values are left out.

    Returns:
        Number of layers in the first block, of two or more; share of the variance that two blocks account for, and
        share that the distance accounts for.

    Raises:
        ValueError: If there are fewer than five layers.

    Example:
        >>> two_blocks(np.kron(np.eye(2), np.ones((4, 4))) + 0.1)[:2]
        (4, 1.0)
    """
    count = len(matrix)
    if count < 5:
        raise ValueError(f"{count} layers are too few for two blocks; compare five or more")
    rows, columns = np.triu_indices(count, 1)
    known = np.isfinite(matrix[rows, columns])
    rows, columns = rows[known], columns[known]
    values, distance = matrix[rows, columns], columns - rows
    explained = {}
    for place in range(2, count - 1):
        kind = np.where(columns < place, 0, np.where(rows >= place, 1, 2))
        explained[place] = _explained(values, np.eye(3)[kind])
    best = max(explained, key=explained.__getitem__)
    return best, explained[best], _explained(values, np.stack([distance**power for power in range(3)], 1))


def _explained(values: np.ndarray, columns: np.ndarray) -> float:
    """Return the share of the variance of values that a linear combination of columns accounts for."""
    total = ((values - values.mean()) ** 2).sum()
    fitted = columns @ np.linalg.lstsq(columns.astype(float), values, rcond=None)[0]
    return round(float(1 - ((values - fitted) ** 2).sum() / total), 12) if total > 0 else 0.0
