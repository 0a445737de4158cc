"""Test claims of Vilas et al. 2023 on maps of importance in class-embedding space."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from utilities.analysis.class_embedding.importance import Importance
from utilities.analysis.class_embedding.removal import RemovalCurves
from utilities.claims.claim import Claim, judge
from utilities.claims.evidence import weigh
from utilities.results.formatting import counted, percent, with_error
from utilities.results.statistics import count, mean_and_stderr

_signed = partial(with_error, form="+.3f")

SOURCE = "Vilas et al. 2023, perturbation test, https://arxiv.org/abs/2310.18969"
MARGIN = 0.05  # areas that differ by less count as equal; the paper finds 0.01 (negative) and 0.02 (positive)


def claims_of_removal(
    results: Mapping[str, RemovalCurves],
    *,
    gradient: str = "gradient",
    relevance: str = "relevance",
    probe: str = "probe",
) -> list[Claim]:
    """Test the claims on the areas under removal curves, paired image by image.

    Args:
        results: Model -> its removal curves.
        gradient: Name of the gradient map among the curves.
        relevance: Name of the map by Chefer et al. 2021.
        probe: Name of the map by ranks of linear probes.

    Returns:
        Claims for each model. The gradient map's negative area is above that of random orders, and its positive area
        below. Both are about those of Chefer et al. The gradient map is better than linear probes. Maps that were not
        run give no claim, except for the first two.
    """
    claims = []
    for model, result in results.items():
        own = _against_random(model, result, gradient)
        if {gradient, relevance} <= set(result.names):
            own += [
                _about_equal(model, result, gradient, relevance, direction) for direction in ("negative", "positive")
            ]
        if {gradient, probe} <= set(result.names):
            own += [_better(model, result, gradient, probe, direction) for direction in ("negative", "positive")]
        claims += [weigh(claim, {model: result}) for claim in own]
    return claims


def claims_of_importance(results: Mapping[str, Importance]) -> list[Claim]:
    """Test that importance lies on the object, if there are masks.

    Args:
        results: Name of a map or of a model -> maps of importance with the objects' coverage.

    Returns:
        One claim for each: the object holds a larger share of the map's positive values than of the area.
    """
    text = "important tokens are on the object"
    where = "Vilas et al. 2023, maps of importance, in pictures"
    claims = []
    for name, result in results.items():
        if result.coverage is None:
            claims.append(weigh(Claim(text, where, f"{name}: there are no masks of objects", None), {name: result}))
            continue
        share, area = result.on_object()
        (mean, error), (excess, paired) = mean_and_stderr(share), mean_and_stderr(share - area)
        known = int(count(share))
        found = (
            f"{name}: {percent(mean, error, ' %')} of the positive values are on the object, which fills "
            f"{100 * np.nanmean(area):.1f} % of the image; difference "
            f"{percent(excess, paired, ' points', '+.1f')}, {known} of {counted(result.n, 'image')}"
        )
        claims.append(weigh(Claim(text, where, found, judge(float(excess), float(paired))), {name: result}))
    return claims


def _against_random(model: str, result: RemovalCurves, name: str) -> list[Claim]:
    """Compare a map with random orders of the same images."""
    claims = []
    for direction, text in (
        ("negative", "removing the least important tokens first costs less accuracy than removing tokens at random"),
        ("positive", "removing the most important tokens first costs more accuracy than removing tokens at random"),
    ):
        if name not in result.names or not len(result.random_auc):
            missing = f"a map named {name!r}" if name not in result.names else "random orders"
            claims.append(Claim(text, SOURCE, f"{model} was run without {missing}", None))
            continue
        own, random = _areas(result, name, direction), result.random_auc.mean(0)
        mean, error = _paired(own, random, direction)
        found = (
            f"{model}: area under the {direction} curve {own.mean():.3f}, at random {random.mean():.3f}; difference in "
            f"the direction of the claim {_signed(mean, error)}, paired over {counted(result.n, 'image')}"
        )
        claims.append(Claim(text, SOURCE, found, judge(mean, error)))
    return claims


def _about_equal(model: str, result: RemovalCurves, name: str, other: str, direction: str) -> Claim:
    """Tell whether two maps' areas differ by less or by more than the margin, by two standard errors."""
    one, two = _areas(result, name, direction), _areas(result, other, direction)
    mean, error = _paired(one, two, direction)
    text = (
        f"the gradient map is about as good as that of Chefer et al. 2021, which needs the whole backward pass "
        f"({direction} area within {MARGIN})"
    )
    found = (
        f"{model}: {one.mean():.3f} and {two.mean():.3f}; the gradient map is better by {_signed(mean, error)}, paired "
        f"over {counted(result.n, 'image')}"
    )
    return Claim(text, SOURCE, found, judge(MARGIN - abs(mean), error))


def _better(model: str, result: RemovalCurves, name: str, other: str, direction: str) -> Claim:
    """Tell whether one map is better than another."""
    one, two = _areas(result, name, direction), _areas(result, other, direction)
    mean, error = _paired(one, two, direction)
    text = f"the gradient map orders tokens better than linear probes do ({direction} curve)"
    found = (
        f"{model}: areas {one.mean():.3f} and {two.mean():.3f}; the gradient map is better by {_signed(mean, error)}, "
        f"paired over {counted(result.n, 'image')}"
    )
    return Claim(text, SOURCE, found, judge(mean, error))


def _areas(result: RemovalCurves, name: str, direction: str) -> np.ndarray:
    return getattr(result, f"{direction}_auc")[result.names.index(name)]


def _paired(one: np.ndarray, two: np.ndarray, direction: str) -> tuple[float, float]:
    """Return how much better the first is (high negative or low positive area), with its error over images."""
    mean, error = mean_and_stderr(one - two if direction == "negative" else two - one)
    return float(mean), float(error)
