"""Streamed moments are those of all images at once."""

import numpy as np
import pytest
import torch

from utilities.results.moments import Moments, precise


@pytest.mark.parametrize("cuts", [[], [1], [3, 4, 11]])
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_batches_of_any_size_give_the_moments_of_all_images(cuts, offset):
    values = np.random.default_rng(0).normal(offset, 1, (12, 2, 3))
    moments = Moments()
    for batch in np.split(values, cuts):
        moments.add(torch.from_numpy(batch))
    assert moments.n == 12
    np.testing.assert_allclose(moments.mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, values.var(0, ddof=1), rtol=1e-6)
    np.testing.assert_allclose(moments.stderr, np.sqrt(moments.variance / 12), rtol=1e-12)


def test_one_image_has_a_mean_but_no_spread():
    moments = Moments()
    moments.add(np.array([[1.0, 2.0]]))
    assert moments.mean.tolist() == [1.0, 2.0]
    assert np.isnan(moments.variance).all()
    assert np.isnan(moments.stderr).all()


def test_low_precision_is_widened_and_complex_values_are_refused():
    moments = Moments()
    moments.add(torch.full((2048, 1), 0.1, dtype=torch.float16))
    assert moments.mean.item() == float(torch.tensor(0.1, dtype=torch.float16))
    with pytest.raises(TypeError, match="complex features"):
        precise(torch.zeros(1, dtype=torch.complex64))
