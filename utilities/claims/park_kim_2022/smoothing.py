"""Test claims of Park and Kim 2022 on spatial smoothing: a CNN beside its twin with blurs at the end of its stages.

*Blurs Behave Like Ensembles* claims better accuracy, uncertainty and robustness, with and without dropout at test time,
and explains them by a smoother loss. Robustness is that to corruptions, perturbations and attacks, each with a claim of
its own here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from utilities.analysis.loss.hessian import HessianSpectra
from utilities.analysis.predictions.adversarial import Adversarial
from utilities.analysis.predictions.classification import Classification
from utilities.analysis.predictions.consistency import Consistency
from utilities.analysis.predictions.robustness import Robustness
from utilities.claims.claim import Claim, all_hold, judge
from utilities.claims.evidence import not_told, weigh
from utilities.claims.park_kim_2022.classification import paired_difference
from utilities.claims.park_kim_2022.hessian import ape_of, in_numbers, larger
from utilities.results.formatting import counted, percent, with_error
from utilities.results.statistics import stderr_of_mean
from utilities.zoo.smoothing import SUFFIX

SOURCE = "Park & Kim 2022, Blurs Behave Like Ensembles, https://arxiv.org/abs/2105.12639"
NO_TWIN = "no network was run beside its twin with spatial smoothing"
ROLES = ("the plain twin", "the smooth twin")

R = TypeVar("R")


def twins(results: Mapping[str, R]) -> tuple[R, R] | None:
    """Find the first network that was run beside its twin with smoothing: the plain one, then the smooth one.

    Example:
        >>> twins({"vit": 1, "resnet18_smooth": 2, "resnet18": 3}), twins({"resnet18": 1})
        ((3, 2), None)
    """
    found = ((results[name], results[f"{name}{SUFFIX}"]) for name in results if f"{name}{SUFFIX}" in results)
    return next(found, None)


def claims_of_twins(
    classified: Mapping[str, Classification],
    averaged: Mapping[str, Classification],
    curved: Mapping[str, HessianSpectra],
    corrupted: Mapping[str, Robustness],
    attacked: Mapping[str, Adversarial],
    perturbed: Mapping[str, Consistency],
) -> list[Claim]:
    """Put all claims on spatial smoothing to results of a network and its twin, see the functions of each.

    Example:
        >>> [claim.holds for claim in claims_of_twins({}, {}, {}, {}, {}, {})]
        [None, None, None, None, None, None]
    """
    return [
        *claims_of_smoothing(classified),
        *claims_of_smoothing(averaged, ", averaged over dropout masks"),
        *claims_of_smooth_hessian(curved),
        *claims_of_smooth_robustness(corrupted),
        *claims_of_adversarial(attacked),
        *claims_of_consistency(perturbed),
    ]


def claims_of_smoothing(results: Mapping[str, Classification], how: str = "") -> list[Claim]:
    """Decide whether spatial smoothing raises a CNN's accuracy and lowers its negative log-likelihood.

    Both networks saw the same images, so differences are image by image. Each was trained once.

    Args:
        results: Name of the model -> result on the same images. The first name that is there with ``_smooth`` too is
            used.
        how: How predictions were made, for the claim's sentence.

    Returns:
        One claim. It holds if both do, and fails if either fails, by two standard errors.

    Example:
        >>> [claim.holds for claim in claims_of_smoothing({})]
        [None]
    """
    text = f"spatial smoothing improves a CNN's accuracy and uncertainty{how}: more right, lower NLL"
    pair = twins(results)
    if pair is None:
        return [not_told(text, SOURCE, NO_TWIN, results)]
    plain, smooth = pair
    gain, error = paired_difference(smooth, plain)
    saved, saved_error = paired_difference(plain, smooth, "nll")
    found = (
        f"with smoothing, accuracy changes by {percent(gain, error, ' points', '+.1f')} to {smooth.accuracy:.1%} and "
        f"the NLL by {with_error(-saved, saved_error, '+.3f', unit=' nats')} to {smooth.nll:.3f}, on the same "
        f"{counted(plain.n, 'image')} (one training of each)"
    )
    holds = all_hold([judge(gain, error), judge(saved, saved_error)])
    return [weigh(Claim(text, SOURCE, found, holds), dict(zip(ROLES, pair, strict=True)))]


def claims_of_smooth_hessian(results: Mapping[str, HessianSpectra]) -> list[Claim]:
    """Decide whether spatial smoothing flattens the loss: lower positive eigenvalues of the Hessian on average.

    Args:
        results: Name of the model -> spectra on the same mini-batches. The first name that is there with ``_smooth``
            too is used.

    Returns:
        One claim, with the errors of `utilities.claims.park_kim_2022.hessian.claims_of_hessian`.

    Example:
        >>> [claim.holds for claim in claims_of_smooth_hessian({})]
        [None]
    """
    text = "spatial smoothing flattens a CNN's loss: Hessian eigenvalues are smaller"
    pair = twins(results)
    if pair is None:
        return [not_told(text, SOURCE, NO_TWIN, results)]
    there = dict(zip(ROLES, pair, strict=True))
    found = f"{in_numbers(there, 'APE', ape_of, ROLES)}, one training of each"
    return [weigh(Claim(text, SOURCE, found, larger(there, *ROLES, ape_of)), there)]


def claims_of_smooth_robustness(results: Mapping[str, Robustness]) -> list[Claim]:
    """Decide whether spatial smoothing makes a CNN better on corrupted images.

    Args:
        results: Name of the model -> result. The first name that is there with ``_smooth`` too is used.

    Returns:
        One claim, on the mean accuracy over all corrupted sets. Errors are added in quadrature, as if each network had
        seen images of its own; that is cautious.

    Example:
        >>> [claim.holds for claim in claims_of_smooth_robustness({})]
        [None]
    """
    text = "spatial smoothing makes a CNN more robust to common corruptions"
    pair = twins(results)
    if pair is None:
        return [not_told(text, SOURCE, NO_TWIN, results)]
    if (pair[0].kinds, pair[0].severities) != (pair[1].kinds, pair[1].severities):
        return [not_told(text, SOURCE, "the two met other corruptions", dict(zip(ROLES, pair, strict=True)))]
    sets = f"{pair[0].accuracy.size} sets of {counted(min(one.n for one in pair), 'image')}"
    return [_between(text, f"mean accuracy over {sets}", pair)]


def claims_of_adversarial(results: Mapping[str, Adversarial]) -> list[Claim]:
    """Decide whether spatial smoothing makes a CNN more robust to adversarial attacks.

    Args:
        results: Name of the model -> result of the same attack. The first name that is there with ``_smooth`` too is
            used.

    Returns:
        One claim, on the mean accuracy over the radii; for its errors see `claims_of_smooth_robustness`.

    Example:
        >>> [claim.holds for claim in claims_of_adversarial({})]
        [None]
    """
    text = "spatial smoothing makes a CNN more robust to adversarial attacks"
    pair = twins(results)
    if pair is None:
        return [not_told(text, SOURCE, NO_TWIN, results)]
    ways = [
        (one.norm, list(one.radii), *(one.provenance.get(name) for name in ("attack", "steps", "step"))) for one in pair
    ]
    if ways[0] != ways[1]:
        return [not_told(text, SOURCE, "the two met other attacks", dict(zip(ROLES, pair, strict=True)))]
    radii = ", ".join(f"{radius:g}" for radius in pair[0].radii)
    attack = str(pair[0].provenance.get("attack", "attack")).upper()
    return [_between(text, f"mean accuracy under {attack} ({pair[0].norm}, radii of {radii} levels)", pair)]


def claims_of_consistency(results: Mapping[str, Consistency]) -> list[Claim]:
    """Decide whether spatial smoothing makes a CNN's answers more consistent under small perturbations.

    Args:
        results: Name of the model -> result on the same images. The first name that is there with ``_smooth`` too is
            used.

    Returns:
        One claim, on the mean flip rate over kinds of perturbation. Where both saw the same images, differences are
        image by image.

    Example:
        >>> [claim.holds for claim in claims_of_consistency({})]
        [None]
    """
    text = "spatial smoothing makes a CNN's answers more consistent: small perturbations change them less often"
    pair = twins(results)
    if pair is None:
        return [not_told(text, SOURCE, NO_TWIN, results)]
    plain, smooth = pair
    there = dict(zip(ROLES, pair, strict=True))
    if plain.kinds != smooth.kinds or plain.n != smooth.n:
        return [not_told(text, SOURCE, "the two met other perturbations", there)]
    saved = plain.flips.mean(1) - smooth.flips.mean(1)
    numbers = ", ".join(f"{percent(*one.mean_flip_rate(), form='.2f')} of {role}" for role, one in there.items())
    difference = percent(-saved.mean(), float(stderr_of_mean(saved)), " points", "+.2f")
    found = (
        f"mean flip rate over {counted(len(plain.kinds), 'kind')} of perturbation: {numbers}; difference {difference} "
        f"on the same {counted(plain.n, 'image')} (one training of each)"
    )
    return [weigh(Claim(text, SOURCE, found, judge(saved.mean(), float(stderr_of_mean(saved)))), there)]


def _between(text: str, what: str, pair: tuple[Any, Any]) -> Claim:
    """Compare the mean accuracies of twins."""
    (a, a_error), (b, b_error) = (one.mean_accuracy() for one in pair)
    numbers = f"{percent(a, a_error)} without smoothing, {percent(b, b_error)} with it"
    clean = " and ".join(f"{one.clean_accuracy:.1%}" for one in pair)
    found = f"{what}: {numbers}; {clean} on the images as they are (one training of each)"
    judged = Claim(text, SOURCE, found, judge(b - a, math.hypot(a_error, b_error)))
    return weigh(judged, dict(zip(ROLES, pair, strict=True)))
