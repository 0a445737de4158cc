"""Test claims of Raghu et al. 2021 on linear probes of layers and of single positions (Figs. 11 and 13)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from utilities.analysis.blocks.layer_probes import LayerProbes
from utilities.claims.claim import Claim, judge
from utilities.claims.evidence import not_told, weigh
from utilities.results.formatting import percent, percent_points
from utilities.zoo.families import family

PAPER = "Raghu et al. 2021"
KEPT = 0.5  # spatial tokens hold little if they keep less than this share of the class token's excess over chance
EQUAL = 0.05  # two readouts are as good as equal if they differ by less
MOST = 0.9  # share of the largest excess over chance at which the class counts as read
MIDDLE = (1 / 3, 2 / 3)  # relative depths of the middle layers
TOKENS = "tokens"
Results = Mapping[str, LayerProbes]


def claims_of_layer_probes(results: Results) -> list[Claim]:
    """Test the claims on results of several models, as far as their views allow.

    Args:
        results: Model -> result, whose layers go up to the model's last block.

    Returns:
        The claims. With the view ``tokens``: spatial tokens of a ViT with a class token hold little of the class at the
        end; positions of CNNs and of ViTs trained with global average pooling hold more. With ``cls`` and ``gap``:
        readouts that models were trained with are equally good. With ``gap``: middle layers of a ViT are better than
        those of a CNN.
    """
    kinds = {kind: {m: r for m, r in results.items() if _kind(m, r) == kind} for kind in ("CLS", "GAP", "cnn")}
    claims = [_little(model, result) for model, result in kinds["CLS"].items()]
    for kind, name in (("GAP", "a ViT trained with global average pooling"), ("cnn", "a CNN")):
        claims.append(_more(name, kinds["CLS"], kinds[kind]))
    return [*claims, _equal_readouts(kinds["CLS"], kinds["GAP"]), _middle(kinds["CLS"] | kinds["GAP"], kinds["cnn"])]


def _kind(model: str, result: LayerProbes) -> str:
    kind = family(str(result.provenance.get("model", model)))
    return str(result.provenance.get("readout")) if kind == "vit" else kind


def _having(results: Results, *views: str) -> dict[str, LayerProbes]:
    return {model: result for model, result in results.items() if any(view in result.views for view in views)}


def _little(model: str, result: LayerProbes) -> Claim:
    """Check whether spatial tokens keep less than half of the class token's excess over chance in the last block."""
    text, where = "spatial tokens of a ViT with a class token hold little of the class in its last block", "Fig. 11a"
    if TOKENS not in result.views:
        why = f"{model}: no probe read single tokens (view 'tokens')"
        return not_told(text, f"{PAPER}, {where}", why, {model: result})
    (own, own_error), (mean, error) = result.class_token(), _last(result, TOKENS)
    chance = result.chance
    found = (
        f"{model}: in {result.names[-1]}, probes of single spatial tokens name {percent(mean, error)} of the test "
        f"images on average, the class token's {percent(own, own_error)}, chance {100 * chance:.0f}%; the claim asks "
        f"for less than {100 * KEPT:.0f}% of the class token's excess over chance"
    )
    short = f"{percent(mean, error)} by single tokens, {percent(own, own_error)} by the class token of {model}"
    # Both read the same images, so the errors may add up.
    verdict = judge(KEPT * (own - chance) - (mean - chance), KEPT * own_error + error)
    verdict = verdict if judge(own - chance, own_error) else None
    return weigh(Claim(text, f"{PAPER}, {where}", found, verdict, short=short), {model: result})


def _more(name: str, cls: Results, others: Results) -> Claim:
    """Compare single positions of the last blocks."""
    text = f"at the end, single positions of {name} hold more of the class than tokens of a ViT with a class token"
    where, run = f"{PAPER}, Fig. 11a", {**cls, **others}
    cls, others = _having(cls, TOKENS), _having(others, TOKENS)
    missing = [what for what, found in (("a ViT with a class token", cls), (name, others)) if not found]
    if missing:
        return not_told(text, where, f"single positions of {' and '.join(missing)} were not read", run)
    pair = dict([next(iter(others.items())), next(iter(cls.items()))])
    (high, error), (low, other) = (_last(result, TOKENS) for result in pair.values())
    first, second = pair
    found = (
        f"probes of single positions name {percent(high, error)} in {first}, {percent(low, other)} in {second}; "
        f"difference {percent_points(high - low, float(np.hypot(error, other)))}"
    )
    short = f"{percent(high, error)} in {first}, {percent(low, other)} in {second}"
    return weigh(Claim(text, where, found, judge(high - low, float(np.hypot(error, other))), short=short), pair)


