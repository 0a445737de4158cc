"""Identifiability, changes, composition and context against loops in float64, and the identities they obey."""

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from tests.analysis.class_embedding.test_lens import KINDS, C, brute_logits, hooks_of, pictures, toy
from utilities.analysis.class_embedding.composition import SOURCES, exclusive, overlapping
from utilities.analysis.class_embedding.identifiability import AXES, Identifiability, identifiability
from utilities.analysis.class_embedding.space import LensOptions
from utilities.plots.class_embedding.identifiability import (
    plot_changes,
    plot_composition,
    plot_context,
    plot_distribution,
    plot_evolution,
)
from utilities.resnet import BasicBlock, ResNet
from utilities.results.statistics import mean_and_stderr, paired_p

FAST = {"device": "cpu", "resamples": 40}


def masks_of(n=6):
    """Soft masks; the last two images show the object everywhere and nowhere."""
    masks = torch.rand(n, 8, 8, generator=torch.Generator().manual_seed(2)) ** 0.9
    masks[-2], masks[-1] = 1, 0
    return masks


def brute(model, images, labels, masks, reference="input"):
    """Every quantity for each image, image by image and token by token."""
    logits = brute_logits(model, images)
    n, _, depth, count, _ = logits.shape
    prefix = model.num_prefix_tokens
    groups = [[0]] if model.cls_token is not None else []
    groups = [*groups, list(range(prefix, count))]
    shapes = {"score": (3, depth, len(groups)), "rate": (3, depth, len(groups)), "any_token": (depth,)}
    shapes |= {"change": (depth, len(groups)), "layer_change": (2, depth, len(groups))}
    shapes |= {"composition": (depth, len(groups), 5), "overlap": (depth, len(groups), 4)}
    shapes |= {"place_score": (depth, 2), "place_difference": (depth,), "place_layer_difference": (2, depth)}
    out = {name: np.full((n, *shape), np.nan) for name, shape in shapes.items()}
    for i in range(n):
        c, x = int(labels[i]), logits[i]
        pos = np.array([[[list(np.argsort(-x[p, b, t])).index(c) for t in range(count)] for b in range(depth)]
                        for p in range(3)])  # fmt: skip
        cover = [float(masks[i, 4 * r : 4 * r + 4, 4 * s : 4 * s + 4].mean()) for r in range(2) for s in range(2)]
        kinds = [[prefix + t for t in range(4) if cover[t] >= 0.5], [prefix + t for t in range(4) if cover[t] < 0.5]]
        for b in range(depth):
            out["any_token"][i, b] = any(pos[0, b, t] == 0 for t in groups[-1])
            layers = np.full((2, count), np.nan)
            if b:
                middle = x[3, b] if reference == "own" else x[0, b - 1]
                layers = np.stack([x[1, b, :, c] - x[0, b - 1, :, c], x[2, b, :, c] - middle[:, c]])
            for g, tokens in enumerate(groups):
                for p in range(3):
                    out["score"][i, p, b, g] = np.mean([1 - pos[p, b, t] / C for t in tokens])
                    out["rate"][i, p, b, g] = np.mean([pos[p, b, t] == 0 for t in tokens])
                if b:
                    out["change"][i, b, g] = np.mean([x[0, b, t, c] > x[0, b - 1, t, c] for t in tokens])
                    out["layer_change"][i, :, b, g] = (layers[:, tokens] > 0).mean(1)
                    first = [_sources(x, b, t) for t in tokens]
                    out["composition"][i, b, g] = [np.mean([one == [s] for one in first]) for s in range(3)] + [
                        np.mean([len(one) > 1 for one in first]),
                        np.mean([len(one) == 0 for one in first]),
                    ]
                    out["overlap"][i, b, g] = [np.mean([s in one for one in first]) for s in range(3)] + [
                        np.mean([not one for one in first])
                    ]
            if all(kinds):
                out["place_score"][i, b] = [np.mean([1 - pos[0, b, t] / C for t in kind]) for kind in kinds]
                out["place_difference"][i, b] = out["place_score"][i, b, 0] - out["place_score"][i, b, 1]
                if b:
                    out["place_layer_difference"][i, :, b] = layers[:, kinds[0]].mean(1) - layers[:, kinds[1]].mean(1)
    return out


