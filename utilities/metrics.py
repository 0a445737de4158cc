"""Kernels, HSIC and CKA on plain matrices, in float64.

Kornblith et al., ICML 2019, https://arxiv.org/abs/1905.00414 (CKA, the biased estimator);
Song et al., JMLR 2012, https://jmlr.org/papers/v13/song12a.html (the debiased one, a U-statistic);
Székely & Rizzo, Annals of Statistics 2014 (U-centring, which reduces the U-statistic to one inner product).
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from numpy.typing import ArrayLike

from utilities.hooks.calls.options import check_number
from utilities.hooks.features import as_real, unit_scale
from utilities.hooks.grams import centered_gram

Kernel = Literal["linear", "rbf"]
Estimator = Literal["debiased", "biased"]

MIN_IMAGES = {"debiased": 4, "biased": 2}


def check_choices(kernel: str, estimator: str, bandwidth: float = 1.0, sigma: float | None = None) -> None:
    """Refuse an unknown kernel or estimator, and a kernel width that is not positive.

    Raises:
        ValueError: If a choice is not valid. The message names what was given and what is available.

    Example:
        >>> check_choices("linear", "debiased")
    """
    if kernel not in ("linear", "rbf"):
        raise ValueError(f"kernel {kernel!r} is not known; choose 'linear' or 'rbf'")
    if estimator not in MIN_IMAGES:
        raise ValueError(f"estimator {estimator!r} is not known; choose from {', '.join(map(repr, MIN_IMAGES))}")
    for name, value in (("bandwidth", bandwidth), ("sigma", 1.0 if sigma is None else sigma)):
        check_number(name, value, above=0)


def _as_matrix(x: ArrayLike | torch.Tensor, name: str) -> torch.Tensor:
    x = torch.as_tensor(x).detach()
    if x.ndim < 2:
        raise ValueError(f"{name} should have one row for each image, shape (n, features), not {tuple(x.shape)}")
    x = as_real(x).flatten(1).to(torch.float64)
    if not torch.isfinite(x).all():
        raise ValueError(f"{name} holds NaN or infinite values in {int((~x.isfinite()).any(1).sum())} of its rows")
    return x


def rbf_from_gram(
    gram: torch.Tensor, *, bandwidth: float = 1.0, sigma: float | torch.Tensor | None = None
) -> torch.Tensor:
    """Turn a linear Gram matrix into the Gram matrix of the kernel exp(-d² / 2σ²).

    Args:
        gram: The linear Gram matrix X Xᵀ, (n, n). A common shift of the rows of X has no effect.
        bandwidth: σ as a fraction of the median *distance* (not its square) between two different rows.
        sigma: σ itself, a number or a tensor. If given, ``bandwidth`` is not used.

    Returns:
        The RBF Gram matrix, (n, n).

    Raises:
        ValueError: If the rows differ but their median distance is zero, so that no fraction of it is a width.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> rbf_from_gram(x @ x.T)[0, 1].item()  # distances 1, 1, 2: median 1
        0.6065306663513184
    """
    norms = gram.diagonal()
    squared = (norms[:, None] + norms[None, :] - 2 * gram).clamp(min=0)
    if sigma is None:
        row, column = torch.triu_indices(len(gram), len(gram), offset=1, device=gram.device)
        sigma = bandwidth * squared[row, column].sqrt().median()
        if gram.device.type == "cpu" and sigma == 0 and squared.any():  # elsewhere the check would block: NaN
            raise ValueError("more than half of the distances between rows are zero, so their median is: give sigma=")
        # If all rows are equal, every width gives the same kernel.
        sigma = torch.where((sigma == 0) & ~squared.any(), torch.ones_like(sigma), sigma)
    return torch.exp(-squared / (2 * sigma**2))


def gram(
    x: ArrayLike | torch.Tensor,
    kernel: Kernel = "linear",
    *,
    bandwidth: float = 1.0,
    sigma: float | None = None,
) -> torch.Tensor:
    """Compute the Gram matrix of the rows of x: ``K_ij = k(x_i, x_j)``.

    Args:
        x: Features, (n, ...), flattened to (n, p). Real and imaginary parts of complex features both count.
        kernel: ``"linear"``, x·y, or ``"rbf"``, exp(-|x - y|² / 2σ²).
        bandwidth: For ``"rbf"``: σ as a fraction of the median distance (Kornblith et al. use 0.2 to 0.8).
        sigma: For ``"rbf"``: σ itself. A fixed σ on raw wide features makes the kernel the identity.

    Returns:
        K, (n, n), float64.

    Raises:
        ValueError: If x is not a matrix or not finite, or if the kernel or its width is not valid.

    Example:
        >>> gram([[1.0, 2.0], [3.0, 4.0]])
        tensor([[ 5., 11.],
                [11., 25.]], dtype=torch.float64)
    """
    check_choices(kernel, "debiased", bandwidth, sigma)
    x = _as_matrix(x, "x")
    if kernel == "linear":
        return x @ x.T
    return _centred_kernel(x, kernel, bandwidth, sigma)


def _centred_kernel(x: torch.Tensor, kernel: Kernel, bandwidth: float, sigma: float | None) -> torch.Tensor:
    """Compute a Gram matrix that can be squared: the RBF kernel's own, or the linear one without mean and scale."""
    x, power = unit_scale(x)
    K = centered_gram(x)
    if kernel == "linear":
        return K
    return rbf_from_gram(K, bandwidth=bandwidth, sigma=None if sigma is None else sigma * torch.exp2(-power))


