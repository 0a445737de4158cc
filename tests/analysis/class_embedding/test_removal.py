"""Removal curves: known ones of a model made by hand, deletion one image at a time, order, ties and refusals."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.analysis.class_embedding.test_importance import IMAGES, LABELS, toy
from utilities.analysis.class_embedding.importance import Importance, importance
from utilities.analysis.class_embedding.removal import RemovalCurves, curve_area, removal_curves
from utilities.plots.class_embedding.importance import plot_heatmaps
from utilities.plots.class_embedding.removal import plot_removal
from utilities.utils import evaluate

N = 9  # tokens of the model made by hand
QUIET = {"device": "cpu", "progress": False}


def finder():
    """Make a ViT that answers 1 as long as it sees a bright pixel: the class token averages all tokens' brightness."""
    model = VisionTransformer(
        img_size=3, patch_size=1, in_chans=1, embed_dim=2, depth=1, num_heads=1, num_classes=2, norm_layer=nn.Identity
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.patch_embed.proj.weight[0] = 1
        attention = model.blocks[0].attn
        attention.qkv.weight[4:] = torch.eye(2)  # queries and keys stay 0: all weights are equal
        attention.proj.weight.copy_(torch.eye(2))
        model.head.weight[1, 0] = 1
        model.head.bias[0] = 0.01
    return model.eval()


def bright(places):
    """Make an image of one bright pixel for each place."""
    images = torch.zeros(len(places), 1, 3, 3)
    images.flatten(1)[torch.arange(len(places)), places] = 1
    return images


PLACES = torch.arange(36) % N
FOUND = [(bright(PLACES), torch.ones(36, dtype=torch.long))]
ORACLE = torch.nn.functional.one_hot(PLACES, N).double().numpy()


def test_oracle_gives_the_known_curves():
    curves = removal_curves(finder(), FOUND, {"oracle": ORACLE, "worst": -ORACLE}, random=20, **QUIET)
    np.testing.assert_array_equal(curves.removed, np.arange(N + 1))
    kept = [1.0] * N + [0.0]  # the pixel goes last
    lost = [1.0] + [0.0] * N  # the pixel goes first
    np.testing.assert_array_equal(curves.negative, [kept, lost])
    np.testing.assert_array_equal(curves.positive, [lost, kept])
    auc = curves.auc().set_index(["method", "direction"])["auc"]
    np.testing.assert_allclose(auc["oracle"], [1 - 1 / (2 * N), 1 / (2 * N)])
    published = curves.published_auc().set_index(["method", "direction"])["auc"]
    np.testing.assert_allclose(published["oracle"], [N / (N + 1), 1 / (N + 1)])
    # In a random order the pixel is left with probability 1 - k / N; 720 draws have a standard error below 0.02.
    np.testing.assert_allclose(curves.random.mean(0), 1 - np.arange(N + 1) / N, atol=0.06)
    np.testing.assert_allclose(auc["random", "random"], 0.5, atol=0.05)
    assert curves.intact == 1


def test_ties_are_not_broken_by_position():
    """A map that says nothing is a random order, wherever the pixel is."""
    first = [(bright(torch.zeros(200, dtype=torch.long)), torch.ones(200, dtype=torch.long))]
    options = {"random": 0, **QUIET}
    one, again, other = (
        removal_curves(finder(), first, {"flat": np.zeros((200, N))}, seed=s, **options) for s in (0, 0, 1)
    )
    # The mean of 200 uniform places has a standard error of 0.02; by position it would be 0.06 or 0.94.
    np.testing.assert_allclose(one.auc()["auc"], 0.5, atol=0.08)
    np.testing.assert_array_equal(one.negative, again.negative)
    assert (one.negative != other.negative).any()
    np.testing.assert_allclose(one.negative_auc, 1 - one.positive_auc)  # the order reversed, ties and all


def data(size=7):
    return list(zip(IMAGES.split(size), LABELS.split(size), strict=True))


def random_map(seed=0):
    return np.random.default_rng(seed).normal(size=(7, 4))


def answer_without(model, image, keep):
    """Run a model's parts by hand on some of one image's tokens."""
    with torch.no_grad():
        tokens = model._pos_embed(model.patch_embed(image[None]))
        chosen = [*range(model.num_prefix_tokens), *(model.num_prefix_tokens + int(token) for token in sorted(keep))]
        return int(model.forward_head(model.norm(model.blocks(tokens[:, chosen]))).argmax(1))


@pytest.mark.parametrize(
    "kind", ["pre-norm", "registers", "distilled", "average, norm after", "average of prefix too", "residual-post-norm"]
)
def test_points_are_those_of_deletion_one_image_at_a_time(kind):
    model, values = toy(kind, seed=4), random_map()
    curves = removal_curves(model, data(3), {"map": values}, random=0, target="prediction", **QUIET)
    intact = [answer_without(model, image, range(4)) for image in IMAGES]
    last = 3 if kind == "average, norm after" else 4
    assert curves.removed.tolist() == list(range(last + 1))
    changed = 0
    for direction, sign in (("negative", 1), ("positive", -1)):
        hits = np.zeros((7, last + 1))
        for i, image in enumerate(IMAGES):
            order = np.argsort(sign * values[i])
            hits[i] = [answer_without(model, image, order[k:]) == intact[i] for k in range(last + 1)]
        np.testing.assert_array_equal(getattr(curves, direction)[0], hits.mean(0))
        areas = [sum(row[:-1] + row[1:]) / 2 / 4 for row in hits]
        np.testing.assert_allclose(getattr(curves, f"{direction}_auc")[0], areas)
        changed += (hits == 0).sum()
    assert changed  # some answers do change


def test_first_point_is_the_intact_model_and_last_the_class_token():
    model = toy()
    maps = {"one": random_map(), "two": random_map(1)}
    curves = removal_curves(model, data(), maps, random=2, **QUIET)
    accuracy = evaluate(model, data(), device="cpu", topk=(1,))["top1"]
    alone = np.mean([answer_without(model, image, []) == label for image, label in zip(IMAGES, LABELS, strict=True)])
    for accuracies in (curves.negative, curves.positive, curves.random):
        np.testing.assert_array_equal(accuracies[:, 0], accuracy)
        np.testing.assert_array_equal(accuracies[:, -1], alone)
    assert curves.intact == accuracy


def test_result_does_not_depend_on_batches():
    maps = {"map": random_map(), "flat": np.zeros((7, 4))}
    one, two = (removal_curves(toy(), data(size), maps, random=3, **QUIET) for size in (7, 2))
    for name in ("negative", "positive", "random", "negative_auc", "positive_auc", "random_auc", "targets"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    np.testing.assert_allclose(one.random_stderr, two.random_stderr, rtol=1e-12)
    assert len(np.unique(one.random, axis=0)) > 1


def test_maps_of_importance_are_taken_as_they_are():
    maps = importance(toy(), data(3), **QUIET)
    one = removal_curves(toy(), data(), {"map": maps}, random=1, **QUIET)
    two = removal_curves(toy(), data(), {"map": maps.maps}, random=1, **QUIET)
    np.testing.assert_array_equal(one.negative, two.negative)


def test_few_points_of_the_same_curve():
    maps = {"map": random_map()}
    whole, few = (removal_curves(toy(), data(), maps, random=1, steps=steps, **QUIET) for steps in (None, 3))
    assert few.removed.tolist() == [0, 2, 4]
    np.testing.assert_array_equal(few.negative, whole.negative[:, ::2])
    np.testing.assert_allclose(few.negative_auc.mean(), curve_area(few.negative[0], np.array([0, 0.5, 1])))


def test_random_orders_alone():
    curves = removal_curves(toy(), data(), {}, random=2, **QUIET)
    assert curves.negative.shape == (0, 5)
    assert curves.auc()["method"].tolist() == ["random"]
    assert curves.intact == curves.random[0, 0]


def test_table_errors_and_files(tmp_path):
    given = {"model": "toy", "weights": "untrained"}
    curves = removal_curves(toy(), data(), {"map": random_map()}, random=3, provenance=given, **QUIET)
    frame = curves.to_frame()
    assert len(frame) == 3 * 5
    np.testing.assert_array_equal(frame[frame["direction"] == "positive"]["accuracy"], curves.positive[0])
    row = frame[(frame["direction"] == "negative") & (frame["removed"] == 2)].iloc[0]
    accuracy = row["accuracy"]
    assert row["fraction"] == 0.5
    assert row["stderr"] == pytest.approx(
        np.std([1.0] * round(7 * accuracy) + [0.0] * round(7 * (1 - accuracy)), ddof=1) / 7**0.5
    )
    random = frame[frame["direction"] == "random"]
    np.testing.assert_allclose(random["spread"], curves.random.std(0, ddof=1))
    auc = curves.auc().iloc[0]
    assert auc["auc"] == pytest.approx(curve_area(curves.negative[0], curves.fraction))  # the mean of areas
    assert auc["low"] <= auc["auc"] <= auc["high"]
    loaded = RemovalCurves.load(curves.save(tmp_path / "curves"))
    pd.testing.assert_frame_equal(loaded.to_frame(), frame)
    assert loaded.provenance == curves.provenance
    assert (loaded.n, loaded.intact) == (7, curves.intact)


def test_model_is_put_back_also_after_an_error():
    model = toy().train()
    removal_curves(model, data(), {"map": random_map()}, random=0, **QUIET)
    handle = model.norm.register_forward_hook(
        lambda module, args, output: output[:, 2:] if output.shape[1] < 4 else None
    )
    with pytest.raises(IndexError):
        removal_curves(model, data(), {"map": random_map()}, random=0, **QUIET)
    handle.remove()
    assert model.training
    assert not model.norm_pre._forward_hooks


class Unread:
    dataset = range(7)

    def __iter__(self):
        raise AssertionError("the loader was read before the options were checked")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {
                "maps": {"a": np.zeros((6, 4))},
            },
            "'a' is of 6 images, but the loader has 7",
        ),
        ({"maps": {"a": np.zeros((7, 5))}}, r"'a' has shape \(7, 5\); the model has 4 image tokens"),
        ({"maps": {"a": np.full((7, 4), np.nan)}}, "'a' holds NaN"),
        ({"maps": {"random": np.zeros((7, 4))}}, "another name"),
        ({"maps": {}, "random": 0}, "neither a map"),
        ({"random": -1}, "random=-1"),
        ({"seed": 0.5}, r"seed=0\.5"),
        ({"steps": 1}, "steps=1"),
        ({"target": 5}, "class from 0 to 4"),
        ({"model": nn.Linear(1, 1)}, "removal needs timm's VisionTransformer"),
        ({"loader": DataLoader(TensorDataset(IMAGES, LABELS), shuffle=True)}, "shuffles anew"),
    ],
)
def test_bad_options_are_refused_before_images_are_read(options, words):
    options = {"model": toy(), "loader": Unread(), "maps": {"map": random_map()}, **QUIET, **options}
    with pytest.raises(ValueError, match=words):
        removal_curves(**options)


