"""Test what is known and claimed of stitched networks: nothing is lost to oneself, better features help weaker ones."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np

from utilities.claims.claim import Claim, judge
from utilities.claims.evidence import weigh
from utilities.results.formatting import percent, percent_points
from utilities.results.stitching import Stitching

BANSAL = "Bansal et al. 2021, https://arxiv.org/abs/2106.07682"
SMALL = 0.02  # a loss of accuracy that counts as none
Results = Mapping[str, Stitching]


def claims_of_stitching(results: Results, controls: Results, known: Results) -> list[Claim]:
    """Test the claims on pairs of models.

    Args:
        results: Label -> result of two different models.
        controls: The same labels, with the first model untrained.
        known: Label -> result of a network with itself, or with a copy whose features are rotated.

    Returns:
        The claims: the known cases lose nothing; where the first model is the better one, the last pair of layers is
        better than the second model alone; a trained first model leaves more than an untrained one in the last pair.
    """
    claims = [_nothing_lost(known)] if known else []
    claims += [_better(label, result) for label, result in results.items() if _is_better(result)]
    return claims + [_control(label, results[label], control) for label, control in controls.items()]


def _drops(result: Stitching) -> tuple[np.ndarray, np.ndarray]:
    """Return what each pair loses in closed form, and its error, by depth."""
    rows, columns = np.array(result.places).T
    return result.drop(0)[rows, columns], result.drop_stderr[0, rows, columns]


def _nothing_lost(known: Results) -> Claim:
    """Look at the pair that loses most, of all known cases."""
    found = {label: _drops(result) for label, result in known.items()}
    label = max(found, key=lambda one: found[one][0].max())
    (drops, errors), result = found[label], known[label]
    worst, count = int(np.argmax(drops)), sum(len(drops) for drops, _ in found.values())
    said = (
        f"{', '.join(known)}: the most that any of {count} pairs loses is "
        f"{percent_points(drops[worst], errors[worst])} of {percent(result.own[1], result.own_stderr[1])}; less than "
        f"{100 * SMALL:g} points count as nothing"
    )
    text = "a network that goes on from its own features, turned or not, loses nothing"
    return _weighed(Claim(text, f"{BANSAL}, a known case", said, bool(drops[worst] < SMALL)), label, result)


def _is_better(result: Stitching) -> bool:
    """Tell whether the first model is the better one by two errors."""
    difference = float(result.own[0] - result.own[1])
    return judge(difference, float(np.hypot(*result.own_stderr))) is True


def _better(label: str, result: Stitching) -> Claim:
    drops, errors = _drops(result)
    found = (
        f"{label}: alone, they reach {percent(result.own[0], result.own_stderr[0])} and "
        f"{percent(result.own[1], result.own_stderr[1])}; {' to '.join(result.pairs[-1])} changes the second one's by "
        f"{percent_points(-drops[-1], errors[-1])}"
    )
    text = "features of a better network, plugged into a weaker one, improve it"
    return _weighed(Claim(text, BANSAL, found, judge(-drops[-1], errors[-1])), label, result)


def _control(label: str, result: Stitching, control: Stitching) -> Claim:
    """Compare the last pair: there, the second model adds least of its own."""
    values = []
    for one in (result, control):
        i, j = one.places[-1]
        values.append((float(one.accuracy[0, i, j]), float(one.accuracy_stderr[0, i, j])))
    (own, error), (other, wide) = values
    found = (
        f"{label}: {' to '.join(result.pairs[-1])} leaves {percent(own, error)}, {percent(other, wide)} with the first "
        f"model untrained, chance {100 * result.chance:.0f}%"
    )
    text = "the last layers of a trained network serve another one better than those of an untrained one"
    return _weighed(Claim(text, BANSAL, found, judge(own - other, float(np.hypot(error, wide)))), label, result)


def _weighed(claim: Claim, label: str, result: Stitching) -> Claim:
    """Weigh a claim with both models, each with its own accuracy on the images it was tested on."""
    sides = {}
    for k in (1, 2):
        facts = {key: result.provenance.get(f"{key}{k}", result.provenance.get(key)) for key in ("model", "weights")}
        facts |= {key: result.provenance.get(key) for key in ("dataset", "num_classes")}
        accuracy = float(result.own[k - 1])
        facts |= {} if np.isnan(accuracy) else {"accuracy": accuracy}
        sides[str(facts["model"] or f"{label}, {k}")] = SimpleNamespace(n=result.n, provenance=facts)
    return weigh(claim, sides)
