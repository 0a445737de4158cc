"""Resample images from Gram matrices: HSIC of weighted images, and without each image, as matrices times weights.

A bootstrap sample holds copies of images. A pair of an image with its own copy is no pair of two images: its kernel
value lies on the diagonal that the debiased estimate leaves out, and counting it brings the bias back. So all sums here
run over *different* images, each with its weight, the number of its copies:

HSIC(w) = Σ w_i w_j w_q w_r K_ij (L_ij + L_qr - 2 L_iq) / Σ w_i w_j w_q w_r, over all different i, j, q, r.

With equal weights this is the debiased HSIC (Song et al. 2012, https://jmlr.org/papers/v13/song12a.html), a U-statistic
of degree four. A constant added to features has no effect, whatever the weights. Inclusion and exclusion turn the sums
into products of matrices; tests add up all quadruples.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from utilities.metrics import normalizer

LEAST_IMAGES = 20  # of a batch: fewer could leave a resample without four different images
HELD = 2**24  # weighted sums of all layers held at once, 128 MiB

Pair = tuple[Hashable, Hashable]


@dataclass(frozen=True)
class Weights:
    """Hold weights of a batch's images, one row for each resample, with their powers.

    Attributes:
        powers: w, w² and w³, each (rows, n).
        quadruples: Sum of the weights of all quadruples of different images, (rows,).
    """

    powers: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    quadruples: torch.Tensor

    @classmethod
    def of(cls, weights: torch.Tensor) -> Weights:
        """Compute the powers of weights, (rows, n).

        Example:
            >>> Weights.of(torch.ones(1, 5)).quadruples  # 5 x 4 x 3 x 2
            tensor([120.])
        """
        powers = (weights, weights**2, weights**3)
        p1, p2, p3 = (power.sum(1) for power in powers)
        p4 = (weights**4).sum(1)
        return cls(powers, p1**4 - 6 * p1**2 * p2 + 3 * p2**2 + 8 * p1 * p3 - 6 * p4)

    def sums(self, K: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute Σ_j w_j K_ij and Σ_j w_j² K_ij, each (rows, n)."""
        return self.powers[0] @ K, self.powers[1] @ K


def weighted_pairs(M: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Compute Σ w_i w_j M_ij for each row of weights.

    Args:
        M: Symmetric matrix with a zero diagonal, (n, n).
        weights: Weights of the images, (rows, n).

    Returns:
        The sums, (rows,).

    Example:
        >>> weighted_pairs(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[1.0, 1.0], [2.0, 0.0]]))
        tensor([2., 0.])
    """
    return ((weights @ M) * weights).sum(1)


def weighted_hsic(
    K: torch.Tensor,
    L: torch.Tensor,
    weights: Weights,
    K_sums: tuple[torch.Tensor, torch.Tensor] | None = None,
    L_sums: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Compute the debiased HSIC of weighted images, see the module.

    Args:
        K: Symmetric Gram matrix with a zero diagonal, (n, n).
        L: The same of other features.
        weights: Weights of the images.
        K_sums: ``weights.sums(K)``, where it is known.
        L_sums: ``weights.sums(L)``.

    Returns:
        One value for each row of weights, (rows,).

    Example:
        >>> from utilities.metrics import center, hsic
        >>> x, y = torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(0)).double()
        >>> K, L = center(x @ x.T), center(y @ y.T)
        >>> value = weighted_hsic(K, L, Weights.of(torch.ones(1, 20, dtype=torch.float64)))
        >>> bool(abs(value - hsic(x @ x.T, y @ y.T)) < 1e-12)
        True
    """
    w, w2, w3 = weights.powers
    (Kw, Kw2), (Lw, Lw2) = K_sums or weights.sums(K), L_sums or weights.sums(L)
    M = K * L
    # Sums over pairs, with the powers of both weights; M is symmetric.
    wM = w @ M
    m11, m21, m31, m22 = (wM * w).sum(1), (wM * w2).sum(1), (wM * w3).sum(1), ((w2 @ M) * w2).sum(1)
    p1, p2 = w.sum(1), w2.sum(1)
    same = (p1**2 - p2) * m11 - 4 * p1 * m21 + 4 * m31 + 2 * m22  # K_ij L_ij
    # Sums over triples i, j, q of K_ij L_iq, less those with j = q.
    both, once = w * Kw * Lw, w2 * Kw * Lw
    shared = p1 * (both.sum(1) - m21) - (once.sum(1) - m22)
    shared -= (w * (Kw2 * Lw + Kw * Lw2)).sum(1) - 2 * m31  # the weight of j or of q squared
    apart = (w * Kw).sum(1) * (w * Lw).sum(1) - 4 * once.sum(1) + 2 * m22  # K_ij L_qr
    return (same + apart - 2 * shared) / weights.quadruples


