"""Figures of the analyses of blocks show the numbers of the results."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from utilities.analysis.blocks.fourier import fourier
from utilities.analysis.blocks.lesion import lesions
from utilities.analysis.blocks.variance import feature_variance
from utilities.plots.blocks.fourier import plot_gain, plot_high_frequency, plot_spectra
from utilities.plots.blocks.lesion import plot_lesions
from utilities.plots.blocks.variance import plot_variance
from utilities.zoo import create_model

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LOADER = [(IMAGES, torch.arange(4))]
FACTS = {"model": "vit_tiny_patch2_16", "weights": "untrained", "dataset": "noise", "profile": "quick"}


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def vit():
    return create_model("vit_tiny_patch2_16", 5, seed=0)


def caption(figure):
    return figure._supxlabel.get_text().replace("\n", " ")


def test_spectra(vit):
    result = fourier(vit, LOADER, device="cpu", provenance=FACTS)
    figure = plot_spectra({"ViT": result, "the same": result}, axis="pixel")
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == result.frequency.shape[1]]
    np.testing.assert_array_equal(np.stack([line.get_ydata() for line in lines]), result.delta)
    np.testing.assert_array_equal(lines[3].get_xdata(), result.pixel_frequency[3])
    assert "ViT: vit_tiny_patch2_16, untrained." in caption(figure)
    assert "n = 4 images, quick profile" in caption(figure)
    with pytest.raises(ValueError, match="own, pixel"):
        plot_spectra(result, axis="x")


def test_values_over_depth_with_shading(vit):
    result = fourier(vit, LOADER, device="cpu", provenance=FACTS)
    ax = plot_high_frequency(result).axes[0]
    points = ax.collections[-1].get_offsets()
    np.testing.assert_allclose(points, np.stack([result.depth, result.high], 1))
    shaded = sorted(patch.get_x() for patch in ax.patches)
    np.testing.assert_allclose(shaded, result.depth[:-1:2])  # each attention branch, from the block before it
    variance = feature_variance(vit, LOADER, device="cpu", provenance=FACTS)
    points = plot_variance(variance, "relative").axes[0].collections[-1].get_offsets()
    np.testing.assert_allclose(points[:, 1], variance.relative)
    with pytest.raises(ValueError, match="variance, relative, branch"):
        plot_variance(variance, "raw")


def test_gain_is_drawn_for_blocks_that_keep_their_grid(vit):
    result = fourier(vit, LOADER, device="cpu", provenance=FACTS)
    figure = plot_gain(result)
    thin = [line for line in figure.axes[0].lines if line.get_linewidth() == 0.6]
    assert len(thin) == sum(kind in ("msa", "mlp") for kind in result.kinds)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["msa", "mlp"]


def test_lesions(vit):
    result = lesions(vit, LOADER, device="cpu", provenance=FACTS)
    figure = plot_lesions(result)
    bars = [bar for bar in figure.axes[0].patches if bar.get_width() == 0.8][: len(result.names)]
    np.testing.assert_allclose([bar.get_height() for bar in bars], 100 * result.drop)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == result.names
    with pytest.raises(ValueError, match="drop, loss"):
        plot_lesions(result, "accuracy")
