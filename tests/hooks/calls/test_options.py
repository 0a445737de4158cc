"""Options that are passed on are refused before the work, by name."""

import pytest

from utilities.hooks.calls.options import check_options


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
