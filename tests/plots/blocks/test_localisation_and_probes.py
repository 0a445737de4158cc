"""Figures of localisation and of layer probes show the numbers of the results."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from utilities.analysis.blocks.layer_probes import layer_probes
from utilities.analysis.blocks.localisation import localisation
from utilities.plots.blocks import plot_layer_probes, plot_localisation, plot_sharpness, plot_token_probes
from utilities.zoo import create_model

CPU = {"device": "cpu", "progress": False}
FACTS = {"model": "vit_tiny_patch2_16", "weights": "untrained", "dataset": "noise"}
IMAGES = torch.randn(60, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(60) % 5


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def localised():
    models = {"ViT": create_model("vit_tiny_patch2_16", 5, seed=0), "CNN": create_model("resnet18", 5, seed=0)}
    return {k: localisation(m, list(IMAGES.split(20)), patch=2, provenance=FACTS, **CPU) for k, m in models.items()}


@pytest.fixture(scope="module")
def probed():
    model, parts = (
        create_model("vit_tiny_patch2_16", 5, seed=0),
        list(zip(IMAGES.split(30), LABELS.split(30), strict=True)),
    )
    views = ["gap", "cls", "tokens"]
    return layer_probes(model, parts[:1], parts[1:], view=views, shots=5, draws=2, provenance=FACTS, **CPU)


def caption(figure):
    return figure.caption


def test_maps_of_single_positions(localised):
    figure = plot_localisation(localised)
    maps = [ax for ax in figure.axes if ax.images]
    assert len(maps) == 3 * 2 * 3
    interior = maps[2]  # of the ViT's first block
    np.testing.assert_array_equal(interior.images[0].get_array(), localised["ViT"].map(0, 4, 4))
    assert f"max {localised['ViT'].map(0, 4, 4).max():.2f}" in interior.get_title()
    box = interior.patches[0]
    assert (box.get_x(), box.get_y(), box.get_width()) == (3.5, 3.5, 1)
    last = maps[-1].patches[0]  # of the CNN's last block, 2x2 positions: each covers 4x4 patches
    assert (last.get_x(), last.get_width()) == (3.5, 4)
    assert "patch of 2 pixels" in caption(figure)
    assert len([ax for ax in plot_localisation(localised["CNN"], ["edge"], [-1]).axes if ax.images]) == 1
    with pytest.raises(ValueError, match="corner, edge, interior"):
        plot_localisation(localised, ["centre"])


def test_a_position_is_called_what_it_is_in_its_grid(localised):
    assert localised["CNN"].grids[-1].tolist() == [2, 2]
    titles = [ax.get_title() for ax in plot_localisation(localised, layers=[-1]).axes if ax.images]
    assert "interior" in titles[2]  # of the ViT
    heads = [title.split("\nmax")[0] for title in titles[3:]]
    assert heads == ["corner", "CNN\ncorner of 2x2", "corner of 2x2"]
    below = [ax.get_title() for ax in plot_localisation(localised["CNN"]).axes if ax.images]
    assert "interior" in below[2]
    assert below[-1].startswith("corner of 2x2")


def test_sharpness_over_depth(localised):
    figure = plot_sharpness(localised, ["near", "own"])
    line = figure.axes[0].get_lines()[0]
    np.testing.assert_allclose(line.get_ydata(), 100 * localised["ViT"].of("near")[0])
    np.testing.assert_allclose(line.get_xdata(), localised["ViT"].depth)
    assert "one standard error over batches" in caption(figure)
    with pytest.raises(ValueError, match="own, others, found"):
        plot_sharpness(localised, ["sharp"])


def test_accuracy_over_depth(probed):
    figure = plot_layer_probes({"ViT": probed})
    assert [ax.get_title() for ax in figure.axes] == ["mean over positions", "class token", "single positions, mean"]
    np.testing.assert_allclose(figure.axes[1].get_lines()[0].get_ydata(), 100 * probed.of("cls")[0])
    text = caption(figure)
    assert "5 images a class, mean of 2 draws, penalty chosen on a fifth" in text
    assert "over test images and draws" in text
    assert len(plot_layer_probes(probed, ["gap"]).axes) == 1
    with pytest.raises(ValueError, match="'flatten' was not read"):
        plot_layer_probes(probed, ["flatten"])


def test_panels_that_share_a_scale_cut_nothing_of_each_other(probed):
    """The first panel alone would end far below the points of the others."""
    correct = probed.correct.copy()
    correct[:, probed.views.index("gap")], correct[:, probed.views.index("cls")] = 0, 1
    one = replace(probed, correct=correct, by_draw=np.zeros_like(probed.by_draw))
    figure = plot_layer_probes(one, ["gap", "cls"])
    for ax, view in zip(figure.axes, ("gap", "cls"), strict=True):
        assert ax.get_ylim()[0] == 0
        assert ax.get_ylim()[1] > 100 * one.of(view)[0].max()


def test_the_first_token_of_a_map_is_its_corner(probed):
    first = replace(probed, views=["gap", "token:0", "tokens"])
    cnn = replace(first, provenance=FACTS | {"model": "resnet18"})
    figure = plot_layer_probes({"ViT": first, "CNN": cnn}, ["token:0"])
    assert figure.axes[0].get_title() == "first token, or corner"
    said = "First token: the class token, or, where there is none{}, the position in the upper left corner."
    assert said.format(" (CNN)") in caption(figure)
    assert said.format("") in caption(plot_layer_probes({"ViT": first}))
    assert "First token" not in caption(plot_layer_probes({"ViT": first, "CNN": cnn}, ["gap"]))


def test_accuracy_of_each_position(probed):
    figure = plot_token_probes({"ViT": probed}, layers=(0, 3, -1))
    maps = [ax for ax in figure.axes if ax.images]
    np.testing.assert_allclose(maps[1].images[0].get_array(), 100 * probed.token_map(3))
    assert f"class token {100 * probed.class_token(3)[0]:.0f}%" in maps[1].get_title()
