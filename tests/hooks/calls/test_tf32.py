"""TF32: forbidden where numbers are measured, allowed where a precision asks for it, put back in any case."""

import pytest
import torch

from utilities.hooks.calls.tf32 import choosing_tf32, forbidding_tf32

GPU = torch.device("cuda")  # the switches can be set without one
BACKENDS = (torch.backends.cuda.matmul, torch.backends.cudnn)


@pytest.fixture(params=[False, True])
def before(request):
    usual = [backend.allow_tf32 for backend in BACKENDS]
    for backend in BACKENDS:
        backend.allow_tf32 = request.param
    yield request.param
    for backend, value in zip(BACKENDS, usual, strict=True):
        backend.allow_tf32 = value


def allowed():
    return [backend.allow_tf32 for backend in BACKENDS]


def test_it_is_forbidden_and_put_back_even_after_an_error(before):
    with pytest.raises(ZeroDivisionError), forbidding_tf32(GPU):
        assert allowed() == [1 / 0]
    with forbidding_tf32(GPU):
        assert allowed() == [False, False]
    assert allowed() == [before, before]


def test_who_has_chosen_it_keeps_it(before):
    with choosing_tf32(GPU, allowed=True):
        with forbidding_tf32(GPU):
            assert allowed() == [True, True]
        with choosing_tf32(GPU, allowed=False):
            assert allowed() == [False, False]
        assert allowed() == [True, True]
    with forbidding_tf32(GPU):  # the choice has ended
        assert allowed() == [False, False]


def test_other_devices_change_nothing(before):
    with choosing_tf32(torch.device("cpu"), allowed=not before):
        assert allowed() == [before, before]