def hsic_without_each(K: torch.Tensor, L: torch.Tensor) -> torch.Tensor:
    """Compute the debiased HSIC without each image in turn, (n,).

    Args:
        K: Gram matrix with a zero diagonal, (n, n).
        L: The same of other features.

    Example:
        >>> from utilities.metrics import center, hsic
        >>> x, y = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0)).double()
        >>> values = hsic_without_each(center(x @ x.T), center(y @ y.T))
        >>> bool(abs(values[0] - hsic(x[1:] @ x[1:].T, y[1:] @ y[1:].T)) < 1e-12)
        True
    """
    m = len(K) - 1
    K_sums, L_sums, own = K.sum(1), L.sum(1), (K * L).sum(1)
    same = own.sum() - 2 * own
    apart = (K_sums.sum() - 2 * K_sums) * (L_sums.sum() - 2 * L_sums)
    shared = K_sums @ L_sums - K_sums * L_sums - L @ K_sums - K @ L_sums + own
    return (same + apart / ((m - 1) * (m - 2)) - 2 / (m - 2) * shared) / (m * (m - 3))


def draw_weights(sizes: Sequence[int], resamples: int, seed: int = 0) -> list[torch.Tensor]:
    """Draw how often each image is in each resample, batch by batch, so that batches keep their sizes.

    Args:
        sizes: Number of images of each batch.
        resamples: Number of resamples.
        seed: Seed of the draws.

    Returns:
        For each batch, weights (1 + resamples, n), float64. The first row holds ones: the images as they are.

    Example:
        >>> [weights.sum(1).tolist() for weights in draw_weights([3, 2], 2)]
        [[3.0, 3.0, 3.0], [2.0, 2.0, 2.0]]
    """
    rng = np.random.default_rng(seed)
    drawn = [rng.multinomial(size, np.full(size, 1 / size), size=resamples) for size in sizes]
    return [torch.from_numpy(np.vstack([np.ones(w.shape[1]), w]).astype(np.float64)) for w in drawn]


def resampled_sums(
    grams: Mapping[Hashable, Sequence[torch.Tensor]],
    pairs: Sequence[Pair],
    weights: Sequence[torch.Tensor],
    progress: bool = False,
) -> tuple[dict[Pair, np.ndarray], dict[Pair, np.ndarray]]:
    """Compute the debiased HSIC of pairs of layers, summed over batches as in CKA, under all weights.

    Args:
        grams: Mapping from layer to its Gram matrices, with zero diagonals, one for each batch.
        pairs: Pairs of layers.
        weights: See `draw_weights`.
        progress: Whether to show a progress bar once the work takes more than two seconds.

    Returns:
        For each pair, the sums under each row of weights, (1 + resamples,), and without each image, (images,).

    Example:
        >>> K = torch.ones(24, 24, dtype=torch.float64) - torch.eye(24, dtype=torch.float64)
        >>> values, without = resampled_sums({"a": [K]}, [("a", "a")], draw_weights([24], 5))
        >>> values["a", "a"].shape, without["a", "a"].shape  # of a layer without variance: 0
        ((6,), (24,))
    """
    pairs = list(dict.fromkeys(pairs))
    layers = list(dict.fromkeys(layer for pair in pairs for layer in pair))
    values = {pair: np.zeros(len(weights[0])) for pair in pairs}
    changes: dict[Pair, list[np.ndarray]] = {pair: [] for pair in pairs}
    with tqdm(total=len(pairs) * len(weights), desc="resampling", delay=2, disable=not progress) as bar:
        for batch, drawn in enumerate(weights):
            here, factor = {layer: grams[layer][batch] for layer in layers}, normalizer(drawn.shape[1])
            own = _in_batch(here, pairs, drawn.to(here[layers[0]].device), bar)
            for one, two in pairs:
                values[one, two] += factor * own[one, two]
                without = normalizer(drawn.shape[1] - 1) * hsic_without_each(here[one], here[two]).cpu().numpy()
                changes[one, two].append(without - factor * own[one, two][0])
    return values, {pair: values[pair][0] + np.concatenate(parts) for pair, parts in changes.items()}


def _in_batch(
    here: Mapping[Hashable, torch.Tensor], pairs: Sequence[Pair], drawn: torch.Tensor, bar: tqdm
) -> dict[Pair, np.ndarray]:
    """Compute the HSIC of one batch under all weights, as many at once as there is room for."""
    parts = drawn.split(max(1, HELD // (2 * len(here) * drawn.shape[1])))
    found: dict[Pair, list[np.ndarray]] = {pair: [] for pair in pairs}
    for number, part in enumerate(map(Weights.of, parts), 1):
        sums = {layer: part.sums(K) for layer, K in here.items()}
        for one, two in pairs:
            own = weighted_hsic(here[one], here[two], part, sums[one], sums[two])
            found[one, two].append(own.cpu().numpy())
            bar.update(number == len(parts))
    return {pair: np.concatenate(values) for pair, values in found.items()}
