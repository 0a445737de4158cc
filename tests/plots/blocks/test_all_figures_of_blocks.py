"""Figures of the analyses of blocks show the numbers of the results."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from utilities.analysis.blocks.fourier import fourier
from utilities.analysis.blocks.lesion import lesions
from utilities.analysis.blocks.receptive_field import receptive_field
from utilities.analysis.blocks.skip_ratios import skip_ratios
from utilities.analysis.blocks.variance import feature_variance
from utilities.plots.blocks.fourier import plot_gain, plot_high_frequency, plot_spectra
from utilities.plots.blocks.lesion import plot_lesions
from utilities.plots.blocks.receptive_field import plot_field_sizes, plot_receptive_fields
from utilities.plots.blocks.skip_ratios import plot_skip_heatmaps, plot_skip_lines
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
    return figure.caption


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


@pytest.fixture(scope="module")
def cnn():
    return create_model("resnet18", 5, seed=0)


def test_receptive_fields(vit, cnn):
    results = {"ViT": receptive_field(vit, LOADER, device="cpu", provenance=FACTS)}
    results["CNN"] = receptive_field(cnn, LOADER, device="cpu", provenance=FACTS | {"model": "resnet18"})
    figure = plot_receptive_fields(results, columns=4)
    images = [ax.images[0].get_array() for ax in figure.axes if ax.images][:16]
    assert len(images) == 16
    np.testing.assert_allclose(images[0], results["ViT"].maps[0] / results["ViT"].maps[0].max())
    assert [ax.get_ylabel().replace("\n", " ") for ax in figure.axes[:16:4]] == [
        f"{label} {part} the sum" for label in results for part in ("after", "before")
    ]
    assert "Scaled to each map's own maximum" in caption(figure)
    assert "A transformer is shown after each MLP's sum" in caption(figure)
    assert "the nearest is read, up to 1.4 pixels off" in caption(figure)  # of 8x8 patches of 2 pixels: (1, 1)
    middle = replace(results["ViT"], centre=np.full_like(results["ViT"].centre, 7.5))
    assert "pixels off" not in caption(plot_receptive_fields({"ViT": middle}))
    shared = plot_receptive_fields(results, "after", scale="shared", columns=3)
    assert max(ax.images[0].get_array().max() for ax in shared.axes[:3]) == 1
    assert "the largest value in the row" in caption(shared)
    with pytest.raises(ValueError, match="after, before"):
        plot_receptive_fields(results, "between")


def test_sizes_of_receptive_fields(vit, cnn):
    results = {"ViT": receptive_field(vit, LOADER, device="cpu", provenance=FACTS)}
    results["CNN"] = receptive_field(cnn, LOADER, device="cpu", provenance=FACTS | {"model": "resnet18"})
    left, right = plot_field_sizes(results).axes
    curves = [container.lines[0] for container in left.containers]
    np.testing.assert_allclose(curves[0].get_ydata(), results["ViT"].radius)
    np.testing.assert_allclose(curves[1].get_ydata(), results["ViT"].mean("before_radius")[0][1::2])  # attention
    np.testing.assert_allclose(curves[2].get_ydata(), results["ViT"].mean("before_radius")[0][2::2])  # and MLP
    np.testing.assert_allclose(curves[4].get_ydata(), results["CNN"].mean("before_radius")[0][1:])  # less the stem
    np.testing.assert_allclose(right.containers[3].lines[0].get_ydata(), results["CNN"].mean("share")[0])


def test_no_map_before_the_sum():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3))
    result = receptive_field(model, LOADER, layers={"0": "conv"}, device="cpu")
    assert plot_receptive_fields(result).axes[0].get_title() == "0"
    with pytest.raises(ValueError, match="no maps before the sum"):
        plot_receptive_fields(result, "before")


def test_skip_ratios(vit, cnn):
    results = {"ViT": skip_ratios(vit, LOADER, device="cpu", provenance=FACTS)}
    results["CNN"] = skip_ratios(cnn, LOADER, device="cpu", provenance=FACTS | {"model": "resnet18"})
    figure = plot_skip_lines(results)
    attention, mlp = figure.axes
    curves = [container.lines[0].get_ydata() for container in mlp.containers]
    np.testing.assert_allclose(curves[0], results["ViT"].ratio[1::2, 0])  # CLS
    np.testing.assert_allclose(curves[1], results["ViT"].ratio[1::2, 1])
    np.testing.assert_allclose(curves[2], results["CNN"].ratio[:, 0])  # in both panels
    np.testing.assert_allclose(attention.containers[2].lines[0].get_ydata(), results["CNN"].ratio[:, 0])
    assert "The line of CNN, over all residual blocks, stands in both panels." in caption(figure)
    for alone in results:  # one model has nothing to be told from, and a CNN one panel
        assert "both panels" not in caption(plot_skip_lines({alone: results[alone]}))
    assert [ax.get_yscale() for ax in plot_skip_lines(results, "cosine").axes] == ["linear", "linear"]
    with pytest.raises(ValueError, match="ratio, cosine"):
        plot_skip_lines(results, "norm")


def test_heatmaps_of_skip_ratios(vit, cnn):
    results = {"ViT": skip_ratios(vit, LOADER, device="cpu", provenance=FACTS)}
    results["CNN"] = skip_ratios(cnn, LOADER, device="cpu", provenance=FACTS | {"model": "resnet18"})
    figure = plot_skip_heatmaps(results)
    drawn = figure.axes[0].images[0].get_array()
    tall = len(drawn) - 64
    assert tall == round(0.06 * 65)  # rows of the class token, which one would hide
    np.testing.assert_allclose(drawn[tall:], results["ViT"].token_ratio[::2, 1:].T)
    np.testing.assert_allclose(drawn[:tall], np.tile(results["ViT"].token_ratio[::2, 0], (tall, 1)))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["CLS", "positions"]
    of_cnn = next(ax for ax in figure.axes if ax.get_title() == "CNN").images[0].get_array()
    np.testing.assert_allclose(of_cnn[::64, -1], results["CNN"].token_ratio[-1, :4])  # 2x2 positions, stretched
    assert "stretched to one height" in caption(figure)
