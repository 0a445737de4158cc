"""Claims of Vilas et al. 2023 (https://arxiv.org/abs/2310.18969) on where image tokens have the class from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from utilities.analysis.class_embedding.perturbation_result import Estimate, Perturbation
from utilities.claims.claim import Claim, all_hold, judge
from utilities.claims.evidence import weigh

PAPER = "Vilas et al. 2023"
NEAR = 0.1  # "about chance": no more than a tenth of what the intact model had above chance is left
NOTHING = 0.02  # "next to nothing": less than two percent points
Decide = Callable[[Estimate, Estimate, Estimate, float], bool | None]


def claims_of_perturbation(results: Mapping[str, Perturbation]) -> list[Claim]:
    """Put the claims on perturbed attention and on tokens taken out to results of several models.

    All are on the rate of image tokens that put the class first after the last block, as a mean over images, and on
    perturbations of all blocks at once. Of a model whose intact tokens are not above chance, nothing can be told.

    Args:
        results: Model -> result of `utilities.analysis.class_embedding.perturbation.perturb`.

    Returns:
        Without each other, image tokens do not know the class; without the class token they do, whichever way it is
        hidden; without the context, tokens on the object know it less often, but above chance; without the object,
        tokens of the context know it less often. One for each model, and one that says so where none was run.
    """
    return [claim for text, kinds, decide in CLAIMS for claim in _claims(text, kinds, decide, results)]


def _claims(text: str, kinds: tuple[str, ...], decide: Decide, results: Mapping[str, Perturbation]) -> list[Claim]:
    """Decide one claim for each result that has one of some kinds in all blocks."""
    claims = []
    for model, result in results.items():
        for row, kind in enumerate(result.kinds):
            if kind in kinds and len(result.blocks[row]) == len(result.names):
                sides = [result.estimate(row, "rate", side) for side in ("intact", "perturbed", "difference")]
                known = judge(sides[0].value - result.chance, sides[0].stderr) is True
                found = f"{model}, {_found(result, row, *sides)}"
                found += "" if known else "; the intact model's tokens are not above chance by two standard errors"
                claim = Claim(text, PAPER, found, decide(*sides, result.chance) if known else None)
                claims.append(weigh(claim, {model: result}, shown=known))
    return claims or [Claim(text, PAPER, f"{' or '.join(kinds)} in all blocks was not run", None)]


def _found(result: Perturbation, row: int, intact: Estimate, perturbed: Estimate, difference: Estimate) -> str:
    """Put the numbers into words."""
    if not result.images[row]:
        return f"{result.kinds[row]}: no image has tokens both on and beside the object"
    confidence = f"{100 * result.provenance['confidence']:g}% interval"
    change = f"{100 * difference.value:+.1f} ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"
    return (
        f"{result.kinds[row]}: {_percent(intact, confidence)} of the same tokens intact, {_percent(perturbed)} "
        f"perturbed, a change of {change} points; chance is {100 * result.chance:.1f}%; {result.images[row]} images"
    )


def _percent(estimate: Estimate, confidence: str = "") -> str:
    ends = f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"
    return f"{100 * estimate.value:.1f}% ({f'{confidence} ' if confidence else ''}{ends})"


def _near_chance(intact: Estimate, perturbed: Estimate, difference: Estimate, chance: float) -> bool | None:
    """Compare what is left above chance with what there was, by the ends of the interval."""
    low, high = ((end - chance) / (intact.value - chance) for end in (perturbed.low, perturbed.high))
    return True if high <= NEAR else False if low > NEAR else None


def _unchanged(intact: Estimate, perturbed: Estimate, difference: Estimate, chance: float) -> bool | None:
    """Tell whether the interval of the difference lies within what counts as nothing, or outside it."""
    low, high = difference.low, difference.high
    return True if low > -NOTHING and high < NOTHING else False if high <= -NOTHING or low >= NOTHING else None


def _lower(intact: Estimate, perturbed: Estimate, difference: Estimate, chance: float) -> bool | None:
    return judge(-difference.value, difference.stderr)


def _lower_above_chance(intact: Estimate, perturbed: Estimate, difference: Estimate, chance: float) -> bool | None:
    """Tell whether both hold, or one does not."""
    lower = _lower(intact, perturbed, difference, chance)
    return all_hold([lower, judge(perturbed.value - chance, perturbed.stderr)])


CLAIMS: tuple[tuple[str, tuple[str, ...], Decide], ...] = (
    (
        "image tokens that see themselves alone put the class first about as often as by chance",
        ("self_only",),
        _near_chance,
    ),
    ("hiding the class token from image tokens changes next to nothing", ("no_cls", "no_cls_unnormalised"), _unchanged),
    (
        "without the context, tokens on the object put the class first less often, but above chance",
        ("no_context",),
        _lower_above_chance,
    ),
    ("without the object, tokens of the context put the class first less often", ("no_class",), _lower),
)
