"""Options that are passed on, and numbers that do not fit, are refused before the work, by name."""

import numpy as np
import pytest
import torch
from torch import nn

from utilities.analysis.blocks.localisation import localisation
from utilities.analysis.loss.hessian import hessian_spectra
from utilities.analysis.loss.landscape import loss_landscape
from utilities.analysis.loss.layer_hessian import layer_hessians
from utilities.analysis.loss.spectral_density import spectral_density
from utilities.analysis.predictions.classification import classify
from utilities.analysis.predictions.noise_frequency import noise_frequency
from utilities.analysis.ridge import check_alpha
from utilities.compare import compare, stitch
from utilities.compare.calibration import calibrate
from utilities.hooks.calls.options import check_number, check_options
from utilities.results.calibration import threshold_of
from utilities.results.statistics import bootstrap_interval
from utilities.zoo.smoothing import SpatialSmoothing


def caller(images, *, width=1, **options):
    """Pass options on."""


def taker(images, layers=None, *, seed=0, provenance=None):
    """Take them."""


def test_options_of_both_are_taken_and_others_refused():
    check_options(caller, {"seed": 1, "layers": "a", "width": 2}, taker)
    with pytest.raises(
        TypeError, match=r"caller\(\) has no option 'pictures'; its options are width, layers, seed, prov"
    ):
        check_options(caller, {"pictures": 1}, taker)
    with pytest.raises(TypeError, match=r"no option 'widths'; close: width; its"):
        check_options(caller, {"widths": 1}, taker)
    with pytest.raises(TypeError, match=r"no option 'provenance'; its options are width, layers, seed$"):
        check_options(caller, {"provenance": {}}, taker, but=["provenance"])


def test_a_function_that_takes_any_option_is_left_to_itself():
    check_options(taker, {"anything": 1}, caller)


@pytest.mark.parametrize("value", ["x", None, True, 1j, float("nan"), float("inf"), 0, -1, np.float32("nan")])
def test_what_is_no_number_above_0(value):
    with pytest.raises(ValueError, match=r"^width=.* should be a number above 0$"):
        check_number("width", value, above=0)


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.int64(1)])
def test_numbers_of_all_kinds_are_taken(value):
    check_number("width", value, above=0, most=1)
    check_number("width", float("inf"), above=0, below=None)


def test_ends_belong_to_a_range_or_do_not():
    check_number("share", 0, least=0, most=1)
    check_number("share", 1, least=0, most=1)
    for bound in ({"above": 0}, {"below": 0}):
        with pytest.raises(ValueError, match="share=0 should be a number"):
            check_number("share", 0, **bound)
    with pytest.raises(ValueError, match="share='a' should be a finite number"):
        check_number("share", "a")


NET = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
BATCH = [(torch.zeros(4, 3, 2, 2), torch.arange(4) % 2)]
OTHER = [(torch.ones(4, 3, 2, 2), torch.arange(4) % 2)]
CALLS = {
    "penalty": lambda x: stitch(NET, NET, BATCH, OTHER, penalty=x),
    "learning_rate": lambda x: stitch(NET, NET, BATCH, OTHER, learning_rate=x),
    "memory_limit": lambda x: stitch(NET, NET, BATCH, OTHER, memory_limit=x),
    "memory_limit of patches": lambda x: localisation(NET, BATCH, memory_limit=x),
    "memory": lambda x: loss_landscape(NET, BATCH, memory=x),
    "extent": lambda x: loss_landscape(NET, BATCH, extent=x),
    "weight_decay": lambda x: layer_hessians(NET, BATCH, weight_decay=x),
    "label_smoothing": lambda x: hessian_spectra(NET, BATCH, label_smoothing=x),
    "tolerance": lambda x: layer_hessians(NET, BATCH, tolerance=x),
    "width": lambda x: spectral_density(NET, BATCH, width=x),
    "cutoff": lambda x: classify(NET, BATCH, cutoff=x),
    "eps": lambda x: noise_frequency(NET, BATCH, eps=x),
    "alpha": check_alpha,
    "level": lambda x: calibrate(NET, NET, BATCH, level=x),
    "level of thresholds": lambda x: threshold_of(np.zeros(1), np.zeros((99, 1)), x),
    "confidence": lambda x: bootstrap_interval(np.arange(9.0), confidence=x),
    "bandwidth": lambda x: compare(NET, NET, BATCH, kernel="rbf", bandwidth=x),
    "sigma": lambda x: compare(NET, NET, BATCH, kernel="rbf", sigma=x),
    "temperature": SpatialSmoothing,
}


@pytest.mark.parametrize("name", CALLS)
def test_no_number_where_one_is_wanted(name):
    with pytest.raises(ValueError, match=f"{name.partition(' ')[0]}.*(a number|between 0 and 1).*"):
        CALLS[name]("4G")


@pytest.mark.parametrize("analysis", [layer_hessians, hessian_spectra, spectral_density])
def test_a_misspelt_option_of_the_objective_is_named_with_the_nearest(analysis):
    with pytest.raises(TypeError, match=rf"{analysis.__name__}\(\) has no option 'weight_deca'; close: weight_decay"):
        analysis(NET, BATCH, weight_deca=1)
