"""Numbers as captions and claims state them, of one image too."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from utilities.claims.claim import Claim
from utilities.claims.evidence import weigh
from utilities.plots.captions import made_from
from utilities.results.formatting import counted, percent, percent_points, with_error
from utilities.results.statistics import mean_and_stderr


@pytest.mark.parametrize("form", [with_error, percent, percent_points])
def test_the_error_of_one_image_is_said_to_be_unknown(form):
    mean, error = mean_and_stderr(np.array([0.25]))
    text = form(float(mean), float(error))
    assert "nan" not in text
    assert text.endswith(" (error unknown)")
    assert "nan" not in form(0.25, 0.01)


def test_units_and_signs_stay_with_the_number():
    assert with_error(-1.2, math.nan, "+.1f", unit=" pixels") == "-1.2 pixels (error unknown)"
    assert with_error(-1.2, 0.25, "+.1f", ".2f", unit=" pixels") == "-1.2 ± 0.25 pixels"
    assert percent(0.5, math.nan, unknown="") == "50.0%"
    assert with_error(0.5, None) == "0.500"


def test_one_is_singular_in_captions_and_claims():
    assert [counted(n, "image") for n in (0, 1, 2, 1000)] == ["0 images", "1 image", "2 images", "1,000 images"]
    assert counted(np.int64(2), "image") == "2 images"
    one = SimpleNamespace(n=1, provenance={"dataset": "digits (test)", "weights": "pretrained", "n": 1})
    assert made_from({"ViT": one}) == "ViT: pretrained. digits (test), n = 1 image."
    text = str(weigh(Claim("a", "b", "c", True), {"vit": one}))
    assert "digits (test), 1 image)" in text
    assert "1 image of vit is fewer than 50" in text
