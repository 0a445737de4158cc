"""Score a measure by what is known of networks: the order of their layers, how they were trained, how they answer.

These are the tests of Klabunde et al. 2025, ReSi (https://arxiv.org/abs/2408.00531), on matrices of similarities. A
score takes arrays alone. Ties count half, so that a measure that says nothing scores as chance does.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy import stats


def order_scores(matrix: np.ndarray) -> tuple[float, float]:
    """Score whether the similarity of layers of one network falls with their distance.

    Args:
        matrix: Similarities of the layers of one network with each other, in their order, (layers, layers).

    Returns:
        The share of nested pairs i ≤ j < k ≤ l, other than (j, k) = (i, l), of which the inner one, (j, k), is more
        similar than the outer one, (i, l); chance is 0.5. And minus Spearman's correlation of similarity and distance
        over all pairs of different layers; chance is 0.

    Raises:
        ValueError: If the matrix is not square, has fewer than three layers, or a missing value.

    Example:
        >>> order_scores(-np.abs(np.subtract.outer(np.arange(4.0), np.arange(4.0))))
        (1.0, 1.0)
    """
    matrix = _square(matrix, 3)
    layers, points = len(matrix), []
    for i, last in combinations(range(layers), 2):
        for j, k in combinations(range(i, last + 1), 2):
            if (j, k) != (i, last):
                points.append(_point(matrix[j, k], matrix[i, last]))
    first, second = np.triu_indices(layers, 1)
    return float(np.mean(points)), -_spearman(matrix[first, second], second - first)


def group_scores(matrix: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Score whether models of one group are more similar than models of two.

    Args:
        matrix: Similarities of models with each other, (models, models).
        groups: The group of each model, (models,).

    Returns:
        The area under the curve of precision over recall, where pairs of one group are to be found by their similarity
        (average precision; chance is their share of all pairs, see `chance_of_groups`). And the conformity: the share
        of triples, of two models of one group and one of another, of which the first is more similar to the second than
        to the third; chance is 0.5.

    Raises:
        ValueError: If the sizes do not fit, a value is missing, or there is no group of two models or no second group.

    Example:
        >>> groups = np.array([0, 0, 1, 1])
        >>> group_scores(np.equal.outer(groups, groups).astype(float), groups)
        (1.0, 1.0)
    """
    matrix, groups = _square(matrix, 3), np.asarray(groups)
    if groups.shape != (len(matrix),):
        raise ValueError(f"there are {len(matrix)} models and {groups.shape} groups")
    same = np.equal.outer(groups, groups)
    first, second = np.triu_indices(len(matrix), 1)
    if same[first, second].all() or not same[first, second].any():
        raise ValueError("two groups or more are needed, and one of them with two models")
    points = [
        _point(matrix[a, b], matrix[a, c])
        for a in range(len(matrix))
        for b in np.flatnonzero(same[a])
        if a != b
        for c in np.flatnonzero(~same[a])
    ]
    return _average_precision(matrix[first, second], same[first, second]), float(np.mean(points))


def chance_of_groups(groups: np.ndarray) -> float:
    """Return the share of pairs that are of one group: what average precision is by chance, for many pairs.

    Example:
        >>> chance_of_groups(np.array([0, 0, 1, 1]))
        0.333...
    """
    first, second = np.triu_indices(len(groups), 1)
    return float(np.equal.outer(groups, groups)[first, second].mean())


def agreement_score(matrix: np.ndarray, difference: np.ndarray) -> float:
    """Score whether models that answer differently are less similar: minus Spearman's correlation over all pairs.

    Args:
        matrix: Similarities of models with each other, (models, models).
        difference: How differently they answer, (models, models), see `differences`.

    Returns:
        The score, -1 to 1; chance is 0. NaN where all differences, or all similarities, are equal.

    Raises:
        ValueError: If the sizes do not fit, or a value is missing.

    Example:
        >>> difference = np.abs(np.subtract.outer(np.arange(3.0), np.arange(3.0) ** 2))
        >>> agreement_score(-difference, difference)
        1.0
    """
    matrix, difference = _square(matrix, 3), _square(difference, 3)
    if matrix.shape != difference.shape:
        raise ValueError(f"similarities are {matrix.shape}, differences {difference.shape}")
    pairs = np.triu_indices(len(matrix), 1)
    return -_spearman(matrix[pairs], difference[pairs])


def differences(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Compute how differently models answer, pair by pair.

    Args:
        probabilities: Probability of each class, for each model and image, (models, n, classes).
        labels: The true classes, (n,).

    Returns:
        ``accuracy``: absolute difference of accuracies. ``disagreement``: share of images of which they name different
        classes. ``divergence``: mean Jensen-Shannon divergence of their probabilities, in bits. Each (models, models).

    Raises:
        ValueError: If the sizes do not fit.

    Example:
        >>> sure = np.eye(2)[[[0, 1], [0, 0]]]
        >>> {name: float(value[0, 1]) for name, value in differences(sure, np.array([0, 1])).items()}
        {'accuracy': 0.5, 'disagreement': 0.5, 'divergence': 0.5}
    """
    probabilities, labels = np.asarray(probabilities, float), np.asarray(labels)
    if probabilities.ndim != 3 or probabilities.shape[1:2] != labels.shape:
        raise ValueError(f"probabilities {probabilities.shape} should be (models, n, classes), labels {labels.shape}")
    answers = probabilities.argmax(-1)
    accuracy = (answers == labels).mean(1)
    count = len(probabilities)
    entropy = _entropy(probabilities)
    divergence = np.zeros((count, count))
    for a, b in combinations(range(count), 2):
        both = _entropy((probabilities[a] + probabilities[b]) / 2) - (entropy[a] + entropy[b]) / 2
        divergence[a, b] = divergence[b, a] = both.mean()
    return {
        "accuracy": np.abs(np.subtract.outer(accuracy, accuracy)),
        "disagreement": (answers[:, None] != answers[None]).mean(-1),
        "divergence": divergence,
    }


def _entropy(p: np.ndarray) -> np.ndarray:
    return -np.where(p > 0, p * np.log2(np.where(p > 0, p, 1)), 0).sum(-1)


def _square(matrix: np.ndarray, least: int) -> np.ndarray:
    matrix = np.asarray(matrix, float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < least:
        raise ValueError(f"a square matrix of {least} or more is needed, not {matrix.shape}")
    if np.isnan(matrix).any():
        raise ValueError(f"{int(np.isnan(matrix).sum())} values are missing: leave such layers or models out")
    return matrix


def _point(first: float, second: float) -> float:
    return 0.5 if first == second else float(first > second)


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(stats.spearmanr(first, second).statistic)


def _average_precision(values: np.ndarray, wanted: np.ndarray) -> float:
    """Sum precision times the rise of recall over thresholds; equal values are found together."""
    levels, place = np.unique(-values, return_inverse=True)
    hits = np.bincount(place, weights=wanted, minlength=len(levels))
    found, seen = hits.cumsum(), np.bincount(place, minlength=len(levels)).cumsum()
    return float((found / seen * hits).sum() / wanted.sum())
