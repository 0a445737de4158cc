"""Test claims of Park & Kim 2022 on the flatness of the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping

from utilities.analysis.loss.landscape import Landscape
from utilities.claims.claim import Claim, by_family, judge
from utilities.claims.evidence import not_told, weigh
from utilities.results.formatting import with_error
from utilities.zoo.families import FAMILY_TITLES

SOURCE = "Park & Kim 2022, Fig. 1a, https://arxiv.org/abs/2202.06709"
IMPLIED = "implied by Park & Kim 2022, Fig. 1a, which shows no hybrid"
FRACTIONS = (0.25, 0.5, 1.0)  # shares of the grid's extent


def claims_of_landscape(
    results: Mapping[str, Landscape], estimated: Mapping[str, Landscape] | None = None
) -> list[Claim]:
    """Decide whether attention flattens the loss around the trained weights.

    A loss is flatter if it rises less from the centre along both directions, at a quarter, half and the whole of the
    grid's extent. A claim holds if it holds by two standard errors at one of these distances or more, and the opposite
    holds at none. Errors include those over images and the difference of the two directions. The errors of models are
    added in quadrature although the models saw the same images, which errs on the safe side.

    The paper's figure shows NLL plus L2 penalty. In the landscapes that its authors published, about 80 % of the rise
    is the penalty. It states how large the weights are, but nothing about the function, so NLL and sum are judged
    apart.

    Args:
        results: Name of the model -> landscape. The first CNN, the first hybrid and the first ViT are used.
        estimated: The same with ``batch_norm="estimate"``. Far from the trained weights, the batch-norm statistics kept
            from training no longer fit, and they can cause much of a CNN's rise.

    Returns:
        Three claims: on NLL, on the sum, and on the hybrid. If ``estimated`` is given, also the claim on NLL with it.

    Example:
        >>> [claim.holds for claim in claims_of_landscape({})]
        [None, None, None]
    """
    models, text = by_family(results), "the loss (NLL) of a ViT is flatter than that of a ResNet"
    claims = [
        _flatter(models, text, "nll"),
        _flatter(models, "the loss with its L2 penalty (NLL + L2) of a ViT is flatter than that of a ResNet", "total"),
        _between(models),
    ]
    if estimated is not None:
        refreshed = f"{text}, also where batch norm statistics are estimated anew at every point"
        claims.append(_flatter(by_family(estimated), refreshed, "nll", f"{SOURCE}, which keeps those of training"))
    return claims


def _flatter(models: Mapping[str, Landscape], text: str, of: str, source: str = SOURCE) -> Claim:
    missing = _missing(models, ("cnn", "vit"))
    if missing:
        return not_told(text, source, missing, _titled(models))
    chosen = {name: models[name] for name in ("cnn", "vit")}
    if of == "total" and not all(model.l2.any() for model in chosen.values()):
        return not_told(text, source, "no weight decay was given, so there is no penalty to add", _titled(chosen))
    found = [_rises(chosen, of)]
    if of == "nll":
        curvatures = {name: model.curvature() for name, model in chosen.items()}
        found.append(f"curvature at the centre: {_listed(curvatures)}")
    else:
        shares = {name: model.rise(_extent(chosen), of="l2")[0] / model.rise(_extent(chosen), of="total")[0]
                  for name, model in chosen.items()}  # fmt: skip
        share = ", ".join(f"{FAMILY_TITLES[name]} {value:.0%}" for name, value in shares.items())
        found.append(f"share of the penalty at {_extent(chosen):g}: {share}")
    claim = Claim(text, source, "; ".join(found), _verdict(chosen["cnn"], chosen["vit"], of))
    return weigh(claim, _titled(chosen))


def _between(models: Mapping[str, Landscape]) -> Claim:
    text = "the more attention, the flatter the loss (NLL): a hybrid lies between CNN and ViT"
    missing = _missing(models, ("cnn", "hybrid", "vit"))
    if missing:
        return not_told(text, IMPLIED, missing, _titled(models))
    chosen = {name: models[name] for name in FAMILY_TITLES}
    steps = [_verdict(chosen[one], chosen[two], "nll") for one, two in (("cnn", "hybrid"), ("hybrid", "vit"))]
    holds = False if False in steps else None if None in steps else True
    claim = Claim(text, IMPLIED, _rises(chosen, "nll"), holds)
    return weigh(claim, _titled(chosen))


def _titled(models: Mapping[str, Landscape]) -> dict[str, Landscape]:
    return {FAMILY_TITLES[name]: model for name, model in models.items()}


def _missing(models: Mapping[str, Landscape], wanted: tuple[str, ...]) -> str:
    missing = [FAMILY_TITLES[name] for name in wanted if name not in models]
    return f"no {' and no '.join(missing)} was run" if missing else ""


def _verdict(steep: Landscape, flat: Landscape, of: str) -> bool | None:
    """Tell whether the second rises less at one distance or more, and nowhere rises more than the first."""
    verdicts = set()
    for fraction in FRACTIONS:
        radius = fraction * min(steep.x[-1], flat.x[-1])
        (one, one_error), (two, two_error) = (model.rise(radius, of) for model in (steep, flat))
        verdicts.add(judge(one - two, math.hypot(one_error, two_error)))
    verdicts.discard(None)
    return verdicts.pop() if len(verdicts) == 1 else None


def _extent(models: Mapping[str, Landscape]) -> float:
    return float(min(model.x[-1] for model in models.values()))


def _rises(models: Mapping[str, Landscape], of: str) -> str:
    radii = [fraction * _extent(models) for fraction in FRACTIONS]
    texts = [f"at {r:g} {_listed({name: model.rise(r, of) for name, model in models.items()})}" for r in radii]
    lines = " (one direction: its error is over images alone)" * any(len(model.y) == 1 for model in models.values())
    return f"rise above the centre in nats: {'; '.join(texts)}{lines}"


def _listed(values: Mapping[str, tuple[float, float]]) -> str:
    return ", ".join(
        f"{FAMILY_TITLES[name]} {with_error(value, error, '.3g', '.2g')}" for name, (value, error) in values.items()
    )