def test_maps_of_other_images_are_refused():
    maps = importance(toy(), data(), **QUIET)
    moved = [(IMAGES.flip(0), LABELS.flip(0))]
    with pytest.raises(ValueError, match="other labels than the loader's from image 0 on"):
        removal_curves(toy(), moved, {"map": maps}, **QUIET)
    fewer = Importance(maps.maps[:5], maps.grid, maps.targets[:5], "gradient")
    for loader in (data(), (batch for batch in data(3))):  # the second one has no length
        with pytest.raises(ValueError, match=r"'map' is of 5 images, but the loader has (7|6 or more)"):
            removal_curves(toy(), loader, {"map": fewer}, random=0, **QUIET)
    with pytest.raises(ValueError, match="'map' is of 7 images, but the loader has 3"):
        removal_curves(toy(), (batch for batch in data(3)[:1]), {"map": maps}, random=0, **QUIET)


def test_figure_shows_the_curves():
    maps = {"one": random_map(), "two": random_map(1)}
    curves = removal_curves(toy(), data(), maps, random=3, provenance={"model": "toy", "dataset": "noise"}, **QUIET)
    figure = plot_removal(curves)
    for ax, direction in zip(figure.axes, ("negative", "positive"), strict=True):
        lines = {line.get_label(): line for line in ax.lines}
        assert list(lines) == ["intact model", "random order", "one", "two"]
        np.testing.assert_allclose(lines["two"].get_ydata(), 100 * getattr(curves, direction)[1])
        np.testing.assert_allclose(lines["two"].get_xdata(), [0, 25, 50, 75, 100])
        np.testing.assert_allclose(lines["random order"].get_ydata(), 100 * curves.random.mean(0))
        assert lines["intact model"].get_ydata()[0] == pytest.approx(100 * curves.intact)
    caption = figure.caption
    assert "noise, n = 7 images" in caption
    assert "3 random orders" in caption
    assert "At 100 %" in caption
    plt.close(figure)
    assert len(plot_removal({"a": curves, "b": curves}).axes) == 4
    plt.close("all")


