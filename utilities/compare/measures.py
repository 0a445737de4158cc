"""Alternatives to CKA on plain matrices, in float64: shape, CCA, regression, dissimilarities, neighbours.

No measure is best everywhere (Klabunde et al. 2024, https://arxiv.org/abs/2408.00531), so a finding should hold under
several. Each measure is a function of two feature matrices, and also an entry of `MEASURES` that compares many layers
at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from numpy.typing import ArrayLike

from utilities.hooks.features import unit_scale
from utilities.metrics import _as_matrix

Statistic = Literal["mean_squared", "mean"]
Side = Literal["row", "column"]

# Features come from networks in float32. A component below a few float32 roundings is not a direction of its own, but
# CCA would count it as much as the first component.
RANK_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Measure:
    """Describe how one measure compares every layer of one model with every layer of another.

    Attributes:
        title: Title for captions.
        symmetric: Whether swapping x and y gives the same value.
        prepare_row: Function that takes a layer x as returned by `centered`, (n, r), and keeps what the measure needs.
            It is called once for each layer. It may raise a ValueError for a reason that only the values show (SVCCA).
        prepare_column: The same function for a layer y.
        pairs: Function that takes prepared rows and columns and returns their similarities, (rows, columns), float64;
            NaN where a layer has no variance.
        check: Function that takes the number of images, the layer's own width and ``"row"`` or ``"column"``. It returns
            the reason why such a layer cannot be compared, or None.
        chance: Value that independent features give.

    Example:
        >>> layers = torch.randn(4, 50, 8, generator=torch.Generator().manual_seed(0)).double()
        >>> measure, layers = MEASURES["cca"], [centered(layer) for layer in layers]
        >>> rows, columns = map(measure.prepare_row, layers), map(measure.prepare_column, layers)
        >>> measure.pairs(list(rows), list(columns)).diagonal()
        tensor([1.0000, 1.0000, 1.0000, 1.0000], dtype=torch.float64)
    """

    title: str
    symmetric: bool
    prepare_row: Callable[[torch.Tensor], Any]
    prepare_column: Callable[[torch.Tensor], Any]
    pairs: Callable[[list[Any], list[Any]], torch.Tensor]
    check: Callable[[int, int, Side], str | None]
    chance: str


def centered(x: torch.Tensor) -> torch.Tensor:
    """Centre features and, if there are at least as many as images, rotate them into n columns.

    The R of Xᵀ = QR gives Rᵀ = XQ. No measure that accepts such wide features is changed by a rotation. A spread below
    the rounding of the values counts as none.

    Args:
        x: Features, (n, p), float64.

    Returns:
        (n, min(n, p)).

    Example:
        >>> centered(torch.tensor([[1.0, 5.0], [3.0, 5.0], [5.0, 5.0]]))
        tensor([[-2., 0.],
                [ 0., 0.],
                [ 2., 0.]])
    """
    mean = x.mean(0)
    x = x - mean
    if x.norm() <= 8 * torch.finfo(x.dtype).eps * len(x) ** 0.5 * mean.norm():
        x = torch.zeros_like(x)
    return x if x.shape[1] < len(x) else torch.linalg.qr(x.T, mode="r").R.T


def _compare(measure: Measure, x: ArrayLike | torch.Tensor, y: ArrayLike | torch.Tensor) -> float:
    """Compare two layers by one measure, after checking the arguments of the public functions."""
    x, y = _as_matrix(x, "x"), _as_matrix(y, "y")
    if len(x) != len(y):
        raise ValueError(f"x and y should be features of the same images, but have {len(x)} and {len(y)} rows")
    prepared = []
    for name, side, layer in (("x", "row", x), ("y", "column", y)):
        if reason := measure.check(len(layer), layer.shape[1], side):
            raise ValueError(f"{name}: {reason}")
        prepare = measure.prepare_row if side == "row" else measure.prepare_column
        try:
            prepared.append([prepare(centered(unit_scale(layer)[0]))])
        except ValueError as reason:
            raise ValueError(f"{name}: {reason}") from None
    value = measure.pairs(*prepared).item()
    if value != value:
        warnings.warn(
            f"{measure.title} is not defined: x or y has no variance (for RSA: of its distances)", stacklevel=3
        )
    return value


def _check(least: int, n: int, width: int, side: Side) -> str | None:
    return None if n >= least else f"at least {least} images are needed, not {n}"


def _check_width(sides: tuple[Side, ...], perfect: str, instead: str, n: int, width: int, side: Side) -> str | None:
    if side not in sides or width < n - 1:
        return None
    return (
        f"with {width} features of {n} images {perfect} whatever the features are, as centred features span {n - 1} "
        f"dimensions at most (Kornblith et al. 2019, theorem 1): take more images, a pooled view, or {instead}"
    )


_check_cca = partial(_check_width, ("row", "column"), "every canonical correlation is 1", "SVCCA")


def _inner_products(rows: list[torch.Tensor], columns: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([a.flatten() for a in rows]) @ torch.stack([b.flatten() for b in columns]).T


def _each_pair(similarity: Callable[[Any, Any], torch.Tensor], rows: list[Any], columns: list[Any]) -> torch.Tensor:
    return torch.stack([torch.stack([similarity(a, b) for b in columns]) for a in rows])


def _undefined(x: torch.Tensor) -> torch.Tensor:
    return torch.full((len(x), len(x)), float("nan"), dtype=x.dtype, device=x.device)


def _basis(x: torch.Tensor) -> torch.Tensor:
    """Return an orthonormal basis of the columns' span: none for a dead unit, one vector for two equal units."""
    left, values, _ = torch.linalg.svd(x, full_matrices=False)
    return left[:, values > RANK_TOLERANCE * x.norm()]


