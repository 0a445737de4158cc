"""Each verdict comes out where the numbers say so."""

import numpy as np
import pytest

from utilities.analysis.attention.attention_distance import AttentionDistance
from utilities.claims.raghu_2021.attention import (
    claims_of_attention_distance,
    claims_of_head_windows,
    claims_of_little_data,
)
from utilities.results.head_windows import HeadWindowSimilarity

TRAINED = {"weights": "trained for 9 epochs", "n": 99}


def distances(*rows, error=0.5, facts=TRAINED):
    table = np.array(rows, float)
    errors, even = np.where(np.isnan(table), np.nan, error), np.full(len(table), 100.0)
    names = [f"blocks.{i}.attn" for i in range(len(table))]
    return AttentionDistance(names, table, errors, table, errors, even, even, provenance=facts)


def verdicts(claims):
    return [claim.holds for claim in claims]


@pytest.mark.parametrize(
    ("rows", "mixed", "all_global"),
    [
        (((10, 90), (80, 90), (10, 90), (80, 90), (60, 99)), True, True),  # block 3 is neither low nor high
        (((60, 90), (80, 90), (70, 90), (80, 90)), False, True),
        (((10, 20), (30, 40), (70, 90), (20, 90)), False, False),
        (((50.1, 90), (80, 90), (70, 90), (49.9, 90)), None, None),
        (((10, np.nan), (20, np.nan), (60, 70), (60, 70)), False, True),
    ],
)
def test_low_blocks_mix_and_high_blocks_are_global(rows, mixed, all_global):
    low, high = claims_of_attention_distance({"vit": distances(*rows)})
    assert (low.holds, high.holds) == (mixed, all_global)
    assert "even attention 100.0" in low.found
    assert "local: nearer than half" in low.claim


def test_numbers_are_stated_with_their_errors():
    low, high = claims_of_attention_distance({"vit": distances((10, 90), (80, 91), (60, 70), (61, 99))})
    assert low.found == (
        "vit: 1 heads are local and 3 global of 4; distances from 10.0 ± 0.5 to 91.0 ± 0.5 px, even attention 100.0"
    )
    assert high.found.startswith("vit: 4 of 4 heads are global; distances from 60.0 ± 0.5 to 99.0")


def test_untrained_models_and_few_images_say_nothing():
    rows = ((10, 90), (80, 90), (80, 90))
    for facts in ({"weights": "untrained, seed 0", "n": 99}, {"weights": "pretrained", "n": 12}):
        assert verdicts(claims_of_attention_distance({"vit": distances(*rows, facts=facts)})) == [None, None]


@pytest.mark.parametrize(
    ("little", "much", "holds"),
    [((60, 90), (10, 90), True), ((10, 90), (10, 90), False), ((60, 90), (60, 90), False), ((50, 90), (10, 90), None)],
)
def test_little_data_leaves_no_local_heads(little, much, holds):
    results = {"small": distances(little, (70, 80)), "large": distances(much, (70, 80))}
    assert verdicts(claims_of_little_data(results, ["small"])) == [holds]


def test_both_kinds_of_training_are_needed():
    results = {"small": distances((60, 90))}
    for little in (["small"], [], ["other"]):
        with pytest.raises(ValueError, match="should name some, but not all"):
            claims_of_little_data(results, little)


def windows(*columns, error=0.01, facts=None):
    matrix = np.array(columns, float).T
    known = {"model1": "vit", "model2": "cnn", "weights1": "trained", "weights2": "trained"} if facts is None else facts
    return HeadWindowSimilarity(
        matrix,
        [f"heads {i}" for i in range(len(matrix))],
        [f"conv{i}" for i in range(matrix.shape[1])],
        99,
        None if error is None else np.full(matrix.shape, error),
        provenance=known,
        distance=20.0 + 10 * np.arange(len(matrix)),
    )


@pytest.mark.parametrize(
    ("columns", "holds"),
    [
        (((0.9, 0.5, 0.2), (0.8, 0.6, 0.3)), True),
        (((0.9, 0.5, 0.53), (0.8, 0.6, 0.3)), True),  # up by less than twice the sum of both errors
        (((0.9, 0.5, 0.6), (0.8, 0.6, 0.3)), False),
        (((0.2, 0.5, 0.9),), False),
        (((0.5, 0.5, 0.5),), None),
        (((0.5,),), None),
    ],
)
def test_curves_fall(columns, holds):
    (claim,) = claims_of_head_windows({"vit and cnn": windows(*columns)})
    assert claim.holds is holds
    assert f"conv0 {columns[0][0]:.3f} ± 0.010" in claim.found


def test_the_block_is_said():
    facts = {"model1": "vit", "model2": "cnn", "weights1": "trained", "weights2": "trained", "block": "blocks.1.attn"}
    first, second = (
        claims_of_head_windows({"a": windows((0.9, 0.2), facts=facts | {"block_index": index})})[0] for index in (0, 1)
    )
    assert "heads of the first block" in first.claim
    assert "heads of a block" in second.claim
    assert second.found.startswith("a, heads of blocks.1.attn, windows at 20 to 30 px: conv0 0.900")


def test_without_errors_or_training_it_cannot_be_told():
    falling = (0.9, 0.5, 0.2)
    assert verdicts(claims_of_head_windows({"a": windows(falling, error=None)})) == [None]
    untrained = {"model1": "vit", "model2": "cnn", "weights1": "trained", "weights2": "untrained, seed 0"}
    (claim,) = claims_of_head_windows({"a": windows(falling, facts=untrained)})
    assert (claim.holds, claim.reason) == (None, "cnn is untrained")
    assert "rank correlation with distance -1.00" in claim.found
