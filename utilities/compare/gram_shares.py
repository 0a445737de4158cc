"""Split CKA into shares of images, and take images away: mathematics of pairs of Gram matrices, one for each batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from utilities.metrics import MIN_IMAGES, Estimator, center

Grams = tuple[torch.Tensor, torch.Tensor]  # of one batch and two layers, each (n, n)


def shares_of(batches: Sequence[Grams], estimator: Estimator = "debiased") -> tuple[np.ndarray, np.ndarray]:
    """Compute each image's share in CKA, and how alike its similarities to the other images of its batch are.

    With K and L centred, CKA is Σ K_ij L_ij / sqrt(Σ K_ij² Σ L_ij²), each sum over all pairs of images of all batches.
    The share of image i is the part of the first sum with that i.

    Args:
        batches: Gram matrices of two layers, float64, for each batch.
        estimator: See `utilities.metrics.hsic`.

    Returns:
        Shares, (images,), which sum to CKA; and cosines of row i of K and of L, (images,). Both are NaN where a layer
        has no variance.

    Example:
        >>> x, y = torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(0)).double()
        >>> shares, agreement = shares_of([(x @ x.T, y @ y.T)])
        >>> from utilities.metrics import cka
        >>> bool(abs(shares.sum() - cka(x, y)) < 1e-12), agreement.shape
        (True, (20,))
    """
    rows = []
    for batch in batches:
        K, L = (center(side, estimator) for side in batch)
        rows.append(torch.stack([(K * L).sum(1), K.square().sum(1), L.square().sum(1)]))
    cross, own1, own2 = torch.cat(rows, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = cross.numpy() / np.sqrt(own1.sum().item() * own2.sum().item())
        return shares, cross.numpy() / np.sqrt((own1 * own2).numpy())


def without_images(batches: Sequence[Grams], images: np.ndarray) -> list[Grams]:
    """Take images away; batches that become too small for an estimate are left out.

    Args:
        batches: Gram matrices of two layers for each batch.
        images: Places of the images, counted through all batches.

    Example:
        >>> [len(K) for K, L in without_images([(torch.eye(6), torch.eye(6)), (torch.eye(5), torch.eye(5))], [0, 6, 7])]
        [5]
    """
    sizes = [len(first) for first, _ in batches]
    stays = np.ones(sum(sizes), bool)
    stays[images] = False
    parts = [torch.from_numpy(part) for part in np.split(stays, np.cumsum(sizes)[:-1])]
    kept = [tuple(side[part][:, part] for side in batch) for batch, part in zip(batches, parts, strict=True)]
    return [batch for batch in kept if len(batch[0]) >= MIN_IMAGES["debiased"]]
