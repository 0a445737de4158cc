"""Work on stacks of Gram matrices, one for each layer: as vectors, permuted, without or with leading components."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

POWER_STEPS = 8
ROUNDING = 1e-5  # share of a float32 Gram matrix's trace that may be rounding


def half_vectors(grams: torch.Tensor) -> torch.Tensor:
    """Turn symmetric matrices into half as long vectors with the same inner products: the diagonal, √2 x the rest.

    Example:
        >>> half_vectors(torch.tensor([[[1.0, 2.0], [2.0, 3.0]]])).square().sum().round()
        tensor(18.)
    """
    n = grams.shape[-1]
    row, column = torch.triu_indices(n, n, device=grams.device)
    weights = torch.where(row == column, grams.new_ones(()), grams.new_tensor(2**0.5))
    return grams.flatten(1)[:, row * n + column] * weights


def _places(n: int) -> torch.Tensor:
    """Return where `half_vectors` puts each entry, (n, n)."""
    place = torch.empty(n, n, dtype=torch.long)
    row, column = torch.triu_indices(n, n)
    place[row, column] = place[column, row] = torch.arange(len(row))
    return place


def first_component(grams: torch.Tensor) -> torch.Tensor:
    """Estimate the share of the largest eigenvalue in the trace by power iteration, as a lower bound.

    Args:
        grams: Positive semi-definite matrices, (layers, n, n).

    Returns:
        Shares, (layers,), 0 where the trace is 0.

    Example:
        >>> first_component(torch.diag(torch.tensor([3.0, 1.0]))[None]).round(decimals=4)
        tensor([0.7500])
    """
    diagonal = grams.diagonal(dim1=1, dim2=2)
    trace = diagonal.sum(1).clamp(min=torch.finfo(grams.dtype).tiny)
    vector = grams.gather(2, diagonal.argmax(1)[:, None, None].expand(-1, grams.shape[1], 1))
    for _ in range(POWER_STEPS):
        vector = nn.functional.normalize(vector, dim=1, eps=1e-30)
        product = grams @ vector
        value = (vector * product).sum((1, 2))
        vector = product
    return value / trace


def without_top_components(grams: torch.Tensor, k: int) -> torch.Tensor:
    """Take the k leading principal components out of centred Gram matrices, as Nguyen et al. 2022 do.

    See https://arxiv.org/abs/2202.07184; here they are the components within a batch.

    Args:
        grams: Centred matrices, (layers, n, n), float64.
        k: Number of components.

    Returns:
        The matrices, (layers, n, n), without these components; zero where only rounding is left.

    Raises:
        ValueError: If there are no more than k images.

    Example:
        >>> without_top_components(torch.diag(torch.tensor([3.0, 1.0]))[None], 1)
        tensor([[[0., 0.],
                 [0., 1.]]])
    """
    if k >= grams.shape[-1]:
        raise ValueError(f"{k} components cannot be taken out of a batch of {grams.shape[-1]} images")
    values, vectors = torch.linalg.eigh(grams)
    left, rest = values[..., : values.shape[-1] - k], vectors[..., : values.shape[-1] - k]
    gone = left.sum(-1) <= ROUNDING * values.sum(-1)
    return (rest * left[..., None, :].masked_fill(gone[..., None, None], 0)) @ rest.mT


def permuted_products(
    rows: torch.Tensor, columns: torch.Tensor, n: int, count: int, generator: np.random.Generator
) -> torch.Tensor:
    """Multiply `half_vectors` of centred Gram matrices with the images of one side in other orders.

    Args:
        rows: Vectors of the one side, (rows, n(n+1)/2).
        columns: Vectors of the other side, (columns, n(n+1)/2).
        n: Number of images.
        count: Number of orders.
        generator: Generator that draws the orders.

    Returns:
        Products, (count, rows, columns), float64, computed in float32.

    Example:
        >>> grams = torch.diag(torch.tensor([1.0, 2.0]))[None]
        >>> vectors = half_vectors(grams)
        >>> permuted_products(vectors, vectors, 2, 8, np.random.default_rng(0)).flatten().unique().tolist()
        [4.0, 5.0]
    """
    place = _places(n).to(columns.device)
    rows, columns = rows.float(), columns.float()
    swapped = len(rows) < len(columns)  # permute the smaller side; the inverse order does the same
    fixed, moved = (columns, rows) if swapped else (rows, columns)
    products = rows.new_empty(count, len(rows), len(columns))
    row, column = torch.triu_indices(n, n, device=columns.device)
    for k in range(count):
        order = torch.from_numpy(generator.permutation(n)).to(columns.device)
        product = fixed @ moved[:, place[order[row], order[column]]].T
        products[k] = product.T if swapped else product
    return products.double()
