"""Perturbed Vision Transformers: what is counted, over which tokens of which images, and what must change nothing."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from utilities.analysis.class_embedding.eager_attention import eager_attention
from utilities.analysis.class_embedding.masking import deleting, drop_cls, no_cls_mask, self_only_mask, with_prefix
from utilities.analysis.class_embedding.perturbation import (
    PERTURBATION_MEASURES,
    PERTURBATIONS,
    SIDES,
    Perturbation,
    perturb,
    perturb_each_block,
)
from utilities.analysis.class_embedding.perturbation_counts import summarise
from utilities.analysis.class_embedding.space import LensOptions
from utilities.analysis.class_embedding.spaces import transformer_space
from utilities.plots.class_embedding.perturbation import plot_perturbation, plot_perturbation_of_blocks
from utilities.utils import evaluate
from utilities.zoo.local_vit import local_vit

SIZE = {"img_size": 8, "patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
AVERAGE = {"class_token": False, "global_pool": "avg"}
RUN = {"device": "cpu", "progress": False, "resamples": 20}


def build(**options):
    torch.manual_seed(0)
    model = VisionTransformer(**SIZE, **options).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.4)
    return model


def data(n=12, seed=0, masks=True):
    """Images with more and more patches on the object: the first has none, and the last two nothing else."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 3, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (n,), generator=generator)
    patches = torch.arange(16) < torch.arange(n)[:, None] * 16 // max(n - 2, 1)
    mask = patches.view(n, 4, 4).double().repeat_interleave(2, 1).repeat_interleave(2, 2)
    return (images, labels, mask) if masks else (images, labels)


def split(batch, size):
    return list(zip(*(part.split(size) for part in batch), strict=True))


@torch.no_grad()
def twin(model, kind, batch):
    """Count one image at a time, with tokens really deleted: per image (rate, score, cls, right) of both sides."""
    space, rows = transformer_space(model), []
    prefix = space.prefix
    for image, label, mask in zip(*batch, strict=True):
        on = mask[::2, ::2].flatten() >= 0.5
        chosen = {"no_context": on, "no_class": ~on}.get(kind, torch.ones(16, dtype=torch.bool))
        if not 0 < int(on.sum()) < 16 and kind in ("no_context", "no_class"):
            continue
        outputs, places = [], {"intact": chosen.nonzero()[:, 0] + prefix}
        hook = model.blocks[-1].register_forward_hook(lambda block, args, out, to=outputs: to.append(out[0]))
        sides = []
        for side in ("intact", "perturbed"):
            if side == "intact":
                logits = model(image[None])
            elif kind == "no_cls_unnormalised":
                with eager_attention(space, dict.fromkeys(range(2), partial(drop_cls, prefix=prefix))):
                    logits = model(image[None])
            elif kind in ("self_only", "no_cls"):
                mask_of = self_only_mask if kind == "self_only" else no_cls_mask
                logits = model(image[None], attn_mask=mask_of(16 + prefix, prefix, dtype=torch.float64))
            else:
                with deleting(space, with_prefix(chosen.nonzero().T, prefix)):
                    logits = model(image[None])
                places["perturbed"] = torch.arange(prefix, prefix + int(chosen.sum()))
            read = model.head(model.fc_norm(model.norm(outputs[-1])))
            ranks = (read > read[:, label : label + 1]).sum(1)
            own = ranks[places.get(side, places["intact"])].double()
            cls = float(ranks[0] == 0) if space.class_token else np.nan
            sides.append([(own == 0).double().mean(), (1 - own / 3).mean(), cls, float(logits.argmax() == label)])
        hook.remove()
        rows.append((int(chosen.sum()), sides))
    return np.array([count for count, _ in rows]), np.array([sides for _, sides in rows], dtype=float)


