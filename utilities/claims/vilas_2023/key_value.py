"""Test claims of Vilas et al. 2023 on key-value agreement, compositionality of memories, and their use."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from utilities.analysis.class_embedding.key_value import KeyValueAgreement
from utilities.claims.claim import BRANCHES, Claim, all_hold, branch, judge
from utilities.claims.evidence import weigh
from utilities.results.formatting import counted, percent, percent_points

_percent = partial(percent, unit=" %")

AGREEMENT = "Vilas et al. 2023, key-value agreement rate"
COMPOSITION = "Vilas et al. 2023, compositionality of memories"
ACCURACY = "Vilas et al. 2023, key-value agreement rate and accuracy"
FEW = 3  # number of blocks needed for early, late and last but one to differ


def claims_of_key_value(results: Mapping[str, KeyValueAgreement]) -> list[Claim]:
    """Test the claims on key-value agreement on results of several models.

    Late blocks are the last third, early blocks the first. Errors of means over blocks, and of differences between
    blocks, are the largest possible for blocks that see the same images: the mean and the sum of the blocks' own
    errors.

    Args:
        results: Model -> result.

    Returns:
        Claims for each model: late blocks agree above chance and above another class, in attention and MLP; attention
        peaks in the last block, the MLP in the last but one; the MLP's compositionality falls; right answers agree
        more, in attention and MLP.
    """
    claims: list[Claim] = []
    for model, result in results.items():
        own = [_above_chance(model, result, part) for part in BRANCHES]
        own += [_peak(model, result, part, place) for part, place in (("attn", -1), ("mlp", -2))]
        own.append(_less_composed(model, result))
        own += [_goes_with_accuracy(model, result, part) for part in BRANCHES]
        claims += [weigh(claim, {model: result}) for claim in own]
    return claims


def _above_chance(model: str, result: KeyValueAgreement, part: str) -> Claim:
    """Compare the late blocks with chance and with the other class; they have to exceed both."""
    text = f"in late blocks, tokens switch on memories of {branch(part)} for the image's class more often than chance"
    late = _late(result)
    rate, error, excess, excess_error, chance = (
        float(result.of(value, part)[late].mean())
        for value in ("rate", "rate_stderr", "excess", "excess_stderr", "chance")
    )
    found = (
        f"{model}: {_percent(rate, error)} of image tokens agree in {_blocks(result, late)}, {100 * chance:.1f} by "
        f"chance; {percent_points(excess, excess_error)} more than with another class"
    )
    return Claim(text, AGREEMENT, found, all_hold([judge(rate - chance, error), judge(excess, excess_error)]))


def _peak(model: str, result: KeyValueAgreement, part: str, place: int) -> Claim:
    """Compare the block where the peak should be with the best other block."""
    which = {-1: "last block", -2: "last block but one"}[place]
    text = f"the agreement of {branch(part)} peaks in the {which}"
    rate, error = result.of("rate", part), result.of("rate_stderr", part)
    if len(rate) < FEW:
        return Claim(text, AGREEMENT, f"{model} has {len(rate)} blocks, too few for a peak", None)
    others = np.delete(np.arange(len(rate)), place)
    best = int(others[rate[others].argmax()])
    here, there = (_percent(rate[i], error[i]) for i in (place, best))
    found = f"{model}: {here} of image tokens agree there, {there} in the best other one, block {best + 1}"
    return Claim(text, AGREEMENT, found, judge(rate[place] - rate[best], error[place] + error[best]))


def _less_composed(model: str, result: KeyValueAgreement) -> Claim:
    """Compare the MLP's matches of late and early blocks."""
    text = "the compositionality of the MLP's memories falls towards the end: single memories say more of what it says"
    if len(result.names) < FEW:
        found = f"{model} has {len(result.names)} blocks, too few to compare early with late ones"
        return Claim(text, COMPOSITION, found, None)
    late = _late(result)
    early = np.arange(len(late))
    share, error, chance = (result.of(value, "mlp") for value in ("match", "match_stderr", "match_chance"))
    (first, first_error), (last, last_error) = ((share[i].mean(), error[i].mean()) for i in (early, late))
    found = (
        f"{model}: {_percent(last, last_error)} of image tokens match in {_blocks(result, late)} "
        f"({100 * chance[late].mean():.1f} by chance), {_percent(first, first_error)} in {_blocks(result, early)} "
        f"({100 * chance[early].mean():.1f} by chance)"
    )
    return Claim(text, COMPOSITION, found, judge(last - first, last_error + first_error))


def _goes_with_accuracy(model: str, result: KeyValueAgreement, part: str) -> Claim:
    """Compare correctly classified images with the others in late blocks."""
    text = f"in late blocks, the agreement of {branch(part)} is higher for correctly classified images"
    late, group = _late(result), result.groups[0]
    gap, error = (float(result.of(value, part, group)[late].mean()) for value in ("gap", "gap_stderr"))
    counts = f"{counted(result.n_correct, 'image')} right, {result.n_wrong:,} wrong"
    if not np.isfinite([gap, error]).all():
        return Claim(text, ACCURACY, f"{model}: {counts}; it takes two of either to tell", None)
    tokens = "class tokens" if group == "CLS" else "image tokens"
    found = (
        f"{model}: right less wrong images {percent_points(gap, error)}, {tokens} of {_blocks(result, late)}; {counts}"
    )
    return Claim(text, ACCURACY, found, judge(gap, error))


def _late(result: KeyValueAgreement) -> np.ndarray:
    count = len(result.names)
    return np.arange(count - max(1, count // 3), count)


def _blocks(result: KeyValueAgreement, places: np.ndarray) -> str:
    """Name blocks by their numbers from 1, as figures do."""
    first, last = places[0] + 1, places[-1] + 1
    return f"block {first}" if first == last else f"blocks {first} to {last}"
