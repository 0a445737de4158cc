"""Sentences that carry the numbers of what they describe."""

import numpy as np

from utilities.results.similarity import Similarity
from utilities.study import describe


def test_description_reads_the_matrix():
    matrix = np.array([[1, 0.9, 0.2], [0.9, 1, 0.4], [0.2, 0.4, 1]])
    text = describe(Similarity(matrix, ["a", "b", "c"], ["a", "b", "c"], 10, provenance={"model": "m"}))
    assert "0.65 on average" in text
    assert "from b to c, 0.40" in text


def test_a_single_layer_has_no_neighbour_to_describe():
    text = describe(Similarity(np.eye(1), ["a"], ["a"], 10, provenance={"model": "m"}))
    assert text == "In m, no two layers that follow each other could be compared."
