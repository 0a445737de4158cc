"""Test claims of Raghu et al. 2021 on attention: local and global heads, little data, local heads and convolutions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import SimpleNamespace

import numpy as np
from scipy.stats import spearmanr

from utilities.analysis.attention.attention_distance import AttentionDistance
from utilities.claims.claim import Claim, all_hold, judge
from utilities.claims.evidence import weigh
from utilities.results.formatting import with_error
from utilities.results.head_windows import HeadWindowSimilarity

PAPER = "Raghu et al. 2021"
LOCAL = 0.5  # a head is local if it looks less than half as far as even attention does, else it is global
ENDS = 2  # lowest and highest blocks that the paper shows
MEANING = "local: nearer than half the distance of even attention; global: farther"
LOWEST = f"the lowest {ENDS} blocks have local and global heads"
HIGHEST = f"all heads of the highest {ENDS} blocks are global"
LITTLE = f"a transformer trained on little data has no local heads in its lowest {ENDS} blocks, one trained on much has"
FALLING = "the more global the heads of the first block, the less they resemble the early layers of a CNN"
OTHER = "the more global the heads of a block, the less they resemble the early layers of a CNN"


def claims_of_attention_distance(results: Mapping[str, AttentionDistance]) -> list[Claim]:
    """Test where models have local and global heads.

    The paper shows curves and names no threshold. Here a head is local if its mean distance is below half of that of
    attention spread evenly over all keys, and global if it is above, each by two standard errors.

    Args:
        results: Model -> result.

    Returns:
        Two claims for each model: its lowest two blocks have local and global heads; all heads of its highest two
        blocks are global.
    """
    claims = []
    for model, result in results.items():
        for text, decide in ((LOWEST, _mixed), (HIGHEST, _all_global)):
            found, holds = decide(result)
            claim = Claim(f"{text} ({MEANING})", f"{PAPER}, Fig. 3", f"{model}: {found}", holds)
            claims.append(weigh(claim, {model: result}))
    return claims


def claims_of_little_data(results: Mapping[str, AttentionDistance], little: Collection[str]) -> list[Claim]:
    """Test whether transformers trained on little data lack local heads in their lowest blocks.

    In the paper the same large transformers are trained on both; where models differ in more than their data, so may
    their heads.

    Args:
        results: Model -> result.
        little: Names of the models that were trained on little data; the others were trained on much.

    Returns:
        One claim.

    Raises:
        ValueError: If a model that is named is not there, or there are not both kinds.
    """
    unknown = sorted(set(little) - set(results))
    if unknown or not 0 < len(set(little)) < len(results):
        raise ValueError(f"little={sorted(little)} should name some, but not all, of the models {sorted(results)}")
    found, verdicts, shorts = [], [], []
    for model, result in results.items():
        blocks = range(min(ENDS, len(result.names)))
        local = _local(result, blocks)
        some = True if True in local else None if None in local else False
        verdicts.append((None if some is None else not some) if model in little else some)
        shorts.append(f"{local.count(True)} of {len(local)} heads local in {model}")
        found.append(
            f"{model} (trained on {'little' if model in little else 'much'}): {local.count(True)} of {len(local)} "
            f"heads are local; {_range(result, blocks)}"
        )
    claim = Claim(
        f"{LITTLE} ({MEANING})", f"{PAPER}, Fig. 4", "; ".join(found), all_hold(verdicts), short=", ".join(shorts)
    )
    return [weigh(claim, results)]


def claims_of_head_windows(results: Mapping[str, HeadWindowSimilarity]) -> list[Claim]:
    """Test whether heads resemble early convolutions less the farther they look.

    A curve falls if no window resembles a layer more than the window before it does, beyond two standard errors of
    their difference, and the last window resembles it less than the first one does, by as much. Windows share images,
    so that the sum of two errors is the largest error their difference can have.

    Args:
        results: Label -> result, whose columns are early layers of the CNN. The paper takes the first block's heads.

    Returns:
        One claim for each result. It holds if the curves of all layers fall, and fails if one does not.
    """
    claims = []
    for models, result in results.items():
        judged = [_falls(result, column) for column in range(len(result.layers2))]
        found = [_curve(result, column) for column in range(len(result.layers2))]
        facts = result.provenance
        said = f"{models}, heads of {facts['block']}" if facts.get("block") else models
        text = f"{said}, windows at {result.distance[0]:.0f} to {result.distance[-1]:.0f} px: {'; '.join(found)}"
        first = found[0].partition(" (")[0] if found else "no layer"
        counts = [judged.count(verdict) for verdict in (True, False, None)]
        falls = "{} of {} curves fall, {} do not, {} cannot be told".format(counts[0], len(judged), *counts[1:])
        short = f"{models}: {first}; {falls}"
        claim = OTHER if facts.get("block_index") else FALLING
        claims.append(weigh(Claim(claim, f"{PAPER}, Fig. 5", text, all_hold(judged), short=short), _sides(result)))
    return claims


def _local(result: AttentionDistance, blocks: range) -> list[bool | None]:
    """Tell of each head of some blocks whether it is local, with None within two errors of the threshold."""
    limit, verdicts = LOCAL * result.uniform_distance, []
    for i in blocks:
        heads = np.flatnonzero(np.isfinite(result.distance[i]))
        verdicts += [judge(limit[i] - result.distance[i, h], result.stderr[i, h]) for h in heads]
    return verdicts


def _mixed(result: AttentionDistance) -> tuple[str, bool | None]:
    """Look for local and global heads in the lowest blocks."""
    blocks = range(min(ENDS, len(result.names)))
    local = _local(result, blocks)
    there = [True if kind in local else None if None in local else False for kind in (True, False)]
    found = (
        f"{local.count(True)} heads are local and {local.count(False)} global of {len(local)}; {_range(result, blocks)}"
    )
    return found, all_hold(there)


def _all_global(result: AttentionDistance) -> tuple[str, bool | None]:
    """Look for local heads in the highest blocks."""
    blocks = range(max(0, len(result.names) - ENDS), len(result.names))
    local = _local(result, blocks)
    verdict = all_hold([None if one is None else not one for one in local])
    return f"{local.count(False)} of {len(local)} heads are global; {_range(result, blocks)}", verdict


def _range(result: AttentionDistance, blocks: range) -> str:
    """State the nearest and the farthest head of some blocks, beside even attention."""
    values = result.distance[list(blocks)]
    places = [np.unravel_index(choose(values), values.shape) for choose in (np.nanargmin, np.nanargmax)]
    ends = [with_error(values[i, h], result.stderr[blocks[i], h], ".1f") for i, h in places]
    even = result.uniform_distance[list(blocks)]
    return (
        f"distances from {ends[0]} to {ends[1]} px, even attention {' and '.join(f'{d:.1f}' for d in np.unique(even))}"
    )


def _errors(result: HeadWindowSimilarity) -> np.ndarray:
    return np.full_like(result.matrix, np.nan) if result.stderr is None else result.stderr


def _falls(result: HeadWindowSimilarity, column: int) -> bool | None:
    """Tell whether a curve falls from window to window, and from the first to the last."""
    curve, error = result.matrix[:, column], _errors(result)[:, column]
    if len(curve) < 2:
        return None
    rises = [judge(curve[i + 1] - curve[i], error[i + 1] + error[i]) for i in range(len(curve) - 1)]
    fallen = judge(curve[0] - curve[-1], error[0] + error[-1])
    return False if True in rises or fallen is False else fallen


def _curve(result: HeadWindowSimilarity, column: int) -> str:
    """State a curve's ends and its rank correlation with distance."""
    curve, error = result.matrix[:, column], _errors(result)[:, column]
    ends = " to ".join(with_error(curve[i], error[i]) for i in (0, -1))
    ranked = len(curve) > 2 and np.ptp(curve) > 0
    rank = f" (rank correlation with distance {spearmanr(result.distance, curve)[0]:+.2f})" if ranked else ""
    return f"{result.layers2[column]} {ends}{rank}"


def _sides(result: HeadWindowSimilarity) -> dict[str, SimpleNamespace]:
    """Return what is known of both models, as `weigh` reads it."""
    facts, sides = result.provenance, {}
    for side in ("1", "2"):
        own = {key: facts.get(f"{key}{side}") for key in ("model", "weights", "accuracy")}
        own |= {"num_classes": facts.get("num_classes"), "dataset": facts.get("dataset")}
        sides[str(own["model"] or f"model {side}").rpartition("/")[2]] = SimpleNamespace(n=result.n, provenance=own)
    return sides
