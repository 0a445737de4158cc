"""Test claims of Raghu et al. 2021 on where tokens and positions of a map look (Figs. 9 and 10)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from utilities.analysis.blocks.localisation import Localisation
from utilities.claims.claim import Claim, judge
from utilities.claims.evidence import not_told, weigh
from utilities.results.formatting import percent, with_error
from utilities.zoo.families import family

PAPER = "Raghu et al. 2021"
KEPT = 0.5  # tokens have kept their place if more than this share of them finds its own patch or one beside it
ONE_BATCH = "; one batch gives no standard error"


def claims_of_localisation(results: Mapping[str, Localisation]) -> list[Claim]:
    """Test the claims on results of several models.

    Args:
        results: Model -> result, whose layers go up to the model's last block.

    Returns:
        The claims: tokens of a ViT with a class token keep their place up to the last block; positions of a CNN lose it
        there; such a ViT ends more localised than a CNN; a ViT trained with global average pooling localises less.
    """
    cls = {model: one for model, one in results.items() if _kind(model, one) == "CLS"}
    gap = {model: one for model, one in results.items() if _kind(model, one) == "GAP"}
    cnn = {model: one for model, one in results.items() if _kind(model, one) == "cnn"}
    claims = [_keeps(model, result) for model, result in cls.items()]
    claims += [_loses(model, result) for model, result in cnn.items()]
    text = "in the last block, tokens of a ViT with a class token are localised more sharply than positions of a CNN"
    claims.append(_sharper(text, f"{PAPER}, Fig. 9", cls, cnn, "a ViT with a class token", "a CNN"))
    text = "in the last block, a ViT trained with global average pooling localises less than one with a class token"
    claims.append(
        _sharper(text, f"{PAPER}, Fig. 10", cls, gap, "a ViT with a class token", "a ViT trained with average pooling")
    )
    return claims


def _kind(model: str, result: Localisation) -> str:
    """Tell CNNs from ViTs, and these by what they classify."""
    kind = family(str(result.provenance.get("model", model)))
    return str(result.provenance.get("readout")) if kind == "vit" else kind


def _last(result: Localisation, measure: str) -> tuple[float, float]:
    values, errors = result.of(measure)
    return float(values[-1]), float(errors[-1])


def _keeps(model: str, result: Localisation) -> Claim:
    """Check whether more than half of the last block's tokens find their own patch, or one beside it."""
    near, error = _last(result, "near")
    chance = float(result.chance[-1, result.measures.index("near")])
    own, own_error = _last(result, "found")
    found = (
        f"{model}: in {result.names[-1]}, {percent(near, error)} of the tokens are most similar to their own patch or "
        f"one beside it, {percent(own, own_error)} to their own; chance {100 * chance:.1f}%; the claim asks for more "
        f"than {100 * KEPT:.0f}% by two errors{ONE_BATCH if np.isnan(error) else ''}"
    )
    text = "spatial tokens of a ViT with a class token keep their place up to the last block"
    short = f"{percent(near, error)} of the tokens of {model} near their own patch, chance {100 * chance:.1f}%"
    return weigh(Claim(text, f"{PAPER}, Fig. 9", found, judge(near - KEPT, error), short=short), {model: result})


def _loses(model: str, result: Localisation) -> Claim:
    """Compare the contrast of a CNN's last block with the mean of the earlier ones."""
    text = "positions of a CNN are localised in earlier layers, and diffuse in the last block"
    values, errors = result.of("contrast")
    if len(values) < 2:
        return not_told(text, f"{PAPER}, Fig. 9", f"{model}: one layer was measured", {model: result})
    early, early_error = (
        float(values[:-1].mean()),
        float(errors[:-1].mean()),
    )  # of the same images: errors do not cancel
    found = (
        f"{model}: CKA with the own patch less that with others is {with_error(early, early_error)} on average "
        f"in the {len(values) - 1} earlier layers, {with_error(values[-1], errors[-1])} in {result.names[-1]}"
        f"{ONE_BATCH if np.isnan(early_error) else ''}"
    )
    verdict = judge(early - float(values[-1]), early_error + float(errors[-1]))
    short = (
        f"contrast {with_error(early, early_error)} in earlier layers, {with_error(values[-1], errors[-1])} at the end"
    )
    return weigh(Claim(text, f"{PAPER}, Fig. 9", found, verdict, short=short), {model: result})


def _sharper(
    text: str,
    where: str,
    sharp: Mapping[str, Localisation],
    diffuse: Mapping[str, Localisation],
    one: str,
    other: str,
) -> Claim:
    """Compare the contrast in the last blocks of the first model of each kind."""
    missing = " nor ".join(what for what, found in ((one, sharp), (other, diffuse)) if not found)
    if missing:
        why = f"neither {missing} was run" if " nor " in missing else f"{missing} was not run"
        return not_told(text, where, why, {**sharp, **diffuse})
    pair = dict([next(iter(sharp.items())), next(iter(diffuse.items()))])
    (high, error), (low, other_error) = (_last(result, "contrast") for result in pair.values())
    parts = [
        f"{with_error(value, spread)} in {model} (patches of {result.patch} pixels)"
        for (model, result), (value, spread) in zip(pair.items(), ((high, error), (low, other_error)), strict=True)
    ]
    found = f"CKA with the own patch less that with others, last block: {parts[0]}, {parts[1]}"
    spread, (first, second) = float(np.hypot(error, other_error)), pair
    short = f"contrast {with_error(high, error)} in {first}, {with_error(low, other_error)} in {second}"
    found += ONE_BATCH if np.isnan(spread) else ""
    return weigh(Claim(text, where, found, judge(high - low, spread), short=short), pair)