def _leading_basis(keep: float, x: torch.Tensor) -> torch.Tensor:
    left, values, _ = torch.linalg.svd(x, full_matrices=False)
    left, values = left[:, : (rank := int((values > RANK_TOLERANCE * x.norm()).sum()))], values[:rank]
    # Shares sum to 1 up to rounding. Rounding must not decide on a component where ``keep`` is 1.
    kept = int((values.square().cumsum(0) / values.square().sum() < keep - 1e-12).sum()) + 1
    if kept >= len(x) - 1:
        raise ValueError(
            f"{keep:g} of the variance takes {kept} components, and features of {len(x)} images have no more, so every "
            "canonical correlation is 1 whatever the features are: take more images, or keep less"
        )
    return left[:, :kept]


def _projection(basis: torch.Tensor) -> torch.Tensor:
    """Compute Q Qᵀ, whose inner product with another is the sum of squared canonical correlations."""
    return basis @ basis.T if basis.shape[1] else _undefined(basis)


def _mean_squared_correlation(rows: list[torch.Tensor], columns: list[torch.Tensor]) -> torch.Tensor:
    ranks = [torch.stack([projection.trace() for projection in side]) for side in (rows, columns)]
    return _inner_products(rows, columns) / torch.minimum(ranks[0][:, None], ranks[1][None, :])


def _mean_correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(a.T @ b).mean()  # without values: NaN


def _cca_measure(
    statistic: Statistic, basis: Callable[[torch.Tensor], torch.Tensor], name: str, check: Callable
) -> Measure:
    dimensions = "components kept" if name == "SVCCA" else "features"
    if statistic == "mean_squared":
        prepare, pairs = lambda x: _projection(basis(x)), _mean_squared_correlation
        title, chance = f"mean squared {name}", f"max(p₁, p₂) / (n-1) for p {dimensions}"
    elif statistic == "mean":
        prepare, pairs = basis, partial(_each_pair, _mean_correlation)
        title, chance = f"mean {name}", f"above max(p₁, p₂) / (n-1) for p {dimensions}, below its root"
    else:
        raise ValueError(f"statistic {statistic!r} is not known; choose 'mean_squared' or 'mean'")
    return Measure(title, True, prepare, prepare, pairs, check, chance)


def _svcca_measure(statistic: Statistic, keep: float) -> Measure:
    if not 0 < keep <= 1:
        raise ValueError(f"keep is a share of the variance, above 0 and up to 1, not {keep!r}")
    return _cca_measure(statistic, partial(_leading_basis, keep), "SVCCA", partial(_check, 3))


