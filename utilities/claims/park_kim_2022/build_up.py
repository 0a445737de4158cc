"""Test claims of Park & Kim 2022 on putting attention blocks into a CNN."""

from __future__ import annotations

from collections.abc import Mapping

from utilities.analysis.predictions.classification import Classification
from utilities.claims.claim import Claim, judge
from utilities.claims.evidence import weigh
from utilities.claims.park_kim_2022.classification import paired_difference
from utilities.results.formatting import percent, with_error

WHERE = "Park & Kim 2022, build-up on CIFAR-100"


def claims_of_build_up(steps: Mapping[str, Classification]) -> list[Claim]:
    """Test the claims on the steps from a CNN to an AlterNet.

    Args:
        steps: Name -> result on the same images. The first model has no attention block, and each further one has one
            more.

    Returns:
        Two claims: the hybrid is better than the CNN it started from, and every single block helps.
    """
    results = list(steps.values())
    gain, error = paired_difference(results[-1], results[0])
    saved, saved_error = paired_difference(results[0], results[-1], "nll")
    one = "one training of each, so that the error over trainings is not in it"
    found = (
        f"accuracy changes by {percent(gain, error, ' percent points', '+.1f')} and the loss by "
        f"{with_error(-saved, saved_error, '+.3f', unit=' nats')}, with {len(results) - 1} attention "
        f"blocks ({one})"
    )
    whole = Claim("alternating attention blocks into a CNN raises its accuracy", WHERE, found, judge(gain, error))
    ends = {name: steps[name] for name in (next(iter(steps)), list(steps)[-1])}
    verdicts, texts = [], []
    for i in range(1, len(results)):
        gain, error = paired_difference(results[i], results[i - 1])
        verdicts.append(judge(gain, error))
        texts.append(percent(gain, error, "", "+.1f"))
    each = False if False in verdicts else True if all(verdicts) else None
    found = f"percent points by each block in turn: {', '.join(texts)} ({one})"
    every = Claim("in the paper's order, each attention block raises the accuracy", WHERE, found, each)
    return [weigh(whole, ends), weigh(every, steps)]
