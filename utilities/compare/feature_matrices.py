"""Compare features that are at hand, each with each, by a measure: no model runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from utilities.compare.gram_matrices import half_vectors
from utilities.compare.measures.measure import centered
from utilities.compare.measures.table import SIMILARITY_MEASURES
from utilities.hooks.features import unit_scale
from utilities.metrics import center

CKA = ("cka", "cka_biased")


def compare_features(features: Sequence[torch.Tensor], measure: str = "cka") -> np.ndarray:
    """Compare features of the same images, each with each.

    Args:
        features: Features of n images, (n, p) each; widths may differ.
        measure: ``"cka"``, debiased and linear; ``"cka_biased"``; or a name in
            `utilities.compare.measures.SIMILARITY_MEASURES`. An asymmetric one is averaged over both directions.

    Returns:
        Similarities, (k, k); NaN where features have no variance.

    Raises:
        ValueError: For an unknown measure, features of different numbers of images, or a measure that is meaningless
            for them.

    Example:
        >>> x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
        >>> compare_features([x, 2 * x.flip(1)], "cka").round(6)
        array([[1., 1.],
               [1., 1.]])
    """
    if measure not in CKA and measure not in SIMILARITY_MEASURES:
        raise ValueError(f"measure {measure!r} is not known; choose from {', '.join((*CKA, *SIMILARITY_MEASURES))}")
    if len({len(one) for one in features}) != 1:
        raise ValueError(f"features should be of the same images, but there are {[len(one) for one in features]}")
    ready = [centered(unit_scale(one.flatten(1).double())[0]) for one in features]
    if measure in CKA:
        grams = torch.stack([x @ x.T for x in ready])
        vectors = half_vectors(center(grams, "biased" if measure == "cka_biased" else "debiased"))
        products = (vectors @ vectors.T).numpy()
        scale = np.sqrt(products.diagonal())
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(np.outer(scale, scale) > 0, products / np.outer(scale, scale), np.nan)
    one = SIMILARITY_MEASURES[measure]
    for number, x in enumerate(features):
        for axis in ("row", "column"):
            if reason := one.check(len(x), x.flatten(1).shape[1], axis):
                raise ValueError(f"features {number}: {reason}")
    rows = [one.prepare_row(x) for x in ready]
    columns = rows if one.prepare_row is one.prepare_column else [one.prepare_column(x) for x in ready]
    found = one.pairs(rows, columns).double().numpy()
    return (found + found.T) / 2
