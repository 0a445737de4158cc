"""Features at hand: each pair as the public functions of the measures have it."""

import numpy as np
import pytest
import torch

from utilities.compare import measures
from utilities.compare.feature_matrices import compare_features
from utilities.compare.measures import SIMILARITY_MEASURES
from utilities.metrics import cka

FEATURES = [torch.randn(40, width, generator=torch.Generator().manual_seed(width)) for width in (3, 5, 8)]


@pytest.mark.parametrize("measure", ["cka", "cka_biased", *SIMILARITY_MEASURES])
def test_entries_are_those_of_the_public_functions(measure):
    estimator = "biased" if measure == "cka_biased" else "debiased"
    one = (lambda x, y: cka(x, y, estimator=estimator)) if "cka" in measure else getattr(measures, measure)
    expected = [[(one(x, y) + one(y, x)) / 2 for y in FEATURES] for x in FEATURES]
    np.testing.assert_allclose(compare_features(FEATURES, measure), expected, atol=1e-6)


def test_no_variance_is_missing_and_what_cannot_be_compared_is_refused():
    found = compare_features([FEATURES[0], torch.ones(40, 2)])
    assert found[0, 0] == pytest.approx(1)
    assert np.isnan(found[1]).all()
    with pytest.raises(ValueError, match="measure 'ckas' is not known"):
        compare_features(FEATURES, "ckas")
    with pytest.raises(ValueError, match="of the same images"):
        compare_features([FEATURES[0], FEATURES[0][:9]])
    with pytest.raises(ValueError, match="features 0: with 60 features"):
        compare_features([torch.randn(40, 60)] * 2, "cca")
