import numpy as np
import torch

from utilities.datasets import load_dataset
from utilities.results.image_contributions import ImageContributions
from utilities.study.image_contributions import extremes


def test_the_images_of_the_data_set_are_fetched_by_their_places():
    data = load_dataset("digits", n_images=20, image_size=8)
    shares, none = np.array([[0.1, 0.5, -0.2]]), np.zeros(1)
    result = ImageContributions([["a", "b"]], shares, shares, np.array([7, 3, 11]), np.zeros(3, int), none, none, none)
    shown = extremes(result, data, 1)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
    for kind, place in (("most", 3), ("least", 11)):
        expected = (data[place][0] * std + mean).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(shown[kind][0], expected, atol=1e-6)
    assert not np.array_equal(shown["most"], shown["least"])
