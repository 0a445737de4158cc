"""Compute the difference of two similarities from Gram matrices: values, variances, intervals, the largest of all."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats

from utilities.compare.compared_grams import ComparedLayers, Key
from utilities.compare.matched_layers import Match, refuse_unpaired
from utilities.compare.resampled_grams import draw_weights, resampled_sums
from utilities.results.matrix_difference import MatrixDifference
from utilities.results.resampling import (
    as_normal,
    as_t,
    corrected_variance,
    dual_variance,
    largest_of,
    satterthwaite,
    stratified_jackknife,
)
from utilities.results.similarity_difference import COLUMNS, SimilarityDifference


def difference_of_grams(
    grams: Mapping[Key, Sequence[torch.Tensor]],
    *,
    match: Match = "depth",
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> SimilarityDifference:
    """Compute what `utilities.compare.compare_similarities` does, from Gram matrices.

    Args:
        grams: Mapping from (side, number of the model, layer) to Gram matrices with zero diagonals, one for each batch;
            side 0 is shared, 1 is the first other, 2 the second. Layers are in the order of execution.
        match: See `utilities.compare.compare_similarities`.
        resamples: See `utilities.compare.compare_similarities`.
        confidence: See `utilities.compare.compare_similarities`.
        seed: See `utilities.compare.compare_similarities`.
        provenance: Facts to keep with the result.
        progress: See `utilities.compare.compare_similarities`.

    Returns:
        The differences; with ``match="all"`` a `MatrixDifference`.

    Raises:
        ValueError: If models lack layers, or with ``match="all"`` the two others have different numbers of them.

    Example:
        >>> from utilities.metrics import center
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, noise = torch.randn(2, 100, 5, generator=generator).double()
        >>> near, far = x + 0.3 * noise, x + noise
        >>> grams = {(side, 0, "a"): [center(y @ y.T)] for side, y in enumerate((x, near, far))}
        >>> result = difference_of_grams(grams, resamples=200)
        >>> bool(result.low[0] > 0), result.nearer
        (True, 1)
    """
    counts = [1 + max(number for side, number, _ in grams if side == own) for own in range(3)]
    layers = [[layer for side, number, layer in grams if (side, number) == (own, 0)] for own in range(3)]
    sizes = [len(K) for K in next(iter(grams.values()))]
    if match == "all":
        refuse_unpaired(*layers[1:])
    both = [ComparedLayers(grams, counts, layers, other, match) for other in (1, 2)]
    pairs = [pair for similarity in both for pair in similarity.pairs]
    values, without = resampled_sums(grams, pairs, draw_weights(sizes, resamples, seed), progress)
    tables = [(similarity.of(values), similarity.drawn(values), similarity.of(without, values)) for similarity in both]
    arrays = _tested(_estimate(tables, counts, _draw_seeds(counts, resamples, seed), sizes), confidence)
    matches = layers[1:] if match == "all" else [similarity.matches(values) for similarity in both]
    facts = {
        "match": match,
        "resamples": resamples,
        "confidence": confidence,
        "resampling_seed": seed,
        "models_of_side": counts,
    }
    return _named(arrays, layers[0], matches, sum(sizes), {**dict(provenance or {}), **facts})


def _named(
    arrays: dict[str, np.ndarray], layers: list[str], matches: list[list[str]], n: int, facts: dict[str, Any]
) -> SimilarityDifference:
    """Give names to differences, the last of which is their mean; of whole matrices, as matrices."""
    whole, rest = {name: float(arrays[name][-1]) for name in COLUMNS}, ("critical", "null_largest")
    kind, shape = (MatrixDifference, (len(layers), -1)) if facts["match"] == "all" else (SimilarityDifference, (-1,))
    tables = {name: value[:-1].reshape(shape) for name, value in arrays.items() if name not in rest}
    _warn_of_missing(layers, matches, tables["difference"])
    return kind(
        layers=layers,
        matches1=matches[0],
        matches2=matches[1],
        **tables,
        null_largest=arrays["null_largest"],
        critical=float(arrays["critical"]),
        whole=whole,
        n=n,
        provenance=facts,
    )


def _draw_seeds(counts: list[int], resamples: int, seed: int) -> list[np.ndarray]:
    """Draw weights of the models of each side, (1 + resamples, models), which sum to 1; the first row is equal."""
    rng = np.random.default_rng([seed, 1])
    return [
        np.vstack([np.full(k, 1 / k), rng.multinomial(k, np.full(k, 1 / k), size=resamples) / k]).astype(float)
        for k in counts
    ]


@dataclass(frozen=True)
class _Estimate:
    """Hold differences of all layers and, last, their mean, each (layers + 1,); ``draws`` are resampled ones."""

    similarity1: np.ndarray
    similarity2: np.ndarray
    difference: np.ndarray
    variance: np.ndarray
    freedom: np.ndarray
    draws: np.ndarray


def _estimate(
    tables: list[tuple[np.ndarray, ...]], counts: list[int], seeds: list[np.ndarray], sizes: list[int]
) -> _Estimate:
    """Estimate differences and their variances.

    Args:
        tables: For each similarity its values (1 + resamples, layers, models, other models), how those of the best
            candidates vary, and values without each image.
        counts: Number of models of each side.
        seeds: Weights of the models of each side.
        sizes: Number of images of each batch.
    """
    there = np.logical_and.reduce([np.isfinite(table).all((0, 2, 3)) for pair in tables for table in pair])
    one, two = (_with_mean(values.mean((2, 3)), there) for values, _, _ in tables)
    images, drawn, without = (
        np.subtract(*(_with_mean(table.mean((2, 3)), there) for table in pair)) for pair in zip(*tables, strict=True)
    )
    plain, fixed = drawn[1:].var(0, ddof=1), images[1:].var(0, ddof=1)
    size = sum(sizes) / len(sizes)
    # The correction is that of fixed candidates: leaving out one image hardly moves which is best.
    by_images = corrected_variance(size / (size - 1) * fixed, stratified_jackknife(without, sizes))
    by_images = by_images * np.divide(plain, fixed, out=np.ones_like(fixed), where=fixed > 0)
    freedom = np.full(len(plain), float(sum(sizes) - len(sizes)))
    if max(counts) == 1:
        return _Estimate(one[0], two[0], images[0], by_images, freedom, drawn[1:])
    full, plain_rows = [table[1:] for _, table, _ in tables], [_repeated(values) for values, _, _ in tables]
    draws = _resampled(full, [own[1:] for own in seeds], there)
    spread = _resampled(plain_rows, [own[1:] for own in seeds], there).var(0, ddof=1)
    several = min(k for k in counts if k > 1)
    variance = dual_variance(draws.var(0, ddof=1) + by_images - plain, by_images, spread, sum(sizes), several)
    of_sides = [
        k / (k - 1) * _resampled(plain_rows, _of_one_side(seeds, side), there).var(0, ddof=1)
        for side, k in enumerate(counts)
        if k > 1
    ]
    rest = np.maximum(variance - np.sum(of_sides, axis=0), 0)
    freedom = satterthwaite([*of_sides, rest], [*(k - 1 for k in counts if k > 1), freedom[0]])
    return _Estimate(one[0], two[0], images[0], variance, freedom, draws)


def _resampled(tables: list[np.ndarray], seeds: list[np.ndarray], there: np.ndarray) -> np.ndarray:
    """Average tables (rows, layers, models, other models) over weighted models, and subtract."""
    one, two = (
        _with_mean(np.einsum("blrk,br,bk->bl", table, seeds[0], seeds[side]), there)
        for side, table in enumerate(tables, 1)
    )
    return one - two


def _of_one_side(seeds: list[np.ndarray], side: int) -> list[np.ndarray]:
    """Resample the models of one side alone."""
    return [own[1:] if k == side else np.broadcast_to(own[:1], own[1:].shape) for k, own in enumerate(seeds)]


def _repeated(values: np.ndarray) -> np.ndarray:
    """Repeat the values of the images as they are for each resample of seeds."""
    return np.broadcast_to(values[:1], (len(values) - 1, *values.shape[1:]))


def _with_mean(table: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Append the mean over the layers that are there, and blank the others: (rows, layers) -> (rows, layers + 1)."""
    mean = table[:, there].mean(1) if there.any() else np.full(len(table), np.nan)
    return np.column_stack([np.where(there, table, np.nan), mean])


