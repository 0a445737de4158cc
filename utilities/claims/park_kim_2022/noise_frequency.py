"""Test claims of Park and Kim 2022 on noise of high frequency."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from utilities.analysis.predictions.noise_frequency import NoiseFrequency
from utilities.claims.claim import Claim, by_family, judge
from utilities.claims.evidence import not_told, weigh
from utilities.results.formatting import with_error

SOURCE = "Park & Kim 2022, Fig. 2b, https://arxiv.org/abs/2202.06709"
# Frequencies at which the curves of ResNet and ViT have crossed in the paper's figure, and at which they have not yet
# (units of pi).
HIGH = 0.7
LOW = 0.5


def claims_of_noise_frequency(results: Mapping[str, NoiseFrequency]) -> list[Claim]:
    """Decide whether a CNN suffers more than a ViT from noise of high frequency, and less from noise of low frequency.

    Changes are averaged over the bands with centres of 0.7 pi and above, or 0.5 pi and below. Errors of two models are
    added in quadrature; bands of one model are compared image by image.

    Args:
        results: Name of the model -> result. The first CNN and the first ViT are used.

    Returns:
        Four claims.

    Example:
        >>> [claim.holds for claim in claims_of_noise_frequency({})]
        [None, None, None, None]
    """
    found = by_family(results)
    cnn, vit = found.get("cnn"), found.get("vit")
    there = {name: result for name, result in (("CNN", cnn), ("ViT", vit)) if result is not None}
    return [
        _between(there, "ViTs lose less than ResNets to noise of high frequency", _high, 1),
        _between(there, "ViTs lose more than ResNets to noise of low and middle frequency", _low, -1),
        _within(
            cnn, there, "ResNets are vulnerable to noise of high frequency: they lose more to it than to low", "CNN", -1
        ),
        _within(vit, there, "ViTs are robust to noise of high frequency: they lose less to it than to low", "ViT", 1),
    ]


def _high(centres: np.ndarray) -> np.ndarray:
    return centres > HIGH - 1e-9


def _low(centres: np.ndarray) -> np.ndarray:
    return centres < LOW + 1e-9


def _mean(result: NoiseFrequency, *signed: tuple[int, Callable[[np.ndarray], np.ndarray]]) -> tuple[float, float]:
    """Add up mean changes over choices of bands, each with its sign; NaN if a choice has no band."""
    weights = np.zeros(len(result.centres))
    for sign, choose in signed:
        chosen = choose(result.centres)
        weights += sign * chosen / chosen.sum() if chosen.any() else np.nan
    value, error = result.mean_change(weights)
    return float(value), float(error)


def _between(
    there: Mapping[str, NoiseFrequency],
    claim: str,
    choose: Callable[[np.ndarray], np.ndarray],
    sign: int,
) -> Claim:
    cnn, vit = there.get("CNN"), there.get("ViT")
    if cnn is None or vit is None:
        missing = "no CNN and no ViT were" if cnn is vit else f"no {'CNN' if cnn is None else 'ViT'} was"
        return not_told(claim, SOURCE, f"{missing} compared", there)
    (a, a_error), (b, b_error) = (_mean(result, (1, choose)) for result in (cnn, vit))
    where = f"{HIGH:g} pi and above" if choose is _high else f"{LOW:g} pi and below"
    changes = f"CNN {with_error(a, a_error, '+.1f')}, ViT {with_error(b, b_error, '+.1f')}"
    found = f"mean change in accuracy at {where}, in points: {changes}"
    judged = Claim(claim, SOURCE, found, judge(sign * (b - a), math.hypot(a_error, b_error)))
    return weigh(judged, there)


def _within(
    result: NoiseFrequency | None, there: Mapping[str, NoiseFrequency], claim: str, name: str, sign: int
) -> Claim:
    if result is None:
        return not_told(claim, SOURCE, f"no {name} was tried", there)
    high, low = (_mean(result, (1, choose))[0] for choose in (_high, _low))
    difference, error = _mean(result, (1, _high), (-1, _low))
    found = f"{name}, in points: {high:+.1f} at {HIGH:g} pi and above, {low:+.1f} at {LOW:g} pi and below, difference "
    judged = Claim(claim, SOURCE, f"{found}{with_error(difference, error, '+.1f')}", judge(sign * difference, error))
    return weigh(judged, {name: result})
