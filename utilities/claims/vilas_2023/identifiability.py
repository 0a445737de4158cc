"""Test claims of Vilas et al. 2023 on class identifiability over depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from utilities.analysis.class_embedding.identifiability import Identifiability
from utilities.claims.claim import Claim, all_hold, judge
from utilities.claims.evidence import keep_sound, not_told, weigh
from utilities.results.formatting import counted, percent, with_error
from utilities.results.statistics import LEVEL, mean_and_stderr

PAPER = "Vilas et al. 2023, https://arxiv.org/abs/2310.18969"
MOST, FEW = 0.75, 0.5  # a claim on blocks holds if three of four agree, and fails if fewer than half do
NEARLY_ALL = 0.9  # share of the images; 95 % to 99 % in the paper
NEAR_CHANCE = 0.05  # a tenth of the way from chance to a score of 1
LATE = 0.75  # share of the depth

Finding = tuple[str, bool | None]
Decide = Callable[[Identifiability, "Identifiability | None"], "Finding | None"]


def claims_of_identifiability(
    results: Mapping[str, Identifiability], random: Mapping[str, Identifiability] | None = None
) -> list[Claim]:
    """Test the claims on class identifiability on results of several models.

    Args:
        results: Model -> result.
        random: Model -> result of its untrained twin on the same images, if there is one.

    Returns:
        Claims on all models together. Each holds if it holds for every model that can tell, and fails if it fails for
        one.

    Raises:
        ValueError: If a model and its twin saw different images.

    Example:
        >>> {claim.holds for claim in claims_of_identifiability({})}
        {None}
    """
    statements: list[tuple[str, Decide]] = [
        ("the rate of the class token after the last block is the accuracy, by definition", _rate_is_accuracy),
        ("class identifiability rises from the first block to the last", _rises),
        ("the class token identifies the class better than image tokens do", _class_token_leads),
        ("tokens of an untrained model are at chance in every block", _at_chance),
        ("training raises class identifiability in most blocks", _above_untrained),
        ("image tokens come to identify the class: more than chance of them do after the last block", _identifiable),
        ("nearly every image has an image token that identifies its class after the last block", _any_token),
        ("tokens on the object identify the class better than those of the context, in every middle block", _middle),
        ("tokens on the object identify the class better than those of the context, in every block", _everywhere),
        ("before the late blocks attention raises similarity with the class more often than the MLP does", _attention),
    ]
    return [_claim(text, decide, results, random or {}) for text, decide in statements]


def _claim(
    text: str, decide: Decide, results: Mapping[str, Identifiability], random: Mapping[str, Identifiability]
) -> Claim:
    """Test each model that has learnt; of the others, only claims on untrained models or by definition."""
    learnt = decide not in (_rate_is_accuracy, _at_chance)
    kept, left_out = keep_sound(results, learnt=learnt)
    found = {model: decide(result, random.get(model)) for model, result in kept.items()}
    findings = {model: finding for model, finding in found.items() if finding is not None}
    if not findings:
        return not_told(text, PAPER, "no model was run that could tell", results)
    sentences = "; ".join(f"{model}: {finding}" for model, (finding, _) in findings.items())
    sentences += f"; not asked: {left_out}" if left_out else ""
    claim = Claim(text, PAPER, sentences, all_hold([verdict for _, verdict in findings.values()]))
    asked = random if decide is _at_chance else kept
    return weigh(claim, {model: asked[model] for model in findings}, learnt=learnt)


def _rate_is_accuracy(result: Identifiability, twin: Identifiability | None) -> Finding | None:
    if not result.class_token_decides:
        return None
    rate = float(result.rate[0, -1, 0])
    same = abs(rate - result.accuracy) * result.n < 0.5  # a difference of less than one image
    return f"rate {100 * rate:.2f}%, accuracy {100 * result.accuracy:.2f}%", same


def _rises(result: Identifiability, twin: Identifiability | None) -> Finding | None:
    if len(result.names) < 2:
        return None
    gains, errors = mean_and_stderr(result.image_score[:, -1] - result.image_score[:, 0])
    steps = (np.diff(result.score[0], axis=0) > 0).sum(0)
    found = [
        f"{group} {_change(result.score[0, :, g], gain, error)}, up in {steps[g]} of {len(result.names) - 1} steps"
        for g, (group, gain, error) in enumerate(zip(_tokens(result), gains, errors, strict=True))
    ]
    return ", ".join(found), all_hold([judge(*pair) for pair in zip(gains, errors, strict=True)])


def _class_token_leads(result: Identifiability, twin: Identifiability | None) -> Finding | None:
    if len(result.groups) < 2:
        return None
    lead = result.image_score[..., 0] - result.image_score[..., 1]
    mean, error = mean_and_stderr(lead.mean(1))
    ahead = sum(judge(*pair) is True for pair in zip(*mean_and_stderr(lead), strict=True))
    found = f"{with_error(mean, error)} ahead in score on average over blocks, ahead in {ahead} of {len(result.names)}"
    return found, judge(mean, error)


def _at_chance(result: Identifiability, twin: Identifiability | None) -> Finding | None:
    """Test that the score differs from chance by less than `NEAR_CHANCE`, errors included, not just insignificantly."""
    if twin is None:
        return None
    gaps, errors = np.abs(twin.score[0] - twin.chance).ravel(), twin.score_stderr[0].ravel()
    verdicts = [judge(NEAR_CHANCE - gap, error) for gap, error in zip(gaps, errors, strict=True)]
    worst = int(np.argmax(gaps))
    found = f"at most {with_error(gaps[worst], errors[worst])} away from chance, {twin.chance:.3f}"
    return found, all_hold(verdicts)


def _above_untrained(result: Identifiability, twin: Identifiability | None) -> Finding | None:
    if twin is None:
        return None
    p = result.above(twin)
    share = float((p < LEVEL).mean())
    counts = [f"{group} in {int((p[:, g] < LEVEL).sum())}" for g, group in enumerate(_tokens(result))]
    found = f"{' and '.join(counts)} of {len(p)} blocks (p < {LEVEL})"
    return found, True if share >= MOST else False if share < FEW else None


def _identifiable(result: Identifiability, twin: Identifiability | None) -> Finding | None:
    rate, error, chance = result.rate[0, -1, -1], result.rate_stderr[0, -1, -1], 1 / result.num_classes
    found, verdicts = f"{percent(rate, error)} of them, chance {100 * chance:.2g}%", [judge(rate - chance, error)]
    if twin is not None:
        base, base_error = twin.rate[0, -1, -1], twin.rate_stderr[0, -1, -1]
        found += f", untrained {percent(base, base_error)}"
        verdicts.append(judge(rate - base, math.hypot(error, base_error)))
    return found, all_hold(verdicts)


def _any_token(result: Identifiability, twin: Identifiability | None) -> Finding | None:
    """Test that the share exceeds that of an untrained model, or of random ranks.

    With few classes, every image has such a token. Ranks of one image's tokens are alike, so independent ranks give the
    most that chance can do.
    """
    share, error = result.any_token[-1], max(result.any_token_stderr[-1], 1 / result.n)  # all images: no spread
    if twin is not None:
        base, base_error, kind = twin.any_token[-1], twin.any_token_stderr[-1], "with an untrained model"
    else:
        base, base_error = 1 - (1 - 1 / result.num_classes) ** result.image_tokens, 0.0
        kind = "with independent ranks at random"
    found = f"{percent(share, error)} of the images, {100 * base:.1f}% {kind}"
    above = judge(share - base, math.hypot(error, base_error))
    verdict = judge(share - NEARLY_ALL, error)
    return found, None if verdict and above is not True else verdict


def _middle(result: Identifiability, twin: Identifiability | None) -> Finding | None:
    count = len(result.names)
    return _on_object(result, range(count // 3, max(count - count // 3, count // 3 + 1)))


def _everywhere(result: Identifiability, twin: Identifiability | None) -> Finding | None:
    return _on_object(result, range(len(result.names)))


def _on_object(result: Identifiability, blocks: range) -> Finding | None:
    if not result.n_masked:
        return None
    differences, errors = result.place_difference[list(blocks)], result.place_difference_stderr[list(blocks)]
    verdicts = [judge(*pair) for pair in zip(differences, errors, strict=True)]
    worst = int(np.argmin(differences))
    ahead = sum(verdict is True for verdict in verdicts)
    found = (
        f"ahead by two standard errors in {ahead} of blocks {blocks[0] + 1} to {blocks[-1] + 1}, least in block "
        f"{blocks[worst] + 1} by {with_error(differences[worst], errors[worst])} in score "
        f"({counted(result.n_masked, 'image')} with tokens of both kinds)"
    )
    return found, all_hold(verdicts)


def _attention(result: Identifiability, twin: Identifiability | None) -> Finding | None:
    late = math.ceil(LATE * len(result.names))
    if len(result.layer_change) < 2 or late < 2:
        return None
    found, verdicts = [], []
    for g, group in enumerate(_tokens(result)):
        attn, mlp = result.layer_change[:, 1:late, g].mean(1)
        # Both errors are over the same images, so their sum is the largest possible error of the difference.
        error = result.layer_change_stderr[:, 1:late, g].mean(1).sum()
        known = "error unknown" if np.isnan(error) else f"± {100 * error:.1f}"
        found.append(f"{group} {100 * attn:.1f}% by attention, {100 * mlp:.1f}% by the MLP ({known})")
        verdicts.append(judge(attn - mlp, error))
    return f"{', '.join(found)}, mean over blocks 2 to {late}", all_hold(verdicts)


def _tokens(result: Identifiability) -> list[str]:
    """List the groups of tokens."""
    return [{"CLS": "class token", "image": "image tokens"}[group] for group in result.groups]


def _change(scores: np.ndarray, gain: float, error: float) -> str:
    return f"{scores[0]:.3f} to {scores[-1]:.3f} ({with_error(gain, error, '+.3f')})"
