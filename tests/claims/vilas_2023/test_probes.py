"""Each verdict on probes and lens comes out where the numbers say so."""

import dataclasses

import numpy as np
import pytest

from utilities.analysis.class_embedding.probes import LinearProbes
from utilities.claims.claim import state_claims
from utilities.claims.vilas_2023.probes import claims_of_probes

N, CLASSES = 400, 10


def made(probe, lens, mlp_probe=(0.1, 0.1, 0.4, 0.4), mlp_lens=(0.1, 0.1, 0.4, 0.1), parts=("block", "mlp"), n=N):
    """Make a result in which these shares of the images are read right, no two readings on the same images."""
    shares = {"probe": {"block": probe, "mlp": mlp_probe}, "lens": {"block": lens, "mlp": mlp_lens}}
    rng = np.random.default_rng(0)
    correct = np.stack(
        [
            np.stack([[rng.permutation(np.arange(n) < share * n) for share in of[part]] for part in parts])
            for of in shares.values()
        ]
    )
    correct = np.moveaxis(correct, 3, 0)[..., None].astype(np.float32)
    empty = np.zeros((2, len(parts), 4, 1))
    return LinearProbes(
        list("abcd"),
        [0, 1, 2, 3],
        4,
        list(parts),
        ["image"],
        ["probe", "lens"],
        empty,
        correct,
        np.stack([empty, empty]),
        np.zeros((n, 0)),
        np.zeros(n),
        CLASSES,
        {"weights": "trained for 9 epochs", "accuracy": 0.97},
    )


def verdicts(result):
    return [claim.holds for claim in claims_of_probes({"vit_tiny": result})]


@pytest.mark.parametrize(
    ("probe", "lens", "early", "closes"),
    [
        ((0.5, 0.5, 0.5, 0.5), (0.1, 0.1, 0.3, 0.6), True, True),  # as in the paper
        ((0.5, 0.5, 0.9, 0.9), (0.1, 0.1, 0.3, 0.6), True, False),  # smaller, but not gone
        ((0.3, 0.3, 0.9, 0.9), (0.1, 0.1, 0.1, 0.1), True, False),  # it grows
        ((0.1, 0.1, 0.5, 0.5), (0.5, 0.5, 0.5, 0.5), False, None),
        ((0.3, 0.3, 0.5, 0.5), (0.3, 0.3, 0.5, 0.5), None, None),
    ],
)
def test_the_lead_of_probes(probe, lens, early, closes):
    assert verdicts(made(probe, lens))[:2] == [early, closes]


@pytest.mark.parametrize(
    ("probe", "lens", "verdict"),
    [
        ((0.4, 0.4), (0.4, 0.1), True),
        ((0.4, 0.1), (0.4, 0.1), False),  # both are lost
        ((0.4, 0.4), (0.4, 0.4), False),  # neither is
        ((0.4, 0.4), (0.1, 0.1), None),  # the lens had nothing to lose
        ((0.4, 0.4), (0.4, 0.25), None),  # half of it: within the errors
    ],
)
def test_the_last_mlp(probe, lens, verdict):
    flat = (0.5,) * 4
    result = made(flat, flat, mlp_probe=(0.1, 0.1, *probe), mlp_lens=(0.1, 0.1, *lens))
    assert verdicts(result)[2] is verdict


def test_what_was_not_read_is_not_told():
    flat = (0.5,) * 4
    assert verdicts(made(flat, flat, parts=("mlp",)))[:2] == [None, None]
    assert verdicts(made(flat, flat, parts=("block",)))[2] is None
    assert verdicts(made(flat, flat, n=1)) == [None, None, None]
    first = dataclasses.replace(made((0.5,) * 4, (0.1,) * 4), num_blocks=5)  # the last block is not among those read
    assert verdicts(first) == [None, None, None]


def test_numbers_are_in_the_text():
    text = state_claims(claims_of_probes({"vit_tiny": made((0.5,) * 4, (0.1, 0.1, 0.3, 0.6))}))
    assert "vit_tiny: over blocks 1 to 2, probe 50.0 %, lens 10.0 %; difference +40.0 ±" in text.replace(
        "\n       ", " "
    )