def _tested(found: _Estimate, confidence: float) -> dict[str, np.ndarray]:
    """Compute intervals and p-values of each difference by itself, and of the largest of all layers."""
    error = np.sqrt(found.variance)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.where(found.difference == 0, 0.0, found.difference / error)
    t = np.where(np.isnan(found.difference), np.nan, t)
    half = stats.t.isf((1 - confidence) / 2, found.freedom) * error
    there = np.isfinite(t[:-1])
    null = largest_of(found.draws[:, :-1][:, there]) if there.any() else np.full(len(found.draws), np.nan)
    score = as_normal(t, found.freedom)
    reached = null[:, None] >= score
    critical = np.quantile(null, confidence)
    band = as_t(critical, found.freedom) * error
    return {
        "similarity1": found.similarity1,
        "similarity2": found.similarity2,
        "difference": found.difference,
        "stderr": error,
        "low": found.difference - half,
        "high": found.difference + half,
        "p_value": 2 * stats.t.sf(np.abs(t), found.freedom),
        "band_low": found.difference - band,
        "band_high": found.difference + band,
        "score": np.sign(t) * score,
        "p_family": np.where(np.isnan(t), np.nan, (1 + reached.sum(0)) / (1 + len(null))),
        "null_largest": null,
        "critical": critical,
    }


def _warn_of_missing(layers: list[str], matches: Sequence[list[str]], differences: np.ndarray) -> None:
    missing = np.isnan(differences)
    if not missing.any():
        return
    if missing.ndim == 1:
        names = [layer for layer, gone in zip(layers, missing, strict=True) if gone]
    else:  # whole rows and columns
        names = [layer for layer, gone in zip(layers, missing.all(1), strict=True) if gone]
        pairs = zip(*matches, missing.all(0), strict=True)
        names += [one if one == two else f"{one} or {two}" for one, two, gone in pairs if gone]
    warnings.warn(
        "layers without variance over the images, or matched with one, shown as missing: "
        f"{', '.join(dict.fromkeys(names))}",
        stacklevel=4,
    )
