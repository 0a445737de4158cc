import numpy as np
import pytest

from utilities.plots.similarity import plot_extremes, plot_without
from utilities.results.image_contributions import ImageContributions


def made(n=12, labels=True):
    shares = np.stack([np.linspace(-0.01, 0.2, n), np.linspace(0.2, 0.0, n)])
    return ImageContributions(
        [["a", "x"], ["b", "y"]],
        shares,
        shares[::-1],
        100 + np.arange(n),
        np.arange(n) % 3 if labels else np.full(n, -1),
        np.array([0, 1, 5]),
        np.array([[0.9, 0.8, np.nan], [0.4, 0.3, -0.05]]),
        np.array([0.5, 0.2]),
        {"model1": "resnet18", "model2": "resnet34", "measure": "linear CKA", "dataset": "digits (test)"},
    )


def images(count, value):
    return np.full((count, 4, 4, 3), value)


def test_images_stand_in_the_order_of_their_numbers_under_their_classes():
    figure = plot_extremes(made(), images(3, 0.0), images(3, 1.0), classes=["cat", "dog", "owl"])
    assert [ax.get_title() for ax in figure.axes] == [
        *("owl\n0.2000", "dog\n0.1809", "cat\n0.1618"),
        *("cat\n-0.0100", "dog\n0.0091", "owl\n0.0282"),
    ]
    assert all(ax.images[0].get_array().min() == 0 for ax in figure.axes[:3])
    caption = figure.caption
    assert "linear CKA of a and x" in caption
    assert "All shares sum to 1.140" in caption
    assert "digits (test), n = 12 images" in caption


def test_agreement_of_the_mean_of_all_pairs_without_labels():
    figure = plot_extremes(made(labels=False), images(1, 0.5), images(1, 0.5), pair=None, by="agreement")
    caption = figure.caption
    assert "Cosine of each image in the linear CKA of the mean of 2 pairs of layers" in caption
    assert "sum to" not in caption
    assert figure.axes[0].get_title() == "image 111\n0.1000"


def test_what_is_left_keeps_all_values_in_sight():
    ax = plot_without(made()).axes[0]
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--", "-", "--"]
    assert ax.get_ylim()[0] < -0.05
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "1", "5"]


@pytest.mark.parametrize(
    ("most", "least", "message"),
    [
        (images(2, 0.0), images(3, 0.0), "most and least should be"),
        (images(0, 0.0), images(0, 0.0), "most and least should be"),
        (images(2, 0.0), images(2, 2.0), "values from 0 to 1"),
    ],
)
def test_wrong_images(most, least, message):
    with pytest.raises(ValueError, match=message):
        plot_extremes(made(), most, least)