def test_heatmaps_lie_on_their_pixels():
    images, heat = np.random.default_rng(0).uniform(size=(2, 8, 12, 3)), np.arange(12.0).reshape(2, 2, 3) - 5
    figure = plot_heatmaps(images, {"a": heat, "b": -heat}, titles=["x", "y"], provenance={"model": "toy", "n": 99})
    assert [ax.get_title() for ax in figure.axes[:3]] == ["image", "a", "b"]
    under, over = figure.axes[1].images
    assert list(under.get_extent()) == list(over.get_extent()) == [0, 12, 8, 0]
    np.testing.assert_allclose(over.get_array(), (heat[0] + 5) / 5)  # its own scale
    np.testing.assert_allclose(figure.axes[5].images[1].get_array(), np.flip((heat[1] - 1) / 5))
    assert figure.axes[3].get_ylabel() == "y"
    caption = figure.caption
    assert "n = 2 images" in caption
    assert "scaled by itself" in caption
    plt.close(figure)


@pytest.mark.parametrize(
    ("images", "maps", "titles", "words"),
    [
        (np.zeros((1, 3, 8, 8)), np.zeros((1, 2, 2)), None, "move the channels"),
        (np.full((1, 8, 8, 3), 2.0), np.zeros((1, 2, 2)), None, "0 to 1, got 2 to 2"),
        (np.zeros((1, 8, 8, 3)), np.zeros((2, 2, 2)), None, "of 1 images"),
        (np.zeros((1, 8, 8, 3)), np.zeros((1, 4)), None, r"got \(1, 4\)"),
        (np.zeros((1, 8, 8, 3)), np.zeros((1, 2, 2)), ["a", "b"], "2 titles for 1 images"),
    ],
)
def test_heatmaps_of_wrong_shapes_are_refused(images, maps, titles, words):
    with pytest.raises(ValueError, match=words):
        plot_heatmaps(images, {"a": maps}, titles=titles)