@pytest.mark.parametrize("kind", PERTURBATIONS)
@pytest.mark.parametrize("options", [{}, {"reg_tokens": 2}, AVERAGE], ids=["token", "registers", "average"])
def test_values_are_those_of_images_one_at_a_time(kind, options):
    model = build(**options)
    if kind.startswith("no_cls") and options == AVERAGE:
        pytest.skip("there is no class token")
    result = perturb(model, [data()], kinds=[kind], **RUN)
    counts, sides = twin(model, kind, data())
    for s, side in enumerate(("intact", "perturbed")):
        macro, micro = sides[:, s].mean(0), (sides[:, s] * counts[:, None]).sum(0) / counts.sum()
        expected = [macro[0], micro[0], macro[1], micro[1], macro[2], macro[3]]
        # Float32 scores of the core could differ by 1e-7; ranks are exact.
        np.testing.assert_allclose(result.values[0, SIDES.index(side)], expected, atol=1e-9)
    np.testing.assert_allclose(result.values[0, 2], result.values[0, 1] - result.values[0, 0], atol=1e-12)
    assert result.images.tolist() == [len(counts)]
    assert result.tokens.tolist() == [counts.sum()]


def test_perturbations_change_what_they_should_in_these_tests():
    result = perturb(build(), [data()], **RUN)
    assert result.kinds == list(PERTURBATIONS)
    assert (np.abs(result.values[:, 2, PERTURBATION_MEASURES.index("score")]) > 1e-3).all()
    both = result.values[1:3, 1, PERTURBATION_MEASURES.index("score")]
    assert both[0] != both[1]  # with weights that add up to 1 again, and without


def test_accuracy_and_class_token_of_the_intact_side_are_the_models():
    model, batch = build(), data(masks=False)
    result = perturb(model, [batch], **RUN)
    accuracy = evaluate(model, [batch], device="cpu", topk=(1,))["top1"]
    for kind in result.kinds:
        assert result.estimate(kind, "accuracy", "intact").value == pytest.approx(accuracy, abs=1e-12)
        # With token pooling the class token's reading is the model's answer, perturbed or not.
        for side in SIDES:
            assert result.estimate(kind, "cls_rate", side) == result.estimate(kind, "accuracy", side)


@pytest.mark.parametrize("size", [1, 5])
def test_the_size_of_batches_changes_nothing(size):
    model = build()
    whole, parts = (perturb(model, split(data(), n), **RUN) for n in (12, size))
    for name in ("values", "stderr", "low", "high", "p", "images", "tokens"):
        np.testing.assert_allclose(getattr(whole, name), getattr(parts, name), atol=1e-12)


def test_images_that_lack_one_kind_of_token_are_counted():
    result = perturb(build(), [data()], **RUN)
    assert result.images.tolist() == [12, 12, 12, 9, 9]
    assert result.provenance["images_without_value"] == {"no_context": 3, "no_class": 3}
    images, labels, _ = data()
    whole = perturb(build(), [(images, labels, torch.ones(12, 8, 8))], kinds=["no_context"], **RUN)
    assert whole.images.tolist() == [0]
    assert np.isnan(whole.values).all()


def test_threshold_decides_which_tokens_are_on_the_object():
    images, labels, _ = data(1)
    mask = torch.zeros(1, 8, 8)
    mask[:, :2, :2], mask[:, :2, 2:3] = 1, 1  # one patch as a whole, half of the next
    for threshold, tokens in ((0.5, 2), (0.6, 1)):
        result = perturb(build(), [(images, labels, mask)], kinds=["no_context"], threshold=threshold, **RUN)
        assert result.tokens.tolist() == [tokens]


def test_kinds_are_those_that_the_first_batch_allows_and_it_is_not_lost():
    with_masks, without = data(), data(masks=False)
    result = perturb(build(), iter(split(with_masks, 5)), **RUN)
    assert (result.kinds, result.images[0]) == (list(PERTURBATIONS), 12)
    result = perturb(build(), iter(split(without, 5)), **RUN)
    assert (result.kinds, result.images.tolist()) == (list(PERTURBATIONS[:3]), [12] * 3)
    assert result.provenance["left_out"] == dict.fromkeys(PERTURBATIONS[3:], "the images have no masks")
    result = perturb(build(**AVERAGE), [without], **RUN)
    assert result.kinds == ["self_only"]
    assert result.provenance["left_out"]["no_cls"] == "VisionTransformer has no class token"
    assert np.isnan(result.estimate("self_only", "cls_rate").value)