def _weights_and_basis(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    basis = _basis(x)
    return basis, basis.T @ x


def _projection_weighted(row: tuple[torch.Tensor, torch.Tensor], b: torch.Tensor) -> torch.Tensor:
    a, neurons = row
    variates, correlations, _ = torch.linalg.svd(a.T @ b, full_matrices=False)
    weights = (variates.T @ neurons).abs().sum(1)  # <h_i, x_j> in the basis of x's span, where h_i and x_j lie
    return (weights * correlations).sum() / weights.sum()  # without values: NaN


def _unit_gram(x: torch.Tensor) -> torch.Tensor:
    return x @ x.T / x.square().sum()


def _nuclear_norm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(a.T @ b).sum() / (a.norm() * b.norm())


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
        return _undefined(x)
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

    def check(n: int, width: int, side: Side) -> str | None:
        if k < n - 1:
            return None
        return f"{k} neighbours of {n} images are all the others (k < n-1 is needed): take more images or a smaller k"

    prepare = partial(_neighbours, k)
    return Measure(f"mutual {k}-nearest neighbours", True, prepare, prepare, _inner_products, check, f"{k} / (n-1)")


MEASURES: dict[str, Measure] = {
    "procrustes": Measure(
        title="Procrustes similarity",
        symmetric=True,
        prepare_row=lambda x: x,
        prepare_column=lambda x: x,
        pairs=partial(_each_pair, _nuclear_norm),
        check=partial(_check, 2),
        chance="about 0.85 √(p/n) for p features each, far fewer than n; towards 1 for far more",
    ),
    "cca": _cca_measure("mean_squared", _basis, "CCA", _check_cca),
    "svcca": _svcca_measure("mean_squared", 0.99),
    "pwcca": Measure(
        title="projection-weighted CCA",
        symmetric=False,
        prepare_row=_weights_and_basis,
        prepare_column=_basis,
        pairs=partial(_each_pair, _projection_weighted),
        check=_check_cca,
        chance="above max(p₁, p₂) / (n-1) for p features, below its root",
    ),
    "linear_regression": Measure(
        title="linear regression R²",
        symmetric=False,
        prepare_row=_unit_gram,
        prepare_column=lambda x: _projection(_basis(x)),
        pairs=_inner_products,
        check=partial(_check_width, ("column",), "least squares from y fits x perfectly", "fewer features as y"),
        chance="p₂ / (n-1), p₂ being the width of the predicting layer",
    ),
    "rsa": Measure(
        title="RSA (Spearman)",
        symmetric=True,
        prepare_row=_unit_ranks,
        prepare_column=_unit_ranks,
        pairs=_inner_products,
        check=partial(_check, 3),
        chance="0",
    ),
    "mutual_knn": _mutual_knn_measure(10),
}


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
    return _compare(MEASURES["procrustes"], x, y)


def cca(x: ArrayLike | torch.Tensor, y: ArrayLike | torch.Tensor, statistic: Statistic = "mean_squared") -> float:
    """Compute the mean squared, or mean, canonical correlation ρ of x and y.

    The value is |QₓᵀQᵧ|² / p₁ = Σρ²/p₁, or Σρ/p₁, where Q is an orthonormal basis of the centred features (Kornblith et
    al. 2019, section 3, https://arxiv.org/abs/1905.00414). The normaliser p₁ is the smaller of the two ranks: the
    smaller width without units that are dead or follow from others. The value is symmetric and invariant to any
    invertible linear map or shift of either side. Use it for widths far below n: independent features give a mean
    squared ρ of max(p₁, p₂)/(n-1).

    Args:
        x: Features of n images, (n, ...), flattened to (n, p).
        y: Features of the same images in the same order, (n, ...).
        statistic: ``"mean_squared"`` or ``"mean"``.

    Returns:
        The mean, 0 to 1; NaN, with a warning, if x or y has no variance.

    Raises:
        ValueError: If a width is n-1 or more, so that every ρ is 1 whatever the features; if the numbers of rows
            differ, a value is not finite or the statistic is not known.

    Example:
        >>> x, y = torch.randn(2, 400, 10, generator=torch.Generator().manual_seed(0)).double()
        >>> round(cca(x, x.cumsum(1)), 6), cca(x, y) < 0.05
        (1.0, True)
    """
    return _compare(_cca_measure(statistic, _basis, "CCA", _check_cca), x, y)


def svcca(
    x: ArrayLike | torch.Tensor,
    y: ArrayLike | torch.Tensor,
    statistic: Statistic = "mean_squared",
    keep: float = 0.99,
) -> float:
    """Compute CCA of the leading principal components of x and y (Raghu et al. 2017).

    The value is that of `cca`, where Q is the smallest number of principal components holding ``keep`` of the variance
    (https://arxiv.org/abs/1706.05806). It is symmetric and invariant to rotation, shift and scale of either side; other
    linear maps change which components lead. Any widths will do. But unrelated subspaces of a and b dimensions give a
    mean squared ρ of max(a, b)/(n-1). For flat spectra, such as independent noise, this is near 1 and says nothing.

    Args:
        x: Features of n images, (n, ...), flattened to (n, p).
        y: Features of the same images in the same order, (n, ...).
        statistic: ``"mean_squared"`` or ``"mean"``.
        keep: The share of variance, above 0 and up to 1.

    Returns:
        The mean, 0 to 1; NaN, with a warning, if x or y has no variance.

    Raises:
        ValueError: If n-1 components are kept, which is all that centred features of n images can have; if the numbers
            of rows differ, a value is not finite, or the statistic or ``keep`` is not valid.

    Example:
        >>> x, y = torch.randn(2, 200, 500, generator=torch.Generator().manual_seed(0)).double()
        >>> round(svcca(x, 3 * x.flip(1) + 1), 6), svcca(x, y) > 0.8, svcca(x, y, keep=0.1) < 0.1
        (1.0, True, True)
    """
    return _compare(_svcca_measure(statistic, keep), x, y)


def pwcca(x: ArrayLike | torch.Tensor, y: ArrayLike | torch.Tensor) -> float:
    """Compute the mean canonical correlation, weighted by how much of x each accounts for (Morcos et al. 2018).

    The value is Σ αᵢρᵢ / Σ αᵢ with αᵢ = Σⱼ |<hᵢ, xⱼ>|, where hᵢ are the canonical variates of x and xⱼ its centred
    neurons (https://arxiv.org/abs/1806.05759). It is asymmetric: the weights come from x, whatever the widths. It is
    invariant to any invertible linear map of y, and to scale, shift and permutation of x. A rotation of x changes it,
    because neurons matter. Use it for widths far below n: independent features give about the mean that `cca` gives.

    Args:
        x: Features of n images, (n, ...), flattened to (n, p).
        y: Features of the same images in the same order, (n, ...).

    Returns:
        The weighted mean, 0 to 1; NaN, with a warning, if x or y has no variance.

    Raises:
        ValueError: If a width is n-1 or more, so that every ρ is 1 whatever the features; if the numbers of rows
            differ or a value is not finite.

    Example:
        >>> x, y = torch.randn(2, 400, 10, generator=torch.Generator().manual_seed(0)).double()
        >>> round(pwcca(x, x.cumsum(1)), 6), pwcca(x, y) < 0.2
        (1.0, True)
    """
    return _compare(MEASURES["pwcca"], x, y)


def linear_regression(x: ArrayLike | torch.Tensor, y: ArrayLike | torch.Tensor) -> float:
    """Compute the R² of predicting x from y by least squares, over all features of x together.

    R² is |QᵧᵀX|² / |X|², where X is centred and Q is an orthonormal basis of centred y (Kornblith et al. 2019,
    https://arxiv.org/abs/1905.00414). It is asymmetric: y predicts x. It is invariant to any invertible linear map of
    y, and to rotation, shift and scale of x. x may have any width, but y needs far fewer features than n: independent
    features give p₂/(n-1).

    Args:
        x: Features of n images to predict, (n, ...), flattened to (n, p).
        y: Features of the same images in the same order to predict from, (n, ...).

    Returns:
        R² on the fitted images, 0 to 1; NaN, with a warning, if x or y has no variance.

    Raises:
        ValueError: If the width of y is n-1 or more, so that every fit is perfect; if the numbers of rows differ or
            a value is not finite.

    Example:
        >>> x, y = torch.randn(2, 400, 10, generator=torch.Generator().manual_seed(0)).double()
        >>> round(linear_regression(x, x.cumsum(1)), 6), linear_regression(x, y) < 0.05
        (1.0, True)
    """
    return _compare(MEASURES["linear_regression"], x, y)


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
    return _compare(MEASURES["rsa"], x, y)


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
    return _compare(_mutual_knn_measure(k), x, y)
