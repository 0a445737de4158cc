"""Made-up localisations on which the claims hold, fail and cannot be told."""

import numpy as np
import pytest

from utilities.analysis.blocks.localisation import Localisation
from utilities.analysis.blocks.localisation_measures import MEASURES
from utilities.claims.raghu_2021 import claims_of_localisation

CLS, GAP, CNN = "vit_cls", "vit_gap", "resnet18"
READOUT = {CLS: "CLS", GAP: "GAP", CNN: "GAP"}


def made(model, contrast, near=0.9, error=0.02, weights="trained for 9 epochs", n=100):
    """Make a result with a contrast in each layer, and a share of tokens near their place in the last one."""
    layers = len(contrast)
    summary, errors = np.full((layers, len(MEASURES)), 0.5), np.full((layers, len(MEASURES)), error)
    summary[:, MEASURES.index("contrast")], summary[-1, MEASURES.index("near")] = contrast, near
    facts = {"model": model, "readout": READOUT[model], "weights": weights, "n": n}
    maps = np.zeros((layers, 4, 4))
    places = {"grids": np.full((layers, 2), 2), "centres": np.zeros((layers, 4, 2)), "cells": np.ones((layers, 2))}
    return Localisation(
        [f"blocks.{i}" for i in range(layers)], maps, maps, **places, measures=list(MEASURES), summary=summary,
        summary_stderr=errors, chance=np.full((layers, len(MEASURES)), 0.1), patch=16, patch_grid=[2, 2],
        provenance=facts,
    )  # fmt: skip


def verdicts(*results):
    return [claim.holds for claim in claims_of_localisation({r.provenance["model"]: r for r in results})]


def test_the_paper_s_outcome_holds_and_its_opposite_does_not():
    paper = made(CLS, [0.9, 0.7, 0.6]), made(GAP, [0.9, 0.6, 0.2]), made(CNN, [0.5, 0.4, 0.1])
    assert verdicts(*paper) == [True, True, True, True]
    opposite = made(CLS, [0.9, 0.1, 0.05], near=0.1), made(GAP, [0.9, 0.6, 0.5]), made(CNN, [0.1, 0.2, 0.5])
    assert verdicts(*opposite) == [False, False, False, False]


def test_what_the_errors_hide_or_was_not_run_cannot_be_told():
    assert verdicts(made(CLS, [0.9, 0.6], near=0.52), made(CNN, [0.5, 0.58])) == [None, None, None, None]
    assert verdicts(made(CLS, [0.9, 0.6])) == [True, None, None]
    assert verdicts(made(CNN, [0.5, 0.1]), made(GAP, [0.5, 0.1])) == [True, None, None]
    claims = claims_of_localisation({CNN: made(CNN, [0.5, 0.1])})
    assert "a ViT with a class token was not run" in claims[1].found
    assert "neither a ViT with a class token nor a ViT trained with average pooling was run" in claims[2].found


@pytest.mark.parametrize("facts", [{"weights": "untrained, seed 0"}, {"n": 20}, {"error": np.nan}])
def test_untrained_models_few_images_and_one_batch_tell_nothing(facts):
    assert verdicts(made(CLS, [0.9, 0.6], **facts), made(CNN, [0.5, 0.1], **facts)) == [None, None, None, None]


def test_numbers_and_criteria_are_in_the_text():
    claim, *_ = claims_of_localisation({CLS: made(CLS, [0.9, 0.6])})
    assert "90.0 ± 2.0% of the tokens" in claim.found
    assert "more than 50% by two errors" in claim.found
    assert "chance 10.0%" in claim.found