def test_masks_that_stop_after_the_first_batch_are_an_error():
    batches = [*split(data(), 6)[:1], *split(data(masks=False), 6)[1:]]
    with pytest.raises(ValueError, match="some batches come with labels or masks"):
        perturb(build(), batches, **RUN)
    with pytest.raises(ValueError, match="masks"):
        perturb(build(), batches, kinds=["no_class"], **RUN)


def test_one_block_at_a_time_is_that_block_alone():
    model = build()
    sweep = perturb_each_block(model, [data()], "self_only", **RUN)
    assert (sweep.kinds, sweep.blocks) == (["self_only"] * 2, [[0], [1]])
    for index in range(2):
        alone = perturb(model, [data()], kinds=["self_only"], blocks=[index], **RUN)
        np.testing.assert_array_equal(sweep.values[index], alone.values[0])
    both = perturb(model, [data()], kinds=["self_only"], **RUN)
    assert both.values[0, 1, 2] != sweep.values[0, 1, 2]
    assert perturb_each_block(model, [data()], "no_class", blocks=[1], **RUN).blocks == [[1]]


def test_tokens_hidden_in_some_blocks_stay_in_the_average():
    """In the last block alone nothing follows that could tell the kept tokens' average from that of all."""
    model, batch = build(**AVERAGE), data()
    result = perturb(model, [batch], kinds=["no_context"], blocks=[1], **RUN)
    on = batch[2][:, ::2, ::2].flatten(1) >= 0.5
    valid = on.any(1) & ~on.all(1)
    mask = torch.zeros(12, 1, 16, 16, dtype=torch.float64)
    mask.masked_fill_(~(on[:, None, None, :] | torch.eye(16, dtype=torch.bool)), -torch.inf)
    with torch.no_grad():
        x = model.blocks[0](model.norm_pre(model._pos_embed(model.patch_embed(batch[0]))))
        logits = model.forward_head(model.norm(model.blocks[1](x, attn_mask=mask)))
    accuracy = (logits.argmax(1) == batch[1])[valid].double().mean()
    assert result.estimate("no_context", "accuracy", "perturbed").value == pytest.approx(float(accuracy), abs=1e-12)


@pytest.mark.parametrize("target", ["prediction", 2])
def test_other_targets_need_no_labels_but_accuracy_does(target):
    model, (images, *_) = build(), data()
    result = perturb(model, [images], target=target, **RUN)
    assert np.isnan(result.values[..., PERTURBATION_MEASURES.index("accuracy")]).all()
    assert np.isfinite(result.values[..., :5]).all()
    if target == "prediction":
        assert result.estimate("no_cls", "cls_rate", "intact").value == 1
    with pytest.raises(ValueError, match="labels are needed"):
        perturb(model, [images], **RUN)


def test_the_lens_can_be_chosen():
    model = build()
    plain, without_norm = (perturb(model, [data()], lens=lens, **RUN) for lens in (None, LensOptions(norm=False)))
    assert (plain.values[:, :, 2] != without_norm.values[:, :, 2]).any()
    np.testing.assert_array_equal(plain.values[..., 5], without_norm.values[..., 5])
    assert without_norm.provenance["lens"]["norm"] is False


