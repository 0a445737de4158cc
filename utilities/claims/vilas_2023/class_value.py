"""Test claims of Vilas et al. 2023 on class-value agreement."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from utilities.analysis.class_embedding.agreement import ClassValueAgreement
from utilities.claims.claim import Claim, branch, judge
from utilities.claims.evidence import weigh
from utilities.results.formatting import with_error
from utilities.results.statistics import LEVEL, mean_and_stderr

_number = partial(with_error, form=".3g", error_form=".2g")

SOURCE = "Vilas et al. 2023, class-value agreement, https://arxiv.org/abs/2310.18969"
NEGLIGIBLE = 0.1  # share of the largest excess over the untrained model that counts as being at its level


def claims_of_class_value(results: Mapping[str, ClassValueAgreement]) -> list[Claim]:
    """Decide in which blocks value vectors of attention and MLP come close to classes.

    Scores are compared class by class with those of the untrained model, or with chance if there is none. Errors are
    over classes. Late blocks are the last third, early blocks the first. Early blocks are at the untrained model's
    level if their excess, with two standard errors, stays below a tenth of the best block's.

    Args:
        results: Model -> result.

    Returns:
        Three claims for each model and part: agreement is above the untrained model's in late blocks; early blocks are
        at its level; agreement peaks in late blocks.

    Example:
        >>> claims_of_class_value({})
        []
    """
    claims = []
    for model, result in results.items():
        for i, part in enumerate(result.parts):
            twin = np.isfinite(result.random_scores[i]).all()
            reference = result.random_scores[i] if twin else result.chance[i][:, None]
            excess, where = result.scores[i] - reference, f"{model}, {part}"
            level = "the untrained model's" if twin else "chance (no untrained model was given)"
            whose = f"{branch(part)}'s class-value agreement"
            judged = [
                _late(f"in late blocks {whose} is above an untrained model's", where, level, excess, result.p[i]),
                _early(f"in early blocks {whose} is at the level of an untrained model's", where, level, excess),
                _peak(f"{whose} peaks in late blocks", where, result.scores[i]),
            ]
            claims += [weigh(claim, {model: result}) for claim in judged]
    return claims


def _late(text: str, where: str, level: str, excess: np.ndarray, p: np.ndarray) -> Claim:
    """Average the last third of the blocks, class by class."""
    late = _thirds(len(excess))[1]
    mean, error = mean_and_stderr(excess[late].mean(0))
    found = f"{where}: {_blocks(late)} score {_number(mean, error)} above {level}"
    if np.isfinite(p[late]).all():
        found += f"; p < {LEVEL} in {int((p[late] < LEVEL).sum())} of {len(late)}"
    return Claim(text, SOURCE, found, judge(float(mean), float(error)))


def _early(text: str, where: str, level: str, excess: np.ndarray) -> Claim:
    """Compare the first third's excess with a small share of the best block's."""
    early = _thirds(len(excess))[0]
    mean, error = (float(value) for value in mean_and_stderr(excess[early].mean(0)))
    by_block, errors = mean_and_stderr(excess.T)
    best = int(np.nanargmax(by_block)) if np.isfinite(by_block).any() else 0
    found = f"{where}: {_blocks(early)} score {_number(mean, error)} above {level}, the best block, {best + 1}, "
    found += _number(by_block[best], errors[best])
    if len(excess) == 1 or judge(float(by_block[best]), float(errors[best])) is not True:
        return Claim(text, SOURCE, f"{found}: no block stands out against which that is little", None)
    # There is no excess if it lies within the margin on either side by two standard errors.
    margin = NEGLIGIBLE * float(by_block[best]) - abs(mean)
    return Claim(text, SOURCE, found, judge(margin, error + NEGLIGIBLE * float(errors[best])))


def _peak(text: str, where: str, scores: np.ndarray) -> Claim:
    """Compare the best of the last third with the best block before it, class by class."""
    late = _thirds(len(scores))[1]
    before = np.arange(late[0])
    if not len(before):
        return Claim(text, SOURCE, f"{where}: there is one block only", None)
    means = scores.mean(1)
    best, other = (int(blocks[np.argmax(means[blocks])]) for blocks in (late, before))
    mean, error = mean_and_stderr(scores[best] - scores[other])
    found = (
        f"{where}: the best late block, {best + 1}, scores {means[best]:.3f}, the best before, {other + 1}, "
        f"{means[other]:.3f}, a difference of {_number(mean, error)}"
    )
    return Claim(text, SOURCE, found, judge(float(mean), float(error)))


def _thirds(blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the first and of the last third of the blocks, each at least one block."""
    third = max(1, round(blocks / 3))
    return np.arange(third), np.arange(blocks - third, blocks)


def _blocks(indices: np.ndarray) -> str:
    first, last = indices[0] + 1, indices[-1] + 1
    return f"block {first}" if first == last else f"blocks {first} to {last}"
