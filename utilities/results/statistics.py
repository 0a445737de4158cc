"""Means over images with errors, intervals and tests, with the image as the unit of sampling.

The tokens of an image are not independent. A test that treats them as independent finds differences in anything
(pseudo-replication, Hurlbert 1984, https://doi.org/10.2307/1942661). So each image is first reduced to one number, such
as the mean over its tokens, and everything else resamples images. An image without a value, such as one with no token
on the object, is NaN, and is left out of that column only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import combinations, product
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.05  # significance level of p-values
CHUNK = 2**22  # entries of resampling weights held in memory at once, 32 MiB
ROUNDING = 1e-12  # sums that differ by less than this, relative to the sum of absolute values, are ties


def count(values: ArrayLike) -> np.ndarray:
    """Count the images that have a value: (n, ...) -> (...).

    Example:
        >>> count([[1.0, np.nan], [2.0, 3.0]])
        array([2, 1])
    """
    return np.asarray((~np.isnan(_checked(values))).sum(0))


def mean_and_stderr(values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Average over images, with the standard error of that mean.

    Args:
        values: One value, or array of values, for each image, (n, ...); NaN where an image has none.

    Returns:
        Mean (NaN without values) and standard error (NaN with fewer than two values), each (...).

    Raises:
        ValueError: If a value is infinite.

    Example:
        >>> mean_and_stderr([1.0, 3.0, np.nan])
        (array(2.), array(1.))
    """
    values = _checked(values)
    there, n = ~np.isnan(values), count(values)
    mean = _divide(np.where(there, values, 0).sum(0), n)
    squares = np.where(there, values - mean, 0) ** 2
    return mean, np.asarray(np.sqrt(_divide(squares.sum(0), n * (n - 1))))


def stderr_of_mean(values: np.ndarray) -> np.ndarray:
    """Compute the standard error of the mean over the first axis; NaN with fewer than two values.

    Example:
        >>> stderr_of_mean(np.array([1.0, 3.0]))
        array(1.)
    """
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    return np.asarray(values.std(0, ddof=1) / np.sqrt(len(values)))


def stderr_of_share(share: np.ndarray, n: int) -> np.ndarray:
    """Compute the standard error of shares of n images, sqrt(p (1 - p) / (n - 1)); NaN with fewer than two images.

    Example:
        >>> stderr_of_share(np.array([0.5, 1.0]), 26)
        array([0.1, 0. ])
    """
    return np.sqrt(share * (1 - share) / (n - 1 if n > 1 else np.nan))


