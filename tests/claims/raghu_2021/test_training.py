"""Each verdict on skips, data size, fine-tuning and MLP-Mixer comes out where the numbers say so."""

import numpy as np
import pytest

from utilities.claims.claim import state_claims
from utilities.claims.raghu_2021.training import (
    claims_of_data_size,
    claims_of_fine_tuning,
    claims_of_missing_skip,
    claims_of_mixer,
)
from utilities.claims.raghu_2021.two_blocks import two_blocks
from utilities.results.similarity import Similarity

LAYERS = ["patch_embed.proj", *(f"blocks.{i}.{part}" for i in range(4) for part in ("norm1", "fc2")), "norm", "head"]
FACTS = {"weights": "trained for 9 epochs", "accuracy": 0.95, "num_classes": 10}


def self_similarity(between, within=0.9, first=5, error=0.01, n=540, layers=LAYERS, **facts):
    """Two parts of layers, of which the first has so many."""
    part = np.arange(len(layers)) < first
    matrix = np.where(part[:, None] == part, within, between)
    np.fill_diagonal(matrix, 1)
    return Similarity(matrix, layers, layers, n, np.full(matrix.shape, error), provenance={**FACTS, **facts})


def holds(claims):
    return [claim.holds for claim in claims]


# ---------------------------------------------------------------- skips


@pytest.mark.parametrize(("between", "error", "expected"), [(0.3, 0.01, True), (0.9, 0.01, False), (0.81, 0.05, None)])
def test_a_heatmap_that_splits(between, error, expected):
    ordinary = self_similarity(0.8, error=error)
    claims = claims_of_missing_skip(ordinary, self_similarity(between, error=error), block=3)
    assert claims[0].holds is expected
    assert f"({0.9:.2f} within, {between:.2f} between)" in claims[0].found


def test_the_layers_of_the_block_itself_and_the_classifier_do_not_count():
    ordinary, changed = self_similarity(0.8), self_similarity(0.3)
    for layer in ("blocks.2.norm1", "blocks.2.fc2", "head"):
        place = LAYERS.index(layer)
        changed.matrix[place], changed.matrix[:, place] = np.nan, np.nan
    assert (
        claims_of_missing_skip(ordinary, changed, block=3)[0].found
        == claims_of_missing_skip(ordinary, self_similarity(0.3), block=3)[0].found
    )


@pytest.mark.parametrize(("accuracy", "expected"), [(0.90, True), (0.95, None), (0.99, False), (None, None)])
def test_a_loss_of_accuracy(accuracy, expected):
    claims = claims_of_missing_skip(self_similarity(0.8), self_similarity(0.3, accuracy=accuracy), block=3)
    assert claims[1].holds is expected
    if accuracy == 0.90:  # the error of a difference of two independent shares of 540
        error = 100 * np.sqrt((0.95 * 0.05 + 0.9 * 0.1) / 540)
        assert f"5.0 ± {error:.1f} percent points" in claims[1].found


def test_no_verdict_without_two_parts_and_errors():
    ordinary = self_similarity(0.8)
    assert claims_of_missing_skip(ordinary, self_similarity(0.3), block=1)[0].holds is None
    assert "not two layers before and after" in claims_of_missing_skip(ordinary, self_similarity(0.3), block=1)[0].found
    assert claims_of_missing_skip(ordinary, self_similarity(0.3, n=30), block=3)[0].holds is None
    unknown = Similarity(ordinary.matrix, LAYERS, LAYERS, 540, provenance=FACTS)
    assert claims_of_missing_skip(ordinary, unknown, block=3)[0].holds is None
    untrained = claims_of_missing_skip(ordinary, self_similarity(0.3, weights="untrained, seed 0"), block=3)
    assert "is untrained" in untrained[0].reason
    with pytest.raises(ValueError, match="no block 9"):
        claims_of_missing_skip(ordinary, ordinary, block=9)
    with pytest.raises(ValueError, match="same layers"):
        claims_of_missing_skip(ordinary, self_similarity(0.3, layers=LAYERS[:-1]), block=3)


# ---------------------------------------------------------------- data size and fine-tuning


def pair(values, error=0.01, n=540, accuracy1=0.8, **facts):
    names = [f"blocks.{i}" for i in range(len(values))]
    provenance = {"num_classes": 10, "model1": "vit", "weights1": "trained on 34 images", "accuracy1": accuracy1}
    provenance |= {"model2": "vit", "weights2": "trained for 9 epochs", "accuracy2": 0.95, **facts}
    return Similarity(np.diag(values), names, names, n, np.full((len(values),) * 2, error), provenance=provenance)


@pytest.mark.parametrize(
    ("few", "many", "expected"),
    [
        ([0.9, 0.9, 0.5, 0.4], [0.95, 0.95, 0.9, 0.9], [True, True]),  # as in the paper
        ([0.5, 0.5, 0.8, 0.8], [0.9, 0.9, 0.9, 0.9], [False, False]),
        ([0.9, 0.9, 0.9, 0.9], [0.95, 0.95, 0.95, 0.95], [None, None]),
        ([0.85, 0.85, 0.7, 0.7], [0.99, 0.99, 0.7, 0.7], [True, False]),
    ],
)
def test_blocks_by_the_number_of_images(few, many, expected):
    assert holds(claims_of_data_size({"vit": {"3 %": pair(few), "100 %": pair(many)}})) == expected


def test_numbers_of_data_size_are_means_over_halves():
    few, many = claims_of_data_size({"vit": {"3 %": pair([0.8, 0.6, 0, 0.3, 0.1]), "100 %": pair(5 * [0.9])}})
    assert "0.70 ± 0.01 in the lower half of the blocks, 0.20 ± 0.01 in the upper" in few.found
    assert "+0.20 ± 0.02 in the lower half of the blocks, by +0.70 ± 0.02 in the upper" in many.found
    assert "vit, 3 % (trained on 34 images, accuracy 80.0%, 540 images)" in few.about.replace("  ", " ")


