"""Accuracies on several versions of the same images, whose errors keep the versions of an image together."""

from __future__ import annotations

import numpy as np


def contrast(both_right: np.ndarray, n: int, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Compute weighted sums of the accuracies on several versions of the same images, with errors over images.

    Let :math:`x_i \in \{0, 1\}^{sets}` tell in which versions image i is classified correctly. The value is the mean
    over images of :math:`w \cdot x_i`. Its standard error is exact, because the versions of one image are kept
    together.

    Args:
        both_right: Number of images classified correctly in both of two versions, (sets, sets).
        n: Number of images.
        weights: Weights of one or several sums, (..., sets).

    Returns:
        Values and their standard errors, (...,). Errors are NaN for a single image.

    Example:
        >>> right = np.array([[1, 1, 1, 0], [1, 0, 0, 0]])  # clean and corrupted, of four images
        >>> value, error = contrast(right @ right.T, 4, [1, -1])
        >>> float(value), round(float(error), 3)
        (0.5, 0.289)
    """
    weights, right = np.asarray(weights, np.float64), np.diagonal(both_right)
    covariance = n * both_right - np.outer(right, right)  # integers, so without rounding
    variance = np.maximum(((weights @ covariance) * weights).sum(-1), 0) / n**2
    return weights @ right / n, np.sqrt(variance / (n - 1)) if n > 1 else np.full_like(variance, np.nan)


def right_in_both(right: np.ndarray) -> np.ndarray:
    """Count the images that are right in both of two versions.

    For tied answers the count is the expected one if an answer were drawn in each version.

    Args:
        right: Whether each image is right: 0, 1, or its chance among tied answers, (versions, images).

    Returns:
        Counts, (versions, versions); int64 where nothing is tied.

    Example:
        >>> right_in_both(np.array([[1.0, 1.0], [1.0, 0.0]])).tolist()
        [[2, 1], [1, 1]]
        >>> right_in_both(np.array([[0.5, 0.5]])).tolist()
        [[1.0]]
    """
    both = right @ right.T
    np.fill_diagonal(both, right.sum(1))
    return both if (right % 1).any() else both.astype(np.int64)
