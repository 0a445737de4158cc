"""Seeding that leaves the global generators as they were."""

import random

import numpy as np
import pytest
import torch

from utilities.hooks.calls.seeding import keeping_generators, seeded_torch


def draws():
    return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002


def test_generators_are_seeded_alike_and_put_back():
    with keeping_generators():
        following = draws()
    with keeping_generators(3):
        first = draws()
    with keeping_generators(3):
        assert draws() == first
    random.seed(3), np.random.seed(3)  # noqa: NPY002
    assert first[:2] == draws()[:2] != following[:2]


def test_without_a_seed_draws_are_those_that_follow():
    with keeping_generators():
        following = draws()
    assert draws() == following


def test_torch_alone_is_seeded():
    state = random.getstate()
    with seeded_torch(5):
        drawn = torch.rand(4)
    assert torch.equal(drawn, torch.rand(4, generator=torch.Generator().manual_seed(5)))
    assert random.getstate() == state


@pytest.mark.parametrize("context", [keeping_generators, seeded_torch])
def test_generators_are_put_back_after_an_error(context):
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), context(1):
        torch.rand(-1, generator=torch.Generator().manual_seed(int(torch.rand(()))))
    assert torch.equal(torch.get_rng_state(), before)
