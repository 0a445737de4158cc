"""Test claims of Park & Kim 2022 on single blocks: high frequencies, variance, and the cost of removing a unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from utilities.analysis.blocks.fourier import Fourier
from utilities.analysis.blocks.lesion import Lesions
from utilities.analysis.blocks.variance import Variance
from utilities.claims.claim import Claim, by_family, judge
from utilities.claims.evidence import keep_sound, not_told, weigh
from utilities.results.formatting import percent_points, with_error

PAPER = "Park & Kim 2022"
BRANCHES = {"msa": "blocks of attention", "conv": "blocks of convolution", "mlp": "MLPs"}
MOST, FEW = 0.75, 0.5  # "almost always" holds if three of four blocks agree, and fails if fewer than half do


def claims_of_fourier(results: Mapping[str, Fourier]) -> list[Claim]:
    """Test the claims on high frequencies on results of several models.

    Args:
        results: Model -> result.

    Returns:
        The claims: attention lowers high frequencies; convolutions and MLPs raise them; a ViT's last features have
        fewer of them than a CNN's.
    """
    where = f"{PAPER}, Fig. 8"
    claims = [
        _mostly("attention (MSA) almost always lowers the highest frequency", where, results, ("msa",), -1, "change"),
        _mostly("convolutions and MLPs raise the highest frequency", where, results, ("conv", "mlp"), 1, "change"),
    ]
    models = by_family(results)
    if {"cnn", "vit"} <= models.keys():
        claims.append(_fewer_high_frequencies(models["cnn"], models["vit"]))
    return claims


def _fewer_high_frequencies(cnn: Fourier, vit: Fourier) -> Claim:
    """Compare the last blocks at the highest image frequency that both grids hold."""
    text, where = "the features of a ViT end with less high frequency than those of a CNN", f"{PAPER}, Fig. 2a"
    own = (
        f"at the highest frequency of each one's own grid, which are not the same one: {vit.high[-1]:.2f} in the ViT "
        f"({_grid(vit)}), {cnn.high[-1]:.2f} in the CNN ({_grid(cnn)})"
    )
    rows = [np.nan_to_num(result.pixel_frequency[-1], nan=-1).round(9) for result in (cnn, vit)]
    shared, *places = np.intersect1d(*rows, return_indices=True)
    results = {"CNN": cnn, "ViT": vit}
    if shared.max(initial=0) <= 0:
        return weigh(Claim(text, where, f"the last grids have no frequency in common; {own}", None), results)
    at = [int(place[shared.argmax()]) for place in places]
    values = [(r.delta[-1, i], r.delta_stderr[-1, i]) for r, i in zip((cnn, vit), at, strict=True)]
    (high, error), (low, other) = values
    found = (
        f"Delta log amplitude of the last block at {shared.max():.3g} pi per pixel of the image: "
        f"{with_error(low, other, '.2f')} in the ViT, {with_error(high, error, '.2f')} in the CNN; "
        f"{own}"
    )
    short = (
        f"{with_error(low, other, '.2f')} in the ViT, {with_error(high, error, '.2f')} in the CNN, "
        f"at {shared.max():.3g} pi per pixel"
    )
    return weigh(Claim(text, where, found, judge(high - low, np.hypot(error, other)), short=short), results)


def claims_of_variance(results: Mapping[str, Variance]) -> list[Claim]:
    """Test the claims on the variance over positions on results of several models.

    Args:
        results: Model -> result.

    Returns:
        The claims: attention lowers the variance (raw, as in the paper, and relative); convolutions and MLPs raise it;
        it peaks at the end of a CNN's stages.
    """
    where, ours = f"{PAPER}, Fig. 9", f"{PAPER}, Fig. 9, with the relative variance instead"
    text = "attention (MSA) lowers the variance of feature maps"
    others = "convolutions and MLPs raise the variance of feature maps"
    claims = [
        _mostly(text, where, results, ("msa",), -1, "change"),
        _mostly(others, where, results, ("conv", "mlp"), 1, "change"),
        _mostly(text, ours, results, ("msa",), -1, "relative_change"),
    ]
    cnn = by_family(results).get("cnn")
    if cnn is not None:
        claims.append(_peaks(cnn, where))
    return claims


def claims_of_lesions(results: Mapping[str, Lesions]) -> list[Claim]:
    """Test the claims on removed units on results of several models.

    Args:
        results: Model -> result.

    Returns:
        The claims: early units matter more than late ones; at the end of stages, attention matters more than the unit
        beside it; at their start, convolutions and MLPs do.
    """
    where, claims = f"{PAPER}, Fig. 10", []
    for model, result in results.items():
        early, late = (_mean(result, np.flatnonzero(half)) for half in (result.depth <= 0.5, result.depth > 0.5))
        costs = [percent_points(*half) for half in (early, late)]
        found = f"{model}: a unit of the first half costs {costs[0]}, one of the second half {costs[1]}"
        verdict = judge(early[0] - late[0], early[1] + late[1])
        claims.append(weigh(Claim("early units matter more than late ones", where, found, verdict), {model: result}))
    for model, result in results.items():
        if {"msa"} < set(result.kinds):
            claims += _at_stage_ends(model, result, where)
    return claims


def _at_stage_ends(model: str, result: Lesions, where: str) -> list[Claim]:
    """Compare the last attention of each stage with its last other unit, and the first with the first.

    If every stage has only one pair, both comparisons would be the same, and only the first is made.
    """
    claims: list[Claim] = []
    compared: list[list[tuple[int, int]]] = []
    for text, place, sign in (
        ("at the end of a stage, attention matters more than convolutions or MLPs", -1, 1),
        ("at the start of a stage, convolutions or MLPs matter more than attention", 0, -1),
    ):
        differences, pairs = [], []
        for stage in sorted(set(result.stages)):
            units = [i for i, other in enumerate(result.stages) if other == stage]
            attention, rest = ([i for i in units if (result.kinds[i] == "msa") == kind] for kind in (True, False))
            if attention and rest:
                a, b = attention[place], rest[place]
                pairs.append((a, b))
                # Both were measured on the same images, so the sum of their errors is the largest possible error.
                error = result.drop_stderr[a] + result.drop_stderr[b]
                differences.append((sign * (result.drop[a] - result.drop[b]), error))
        if differences and pairs not in compared:
            compared.append(pairs)
            values, errors = np.array(differences).T
            mean, error = float(values.mean()), float(errors.mean())
            found = (
                f"{model}: the difference in the direction of the claim is {percent_points(mean, error)} on average "
                f"over {len(values)} stage{'s' * (len(values) > 1)}, above 0 in {int((values > 0).sum())}"
            )
            claims.append(weigh(Claim(text, where, found, judge(mean, error)), {model: result}))
    return claims


def _mostly(
    text: str, where: str, results: Mapping[str, Fourier | Variance], kinds: Sequence[str], sign: int, name: str
) -> Claim:
    """Count blocks of some kinds whose change has a sign by two standard errors, and say how many others have it."""
    counts, undecided, (kept, left_out) = {}, 0, keep_sound(results)
    for model, result in kept.items():
        if judged := _judged(result, kinds, sign, name):
            counts[model] = (judged.count(True), len(judged))
            undecided += judged.count(None)
    total = sum(count for _, count in counts.values())
    if not total:
        return not_told(text, where, "no such block that keeps its grid was run", results)
    share = sum(agree for agree, _ in counts.values()) / total
    found = ", ".join(f"{agree} of {count} blocks in {model}" for model, (agree, count) in counts.items())
    verdict = True if share >= MOST else False if share + undecided / total < FEW else None
    found = f"{'lower' if sign < 0 else 'raise'} it by two standard errors: {found}"
    others = {kind: [one for r in kept.values() for one in _judged(r, (kind,), sign, name)] for kind in BRANCHES}
    beside = [f"{v.count(True)} of {len(v)} {BRANCHES[kind]}" for kind, v in others.items() if v and kind not in kinds]
    found += f"; so do {' and '.join(beside)}" if beside else ""
    found += f"; not counted: {left_out}" if left_out else ""
    return weigh(Claim(text, where, found, verdict), {model: results[model] for model in counts})


def _judged(result: Fourier | Variance, kinds: Sequence[str], sign: int, name: str) -> list[bool | None]:
    """Tell of each block of some kinds that keeps its grid whether its change has a sign."""
    change, error = sign * getattr(result, name), getattr(result, f"{name}_stderr")
    of_kind = [i for i, kind in enumerate(result.kinds) if kind in kinds and np.isfinite(change[i])]
    return [judge(change[i], error[i]) for i in of_kind]


def _peaks(result: Variance, where: str) -> Claim:
    """Check whether the last block has the stage's largest variance, in each stage of several blocks."""
    stages = {stage: [i for i, other in enumerate(result.stages) if other == stage] for stage in set(result.stages)}
    long = [places for places in stages.values() if len(places) > 1]
    peaks = sum(int(np.argmax(result.variance[places])) == len(places) - 1 for places in long)
    found = f"the last block has the largest variance in {peaks} of {len(long)} stages"
    verdict = peaks == len(long) if long else None
    claim = Claim("in a CNN the variance peaks at the end of each stage", where, found, verdict)
    return weigh(claim, {"CNN": result})


def _mean(result: Lesions, places: np.ndarray) -> tuple[float, float]:
    """Average the drops of some units, with the largest possible error over their shared images."""
    if not len(places):
        return float("nan"), float("nan")
    return float(result.drop[places].mean()), float(result.drop_stderr[places].mean())


def _grid(result: Fourier) -> str:
    return "x".join(str(int(side)) for side in result.size[-1])