def center(grams: torch.Tensor, estimator: Estimator = "debiased") -> torch.Tensor:
    """Centre Gram matrices so that their inner product is n(n-3) or (n-1)² times their HSIC.

    ``"biased"``: H K H with H = I - 11ᵀ/n. ``"debiased"``: zero the diagonal, subtract row and column means so that
    every row sums to zero, and zero the diagonal again (Székely & Rizzo 2014).

    Args:
        grams: One Gram matrix or a stack of them, (..., n, n).
        estimator: Estimator that the centring is for.

    Returns:
        The centred matrices, of the same shape.

    Example:
        >>> x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
        >>> bool(center(x @ x.T).sum(1).abs().max() < 1e-12)
        True
    """
    n = grams.shape[-1]
    if estimator == "biased":
        rows = grams.mean(-1)
        return grams - rows[..., :, None] - rows[..., None, :] + rows.mean(-1)[..., None, None]
    grams = grams.clone()
    grams.diagonal(dim1=-2, dim2=-1).zero_()
    rows = grams.sum(-1) / (n - 2)
    rows = rows - rows.sum(-1, keepdim=True) / (2 * (n - 1))
    grams -= rows[..., :, None]
    grams -= rows[..., None, :]
    grams.diagonal(dim1=-2, dim2=-1).zero_()
    return grams


def normalizer(n: int, estimator: Estimator = "debiased") -> int:
    """Return the divisor of the inner product of two centred Gram matrices: n(n-3), or (n-1)².

    Example:
        >>> normalizer(10), normalizer(10, "biased")
        (70, 81)
    """
    return n * (n - 3) if estimator == "debiased" else (n - 1) ** 2


def hsic(K: ArrayLike | torch.Tensor, L: ArrayLike | torch.Tensor, estimator: Estimator = "debiased") -> float:
    """Estimate the Hilbert-Schmidt independence criterion of two Gram matrices of the same images.

    ``"biased"``: tr(K H L H) / (n-1)². ``"debiased"``, with the diagonals of K and L set to zero (Song 2012):
    [tr(KL) + 1ᵀK1 1ᵀL1 / ((n-1)(n-2)) - 2/(n-2) 1ᵀKL1] / (n(n-3)). The debiased estimate may be negative.

    Args:
        K: First Gram matrix, (n, n).
        L: Second Gram matrix, (n, n).
        estimator: ``"debiased"`` (n of 4 or more) or ``"biased"``.

    Returns:
        The estimate.

    Raises:
        ValueError: If the matrices are not square, differ in size or are too small.

    Example:
        >>> x = torch.arange(6.0).double()[:, None]
        >>> round(hsic(gram(x), gram(x)), 6)
        10.5
    """
    check_choices("linear", estimator)
    for name, matrix in (("K", K), ("L", L)):
        if torch.as_tensor(matrix).is_complex():
            raise ValueError(f"{name} is complex: utilities.metrics.gram makes a real Gram matrix of complex features")
    K, L = _as_matrix(K, "K"), _as_matrix(L, "L")
    if K.shape != L.shape or K.shape[0] != K.shape[1]:
        raise ValueError(f"K and L should be square and of one size, not {tuple(K.shape)} and {tuple(L.shape)}")
    n = len(K)
    if n < MIN_IMAGES[estimator]:
        raise ValueError(f"the {estimator} HSIC needs at least {MIN_IMAGES[estimator]} images, not {n}")
    return ((center(K, estimator) * center(L, estimator)).sum() / normalizer(n, estimator)).item()


def cka(
    x: ArrayLike | torch.Tensor,
    y: ArrayLike | torch.Tensor,
    kernel: Kernel = "linear",
    estimator: Estimator = "debiased",
    *,
    bandwidth: float = 1.0,
    sigma: float | None = None,
) -> float:
    """Compute centred kernel alignment: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)).

    CKA is 1 for features that differ by a rotation, a shift and a scale. It is not invariant to other linear maps.
    The debiased estimate is about 0 for independent features of any width and may lie slightly below 0. The biased
    estimate approaches 1 as the ratio of width to n grows.

    Args:
        x: Features of n images, (n, ...), flattened to (n, p).
        y: Features of the same images in the same order, (n, ...).
        kernel: See `gram`.
        estimator: See `hsic`.
        bandwidth: See `gram`.
        sigma: See `gram`.

    Returns:
        The alignment; NaN, with a warning, if x or y has no variance.

    Raises:
        ValueError: If the numbers of rows differ or are too small, or a value is not finite.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, y = torch.randn(2, 200, 50, generator=generator).double()
        >>> rotation = torch.linalg.qr(torch.randn(50, 50, generator=generator).double()).Q
        >>> round(cka(x, 3 * x @ rotation + 1), 6), abs(cka(x, y)) < 0.02, cka(x, y, estimator="biased") > 0.15
        (1.0, True, True)
    """
    check_choices(kernel, estimator, bandwidth, sigma)
    x, y = _as_matrix(x, "x"), _as_matrix(y, "y")
    if len(x) != len(y):
        raise ValueError(f"x and y should be features of the same images, but have {len(x)} and {len(y)} rows")
    K, L = (_centred_kernel(features, kernel, bandwidth, sigma) for features in (x, y))
    scale = hsic(K, K, estimator) * hsic(L, L, estimator)
    if scale <= 0:
        warnings.warn("CKA is not defined: x or y has no variance over the images", stacklevel=2)
        return float("nan")
    return hsic(K, L, estimator) / scale**0.5
