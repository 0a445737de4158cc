"""Two processes that share the batches find what one does: every analysis of the command line, every number of it."""

import warnings

import numpy as np
import pytest
import torch

from tests.analysis.shared_cases import CASES, EXPECTED, arrays_of
from tests.torchrun import run_in_processes
from utilities.cli.analyses import ANALYSES

# They have no batches to share: weights alone, or networks that are trained and compared.
WITHOUT = {"trajectory", "layer_matching"}
# Sums in another order differ in the last bits of float64, and maps of gradients are kept in float32.
RTOL, ATOL = 1e-6, 1e-9
# The mean that takes a layer's place is rounded to the model's float32, and small rises of the loss depend on it.
OTHERS = {"lesions mean": 1e-4}
# A residual is what is left of a difference of vectors, and follows roundings, which the number of threads changes.
RESIDUALS = 0.05


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Run all cases in two processes, once, and return the folder of what they have found."""
    folder = tmp_path_factory.mktemp("shared")
    run_in_processes(2, "tests.analysis.shared_cases", folder, timeout=900)
    return folder


def test_every_analysis_has_a_case():
    assert set(ANALYSES) - WITHOUT == {name.partition(" ")[0] for name in CASES} - {"evaluate"}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_find_what_one_does(name, folder, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message=EXPECTED[1])
            one = arrays_of(CASES[name](tmp_path))
    finally:
        torch.set_num_threads(threads)
    first, second = (dict(np.load(folder / f"{name}_{rank}.npz")) for rank in (0, 1))
    assert one.keys() == first.keys() == second.keys()
    for key, value in one.items():
        rtol = RESIDUALS if key.endswith("residuals") else OTHERS.get(name, RTOL)
        np.testing.assert_array_equal(first[key], second[key], err_msg=f"{key}: the processes differ")
        np.testing.assert_allclose(first[key], value, rtol=rtol, atol=ATOL, err_msg=key)
