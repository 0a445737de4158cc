"""Test claims on Hessian eigenvalues by Park & Kim 2022, and by Chen et al. 2022, who contradict them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from scipy.stats import norm, t

from utilities.analysis.loss.hessian import HessianSpectra, after_start
from utilities.claims.claim import Claim, by_family, judge
from utilities.claims.evidence import not_told, weigh
from utilities.zoo.families import FAMILY_TITLES

SOURCE = "Park & Kim 2022, Figs. 1c and 4, https://arxiv.org/abs/2202.06709"
IMPLIED = "implied by Park & Kim 2022, Fig. 1c, https://arxiv.org/abs/2202.06709, which shows no hybrid"
OTHER = "Chen et al. 2022, https://arxiv.org/abs/2106.01548"
Measure = Callable[[HessianSpectra], tuple[float, float]]


def claims_of_hessian(
    results: Mapping[str, HessianSpectra], history: Mapping[str, Mapping[int, HessianSpectra]] | None = None
) -> list[Claim]:
    """Decide whether attention flattens the loss, and whether it makes the loss less convex.

    A loss is flat if the average of the positive eigenvalues (APE) is low. It is convex if the share of negative ones
    (NEP) is low among those of largest magnitude. Errors are over mini-batches. If these are few, errors are widened,
    as Student's distribution is wider than a Gaussian. The errors of two models are added in quadrature.

    Args:
        results: Name of the model -> spectra of the trained model. The first CNN, hybrid and ViT are used.
        history: Name of the model -> epoch -> spectra along training. The paper's figure shows the end of the warm-up,
            which the first epoch after 0 represents here.

    Returns:
        Three claims on the trained models. If there is a history, also the first two claims at its early snapshots, and
        a claim that negative eigenvalues disappear during training.

    Example:
        >>> [claim.holds for claim in claims_of_hessian({})]
        [None, None, None]
    """
    claims = _flat_and_convex(by_family(results), "after training")
    claims.append(_between(by_family(results)))
    if history is None:
        return claims
    known = after_start(history)
    epochs = ", ".join(f"{label} {spectra.provenance.get('epoch', '?')}" for label, spectra in known.items())
    when = f"early in training (after epochs: {epochs})" if known else "early in training"
    return [*claims, *_flat_and_convex(by_family(known), when), _disappear(by_family(history))]


def _flat_and_convex(models: Mapping[str, HessianSpectra], when: str) -> list[Claim]:
    flat = f"attention flattens the loss: Hessian eigenvalues of a ViT are smaller than those of a ResNet, {when}"
    convex = f"the loss of a ViT is not convex: more eigenvalues are negative than of a ResNet, which has few, {when}"
    ape, nep = larger(models, "cnn", "vit", ape_of), larger(models, "vit", "cnn", _nep)
    pair = ("cnn", "vit")
    return [
        _weighed(Claim(flat, SOURCE, in_numbers(models, "APE", ape_of, pair), ape), models, pair),
        _weighed(Claim(convex, SOURCE, in_numbers(models, "NEP", _nep, pair), nep), models, pair),
    ]


def _weighed(claim: Claim, models: Mapping[str, HessianSpectra], wanted: Sequence[str]) -> Claim:
    """Weigh a claim with the models it was judged by; if one of them is missing, say what the others are."""
    there = {FAMILY_TITLES[name]: models[name] for name in wanted if name in models}
    if len(there) < len(wanted):
        return not_told(claim.claim, claim.source, claim.found, there)
    return weigh(claim, there)


def _between(models: Mapping[str, HessianSpectra]) -> Claim:
    text = "the more attention, the flatter the loss: the eigenvalues of a hybrid lie between those of CNN and ViT"
    steps = [larger(models, "cnn", "hybrid", ape_of), larger(models, "hybrid", "vit", ape_of)]
    holds = False if False in steps else None if None in steps else True
    return _weighed(
        Claim(text, IMPLIED, in_numbers(models, "APE", ape_of, tuple(FAMILY_TITLES)), holds),
        models,
        tuple(FAMILY_TITLES),
    )


def _disappear(models: Mapping[str, Mapping[int, HessianSpectra]]) -> Claim:
    text = "the negative eigenvalues of a ViT are those of early training, and go later on"
    snapshots = models.get("vit", {})
    early = after_start({"vit": snapshots}).get("vit")
    if early is None:
        what = "there is no ViT with a snapshot between the start and the end"
        return not_told(text, SOURCE, what, {f"ViT, epoch {epoch}": spectra for epoch, spectra in snapshots.items()})
    pair = {"early": early, "late": snapshots[max(snapshots)]}
    found = ", ".join(f"{when} {_number(_nep(spectra))}" for when, spectra in pair.items())
    claim = Claim(text, SOURCE, f"NEP of the ViT: {found}", larger(pair, "early", "late", _nep))
    return weigh(claim, {f"ViT, {when}": spectra for when, spectra in pair.items()})


def claims_of_readings(results: Mapping[str, Mapping[str, HessianSpectra]]) -> list[Claim]:
    """Test two papers that contradict each other, each in its own setting.

    Park & Kim use mini-batches of augmented images and the loss with its penalty. Chen et al. use the dominant
    eigenvalue of the loss averaged over unaugmented images, and find ViTs sharper.

    Args:
        results: Name of the model -> reading -> spectra; see `utilities.analysis.loss.readings.both_readings`.

    Returns:
        Two claims, which can both hold.

    Example:
        >>> [claim.holds for claim in claims_of_readings({})]
        [None, None]
    """
    batches, full = (
        by_family({model: readings[name] for model, readings in results.items()}) for name in ("mini-batch", "full")
    )
    flat = "on mini-batches of augmented images, with the L2 penalty, a ViT's eigenvalues are smaller than a ResNet's"
    sharp = "of the loss over images as they are, without penalty, a ViT's largest eigenvalue exceeds a ResNet's"
    pair = ("cnn", "vit")
    ape, dominant = larger(batches, "cnn", "vit", ape_of), larger(full, "vit", "cnn", _dominant)
    return [
        _weighed(Claim(flat, SOURCE, in_numbers(batches, "APE", ape_of, pair), ape), batches, pair),
        _weighed(Claim(sharp, OTHER, in_numbers(full, "largest eigenvalue", _dominant, pair), dominant), full, pair),
    ]


def ape_of(result: HessianSpectra) -> tuple[float, float]:
    """Read the average of the positive eigenvalues, and its error."""
    return result.ape


def _nep(result: HessianSpectra) -> tuple[float, float]:
    return result.nep


def _dominant(result: HessianSpectra) -> tuple[float, float]:
    return result.outermost("largest")


def larger(models: Mapping[str, HessianSpectra], high: str, low: str, measure: Measure) -> bool | None:
    """Tell whether a measure of one model exceeds that of another; None if a model is missing."""
    if high not in models or low not in models:
        return None
    difference = measure(models[high])[0] - measure(models[low])[0]
    return judge(difference, math.hypot(*(_widened(models[name], measure) for name in (high, low))))


def _widened(result: HessianSpectra, measure: Measure) -> float:
    """Return a standard error, widened so that two of them cover as much of Student's distribution as of a Gaussian."""
    free = len(result.eigenvalues) - 1
    return measure(result)[1] * float(t.ppf(norm.cdf(2), free)) / 2 if free else math.nan


def in_numbers(models: Mapping[str, HessianSpectra], of: str, measure: Measure, wanted: tuple[str, ...]) -> str:
    """State a measure of each wanted model with its error, or which of them was not run."""
    missing = [FAMILY_TITLES[name] for name in wanted if name not in models]
    if missing:
        return f"no {' and no '.join(missing)} was run"
    numbers = ", ".join(f"{FAMILY_TITLES.get(name, name)} {_number(measure(models[name]))}" for name in wanted)
    counts = sorted({len(models[name].eigenvalues) for name in wanted})
    few = " to ".join(map(str, counts[:: max(1, len(counts) - 1)]))
    return f"{of}: {numbers} (errors over {few} mini-batch{'es' * (counts != [1])})"


def _number(pair: tuple[float, float]) -> str:
    value, error = (f"{float(f'{x:.{digits}g}'):g}" for x, digits in zip(pair, (3, 2), strict=True))
    return f"{value} ± {error}" if math.isfinite(pair[1]) else f"{value} (error unknown)"
