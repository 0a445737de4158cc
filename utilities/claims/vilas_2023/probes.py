"""Test claims of Vilas et al. 2023 on linear probes beside the lens."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from utilities.analysis.class_embedding.probes import LinearProbes
from utilities.claims.claim import Claim, judge
from utilities.claims.evidence import weigh
from utilities.results.formatting import counted, percent
from utilities.results.statistics import mean_and_stderr

_points = partial(percent, unit=" points", form="+.1f")
_share = partial(percent, unit=" %")

SOURCE = "Vilas et al. 2023, linear-probe comparison, https://arxiv.org/abs/2310.18969"
UNREAD = "the outputs of all blocks, of two or more, were not read by both"
KEPT = 0.5  # a reading that keeps less than this share of its excess over chance has collapsed
EARLY = "linear probes read the class off image tokens of early blocks better than the lens"
CLOSES = "the lead of linear probes over the lens is gone at the last block"
Finding = tuple[str, bool | None]


def claims_of_probes(results: Mapping[str, LinearProbes]) -> list[Claim]:
    """Test what probes and lens read from image tokens.

    Args:
        results: Model -> result.

    Returns:
        Claims for each model: probes read early blocks better than the lens; their lead is smaller at the end; what the
        last MLP adds is lost to the lens, but not to probes.
    """
    claims = []
    for model, result in results.items():
        gaps, own = _gaps(result), []
        for text, decide in ((EARLY, _early), (CLOSES, _closes)):
            found, holds = (UNREAD, None) if gaps is None else decide(result, gaps)
            own.append(Claim(text, SOURCE, f"{model}: {found}", holds))
        own.append(_collapse(model, result))
        claims += [weigh(claim, {model: result}) for claim in own]
    return claims


def _early(result: LinearProbes, gaps: np.ndarray) -> Finding:
    """Compare probe and lens over the first half of the blocks, image by image."""
    half = gaps.shape[1] // 2
    mean, error = _mean(gaps[:, :half].mean(1))
    probe, lens = (result.of(reading, "block")[:, :half].mean() for reading in ("probe", "lens"))
    found = (
        f"over blocks 1 to {half}, probe {100 * probe:.1f} %, lens {100 * lens:.1f} %; difference "
        f"{_points(mean, error)} on the same {counted(len(gaps), 'image')}"
    )
    return found, judge(mean, error)


def _closes(result: LinearProbes, gaps: np.ndarray) -> Finding:
    """Compare the lead of probes in the first half of the blocks with that in the last block."""
    half = gaps.shape[1] // 2
    early, early_error = _mean(gaps[:, :half].mean(1))
    last, last_error = _mean(gaps[:, -1])
    closed = judge(*_mean(gaps[:, :half].mean(1) - gaps[:, -1]))
    led, leads = judge(early, early_error), judge(last, last_error)
    found = (
        f"probe less lens is {_points(early, early_error)} over blocks 1 to {half}, {_points(last, last_error)} in the "
        "last"
    )
    if led is not True:
        return f"{found}: there is no lead that could close", None
    return found, False if closed is False or leads is True else closed


def _collapse(model: str, result: LinearProbes) -> Claim:
    """Check whether lens and probe keep half of the excess over chance that they read in the last MLP but one."""
    text = "what the last MLP adds can no longer be read by the lens, while probes still read it"
    if "mlp" not in result.parts or not {result.num_blocks - 2, result.num_blocks - 1} <= set(result.blocks):
        return Claim(text, SOURCE, f"{model}: the last two MLPs were not read", None)
    chance, found, lost = 1 / result.num_classes, [], []
    for reading in ("probe", "lens"):
        before, after = (result.of(reading, "mlp")[:, -2:] - chance).T
        (first, first_error), (last, last_error) = _mean(before), _mean(after)
        found.append(
            f"{reading} {_share(first + chance, first_error)} in the last but one, "
            f"{_share(last + chance, last_error)} in the last"
        )
        # None if there was no excess over chance to lose.
        lost.append(judge(*_mean(KEPT * before - after)) if judge(first, first_error) else None)
    probe, lens = lost
    verdict = None if probe is None or lens is None else lens and not probe
    return Claim(text, SOURCE, f"{model}: {'; '.join(found)}; chance {100 * chance:.1f} %", verdict)


def _gaps(result: LinearProbes) -> np.ndarray | None:
    """Return probe minus lens on block outputs, (images, blocks), or None if not all blocks were read by both."""
    if "block" not in result.parts or len(result.blocks) < max(2, result.num_blocks):
        return None
    gaps = result.of("probe", "block") - result.of("lens", "block")
    return None if np.isnan(gaps).any() else gaps


def _mean(values: np.ndarray) -> tuple[float, float]:
    mean, error = mean_and_stderr(values)
    return float(mean), float(error)
