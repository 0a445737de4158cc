"""Test claims of Raghu et al. 2021 on skip connections: what is passed on by the skip, token by token."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from utilities.analysis.blocks.skip_ratios import SkipRatios
from utilities.claims.claim import Claim, all_hold, by_family, judge
from utilities.claims.evidence import not_told, weigh
from utilities.results.formatting import with_error
from utilities.results.statistics import mean_and_stderr

PAPER = "Raghu et al. 2021"
BRANCHES = {"msa": "attention", "mlp": "the MLP"}


def claims_of_skips(results: Mapping[str, SkipRatios]) -> list[Claim]:
    """Test the claims on skip connections on results of several models.

    The transition is judged by the logarithm of CLS ratio over spatial ratio of each image, averaged over the branches
    of a half: above 0 in the first half of the depth, below 0 in the second, by two standard errors and in most blocks.
    Cosines are judged by their difference.

    Args:
        results: Model -> result.

    Returns:
        For each model with a class token, and attention and MLP apart: the transition in the ratios, and in the
        cosines. And, with a CNN and a ViT: the ratios of the ViT's tokens lie above the CNN's at every depth.
    """
    claims = []
    for model, result in results.items():
        if "CLS" in result.groups:
            for kind in (kind for kind in BRANCHES if kind in result.kinds):
                claims += [_transition(model, result, kind, value) for value in ("ratio", "cosine")]
    models = by_family(results)
    if {"cnn", "vit"} <= models.keys():
        claims.append(_above(models["cnn"], models["vit"]))
    text, why = TRANSITION["ratio"][0], "no model with a class token was run"
    return claims or [not_told(text, f"{PAPER}, Fig. 7", why, results)]


TRANSITION = {
    "ratio": (
        "in the first half of a ViT the skip outweighs the branch more in CLS than in image tokens, and in the second "
        "half less",
        "Fig. 7",
    ),
    "cosine": (
        "in the first half of a ViT the sum stays closer to the skip in CLS than in image tokens, and in the second "
        "half less close",
        "Fig. E.2",
    ),
}


def _transition(model: str, result: SkipRatios, kind: str, value: str) -> Claim:
    """Compare CLS with image tokens in both halves, paired over images."""
    text, figure = TRANSITION[value]
    rows = [i for i, one in enumerate(result.kinds) if one == kind]
    cls, spatial = (getattr(result, f"image_{value}")[:, rows, result.groups.index(one)] for one in ("CLS", "spatial"))
    with np.errstate(divide="ignore", invalid="ignore"):
        contrast = np.log(cls / spatial) if value == "ratio" else cls - spatial
    contrast = np.where(np.isfinite(contrast), contrast, np.nan)
    measure = "log of CLS over image tokens" if value == "ratio" else "CLS less image tokens"
    texts, verdicts, shorts = [], [], []
    for name, sign, place in zip(("first", "second"), (1, -1), _halves(len(rows)), strict=True):
        mean, error = map(float, mean_and_stderr(contrast[:, place].mean(1)))
        agree = int((sign * np.nanmean(contrast[:, place], axis=0) > 0).sum())
        verdicts.append(_verdict(judge(sign * mean, error), agree, contrast[:, place].shape[1]))
        shorts.append(f"{with_error(mean, error, '+.3f')} in the {name}")
        texts.append(
            f"{name} half: {value} {np.nanmean(cls[:, place]):.2f} in CLS, {np.nanmean(spatial[:, place]):.2f} in "
            f"image tokens, {measure} {with_error(mean, error, '+.3f')}, {'above' if sign > 0 else 'below'} 0 in "
            f"{agree} of {contrast[:, place].shape[1]} blocks"
        )
    found, verdict = f"{model}, {BRANCHES[kind]}, {'; '.join(texts)}", all_hold(verdicts)
    short = f"{BRANCHES[kind]}: {measure} {' half, '.join(shorts)} half"
    return weigh(Claim(text, f"{PAPER}, {figure}", found, verdict, short=short), {model: result})


def _halves(count: int) -> tuple[slice, slice]:
    """Split so many branches of one kind into those of the first and of the second half."""
    return slice(0, count // 2), slice(count // 2, count)


def _verdict(mean: bool | None, agree: int, count: int) -> bool | None:
    """Ask of a half that its mean has the sign, and that of most blocks: one block alone makes no transition."""
    return mean if mean is not True or agree > count / 2 else None


def _above(cnn: SkipRatios, vit: SkipRatios) -> Claim:
    """Compare the ratio of image tokens with the CNN's, interpolated at the depth of each branch of the ViT."""
    text = "at every depth the skip outweighs the branch more in a ViT than in a CNN"
    (mean, error), (other, its_error) = (_spatial(result) for result in (vit, cnn))
    there = np.isfinite(other)
    at = [np.interp(vit.depth, cnn.depth[there], values[there]) for values in (other, its_error)]
    judged = [judge(one - two, float(np.hypot(e, f))) for one, e, two, f in zip(mean, error, *at, strict=True)]
    above, below, low = judged.count(True), judged.count(False), int(np.nanargmin(mean / at[0]))
    found = (
        f"image tokens: ratios of {np.nanmin(mean):.2f} to {np.nanmax(mean):.2f} in the ViT, {np.nanmin(other):.2f} to "
        f"{np.nanmax(other):.2f} in the CNN; the ViT is above at the depth of {above} of its {len(judged)} branches by "
        f"two standard errors, below in {below}; relatively lowest in {vit.names[low]}: {mean[low]:.2f} beside "
        f"{at[0][low]:.2f}"
    )
    verdict = True if above == len(judged) else False if below else None
    short = (
        f"ratios {np.nanmin(mean):.2f} to {np.nanmax(mean):.2f} in the ViT, {np.nanmin(other):.2f} to "
        f"{np.nanmax(other):.2f} in the CNN; above at {above} of {len(judged)} branches, below at {below}"
    )
    return weigh(Claim(text, f"{PAPER}, Fig. 7", found, verdict, short=short), {"CNN": cnn, "ViT": vit})


def _spatial(result: SkipRatios) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean ratio of image tokens or positions, with its standard error."""
    mean, error = result.mean("ratio")
    column = result.groups.index("spatial")
    return mean[:, column], error[:, column]
