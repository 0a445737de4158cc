"""Procrustes similarity: how well the best rotation lays one layer's features on another's."""

from __future__ import annotations

from functools import partial

import torch
from numpy.typing import ArrayLike

from utilities.compare.measures.measure import Measure, compare_two, each_pair, too_few


def _nuclear_norm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(a.T @ b).sum() / (a.norm() * b.norm())


PROCRUSTES = Measure(
    title="Procrustes similarity",
    symmetric=True,
    prepare_row=lambda x: x,
    prepare_column=lambda x: x,
    pairs=partial(each_pair, _nuclear_norm),
    check=partial(too_few, 2),
    chance="about 0.85 √(p/n) for p features each, far fewer than n; towards 1 for far more",
)


def procrustes(x: ArrayLike | torch.Tensor, y: ArrayLike | torch.Tensor) -> float:
    """Compute how well the best rotation maps centred x of unit norm onto centred y of unit norm.

    The similarity is |XᵀY|_* / (|X| |Y|) = 1 - d²/2, where d is the orthogonal Procrustes distance (Williams et al.
    2021, https://arxiv.org/abs/2110.14739; Ding et al. 2021, https://arxiv.org/abs/2108.01661). It is symmetric and
    invariant to rotation, shift and scale of either side. Any widths will do. Independent features with p far below n
    give about 0.85 √(p/n), for p features on each side, and the value goes to 1 with width, as biased CKA does. Compare
    it with the value for permuted images.

    Args:
        x: Features of n images, (n, ...), flattened to (n, p).
        y: Features of the same images in the same order, (n, ...).

    Returns:
        The similarity, 0 to 1; NaN, with a warning, if x or y has no variance.

    Raises:
        ValueError: If the numbers of rows differ or are below 2, or a value is not finite.

    Example:
        >>> x, y = torch.randn(2, 400, 10, generator=torch.Generator().manual_seed(0)).double()
        >>> round(procrustes(x, 3 * x.flip(1) + 1), 6), procrustes(x, y) < 0.2
        (1.0, True)
    """
    return compare_two(PROCRUSTES, x, y)
