"""Test claims of Park and Kim 2022 on robustness to common corruptions."""

from __future__ import annotations

import math
from collections.abc import Mapping

from utilities.analysis.predictions.robustness import Robustness
from utilities.claims.claim import Claim, by_family, judge
from utilities.claims.evidence import not_told, weigh
from utilities.results.formatting import counted, percent

SOURCE = "Park & Kim 2022, https://arxiv.org/abs/2202.06709"


def claims_of_robustness(results: Mapping[str, Robustness]) -> list[Claim]:
    """Decide whether a ViT is more robust to common corruptions than a CNN.

    Models differ in their accuracy on clean images, so their losses of accuracy under corruption are compared as well.
    Errors of two models are added in quadrature, as if each had seen images of its own; that is cautious.

    Args:
        results: Name of the model -> result. The first CNN and the first ViT are used.

    Returns:
        Two claims.

    Example:
        >>> [claim.holds for claim in claims_of_robustness({})]
        [None, None]
    """
    found = by_family(results)
    cnn, vit = found.get("cnn"), found.get("vit")
    accuracy = "ViTs classify corrupted images better than CNNs: their mean accuracy over all corrupted sets is higher"
    drop = "ViTs are more robust than CNNs: corruption takes less of their accuracy on clean images"
    if cnn is None or vit is None:
        missing = (
            "no CNN and no ViT were compared" if cnn is vit else f"no {'CNN' if cnn is None else 'ViT'} was compared"
        )
        there = {name: one for name, one in (("CNN", cnn), ("ViT", vit)) if one is not None}
        return [not_told(text, SOURCE, missing, there) for text in (accuracy, drop)]
    if (cnn.kinds, cnn.severities) != (vit.kinds, vit.severities):
        both, what = {"CNN": cnn, "ViT": vit}, "the models met other corruptions"
        return [not_told(text, SOURCE, what, both) for text in (accuracy, drop)]
    sets = f"{len(cnn.kinds) * len(cnn.severities)} sets of {counted(min(cnn.n, vit.n), 'image')}"
    (a, a_error), (b, b_error) = cnn.mean_accuracy(), vit.mean_accuracy()
    claims = [
        Claim(
            accuracy,
            SOURCE,
            f"mean over {sets}: CNN {percent(a, a_error)}, ViT {percent(b, b_error)}",
            judge(b - a, math.hypot(a_error, b_error)),
        )
    ]
    (a, a_error), (b, b_error) = cnn.drop(), vit.drop()
    claims.append(
        Claim(
            drop,
            SOURCE,
            f"clean accuracy less that mean, in points: CNN {percent(a, a_error, unit='')}, ViT "
            f"{percent(b, b_error, unit='')}; clean, CNN {cnn.clean_accuracy:.1%} and ViT {vit.clean_accuracy:.1%}",
            judge(a - b, math.hypot(a_error, b_error)),
        )
    )
    return [weigh(claim, {"CNN": cnn, "ViT": vit}) for claim in claims]