def test_summary_is_means_over_images_and_over_tokens():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 9, (40, 2))
    counts[:, 1] = 4
    sums = rng.integers(0, 9, (40, 2, 2, 4)).astype(float)
    found = summarise(sums, counts, resamples=200)
    for row in range(2):
        known = [i for i in range(40) if counts[i, row]]
        assert found["images"][row] == len(known)
        assert found["tokens"][row] == sum(counts[i, row] for i in known)
        for part, (macro, micro) in enumerate((("rate", "pooled_rate"), ("score", "pooled_score"))):
            for side in range(2):
                of_images = [sums[i, row, side, part] / counts[i, row] for i in known]
                pooled = sum(sums[i, row, side, part] for i in known) / sum(counts[i, row] for i in known)
                values = found["values"][row, side]
                assert values[PERTURBATION_MEASURES.index(macro)] == pytest.approx(np.mean(of_images))
                assert values[PERTURBATION_MEASURES.index(micro)] == pytest.approx(pooled)
                error = np.std(of_images, ddof=1) / len(known) ** 0.5
                assert found["stderr"][row, side, PERTURBATION_MEASURES.index(macro)] == pytest.approx(error)
    assert (found["low"] <= found["values"]).all()
    assert (found["values"] <= found["high"]).all()


def test_pooled_and_mean_over_images_are_one_where_counts_are():
    rng = np.random.default_rng(1)
    sums = rng.integers(0, 5, (15, 1, 2, 4)).astype(float)
    found = summarise(sums, np.full((15, 1), 7), resamples=50)
    for name in ("values", "stderr", "low", "high"):
        np.testing.assert_allclose(found[name][..., [0, 2]], found[name][..., [1, 3]], atol=1e-12)
    np.testing.assert_array_equal(found["p"][:, [0, 2]], found["p"][:, [1, 3]])


def test_the_pooled_error_is_that_of_a_ratio():
    """Against the jackknife of the ratio, which agrees with linearisation up to terms of order 1 / n."""
    rng = np.random.default_rng(2)
    n = 400
    counts = rng.integers(1, 20, (n, 1))
    sums = np.repeat((counts * rng.random((n, 1)))[:, :, None, None], 4, 3).repeat(2, 2)
    found = summarise(sums, counts, resamples=2000)
    s, c = sums[:, 0, 0, 0], counts[:, 0]
    left_one_out = (s.sum() - s) / (c.sum() - c)
    jackknife = np.sqrt((n - 1) / n * ((left_one_out - left_one_out.mean()) ** 2).sum())
    place = (0, 0, PERTURBATION_MEASURES.index("pooled_rate"))
    assert found["stderr"][place] == pytest.approx(jackknife, rel=0.02)
    half = (found["high"][place] - found["low"][place]) / 2
    assert half == pytest.approx(1.96 * jackknife, rel=0.1)  # 2,000 resamples leave some percent of noise


def test_p_is_small_where_the_perturbation_lowers_a_measure_and_large_where_it_raises_it():
    sums = np.tile([[4.0, 4, 1, 1], [1, 2, 0, 0]], (30, 1, 1, 1))
    for values, low in ((sums, True), (sums[:, :, ::-1], False)):
        p = summarise(values, np.full((30, 1), 5), resamples=100)["p"]
        assert (p < 0.02).all() if low else (p > 0.98).all()


def test_model_is_put_back_and_the_result_is_seeded():
    model = build().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    one, two = (perturb(model, [data()], seed=3, **RUN) for _ in range(2))
    np.testing.assert_array_equal(one.low, two.low)
    assert model.training
    assert all(block.attn.fused_attn for block in model.blocks)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_results_are_saved_loaded_and_tabulated(tmp_path):
    result = perturb(build(), [data()], provenance={"model": "toy"}, **RUN)
    loaded = Perturbation.load(result.save(tmp_path / "a"))
    np.testing.assert_array_equal(loaded.values, result.values)
    assert (loaded.kinds, loaded.blocks, loaded.provenance) == (result.kinds, result.blocks, result.provenance)
    assert loaded.chance == pytest.approx(1 / 3)
    assert {"model", "n", "seed", "threshold", "versions", "weights_of_attention"} <= loaded.provenance.keys()
    json.dumps(result.provenance)
    table = result.to_frame().set_index(["kind", "measure"])
    assert len(table) == len(PERTURBATIONS) * len(PERTURBATION_MEASURES)
    row = table.loc[("no_class", "pooled_rate")]
    assert row["difference"] == result.estimate("no_class", "pooled_rate").value
    assert row["low"] <= row["difference"] <= row["high"]