def _equal_readouts(cls: Results, gap: Results) -> Claim:
    """Compare the class token of one ViT with the mean over positions of another, in the last blocks."""
    text = "the readout that a ViT was trained with is equally good, be it a class token or the mean over tokens"
    where, run = f"{PAPER}, Fig. 11b", {**cls, **gap}
    cls, gap = _having(cls, "cls", TOKENS), _having(gap, "gap")
    missing = [what for what, found in (("the class token of a ViT", cls), ("the mean of a ViT trained with it", gap))
               if not found]  # fmt: skip
    if missing:
        return not_told(text, where, f"{' and '.join(missing)} was not read", run)
    (one, first), (two, second) = next(iter(cls.items())), next(iter(gap.items()))
    (own, error), (mean, other) = first.class_token(), _last(second, "gap")
    spread = float(np.hypot(error, other))
    found = (
        f"class token of {one} {percent(own, error)}, mean over tokens of {two} {percent(mean, other)}; equal if the "
        f"difference is within {100 * EQUAL:.0f} points, two errors included"
    )
    short = f"{percent(own, error)} in {one}, {percent(mean, other)} in {two}"
    gap_size = abs(own - mean)
    verdict = True if gap_size + 2 * spread < EQUAL else False if gap_size - 2 * spread > EQUAL else None
    return weigh(Claim(text, where, found, verdict, short=short), {one: first, two: second})


def _middle(vits: Results, cnns: Results) -> Claim:
    """Compare the accuracy in the middle third of the layers, and say where the class is first read."""
    text, where = "a linear probe reads the class better in the middle layers of a ViT than of a CNN", "Fig. 13b"
    run = {**vits, **cnns}
    vits, cnns = _having(vits, "gap"), _having(cnns, "gap")
    missing = [what for what, found in (("a ViT", vits), ("a CNN", cnns)) if not found]
    if missing:
        why = f"the mean over positions of {' and '.join(missing)} was not read"
        return not_told(text, f"{PAPER}, {where}", why, run)
    pair = dict([next(iter(vits.items())), next(iter(cnns.items()))])
    values = [middle_accuracy(result) for result in pair.values()]
    parts = [
        f"{percent(*value)} in {model}, which first reaches {100 * MOST:.0f}% of its largest excess over chance at "
        f"depth {depth_of_class(result):.2f} and reads {percent(*_last(result, 'gap'))} at its end"
        for value, (model, result) in zip(values, pair.items(), strict=True)
    ]
    (high, error), (low, other) = values
    verdict = judge(high - low, float(np.hypot(error, other)))
    short = ", ".join(f"{percent(*value)} in {model}" for value, model in zip(values, pair, strict=True))
    return weigh(Claim(text, f"{PAPER}, {where}", "; ".join(parts), verdict, short=short), pair)


def middle_accuracy(result: LayerProbes) -> tuple[float, float]:
    """Average the accuracy over the middle third of the layers; the error is the mean, for they share their images."""
    mean, error = result.of("gap")
    middle = (result.depth >= MIDDLE[0]) & (result.depth <= MIDDLE[1])
    if not middle.any():
        middle = np.abs(result.depth - 0.5) == np.abs(result.depth - 0.5).min()
    return float(mean[middle].mean()), float(error[middle].mean())


def depth_of_class(result: LayerProbes) -> float:
    """Return the relative depth of the first layer with 90 % of the largest excess over chance."""
    excess = result.of("gap")[0] - result.chance
    return float(result.depth[int(np.argmax(excess >= MOST * excess.max()))])


def _last(result: LayerProbes, view: str) -> tuple[float, float]:
    mean, error = result.of(view)
    return float(mean[-1]), float(error[-1])
