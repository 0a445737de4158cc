"""Measures of the distances between images: RSA and shared neighbours."""

from __future__ import annotations

from functools import partial

import torch
from numpy.typing import ArrayLike

from utilities.compare.measures.measure import Axis, Measure, compare_two, inner_products, too_few, undefined


def _distances(x: torch.Tensor) -> torch.Tensor:
    """Compute distances between rows in the order of `torch.pdist`, rounded to 10 digits, and to 0 below rounding.

    A rotation changes the last digits of equal distances; rounding makes them ties again.
    """
    distances = torch.pdist(x)
    mantissa, exponent = torch.frexp(distances.where(distances > 1e-12 * x.norm(), 0))
    return torch.ldexp((mantissa * 2**33).round() / 2**33, exponent)


def _unit_ranks(x: torch.Tensor) -> torch.Tensor:
    """Compute average ranks of the distances, centred and of unit norm; inner products are Spearman correlations."""
    _, place, counts = torch.unique(_distances(x), return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2).to(x.dtype)[place] - (len(place) + 1) / 2
    return ranks / ranks.norm()


def _neighbours(k: int, x: torch.Tensor) -> torch.Tensor:
    """Mark the k nearest other images of each image by 1/√(nk); tied ones by the share of draws they are in."""
    n = len(x)
    if not x.any():
        return undefined(x)
    distances = torch.full((n, n), float("inf"), dtype=x.dtype, device=x.device)
    row, column = torch.triu_indices(n, n, offset=1, device=x.device)
    distances[row, column] = distances[column, row] = _distances(x)
    farthest = distances.kthvalue(k, dim=1, keepdim=True).values
    nearer, equal = distances < farthest, distances == farthest
    shares = (k - nearer.sum(1, keepdim=True)) / equal.sum(1, keepdim=True)
    return (nearer + equal * shares.to(x.dtype)) * (n * k) ** -0.5


def _mutual_knn_measure(k: int) -> Measure:
    if k < 1:
        raise ValueError(f"k must be 1 or more, not {k!r}")

    def check(n: int, width: int, axis: Axis) -> str | None:
        if k < n - 1:
            return None
        return f"{k} neighbours of {n} images are all the others (k < n-1 is needed): take more images or a smaller k"

    prepare = partial(_neighbours, k)
    return Measure(f"mutual {k}-nearest neighbours", True, prepare, prepare, inner_products, check, f"{k} / (n-1)")


RSA = Measure(
    title="RSA (Spearman)",
    symmetric=True,
    prepare_row=_unit_ranks,
    prepare_column=_unit_ranks,
    pairs=inner_products,
    check=partial(too_few, 3),
    chance="0",
)
MUTUAL_KNN = _mutual_knn_measure(10)


def rsa(x: ArrayLike | torch.Tensor, y: ArrayLike | torch.Tensor) -> float:
    """Compute the Spearman correlation of the distances between images in x and in y.

    It is taken over the upper triangles of the two matrices of Euclidean distances, where ties get their average rank
    (Kriegeskorte et al. 2008, https://doi.org/10.3389/neuro.06.004.2008). It is symmetric and invariant to rotation,
    shift and scale of either side. Any widths will do: independent features give 0 on average. More images narrow the
    spread around 0, but far more slowly than the number of pairs suggests, because pairs share images.

    Args:
        x: Features of n images, (n, ...), flattened to (n, p).
        y: Features of the same images in the same order, (n, ...).

    Returns:
        The correlation, -1 to 1; NaN, with a warning, if x or y has no variance or its distances are all equal.

    Raises:
        ValueError: If the numbers of rows differ or are below 3, or a value is not finite.

    Example:
        >>> x, y = torch.randn(2, 400, 10, generator=torch.Generator().manual_seed(0)).double()
        >>> round(rsa(x, 3 * x.flip(1) + 1), 6), abs(rsa(x, y)) < 0.1
        (1.0, True)
    """
    return compare_two(RSA, x, y)


def mutual_knn(x: ArrayLike | torch.Tensor, y: ArrayLike | torch.Tensor, k: int = 10) -> float:
    """Compute the share of an image's k nearest neighbours that x and y agree on, averaged over images.

    The value is the mean over i of |Nₖˣ(i) ∩ Nₖʸ(i)| / k, in Euclidean distance and without the image itself (Huh et
    al. 2024, https://arxiv.org/abs/2405.07987). It is symmetric and invariant to rotation, shift and scale of either
    side. It sees local structure only. Any widths will do if k is far below n: independent features give k/(n-1).

    Args:
        x: Features of n images, (n, ...), flattened to (n, p).
        y: Features of the same images in the same order, (n, ...).
        k: Number of neighbours. Equally near images count as drawn at random, independently for x and y. The result is
            the expected share. It does not depend on the order of images, and with such ties it is below 1 for x = y.

    Returns:
        The share, 0 to 1; NaN, with a warning, if x or y has no variance.

    Raises:
        ValueError: If k is not 1 to n-2 (n-1 neighbours are all other images), the numbers of rows differ or a value
            is not finite.

    Example:
        >>> x, y = torch.randn(2, 400, 10, generator=torch.Generator().manual_seed(0)).double()
        >>> round(mutual_knn(x, 3 * x.flip(1) + 1), 6), mutual_knn(x, y) < 0.05
        (1.0, True)
    """
    return compare_two(_mutual_knn_measure(k), x, y)