def wilson(hits: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute Wilson's interval of one standard error for shares.

    It is useful where shares are near 0 or 1, or rest on few cases. See Wilson 1927,
    https://doi.org/10.2307/2276774.

    Args:
        hits: Number of hits.
        count: Number of trials.

    Returns:
        Lower and upper ends of the interval; NaN where the count is 0.

    Example:
        >>> low, high = wilson(np.array([3.0]), np.array([3.0]))
        >>> low.item(), high.item()
        (0.75, 1.0)
    """
    with np.errstate(invalid="ignore"):
        spread = np.sqrt(hits * (1 - np.divide(hits, count)) + 0.25) / (count + 1)
    centre = (hits + 0.5) / (count + 1)
    return centre - spread, centre + spread


def jackknife(values: np.ndarray, statistic: Callable[[np.ndarray], float]) -> tuple[float, float]:
    """Compute a statistic of all batches, and its standard error from leaving out one batch at a time.

    Args:
        values: Values of all batches, shape (batches, ...).
        statistic: Function of such an array with any number of batches, such as a ratio of sums over them.

    Returns:
        The statistic and its standard error. The error is NaN for a single batch.

    Example:
        >>> jackknife(np.array([1.0, 2.0, 3.0]), np.mean)  # the usual error of a mean, 1 / sqrt(3)
        (2.0, 0.577...)
    """
    n = len(values)
    if n < 2:
        return float(statistic(values)), float("nan")
    without = np.array([statistic(np.delete(values, i, axis=0)) for i in range(n)])
    return float(statistic(values)), float(np.sqrt((n - 1) * np.mean((without - without.mean()) ** 2)))


def block_jackknife(whole: np.ndarray, without: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Compute the standard error of a statistic from leaving out blocks of unequal size, one at a time.

    See Busing, Meijer & van der Leeden 1999, Statistics and Computing 9:3.

    Args:
        whole: Statistic of all images, (...).
        without: Statistic without each block, (blocks, ...), two blocks or more.
        sizes: Number of images of each block, (blocks,).

    Returns:
        Standard errors, (...). With k equal blocks they have a relative error of about sqrt(1 / 2(k - 1)).

    Example:
        >>> values = np.array([1.0, 2.0, 3.0])
        >>> without = np.array([np.delete(values, i).mean() for i in range(3)])
        >>> round(float(block_jackknife(values.mean(), without, np.ones(3))), 3)  # 1 / sqrt(3), as of any mean
        0.577
    """
    h = (sizes.sum() / sizes).reshape(-1, *[1] * np.ndim(whole))
    pseudo = h * whole - (h - 1) * without
    centre = len(sizes) * whole - ((1 - 1 / h) * without).sum(0)
    return np.sqrt(((pseudo - centre) ** 2 / (h - 1)).mean(0))


def bootstrap_interval(
    values: ArrayLike, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the percentile bootstrap interval of the mean over images (Efron 1979).

    All columns are resampled with the same images, which preserves the dependence between them.

    Args:
        values: Values of each image, (n, ...); NaN where an image has none.
        confidence: Confidence level of the interval, between 0 and 1.
        resamples: Number of resamples, drawn with replacement.
        seed: Seed of the draws.

    Returns:
        Lower and upper end, each (...); NaN with fewer than two values.

    Raises:
        ValueError: If an option is out of range or a value is infinite.

    Example:
        >>> low, high = bootstrap_interval(np.arange(100.0))
        >>> print(f"{low:.0f} to {high:.0f}")
        44 to 55
    """
    if not isinstance(confidence, Real) or not 0 < confidence < 1:
        raise ValueError(f"confidence should be between 0 and 1, such as 0.95, got {confidence!r}")
    values = _checked(values, resamples, seed)
    n, shape, flat = len(values), values.shape[1:], _columns(values)
    there, rng = ~np.isnan(flat), np.random.default_rng(seed)
    low, high = np.full((2, flat.shape[1]), np.nan)
    enough = there.sum(0) > 1
    if not enough.any():
        return low.reshape(shape), high.reshape(shape)
    known, complete = np.nan_to_num(flat), there.all()
    means = []
    for rows in _chunks(resamples, n):
        weights = np.stack([np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(rows)]).astype(float)
        drawn = np.full((rows, 1), n) if complete else weights @ there
        means.append(_divide(weights @ known, drawn))
    tail = (1 - confidence) / 2
    low[enough], high[enough] = np.nanquantile(np.concatenate(means)[:, enough], [tail, 1 - tail], axis=0)
    return low.reshape(shape), high.reshape(shape)


def paired_p(differences: ArrayLike, *, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Test that the mean difference is above 0, by flipping the signs of images at random.

    Without an effect, an image's difference is as likely to be d as -d. The p-value is (1 + number of flips whose mean
    is no less than the observed one) / (1 + number of flips), which is never 0 (Phipson & Smyth 2010,
    https://doi.org/10.2202/1544-6115.1585). If there are no more than ``resamples`` flips in all, 2^n, the test tries
    all of them and is exact.

    Args:
        differences: Difference of each image, (n, ...); NaN where an image has none.
        resamples: Number of random flips.
        seed: Seed of the flips, which are the same for all columns.

    Returns:
        One-sided p-values, (...); NaN without values.

    Raises:
        ValueError: If ``resamples`` is not positive or a value is infinite.

    Example:
        >>> paired_p([1.0, 2.0, 0.5, 1.5])
        array(0.0625)
    """
    differences = _checked(differences, resamples, seed)
    n, rng = len(differences), np.random.default_rng(seed)
    flat = _columns(differences)
    exact = 2**n <= resamples
    if exact:
        flips = iter([np.array(list(product((1.0, -1.0), repeat=n)))])
    else:
        flips = (rng.integers(2, size=(rows, n), dtype=np.int8) * 2.0 - 1 for rows in _chunks(resamples, n))
    p = _share_at_least(np.ones(n), flips, np.nan_to_num(flat), exact)
    p[np.isnan(flat).all(0)] = np.nan
    return p.reshape(differences.shape[1:])


def unpaired_p(one: ArrayLike, two: ArrayLike, *, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Test that the mean over one group of images is above that over another, by shuffling images between them.

    Args:
        one: Values of the group whose mean is expected to be larger, (n, ...); NaN where an image has none.
        two: Values of the other group, (m, ...).
        resamples: Number of random shuffles; if there are no more distinct shuffles than this, all are tried.
        seed: Seed of the shuffles.

    Returns:
        One-sided p-values, (...), as for `paired_p`; NaN where a group has no value.

    Raises:
        ValueError: If the shapes do not fit, ``resamples`` is not positive or a value is infinite.

    Example:
        >>> unpaired_p([5.0, 6.0, 7.0], [1.0, 2.0])
        array(0.1)
    """
    one, two = _checked(one, resamples, seed), _checked(two, resamples)
    if one.shape[1:] != two.shape[1:]:
        raise ValueError(f"groups should differ in their number of images alone, got {one.shape} and {two.shape}")
    flat = _columns(np.concatenate([one, two]))
    first = np.arange(len(flat)) < len(one)
    p = np.full(flat.shape[1], np.nan)
    # Only images with a value are shuffled, so the groups of each column keep the sizes behind their observed means.
    patterns, which = np.unique(~np.isnan(flat), axis=1, return_inverse=True)
    for i, there in enumerate(patterns.T):
        columns = which.reshape(-1) == i
        p[columns] = _shuffled_p(flat[there][:, columns], first[there], resamples, seed)
    return p.reshape(one.shape[1:])


def _shuffled_p(values: np.ndarray, first: np.ndarray, resamples: int, seed: int) -> np.ndarray | float:
    """Compare the sum of the first group with those of shuffled groups; the total and the sizes are fixed."""
    n, size = len(first), int(first.sum())
    if not 0 < size < n:
        return np.nan
    exact, rng = math.comb(n, size) <= resamples, np.random.default_rng(seed)
    if exact:
        groups = np.array(list(combinations(range(n), size)))
        shuffles = iter([(groups[..., None] == np.arange(n)).any(1).astype(float)])
    else:
        shuffles = (rng.permuted(np.tile(first, (rows, 1)), axis=1).astype(float) for rows in _chunks(resamples, n))
    return _share_at_least(first.astype(float), shuffles, values - values.mean(0), exact)


def _share_at_least(own: np.ndarray, draws: Iterator[np.ndarray], values: np.ndarray, exact: bool) -> np.ndarray:
    """Compute the p-value of own @ values among the rows of draws @ values; ties count against it."""
    least = own @ values - ROUNDING * np.abs(values).sum(0)
    reached, total = np.zeros(values.shape[1]), 0
    for weights in draws:
        reached += (weights @ values >= least).sum(0)
        total += len(weights)
    return reached / total if exact else (1 + reached) / (1 + total)


def _chunks(resamples: int, n: int) -> Iterator[int]:
    """Split a number of resamples so that their weights over n images fit into `CHUNK` entries."""
    most = max(1, CHUNK // max(n, 1))
    for start in range(0, resamples, most):
        yield min(most, resamples - start)


def _divide(total: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Divide by n; NaN where n is 0."""
    return np.asarray(np.divide(total, n, out=np.full(np.broadcast(total, n).shape, np.nan), where=n > 0))


def _columns(values: np.ndarray) -> np.ndarray:
    """Flatten all axes but the images: (n, ...) -> (n, columns)."""
    return values.reshape(len(values), math.prod(values.shape[1:]))


def _checked(values: ArrayLike, resamples: int = 1, seed: int = 0) -> np.ndarray:
    """Convert to float64, and refuse values and options that the statistics cannot use."""
    for name, value, least in (("resamples", resamples, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"{name} should be a whole number of at least {least}, got {value!r}")
    values = np.asarray(values, np.float64)
    if values.ndim == 0:
        raise ValueError("values should have an entry for each image, (n, ...), got a single number")
    if np.isinf(values).any():
        raise ValueError(f"{int(np.isinf(values).sum())} values are infinite; an image without a value should be NaN")
    return values