def test_bad_options_are_refused_before_the_images_are_read():
    def unread():
        raise AssertionError("the images were read")
        yield

    bad = [
        ({"kinds": ["no_colour"]}, "'no_colour' is not known"),
        ({"kinds": []}, "one or more"),
        ({"kinds": ["no_cls", "no_cls"]}, "each once"),
        ({"blocks": [2]}, "from 0 to 1"),
        ({"threshold": 0}, "threshold=0"),
        ({"confidence": 1.5}, "confidence"),
        ({"resamples": 0}, "resamples"),
        ({"target": "guess"}, "'guess' is not known"),
    ]
    for options, match in bad:
        with pytest.raises(ValueError, match=match):
            perturb(build(), unread(), **{**RUN, **options})
    with pytest.raises(ValueError, match="no class token that no_cls could hide"):
        perturb(build(**AVERAGE), unread(), kinds=["no_cls"], **RUN)
    with pytest.raises(ValueError, match="NeighbourhoodAttention"):
        perturb(local_vit("16", 3, reach=3, depth=1), unread(), **RUN)
    with pytest.raises(ValueError, match="needs timm's VisionTransformer"):
        perturb(torch.nn.Flatten(), unread(), **RUN)
    with pytest.raises(ValueError, match=r"load_dataset\('canvas'\).*ImageNet-S"):
        perturb(build(), [data(masks=False)], kinds=["no_context"], **RUN)


def test_estimates_that_are_not_there_are_refused():
    result = perturb(build(), [data(masks=False)], **RUN)
    for bad in (("no_class",), ("no_cls", "f1"), ("no_cls", "rate", "before")):
        with pytest.raises(ValueError, match="is not there; there are"):
            result.estimate(*bad)


def test_figures_show_the_results_values():
    model = build()
    result = perturb(model, [data()], provenance={"model": "toy"}, **RUN)
    figure = plot_perturbation({"toy": result, "again": result})
    assert len(figure.axes) == 4
    for ax, measure in zip(figure.axes[:2], ("rate", "accuracy"), strict=True):
        for container, side in zip(ax.containers, ("intact", "perturbed"), strict=True):
            drawn = 100 * result.values[:, SIDES.index(side), PERTURBATION_MEASURES.index(measure)]
            np.testing.assert_allclose(container.lines[0].get_xdata(), drawn)
    assert "same tokens of the same images" in figure.caption
    assert f"{100 * result.estimate('no_class').value:+.1f} (" in figure.axes[0].texts[-1].get_text()
    sweep = perturb_each_block(model, [data()], "self_only", **RUN)
    ax = plot_perturbation_of_blocks(sweep, "pooled_score").axes[0]
    np.testing.assert_allclose(ax.containers[0].lines[0].get_xdata(), [1, 2])
    np.testing.assert_allclose(
        ax.containers[0].lines[0].get_ydata(), sweep.values[:, 1, PERTURBATION_MEASURES.index("pooled_score")]
    )


def test_figures_refuse_what_they_cannot_draw():
    result = perturb(build(), [data(masks=False)], **RUN)
    sweep = perturb_each_block(build(), [data()], "no_cls", **RUN)
    for draw in (plot_perturbation, plot_perturbation_of_blocks):
        with pytest.raises(ValueError, match="'f1' is not known"):
            draw(result, "f1")
    with pytest.raises(ValueError, match="plot_perturbation_of_blocks"):
        plot_perturbation(sweep)
    with pytest.raises(ValueError, match="one block at a time in one way"):
        plot_perturbation_of_blocks(result)
    figure = plot_perturbation(perturb(build(), [data()], kinds=["no_cls"], blocks=[1], **RUN))
    assert "perturbed in blocks.1 alone" in figure.caption