def _sources(x, b, t):
    first = x[0, b, t].argmax()
    return [s for s, other in enumerate((x[0, b - 1, t], x[1, b, t], x[2, b, t])) if other.argmax() == first]


@pytest.mark.parametrize("reference", ["input", "own"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_quantity_against_loops(kind, reference):
    model, (images, labels), masks = toy(kind, depth=3), pictures(), masks_of()
    found = identifiability(model, [(images, labels, masks)], reference=reference, **FAST)
    expected = brute(model, images, labels, masks, reference)
    for name in AXES:
        mean, stderr = mean_and_stderr(expected[name])
        # Each image's value is kept in float32.
        np.testing.assert_allclose(getattr(found, name), mean, rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(getattr(found, f"{name}_stderr"), stderr, rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(found.image_score, expected["score"][:, 0], rtol=1e-6)
    p = paired_p(expected["place_difference"], resamples=40)
    np.testing.assert_allclose(found.place_p, p, atol=1e-12)
    with torch.no_grad():
        assert found.accuracy == float((model(images).argmax(1) == labels).double().mean())
    assert found.n == 6
    assert found.n_masked == 4  # two images have tokens of one kind alone


@pytest.mark.parametrize("kind", ["token", "LayerScale", "registers"])
def test_the_class_tokens_last_rate_is_the_accuracy(kind):
    for seed in range(4):
        found = identifiability(toy(kind, seed=seed), [pictures(40, seed)], **FAST)
        assert found.class_token_decides
        assert found.rate[0, -1, 0] == found.accuracy
        assert 0 < found.accuracy < 1


@pytest.mark.parametrize("kind", ["average", "distilled"])
def test_elsewhere_the_class_token_does_not_decide(kind):
    assert not identifiability(toy(kind), [pictures()], **FAST).class_token_decides


def test_models_without_a_class_token_have_image_tokens_alone():
    model, (images, labels) = toy("average"), pictures()
    found, every = identifiability(model, [(images, labels)], **FAST), brute_logits(model, images)
    assert found.groups == ["image"]
    ranks = np.argsort(np.argsort(-every[:, 0, -1], axis=-1), axis=-1)  # of all four patches, the first one too
    expected = np.mean([1 - ranks[i, t, labels[i]] / C for i in range(6) for t in range(4)])
    assert found.score[0, -1, 0] == pytest.approx(expected, rel=1e-6)


def test_sources_are_exclusive_and_the_mlp_counts():
    """As published the MLP was left out of "composition", and shares overlap so that they exceed 1."""
    agree = torch.cartesian_prod(*[torch.tensor([False, True])] * 3)
    assert (exclusive(agree).sum(1) == 1).all()
    mlp_alone = torch.tensor([[False, False, True]])
    assert SOURCES[int(exclusive(mlp_alone).int().argmax())] == "mlp"
    assert not overlapping(mlp_alone)[0, -1]
    found = identifiability(toy(depth=3), [pictures(20)], **FAST)
    np.testing.assert_allclose(found.composition[1:].sum(2), 1, atol=1e-6)
    assert (found.overlap[1:].sum(2) > 1 + 1e-6).any()
    np.testing.assert_allclose(found.overlap[..., -1], found.composition[..., -1])


def test_references_differ_for_the_mlp_alone():
    model, batch = toy(depth=3), pictures(20)
    published, own = (identifiability(model, [batch], reference=r, **FAST) for r in ("input", "own"))
    np.testing.assert_array_equal(published.layer_change[0], own.layer_change[0])
    assert not np.allclose(published.layer_change[1, 1:], own.layer_change[1, 1:])
    with pytest.raises(ValueError, match="raw outputs are not what is added"):
        identifiability(model, [batch], reference="own", lens=LensOptions(scale=False), **FAST)


def test_tokens_are_labelled_by_the_fraction_that_is_covered():
    """One pixel at a patch's centre is what a nearest-neighbour resize would have taken."""
    model, (images, labels) = toy(), pictures()
    masks = torch.zeros(6, 8, 8)
    masks[:, 2, 2] = 1  # a sixteenth of the first patch
    masks[:, :4, 4:] = 0.75
    found = {t: identifiability(model, [(images, labels, masks)], threshold=t, **FAST) for t in (0.05, 0.5, 0.8)}
    logits = brute_logits(model, images)[:, 0, -1]
    score = 1 - np.array(
        [[(x[t] > x[t, c]).sum() / C for t in range(1, 5)] for x, c in zip(logits, labels, strict=True)]
    )
    for threshold, tokens in ((0.05, [0, 1]), (0.5, [1])):
        assert found[threshold].place_score[-1, 0] == pytest.approx(score[:, tokens].mean(), rel=1e-6)
    assert found[0.8].n_masked == 0
    assert np.isnan(found[0.8].place_difference).all()
    with pytest.raises(ValueError, match="threshold"):
        identifiability(model, [(images, labels, masks)], threshold=0, **FAST)


def test_without_masks_there_is_no_context():
    found = identifiability(toy(), [pictures()], **FAST)
    assert found.n_masked == 0
    assert all(np.isnan(getattr(found, name)).all() for name in AXES if name.startswith("place"))
    assert np.isnan(found.place_p).all()


def test_images_are_what_a_test_counts_not_their_tokens():
    """Three images give no p-value below 1/8, whatever their tokens say."""
    model, (images, labels), masks = toy(), pictures(3), masks_of()[:3]
    found = identifiability(model, [(images, labels, masks)], device="cpu", resamples=500)
    assert found.place_p.min() >= 1 / 8
    other = identifiability(toy(seed=5), [(images, labels)], **FAST)
    assert found.above(other).min() >= 1 / 8
    assert found.above(other).shape == (2, 2)
    expected = paired_p(found.image_score - other.image_score)
    np.testing.assert_array_equal(found.above(other), expected)


def test_above_needs_pairs():
    model, (images, labels) = toy(), pictures()
    found = identifiability(model, [(images, labels)], **FAST)
    with pytest.raises(ValueError, match="other labels"):
        found.above(identifiability(model, [(images, labels.flip(0) * 0)], **FAST))
    with pytest.raises(ValueError, match="3 blocks of CLS and image"):
        found.above(identifiability(toy(depth=3), [(images, labels)], **FAST))
    with pytest.raises(ValueError, match="2 blocks of image"):
        found.above(identifiability(toy("average"), [(images, labels)], **FAST))


def test_scores_of_random_labels_are_at_chance():
    images, _ = pictures(400)
    labels = torch.randint(C, (400,), generator=torch.Generator().manual_seed(9))
    found = identifiability(toy(), [(images, labels)], **FAST)
    assert (np.abs(found.score - found.chance) < 4 * found.score_stderr).all()
    assert found.chance == 0.6


def test_batches_do_not_matter_and_seeds_do():
    model, (images, labels), masks = toy("registers"), pictures(), masks_of()
    batches = [(images[:1], labels[:1], masks[:1]), (images[1:], labels[1:], masks[1:])]
    whole = identifiability(model, [(images, labels, masks)], **FAST)
    parts = identifiability(model.train(), batches, **FAST)
    for name, value in vars(whole).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_allclose(value, getattr(parts, name), rtol=1e-6, err_msg=name)
    assert not np.array_equal(whole.score_interval, identifiability(model, batches, seed=1, **FAST).score_interval)
    low, high = whole.score_interval
    assert (low <= whole.score).all()
    assert (whole.score <= high).all()
    assert hooks_of(model) == 0
    assert model.training
    assert all(block.attn.fused_attn for block in model.blocks)


def test_hooks_are_removed_after_an_exception():
    model, (images, labels) = toy(), pictures()
    with pytest.raises(ValueError, match="masks"):
        identifiability(model, [(images, labels), (images, labels, torch.full((6, 8, 8), 7.0))], **FAST)
    assert hooks_of(model) == 0


def test_without_labels():
    model, (images, _) = toy(), pictures()
    found = identifiability(model, [images], target="prediction", **FAST)
    assert np.isnan(found.accuracy)
    assert not found.class_token_decides
    assert found.rate[0, -1, 0] == 1
    assert (found.labels == -1).all()


def test_a_learned_lens_reads_blocks_and_leaves_layers_alone():
    """The parts, and what they are compared with, are read as they were."""
    model, batch = toy(depth=3), pictures(20)
    shift = torch.randn(16, generator=torch.Generator().manual_seed(3)).double()
    tuned = LensOptions(tuned=lambda index, tokens: tokens + (2 - index) * shift)
    plain, other = (identifiability(model, [batch], lens=x, **FAST) for x in (None, tuned))
    np.testing.assert_array_equal(plain.score[0, -1], other.score[0, -1])
    assert not np.allclose(plain.score[0, 0], other.score[0, 0])
    assert not np.allclose(plain.change[1:], other.change[1:])
    for name in ("layer_change", "composition", "overlap"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(other, name))
    np.testing.assert_array_equal(plain.score[1:], other.score[1:])


def test_a_cnn_has_blocks_alone(tmp_path):
    torch.manual_seed(0)
    cnn = ResNet(BasicBlock, (1, 1, 1, 2), num_classes=C)
    images, labels = torch.randn(4, 3, 16, 16), torch.randint(C, (4,))
    masks = (torch.rand(4, 16, 16) > 0.5).float()
    found = identifiability(cnn, [(images, labels, masks)], **FAST)
    assert (found.parts, found.groups, found.score.shape) == (["block"], ["image"], (1, 2, 1))
    assert found.layer_change.shape == (0, 2, 1)
    assert np.isnan(found.composition).all()
    assert np.isfinite(found.change[1]).all()
    assert found.n_masked > 0
    loaded = Identifiability.load(found.save(tmp_path / "cnn"))
    assert loaded.to_frame().equals(found.to_frame())
    assert loaded.place_layer_p.shape == (0, 2)


def test_files_table_and_bad_input(tmp_path):
    model, (images, labels), masks = toy(), pictures(), masks_of()
    found = identifiability(model, [(images, labels, masks)], provenance={"model": "toy"}, **FAST)
    loaded = Identifiability.load(found.save(tmp_path / "a"))
    table = loaded.to_frame()
    assert table.equals(found.to_frame())
    assert len(table) == sum(getattr(found, name).size for name in AXES)
    row = table[(table.quantity == "layer_change") & (table.layer == "mlp") & (table.block == "blocks.1")]
    assert row[row.group == "image"]["mean"].item() == found.layer_change[1, 1, 1]
    assert {"n": 6, "model": "toy", "seed": 0, "reference": "input"}.items() <= loaded.provenance.items()
    for option in ({"reference": "mean"}, {"confidence": 2}, {"resamples": 0}, {"threshold": 1.5}, {"target": 5}):
        with pytest.raises(ValueError, match=next(iter(option))):
            identifiability(model, _unread(), **{**FAST, **option})
    with pytest.raises(ValueError, match="labels are needed"):
        identifiability(model, [images], **FAST)


def _unread():
    """A loader that options are checked before."""
    raise AssertionError("images were read")
    yield


@pytest.fixture(scope="module")
def results():
    """A model with a class token, one without, both with masks, and a CNN without."""
    (images, labels), masks, facts = pictures(12), masks_of(12), {"dataset": "noise", "weights": "untrained"}
    torch.manual_seed(0)
    cnn = ResNet(BasicBlock, (1, 1, 1, 2), num_classes=C)
    return {
        "ViT": identifiability(toy(depth=3), [(images, labels, masks)], provenance=facts, **FAST),
        "GAP": identifiability(toy("average", depth=4), [(images, labels, masks)], provenance=facts, **FAST),
        "CNN": identifiability(cnn, [(images.float(), labels)], provenance=facts, **FAST),
    }


@pytest.fixture
def close():
    yield
    plt.close("all")


def drawn(ax):
    """The lines of data in an axes."""
    return [line.get_ydata() for line in ax.lines if len(line.get_xdata()) > 2]


def titles(figure):
    return [ax.get_title() for ax in figure.axes]


@pytest.mark.usefixtures("close")
def test_evolution_draws_models_and_their_untrained_twins(results):
    vit = results["ViT"]
    figure = plot_evolution(results, {"ViT": results["ViT"]})
    left, right = figure.axes
    np.testing.assert_array_equal(drawn(left), [vit.score[0, :, 0]] * 2)
    np.testing.assert_array_equal(drawn(right)[0], vit.score[0, :, 1])
    np.testing.assert_allclose(left.lines[1].get_xdata(), [1 / 3, 2 / 3, 1])  # models differ in depth
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ViT", "GAP", "CNN", "untrained", "chance"]
    assert "noise, n = 12 images" in figure.caption
    attention = plot_evolution({"one": vit, "CNN": results["CNN"]}, part="attn")
    np.testing.assert_array_equal(drawn(attention.axes[1]), [vit.score[1, :, 1]])
    with pytest.raises(ValueError, match="untrained ResNet is none of"):
        plot_evolution(results, {"ResNet": vit})
    with pytest.raises(ValueError, match="part 'attn' was read of no model"):
        plot_evolution(results["CNN"], part="attn")


@pytest.mark.usefixtures("close")
def test_figures_of_images_changes_and_composition(results):
    boxes = plot_distribution(results).axes[0]
    medians = [line.get_ydata()[0] for line in boxes.lines if line.get_color() == "black" and line.get_linewidth() == 1]
    expected = np.median(results["ViT"].image_score, 0).T.ravel()
    np.testing.assert_allclose(medians, expected)
    changes = plot_changes(results)
    assert titles(changes) == ["ViT, [CLS]", "ViT, image tokens", "GAP, image tokens", "CNN, image tokens"]
    vit, image = results["ViT"], changes.axes[1]
    expected = 100 * np.stack([vit.change[:, 1], *vit.layer_change[..., 1]])
    np.testing.assert_array_equal(drawn(image), expected)
    bars = plot_composition(results)
    assert titles(bars) == ["ViT, [CLS]", "ViT, image tokens", "GAP, image tokens"]
    heights = np.array([bar.get_height() for bar in bars.axes[1].patches]).reshape(5, 2)
    np.testing.assert_allclose(heights, 100 * vit.composition[1:, 1].T)
    np.testing.assert_allclose(heights.sum(0), 100)
    with pytest.raises(ValueError, match="needs a transformer"):
        plot_composition(results["CNN"])


@pytest.mark.usefixtures("close")
def test_context_has_stars_where_the_test_says_so(results):
    p = np.array([0.2, 0.01, 0.01])
    vit = dataclasses.replace(results["ViT"], place_p=p, place_layer_p=np.stack([p, 1 - p]))
    figure = plot_context({"ViT": vit, "CNN": results["CNN"]})
    left, right = figure.axes
    np.testing.assert_array_equal(drawn(left), vit.place_score.T)
    np.testing.assert_array_equal(drawn(right), vit.place_layer_difference)
    assert [text.get_position()[0] for text in left.texts] == [2, 3]
    assert len(right.texts) == 2
    assert "no masks" in plot_context(results["CNN"]).axes[0].get_title()
