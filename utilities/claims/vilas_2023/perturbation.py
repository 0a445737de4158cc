"""Test claims of Vilas et al. 2023 (https://arxiv.org/abs/2310.18969) on where image tokens get the class from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from utilities.analysis.class_embedding.perturbation import Estimate, Perturbation
from utilities.claims.claim import Claim, all_hold, judge
from utilities.claims.evidence import not_told, weigh
from utilities.results.formatting import counted

PAPER = "Vilas et al. 2023"
NEAR = 0.1  # "about chance": at most a tenth of the intact model's excess over chance is left
NOTHING = 0.02  # "next to nothing": less than two percent points
Decide = Callable[[Estimate, Estimate, Estimate, float], bool | None]


def claims_of_perturbation(results: Mapping[str, Perturbation]) -> list[Claim]:
    """Test the claims on perturbed attention and removed tokens on results of several models.

    All claims concern the rate of image tokens that rank the class first after the last block, as a mean over images,
    and perturbations of all blocks at once. If a model's intact tokens are not above chance, no verdict is possible.

    Args:
        results: Model -> result of `utilities.analysis.class_embedding.perturbation.perturb`.

    Returns:
        Claims for each model, or one that states that none was run. Without each other, image tokens do not know the
        class. Without the class token they do, whichever way it is hidden. Without the context, tokens on the object
        know it less often, but above chance. Without the object, tokens of the context know it less often.
    """
    return [claim for text, kinds, decide in CLAIMS for claim in _claims(text, kinds, decide, results)]


def _claims(text: str, kinds: tuple[str, ...], decide: Decide, results: Mapping[str, Perturbation]) -> list[Claim]:
    """Decide one claim for each result that perturbs all blocks in one of the given kinds."""
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
    return claims or [not_told(text, PAPER, f"{' or '.join(kinds)} in all blocks was not run", results)]


def _found(result: Perturbation, row: int, intact: Estimate, perturbed: Estimate, difference: Estimate) -> str:
    """Describe the numbers in words."""
    if not result.images[row]:
        return f"{result.kinds[row]}: no image has tokens both on and beside the object"
    confidence = f"{100 * result.provenance['confidence']:g}% interval"
    change = f"{100 * difference.value:+.1f} ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"
    return (
        f"{result.kinds[row]}: {_with_interval(intact, confidence)} of the same tokens intact, "
        f"{_with_interval(perturbed)} perturbed, a change of {change} points; chance is {100 * result.chance:.1f}%; "
        f"{counted(result.images[row], 'image')}"
    )


def _with_interval(estimate: Estimate, confidence: str = "") -> str:
    ends = f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"
    return f"{100 * estimate.value:.1f}% ({f'{confidence} ' if confidence else ''}{ends})"


def _near_chance(intact: Estimate, perturbed: Estimate, difference: Estimate, chance: float) -> bool | None:
    """Compare the remaining excess over chance with the intact one, by the ends of the interval."""
    low, high = ((end - chance) / (intact.value - chance) for end in (perturbed.low, perturbed.high))
    return True if high <= NEAR else False if low > NEAR else None


def _unchanged(intact: Estimate, perturbed: Estimate, difference: Estimate, chance: float) -> bool | None:
    """Tell whether the interval of the difference lies within what counts as nothing (True) or outside it (False)."""
    low, high = difference.low, difference.high
    return True if low > -NOTHING and high < NOTHING else False if high <= -NOTHING or low >= NOTHING else None


def _lower(intact: Estimate, perturbed: Estimate, difference: Estimate, chance: float) -> bool | None:
    return judge(-difference.value, difference.stderr)


def _lower_above_chance(intact: Estimate, perturbed: Estimate, difference: Estimate, chance: float) -> bool | None:
    """Tell whether the rate is lower and still above chance."""
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
