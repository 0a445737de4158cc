"""Scores of matrices with known answers."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from utilities.compare.grounded_scores import (
    agreement_score,
    chance_of_groups,
    differences,
    group_scores,
    order_scores,
)


def distance(n):
    return np.abs(np.subtract.outer(np.arange(n), np.arange(n))).astype(float)


def test_order_of_layers():
    assert order_scores(np.exp(-distance(6))) == (1.0, pytest.approx(1.0))
    assert order_scores(distance(6)) == (0.0, pytest.approx(-1.0))
    share, correlation = order_scores(np.ones((6, 6)))
    assert share == 0.5  # all ties
    assert np.isnan(correlation)


def test_a_single_swap_of_three_layers_is_counted():
    """Nested pairs of layers 0, 1, 2: (0, 1) and (1, 2) inside (0, 2)."""
    matrix = np.eye(3)
    matrix[0, 1] = matrix[1, 0] = 0.9
    matrix[0, 2] = matrix[2, 0] = 0.5
    matrix[1, 2] = matrix[2, 1] = 0.3  # less than the outer pair
    assert order_scores(matrix)[0] == 0.5


def test_order_of_random_layers_is_chance():
    rng = np.random.default_rng(0)
    found = [order_scores((m + m.T) / 2) for m in rng.random((200, 6, 6))]
    np.testing.assert_allclose(np.mean(found, 0), [0.5, 0.0], atol=0.05)


def test_groups_that_are_blocks_are_found_and_reversed_ones_are_not():
    groups = np.array([0, 0, 0, 1, 1, 1])
    same = np.equal.outer(groups, groups).astype(float)
    assert group_scores(same, groups) == (1.0, 1.0)
    assert group_scores(-same, groups)[1] == 0.0
    flat = group_scores(np.ones((6, 6)), groups)
    assert flat == (pytest.approx(chance_of_groups(groups)), 0.5)  # a measure that says nothing
    assert chance_of_groups(groups) == 6 / 15


def test_average_precision_is_that_of_scikit_learn_with_ties():
    rng = np.random.default_rng(0)
    groups = rng.integers(3, size=9)
    matrix = rng.integers(4, size=(9, 9)).astype(float)
    matrix = matrix + matrix.T
    first, second = np.triu_indices(9, 1)
    wanted = groups[first] == groups[second]
    expected = average_precision_score(wanted, matrix[first, second])
    assert group_scores(matrix, groups)[0] == pytest.approx(expected)


def test_conformity_counts_triples():
    """One of the pairs of group 0 is less similar than a pair of two groups: two of four triples of 0, 1 fail."""
    groups = np.array([0, 0, 1])
    matrix = np.array([[1, 0.4, 0.6], [0.4, 1, 0.2], [0.6, 0.2, 1]])
    assert group_scores(matrix, groups)[1] == 0.5


def test_agreement_is_the_rank_correlation_with_its_sign_turned():
    rng = np.random.default_rng(0)
    difference = rng.random((8, 8))
    difference = difference + difference.T
    assert agreement_score(1 - difference**3, difference) == pytest.approx(1)
    assert agreement_score(difference, difference) == pytest.approx(-1)
    assert np.isnan(agreement_score(np.ones((8, 8)), difference))


def test_differences_of_answers():
    sure = np.eye(3)[[[0, 1, 2, 0], [0, 1, 2, 0], [1, 1, 2, 0]]]
    found = differences(sure, np.array([0, 1, 2, 1]))
    np.testing.assert_allclose(found["accuracy"][0], [0, 0, 0.25])
    np.testing.assert_allclose(found["disagreement"][0], [0, 0, 0.25])
    np.testing.assert_allclose(found["divergence"][0], [0, 0, 0.25])  # one bit where sure answers differ
    p, q = np.array([0.5, 0.5]), np.array([0.9, 0.1])
    middle = (p + q) / 2
    expected = (p * np.log2(p / middle)).sum() / 2 + (q * np.log2(q / middle)).sum() / 2
    value = differences(np.stack([p, q])[:, None], np.array([0]))["divergence"][0, 1]
    assert value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: order_scores(np.eye(2)), "square matrix of 3 or more"),
        (lambda: order_scores(np.full((3, 3), np.nan)), "9 values are missing"),
        (lambda: group_scores(np.eye(3), np.array([0, 1])), "3 models"),
        (lambda: group_scores(np.eye(3), np.array([0, 1, 2])), "two groups or more"),
        (lambda: group_scores(np.eye(3), np.zeros(3)), "two groups or more"),
        (lambda: agreement_score(np.eye(3), np.eye(4)), "differences"),
        (lambda: differences(np.ones((2, 3, 4)), np.zeros(2)), "should be"),
    ],
)
def test_what_cannot_be_scored_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
