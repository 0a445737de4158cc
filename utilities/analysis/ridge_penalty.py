"""Choose the penalty of ridge regression by the squared error on held-out samples, from sums alone.

The error of a linear map on samples is a function of the sums that `utilities.analysis.ridge.RidgeSums` keeps, so no
sample has to be kept or read again. Penalties are multiples of the mean variance of the features, so that the scale of
a layer does not decide.
"""

from __future__ import annotations

import torch

from utilities.analysis.ridge import RidgeSums
from utilities.hooks.positions import spread

# Multiples of trace(scatter) / width. Below the first, the penalty is rounding; above the last, all weights are 0.
STRENGTHS = tuple(10.0**power for power in range(-6, 3))
PROBLEMS = 16  # of many problems, as many decide, evenly spread: an eigendecomposition each takes long


def choose_penalties(fitted: RidgeSums, held_out: RidgeSums) -> list[float]:
    """Choose one strength for all problems, and return the penalty of each on all samples together.

    Args:
        fitted: Sums of the samples to fit to. The held-out ones are added to them.
        held_out: Sums of other samples.

    Returns:
        Penalties of each problem, for ``fitted.solve``: the strength with the smallest squared error on the held-out
        samples, times trace(scatter) / width of all samples.

    Raises:
        ValueError: If one of the sums has no sample.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> sums = [RidgeSums(1, 2, 2) for _ in range(2)]
        >>> for one in sums:
        ...     labels = torch.arange(40) % 2
        ...     one.add(torch.randn(40, 1, 2, generator=generator) + 4.0 * labels[:, None, None], labels)
        >>> len(choose_penalties(*sums)), sums[0].counts.sum().item()
        (1, 80.0)
    """
    if not fitted.counts.sum() or not held_out.counts.sum():
        raise ValueError("no training image is held out to choose the penalty on; pass alpha=, or more images")
    places = spread(len(fitted.gram), PROBLEMS)
    errors = sum(held_out_errors(fitted, held_out, place) for place in places)
    strength = STRENGTHS[int(errors.argmin())]
    fitted.merge(held_out)
    return [strength * mean_variance(fitted, place) for place in range(len(fitted.gram))]


def mean_variance(sums: RidgeSums, problem: int) -> float:
    """Compute trace(scatter) / width; 1 for features without variance, which any penalty leaves at weights of 0."""
    value = float(sums.scatter(problem).diagonal().mean())
    return value if value > 0 else 1.0


def held_out_errors(fitted: RidgeSums, held_out: RidgeSums, problem: int) -> torch.Tensor:
    """Compute the squared error on held-out samples for each strength, summed over samples and classes.

    With w and b fitted, s the sum, S the sum over one class, and G the Gram matrix of n held-out samples, of which m
    are of the class, the error of a class's target is n + w'Gw + n b^2 + 2b s'w - 2 w'(2S - s) - 2b (2m - n).

    Returns:
        Errors, (strengths,), float64.
    """
    n, total = float(fitted.counts.sum()), fitted.class_sums[problem]
    mean = total.sum(0) / n
    values, vectors = torch.linalg.eigh(fitted.scatter(problem))
    covariance = vectors.T @ (2 * (total - torch.outer(fitted.counts, mean)).T)
    gram = vectors.T @ held_out.gram[problem] @ vectors
    sums = vectors.T @ held_out.class_sums[problem].T  # (width, classes)
    every, mean = sums.sum(1), vectors.T @ mean
    count = float(held_out.counts.sum())
    level, targets = 2 * fitted.counts / n - 1, 2 * held_out.counts - count
    errors = []
    for strength in STRENGTHS:
        weights = covariance / (values.clamp(min=0) + strength * mean_variance(fitted, problem))[:, None]
        bias = level - mean @ weights
        quadratic = (
            (weights * (gram @ weights)).sum() + count * bias.square().sum() + 2 * (bias * (every @ weights)).sum()
        )
        cross = (weights * (2 * sums - every[:, None])).sum() + (bias * targets).sum()
        errors.append(count * len(bias) + quadratic - 2 * cross)
    return torch.stack(errors)
