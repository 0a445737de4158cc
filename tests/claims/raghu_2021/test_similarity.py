"""Made-up similarities on which the claims hold, fail and cannot be told."""

import numpy as np
import pytest

from utilities.claims.raghu_2021 import claims_of_similarity
from utilities.results.similarity import Similarity

CNN, VIT = "tf_efficientnet_lite0", "vit_small_patch14_dinov2"
DEPTH = np.linspace(0, 1, 12)


def similarity(matrix, error=0.01, weights="trained for 9 epochs", n=100):
    layers = [[f"{side}{i}" for i in range(size)] for side, size in zip("ab", np.shape(matrix), strict=True)]
    facts = {"weights": weights}
    return Similarity(np.asarray(matrix, float), *layers, n, np.full(np.shape(matrix), error), provenance=facts)


def banded(slope):
    """Similarity that falls with the distance in depth."""
    return 1 - slope * np.abs(np.subtract.outer(DEPTH, DEPTH))


def results(cnn, vit, pair, **facts):
    return {
        (CNN, CNN): similarity(cnn, **facts),
        (CNN, VIT): similarity(pair, **facts),
        (VIT, VIT): similarity(vit, **facts),
    }


def early(top=0.3):
    """The CNN's layer at depth x resembles the ViT's at x / 2; the ViT's upper third nothing much."""
    pair = 0.9 - np.abs(np.subtract.outer(DEPTH / 2, DEPTH))
    pair[:, 8:] = top
    return pair


def test_the_paper_s_outcome_holds_and_its_opposite_does_not():
    held = claims_of_similarity(results(banded(0.9), banded(0.2), early()))
    assert [claim.holds for claim in held] == [True, True, True]
    assert "0.85" in held[0].found  # lowest with highest third: 1 - 0.2 * 8 / 11 on average
    turned = early()[::-1, ::-1]
    assert [claim.holds for claim in claims_of_similarity(results(banded(0.2), banded(0.9), turned))] == [False] * 3


def test_what_the_errors_hide_or_untrained_models_show_cannot_be_told():
    within = claims_of_similarity(results(banded(0.5), banded(0.45), early(0.85), error=0.2))
    assert [claim.holds for claim in within] == [None, True, None]
    for facts in ({"weights": "untrained, seed 0"}, {"n": 10}):
        claims = claims_of_similarity(results(banded(0.9), banded(0.2), early(), **facts))
        assert [claim.holds for claim in claims] == [None] * 3


def test_missing_pairs_are_refused():
    with pytest.raises(ValueError, match="a CNN and a ViT, each with itself"):
        claims_of_similarity({(CNN, CNN): similarity(banded(0.5))})
