"""Test claims of Raghu et al. 2021 on effective receptive fields: how far they reach, and what the skip adds.

Radii are taken relative to that of a map which is the same everywhere, since models may have images of different sizes.
The paper shows maps, not numbers: what counts as local, global or far less of a peak is our choice, and stated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from utilities.analysis.blocks.receptive_field import ReceptiveField
from utilities.claims.claim import Claim, all_hold, by_family, judge
from utilities.claims.evidence import not_told, weigh
from utilities.results.formatting import with_error
from utilities.results.statistics import mean_and_stderr
from utilities.zoo.families import family

PAPER = "Raghu et al. 2021"
LOCAL, GLOBAL = 0.5, 0.75  # of a flat map's radius
PEAK = 0.5  # far less of a peak: less than this part of the share after the sum
THIRD = 1 / 3


def claims_of_receptive_field(results: Mapping[str, ReceptiveField]) -> list[Claim]:
    """Test the claims on effective receptive fields on results of several models.

    Args:
        results: Model -> result.

    Returns:
        The claims: a CNN's fields are local in its first half, and no block widens them as much as a block of a ViT
        does; a ViT's are larger early; they are global in the middle of the network; before the sum, attention has far
        less of a peak at its own patch; the branch of a ResNet's first block in a stage sees less than the branch
        before it.
    """
    models, claims = by_family(results), []
    cnn, vit = models.get("cnn"), models.get("vit")
    if cnn is not None:
        claims.append(_local(cnn))
    if cnn is not None and vit is not None:
        claims += [_slow(cnn, vit), _larger(cnn, vit)]
    if vit is not None:
        claims += [_global(vit), _peak(vit)]
    shrinking = [(name, result) for name, result in results.items() if family(name) == "cnn" and _starts(result)]
    claims += [_shrinks(name, result) for name, result in shrinking]
    text = "a ViT's receptive fields are larger than a CNN's"
    return claims or [not_told(text, f"{PAPER}, Fig. 6", "neither a CNN nor a ViT was run", results)]


def _relative(result: ReceptiveField, where: np.ndarray | Sequence[int]) -> tuple[float, float]:
    """Average the relative radius over layers, then over images, with its standard error."""
    values = (result.image_radius / result.flat_radius)[:, where]
    mean, error = mean_and_stderr(np.nanmean(values, axis=1) if values.size else np.full(len(values), np.nan))
    return float(mean), float(error)


def _half(result: ReceptiveField) -> np.ndarray:
    """Return the layers of the first half of the depth, without the stem."""
    return np.flatnonzero((result.depth <= 0.5) & (np.array(result.kinds) != "stem"))


def _local(cnn: ReceptiveField) -> Claim:
    text = "the receptive fields of a CNN's first half are local"
    mean, error = _relative(cnn, _half(cnn))
    last, its_error = _relative(cnn, [-1])
    found = (
        f"half of the gradient lies within {with_error(mean, error, '.3f')} of a flat map's radius on average over the "
        f"first half of the blocks, and {with_error(last, its_error, '.3f')} after the last; below {LOCAL} counts as "
        "local"
    )
    short = f"half of the gradient within {with_error(mean, error)} of a flat map's radius; local: below {LOCAL}"
    return weigh(Claim(text, f"{PAPER}, Fig. 6", found, judge(LOCAL - mean, error), short=short), {"CNN": cnn})


def _slow(cnn: ReceptiveField, vit: ReceptiveField) -> Claim:
    text = "the receptive fields of a CNN grow slowly: no block widens them as much as a ViT's widest step"
    steps = {}
    for name, result in (("CNN", cnn), ("ViT", vit)):
        mean, error = mean_and_stderr(result.growth / result.flat_radius)
        widest = int(np.nanargmax(mean))
        steps[name] = float(mean[widest]), float(error[widest]), result.names[widest]
    (one, error, block), (two, other, its_block) = steps["CNN"], steps["ViT"]
    found = (
        f"the widest step is {with_error(one, error, '.3f')} of a flat map's radius in the CNN ({block}) and "
        f"{with_error(two, other, '.3f')} in the ViT ({its_block})"
    )
    verdict = judge(two - one, float(np.hypot(error, other)))
    short = (
        f"widest step {with_error(one, error)} of a flat map's radius in the CNN, {with_error(two, other)} in the ViT"
    )
    return weigh(Claim(text, f"{PAPER}, Fig. 6", found, verdict, short=short), {"CNN": cnn, "ViT": vit})


def _larger(cnn: ReceptiveField, vit: ReceptiveField) -> Claim:
    text = "early in the network, the receptive fields of a ViT are larger than those of a CNN"
    (one, error), (two, other) = (_relative(result, _half(result)) for result in (cnn, vit))
    found = (
        f"over the first half of the blocks, half of the gradient lies within {with_error(two, other, '.3f')} of a "
        f"flat map's radius in the ViT, {with_error(one, error, '.3f')} in the CNN"
    )
    verdict = judge(two - one, float(np.hypot(error, other)))
    short = f"{with_error(two, other)} of a flat map's radius in the ViT, {with_error(one, error)} in the CNN"
    return weigh(Claim(text, f"{PAPER}, Fig. 6", found, verdict, short=short), {"CNN": cnn, "ViT": vit})


def _global(vit: ReceptiveField) -> Claim:
    text = "in the middle of a ViT the receptive fields are global"
    middle = np.flatnonzero((vit.depth >= THIRD) & (vit.depth <= 1 - THIRD))
    mean, error = _relative(vit, middle)
    last, its_error = _relative(vit, [-1])
    found = (
        f"half of the gradient lies within {with_error(mean, error, '.3f')} of a flat map's radius over the middle "
        f"third of the blocks, and {with_error(last, its_error, '.3f')} after the last; above {GLOBAL} counts as global"
    )
    short = f"half of the gradient within {with_error(mean, error)} of a flat map's radius; global: above {GLOBAL}"
    return weigh(Claim(text, f"{PAPER}, Fig. 6", found, judge(mean - GLOBAL, error), short=short), {"ViT": vit})


def _peak(vit: ReceptiveField) -> Claim:
    text = "before the residual sum, a ViT's attention has far less of a peak at its own patch than after it"
    rows = np.flatnonzero(np.array(vit.kinds) == "msa")
    after, before = (np.nanmean(part[:, rows], axis=1) for part in (vit.image_share, vit.image_before_share))
    (high, error), (low, other), (less, its_error) = map(mean_and_stderr, (after, before, PEAK * after - before))
    found = (
        f"share of the gradient in the position's own patch, mean over {len(rows)} attention blocks: "
        f"{with_error(float(high), float(error), '.3f')} after the sum, {with_error(float(low), float(other), '.3f')} "
        f"before it; below {PEAK:g} of that after the sum counts as far less"
    )
    sides = (with_error(float(value), float(spread)) for value, spread in ((high, error), (low, other)))
    short = "share in the own patch {} after the sum, {} before it".format(*sides)
    verdict = judge(float(less), float(its_error))
    return weigh(Claim(text, f"{PAPER}, Fig. C.4", found, verdict, short=short), {"ViT": vit})


def _starts(result: ReceptiveField) -> list[int]:
    """Return the first blocks of stages, from the second stage on, whose branch and the branch before it were read."""
    there = np.isfinite(result.image_before_radius).any(0)
    later = [i for i in range(1, len(result.stages)) if result.stages[i] > result.stages[i - 1] > 0]
    return [i for i in later if there[i] and there[i - 1]]


def _shrinks(name: str, result: ReceptiveField) -> Claim:
    text = "the branch of the first block of a ResNet's stage sees less than the branch before it"
    starts, verdicts, numbers = _starts(result), [], []
    for i in starts:
        change = result.image_before_radius[:, i] - result.image_before_radius[:, i - 1]
        mean, error = map(float, mean_and_stderr(change))
        verdicts.append(judge(-mean, error))
        numbers.append(f"{with_error(mean, error, '+.1f', unit=' pixels')} at {result.names[i]}")
    found = f"{name}, radius that holds half of the gradient, less that of the branch before it: {', '.join(numbers)}"
    return weigh(Claim(text, f"{PAPER}, Fig. C.4", found, all_hold(verdicts)), {name: result})
