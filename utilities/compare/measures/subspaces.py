"""Measures of the subspaces that features span: canonical correlations and linear regression."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from numpy.typing import ArrayLike

from utilities.compare.measures.measure import (
    Axis,
    Measure,
    compare_two,
    each_pair,
    inner_products,
    too_few,
    undefined,
)
from utilities.hooks.calls.options import check_number

Statistic = Literal["mean_squared", "mean"]

# Features come from networks in float32. A component below a few float32 roundings is not a direction of its own, but
# CCA would count it as much as the first component.
RANK_TOLERANCE = 1e-6


def _check_width(axes: tuple[Axis, ...], perfect: str, instead: str, n: int, width: int, axis: Axis) -> str | None:
    if axis not in axes or width < n - 1:
        return None
    return (
        f"with {width} features of {n} images {perfect} whatever the features are, as centred features span {n - 1} "
        f"dimensions at most (Kornblith et al. 2019, theorem 1): take more images, a pooled view, or {instead}"
    )


_check_cca = partial(_check_width, ("row", "column"), "every canonical correlation is 1", "SVCCA")


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
    return basis @ basis.T if basis.shape[1] else undefined(basis)


def _mean_squared_correlation(rows: list[torch.Tensor], columns: list[torch.Tensor]) -> torch.Tensor:
    ranks = [torch.stack([projection.trace() for projection in side]) for side in (rows, columns)]
    return inner_products(rows, columns) / torch.minimum(ranks[0][:, None], ranks[1][None, :])


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
        prepare, pairs = basis, partial(each_pair, _mean_correlation)
        title, chance = f"mean {name}", f"above max(p₁, p₂) / (n-1) for p {dimensions}, below its root"
    else:
        raise ValueError(f"statistic {statistic!r} is not known; choose 'mean_squared' or 'mean'")
    return Measure(title, True, prepare, prepare, pairs, check, chance)


def _svcca_measure(statistic: Statistic, keep: float) -> Measure:
    check_number("keep", keep, above=0, most=1, hint=", a share of the variance")
    return _cca_measure(statistic, partial(_leading_basis, keep), "SVCCA", partial(too_few, 3))


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


CCA = _cca_measure("mean_squared", _basis, "CCA", _check_cca)
SVCCA = _svcca_measure("mean_squared", 0.99)
PWCCA = Measure(
    title="projection-weighted CCA",
    symmetric=False,
    prepare_row=_weights_and_basis,
    prepare_column=_basis,
    pairs=partial(each_pair, _projection_weighted),
    check=_check_cca,
    chance="above max(p₁, p₂) / (n-1) for p features, below its root",
)
LINEAR_REGRESSION = Measure(
    title="linear regression R²",
    symmetric=False,
    prepare_row=_unit_gram,
    prepare_column=lambda x: _projection(_basis(x)),
    pairs=inner_products,
    check=partial(_check_width, ("column",), "least squares from y fits x perfectly", "fewer features as y"),
    chance="p₂ / (n-1), p₂ being the width of the predicting layer",
)


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
    return compare_two(_cca_measure(statistic, _basis, "CCA", _check_cca), x, y)


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
    return compare_two(_svcca_measure(statistic, keep), x, y)


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
    return compare_two(PWCCA, x, y)


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
    return compare_two(LINEAR_REGRESSION, x, y)