def test_data_size_needs_models_that_learnt_and_more_than_one_share():
    good = {"100 %": pair([0.9, 0.9, 0.9, 0.9])}
    assert holds(claims_of_data_size({"vit": {"3 %": pair([0.9, 0.9, 0.1, 0.1], accuracy1=0.1), **good}})) == [None] * 2
    claims = claims_of_data_size({"vit": {"3 %": pair([0.9, 0.9, 0.1, 0.1])}})
    assert holds(claims) == [True, None]
    assert "one share alone" in claims[1].found


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.98, 0.97, 0.9, 0.8, 0.7, 0.6], [True, True]),
        ([0.5, 0.5, 0.9, 0.8, 0.7, 0.6], [False, False]),
        ([0.9, 0.9, 0.9, 0.9, 0.9, 0.9], [None, None]),
        ([0.7, 0.7, 0.7, 0.7, 0.2, 0.2], [False, True]),
    ],
)
def test_what_fine_tuning_preserves(values, expected):
    alone = {"fine-tuned": pair(values)}
    assert holds(claims_of_fine_tuning(alone)) == expected
    claims = claims_of_fine_tuning(alone | {"from scratch": pair(6 * [0.25])})
    assert holds(claims) == expected
    assert "for a model trained on the new images alone, it is 0.25 ± 0.01" in claims[0].found


def test_what_is_alike_without_a_cause_is_no_evidence():
    """First blocks that resemble those of any model were not preserved, nor learnt from few images."""
    tuned, scratch = pair([0.98, 0.97, 0.9, 0.8, 0.7, 0.6]), pair([0.98, 0.98, 0.9, 0.8, 0.7, 0.6])
    claims = claims_of_fine_tuning({"fine-tuned": tuned, "from scratch": scratch})
    assert holds(claims) == [None, True]
    assert "needs no further cause" in claims[0].found
    shares = {"3 %": pair([0.9, 0.9, 0.5, 0.4]), "100 %": pair([0.95, 0.95, 0.9, 0.9])}
    for lower, expected in ((0.3, True), (0.9, None)):
        untrained = pair([lower, lower, 0.1, 0.1], weights1="untrained, seed 1", accuracy1=0.1)
        assert holds(claims_of_data_size({"vit": {"untrained": untrained, **shares}})) == [expected, True]


# ---------------------------------------------------------------- MLP-Mixer


def falling(count=12, slope=0.05):
    distance = np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
    layers = [f"blocks.{i}" for i in range(count)]
    matrix = 1 - slope * distance
    return Similarity(matrix, layers, layers, 540, np.full(matrix.shape, 0.01), provenance=FACTS)


def test_two_blocks_against_a_fall_with_distance():
    names = [f"blocks.{i}" for i in range(12)]
    place, blocks, distance = two_blocks(self_similarity(0.3, first=4, layers=names).matrix)
    assert (place, blocks) == (4, 1)
    assert distance < 0.9
    place, blocks, distance = two_blocks(falling().matrix)
    assert (blocks < 0.9, distance) == (True, 1)
    assert two_blocks(np.ones((6, 6)))[1:] == (0, 0)
    with pytest.raises(ValueError, match="4 layers are too few"):
        two_blocks(np.ones((4, 4)))


def test_a_brute_force_search_finds_the_same_split():
    rng = np.random.default_rng(0)
    matrix = rng.random((9, 9))
    matrix += matrix.T
    pairs = [(i, j) for i in range(9) for j in range(i + 1, 9)]
    values = np.array([matrix[i, j] for i, j in pairs])
    shares = {}
    for place in range(2, 8):
        groups = {"first": [], "second": [], "between": []}
        for i, j in pairs:
            groups["first" if j < place else "second" if i >= place else "between"].append(matrix[i, j])
        rest = sum(((np.array(group) - np.mean(group)) ** 2).sum() for group in groups.values())
        shares[place] = 1 - rest / ((values - values.mean()) ** 2).sum()
    place, blocks, _ = two_blocks(matrix)
    assert place == max(shares, key=shares.get)
    assert blocks == pytest.approx(shares[place])


def test_the_heatmap_of_a_mixer():
    names = [f"blocks.{i}" for i in range(12)]
    small_first, large_first = (self_similarity(0.3, first=first, layers=names) for first in (4, 9))
    vit, cnn = self_similarity(0.85, layers=names), falling(slope=0.09)
    assert holds(claims_of_mixer(small_first, small_first, cnn)) == [True, True]
    assert holds(claims_of_mixer(large_first, vit, large_first)) == [False, False]
    assert holds(claims_of_mixer(falling(), vit, vit)) == [False, None]
    assert holds(claims_of_mixer(small_first, vit, self_similarity(0.3, n=20, layers=names))) == [None, None]


def test_heatmaps_of_different_sizes_are_compared_at_relative_depth():
    names = [f"blocks.{i}" for i in range(24)]
    twice = self_similarity(0.3, first=8, layers=names)
    claim = claims_of_mixer(self_similarity(0.3, first=4, layers=names[:12]), twice, falling())[1]
    distance = float(claim.found.split("is ")[1].split(" ")[0])
    assert distance < 0.08
    assert claim.holds is True


def test_statements_are_written(tmp_path):
    claims = claims_of_missing_skip(self_similarity(0.8), self_similarity(0.3), block=3)
    assert "The claim holds on what was run." in state_claims(claims, tmp_path / "claims")
    assert (tmp_path / "claims.csv").is_file()
