"""The figure of divergences: what is drawn, and that nothing of it is cut off."""

import matplotlib.pyplot as plt
import numpy as np

from utilities.analysis.class_embedding.lens_kl import LensKL
from utilities.plots.class_embedding.lens_distance import plot_lens_distances


def result(top, groups=("CLS", "image")):
    """Divergences that fall from some value to 0 over three blocks, for two lenses."""
    kl = np.linspace(top, 0, 3)[:, None] * np.ones((2, 3, len(groups)))
    return LensKL(["a", "b", "c"], list(groups), kl, 0.01 * kl)


def test_all_panels_show_all_values():
    results = {"vit": result(1.0), "cnn": result(3.0, groups=("image",))}
    figure = plot_lens_distances(results)
    for ax, (label, one) in zip(figure.axes, results.items(), strict=True):
        drawn = np.array([bars.lines[0].get_ydata() for bars in ax.containers])
        np.testing.assert_array_equal(drawn, one.kl.transpose(0, 2, 1).reshape(-1, 3))
        low, high = ax.get_ylim()
        assert (low, ax.get_title()) == (0, label)
        assert high > 3.03
    plt.close(figure)
