"""Ranks of a class among logits: ties, chance, and values that are no numbers."""

import itertools

import numpy as np
import pytest
import torch

from utilities.analysis.class_embedding.ranks import chance_score, rank, ranks_and_firsts, score, target_logit


def test_rank_is_the_place_in_descending_order():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, 9, generator=generator)
    target = torch.randint(9, (4,), generator=generator)
    places = logits.numpy().argsort(-1)[..., ::-1]
    for image, token in itertools.product(range(4), range(6)):
        expected = np.flatnonzero(places[image, token] == int(target[image]))[0]
        assert rank(logits, target)[image, token] == expected
        assert target_logit(logits, target)[image, token] == logits[image, token, target[image]]


def test_ties_take_the_mean_rank_and_share_the_first_place():
    logits = torch.tensor([[[1.0, 2.0, 2.0, 0.0, 2.0], [0.0] * 5]])
    assert [rank(logits, torch.tensor([c]))[0].tolist() for c in range(5)] == [[3, 2], [1, 2], [1, 2], [4, 2], [1, 2]]
    firsts = [ranks_and_firsts(logits, torch.tensor([c]))[1][0].tolist() for c in range(5)]
    np.testing.assert_allclose(firsts, [[0, 0.2], [1 / 3, 0.2], [1 / 3, 0.2], [0, 0.2], [1 / 3, 0.2]], rtol=1e-6)


def test_rank_falls_as_the_logit_rises():
    others = torch.randn(1, 1, 20, generator=torch.Generator().manual_seed(0))
    ranks = []
    for value in torch.linspace(-4, 4, 33):
        logits = others.clone()
        logits[0, 0, 7] = value
        ranks.append(int(rank(logits, torch.tensor([7]))))
    assert ranks == sorted(ranks, reverse=True)
    assert (ranks[0], ranks[-1]) == (19, 0)


@pytest.mark.parametrize("classes", [2, 10, 1000, 21_843])
def test_chance_is_the_mean_score_over_all_ranks(classes):
    """1 - (C - 1) / 2C = 1/2 + 1/2C, for ImageNet-21k too."""
    ranks = torch.arange(classes).to(torch.int16)
    assert score(ranks, classes).double().mean().item() == pytest.approx(chance_score(classes), abs=1e-6)
    assert score(ranks[[0]], classes).item() == 1
    assert score(ranks[[-1]], classes).item() == pytest.approx(1 / classes, rel=1e-2)
    logits = torch.arange(classes, dtype=torch.float32).expand(1, 1, classes)
    assert rank(logits, torch.tensor([0])).item() == classes - 1


def test_a_logit_that_is_no_number_does_not_come_first():
    logits = torch.tensor([[[0.0, torch.nan, 2.0]]])
    assert [int(rank(logits, torch.tensor([c]))) for c in range(3)] == [2, 3, 1]
