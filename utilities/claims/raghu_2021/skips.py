"""Test claims of Raghu et al. 2021 on skip connections: what is passed on by the skip, token by token."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from utilities.analysis.blocks.skip_ratios import SkipRatios
from utilities.claims.claim import Claim, all_hold, by_family, judge
from utilities.claims.evidence import weigh
from utilities.claims.formatting import with_error
from utilities.results.statistics import mean_and_stderr

PAPER = "Raghu et al. 2021"
BRANCHES = {"msa": "attention", "mlp": "the MLP"}


def claims_of_skips(results: Mapping[str, SkipRatios]) -> list[Claim]:
    """Test the claims on skip connections on results of several models.

    The transition is judged by the logarithm of CLS ratio over spatial ratio of each image, averaged over the branches
    of a half: above 0 in the first half of the depth, below 0 in the second. Cosines are judged by their difference.

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
    return claims or [Claim(TRANSITION["ratio"][0], f"{PAPER}, Fig. 7", "no model with a class token was run", None)]


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
    half = len(rows) // 2
    halves = [mean_and_stderr(np.where(np.isfinite(part), part, np.nan).mean(1)) for part in _split(contrast, half)]
    means = [(np.nanmean(a), np.nanmean(b)) for a, b in zip(_split(cls, half), _split(spatial, half), strict=True)]
    measure = "log of CLS over image tokens" if value == "ratio" else "CLS less image tokens"
    found = f"{model}, {BRANCHES[kind]}: " + "; ".join(
        f"{name} half {value} {a:.2f} in CLS, {b:.2f} in image tokens, {measure} {with_error(*one, '+.2f')}"
        for name, (a, b), one in zip(("first", "second"), means, halves, strict=True)
    )
    (first, error), (second, other) = ([float(one) for one in both] for both in halves)
    verdict = all_hold([judge(first, error), judge(-second, other)])
    return weigh(Claim(text, f"{PAPER}, {figure}", found, verdict), {model: result})


def _split(values: np.ndarray, half: int) -> tuple[np.ndarray, np.ndarray]:
    """Split the branches of one kind, (images, branches), into those of the first and of the second half."""
    return values[:, :half], values[:, half:]


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
    return weigh(Claim(text, f"{PAPER}, Fig. 7", found, verdict), {"CNN": cnn, "ViT": vit})


def _spatial(result: SkipRatios) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean ratio of image tokens or positions, with its standard error."""
    mean, error = result.mean("ratio")
    column = result.groups.index("spatial")
    return mean[:, column], error[:, column]
