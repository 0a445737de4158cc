"""Shares of components add up to logits, are what their removal takes away, and vanish where weights are zero."""

import copy

import matplotlib.pyplot as plt
import numpy as np
import pytest
import timm
import torch
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch import nn

from tests.analysis.class_embedding.test_conv_space import MODELS, built
from tests.analysis.class_embedding.test_conv_space import images as maps_of
from tests.analysis.class_embedding.test_lens import C, pictures, toy
from utilities.analysis.class_embedding.frozen_norm import freeze
from utilities.analysis.class_embedding.logit_attribution import LogitAttribution, components_of, logit_attribution
from utilities.plots.class_embedding.logit_attribution import plot_class_attribution, plot_logit_attribution
from utilities.results.statistics import mean_and_stderr
from utilities.zoo.no_skip import without_skips

SUMS = ("token", "average", "average of normed tokens", "LayerScale", "registers")
CPU = {"device": "cpu", "progress": False}


def attributed(model, batch=None, **options):
    return logit_attribution(model, [pictures() if batch is None else batch], **options, **CPU)


def every_logit(model, images):
    """Shares in the logits of all classes, (images, components, classes), asked for one class at a time."""
    classes = components_of(model).head.out_features
    results = [logit_attribution(model, [images], target=c, **CPU) for c in range(classes)]
    return np.stack([result.image_share for result in results], 2)


def at(result, name):
    return result.names.index(name)


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("kind", SUMS)
def test_the_shares_of_a_transformer_add_up_to_every_logit(kind, dtype, allowed):
    model, images = toy(kind, depth=3).to(dtype), pictures()[0].to(dtype)
    with torch.no_grad():
        logits = model(images).double().numpy()
    assert np.ptp(logits) > 1
    found = every_logit(model, images)
    # Float32 leaves some roundings of 6e-8 of the stream's size, which is that of the logits here.
    np.testing.assert_allclose(found.sum(1), logits, rtol=0, atol=allowed * np.abs(logits).max())
    result = attributed(model, (images, pictures()[1]))
    assert result.error <= allowed * np.abs(logits).max()
    np.testing.assert_allclose(result.image_centred, result.image_share - found.mean(2), atol=1e-12)
    np.testing.assert_allclose(result.image_share, found[np.arange(6), :, pictures()[1]], atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"norm_layer": "rmsnorm"},
        {"pre_norm": True},
        {"global_pool": "avg", "class_token": True, "pool_include_prefix": True},
        {"final_norm": False},
        {"qkv_bias": False, "proj_bias": False},
        {"qk_norm": True, "scale_attn_norm": True},
    ],
)
def test_other_parts_of_timms_transformers_are_read(options):
    torch.manual_seed(0)
    size = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": C}
    result = attributed(VisionTransformer(**size, weight_init="", **options).double())
    np.testing.assert_allclose(result.image_share.sum(1), result.logit, atol=1e-10)


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", MODELS)
def test_the_shares_of_a_resnets_branches_add_up_to_every_logit(name, dtype, allowed):
    model = built(name, dtype)
    images = maps_of(model)
    with torch.no_grad():
        logits = model(images).double().numpy()
    found = every_logit(model, images)
    np.testing.assert_allclose(found.sum(1), logits, rtol=0, atol=allowed * np.abs(logits).max())


@torch.no_grad()
def brute_force(model, images, k):
    """Shares of all components in the logit of class k, written out for a class token, LayerScale and layer norm."""
    x = model._pos_embed(model.patch_embed(images))
    parts = [x[:, 0]]
    for block in model.blocks:
        y, heads = block.norm1(x), block.attn.num_heads
        q, key, v = block.attn.qkv(y).unflatten(2, (3, heads, -1)).unbind(2)
        weights = torch.einsum("bihe,bjhe->bhij", q, key).div(q.shape[-1] ** 0.5).softmax(-1)
        matrix = block.attn.proj.weight.unflatten(1, (heads, -1))
        added = torch.einsum("bhij,bjhe,dhe->bhid", weights, v, matrix) * block.ls1.gamma
        bias = block.ls1.gamma * block.attn.proj.bias
        x = x + added.sum(1) + bias
        mlp = block.ls2(block.mlp(block.norm2(x)))
        x = x + mlp
        parts += [*added[:, :, 0].unbind(1), bias.expand(len(x), -1), mlp[:, 0]]
    last, norm, row = x[:, 0], model.norm, model.head.weight[k]
    scale = 1 / (last.var(1, correction=0) + norm.eps).sqrt()
    centred = [part - part.mean(1, keepdim=True) for part in parts]
    shares = [torch.einsum("bd,b,d,d->b", part, scale, norm.weight, row) for part in centred]
    ends = [(norm.bias * row).sum().expand(len(x)), model.head.bias[k].expand(len(x))]
    return torch.stack([*shares, *ends], 1).numpy()


def test_every_share_is_that_of_the_formula_written_out():
    model, (images, _) = toy("LayerScale", depth=3), pictures()
    for k in (0, 3):
        found = logit_attribution(model, [images], target=k, **CPU)
        np.testing.assert_allclose(found.image_share, brute_force(model, images, k), atol=1e-12)


class Frozen(nn.Module):
    """A norm that keeps the scale of the tokens that it was made from."""

    def __init__(self, norm, tokens):
        super().__init__()
        self.frozen = freeze(norm, tokens)

    def forward(self, x):
        return self.frozen.linear(x) + self.frozen.bias


@pytest.mark.parametrize("kind", SUMS)
@torch.no_grad()
def test_removing_a_head_takes_away_its_share(kind):
    """The norm keeps its scale, and all other branches give what they gave: what is left is the direct effect."""
    model, (images, labels) = toy(kind), pictures()
    result, given, norms = attributed(model), {}, {}
    branches = [getattr(block, f"ls{i}") for block in model.blocks for i in (1, 2)]
    keep = [one.register_forward_hook(lambda m, _, out: given.__setitem__(m, out.clone())) for one in branches]
    for name in ("norm", "fc_norm"):
        hook = lambda m, args, name=name: norms.__setitem__(name, Frozen(m, args[0]))  # noqa: E731
        keep.append(getattr(model, name).register_forward_pre_hook(hook))
    own = model(images).gather(1, labels[:, None])[:, 0]
    for handle in keep:
        handle.remove()
    width = 16 // 2
    for b, block in enumerate(model.blocks):
        for h in range(2):
            twin = copy.deepcopy(model)
            twin.norm, twin.fc_norm = norms["norm"], norms["fc_norm"]
            for other, same in zip(model.blocks, twin.blocks, strict=True):
                for name in ("ls1", "ls2"):
                    if (other, name) != (block, "ls1"):
                        same_out = given[getattr(other, name)]
                        getattr(same, name).register_forward_hook(lambda *_, out=same_out: out)
            twin.blocks[b].attn.proj.weight[:, h * width : (h + 1) * width] = 0
            left = twin(images).gather(1, labels[:, None])[:, 0]
            share = result.image_share[:, at(result, f"blocks.{b}.attn.head.{h}")]
            assert np.abs(share).max() > 1e-3
            np.testing.assert_allclose(own - left, share, atol=1e-12)


@pytest.mark.parametrize("name", ["resnet", "lambda", "timm"])
@torch.no_grad()
def test_removing_a_branch_under_the_same_masks_takes_away_its_share(name):
    model = built(name)
    images, labels = maps_of(model), torch.tensor([2, 4])
    result = attributed(model, (images, labels))
    kept = {}
    for i, block in enumerate(model.layer4):
        last = next(part for part in ("bn3", "bn2") if hasattr(block, part))
        getattr(block, last).register_forward_hook(lambda m, _, out, i=i: kept.__setitem__(("f", i), out.clone()))
        block.register_forward_hook(lambda m, _, out, i=i: kept.__setitem__(("y", i), out.clone()))
    shortcut = model.layer4[0].downsample
    shortcut.register_forward_hook(lambda m, _, out: kept.__setitem__("z", out.clone()))
    model(images)

    def logit(without):
        y = 0 if without == -1 else kept["z"]
        for i in range(len(model.layer4)):
            y = (kept["y", i] > 0) * (y + (0 if i == without else kept["f", i]))
        return model.fc(y.mean((2, 3))).gather(1, labels[:, None])[:, 0]

    for i in range(-1, len(model.layer4)):
        share = result.image_share[:, i + 1]
        assert np.abs(share).max() > 1e-6
        np.testing.assert_allclose(logit(None) - logit(i), share, atol=1e-12)


@torch.no_grad()
def test_what_is_zeroed_has_no_share_at_all():
    model = toy()
    model.blocks[1].attn.proj.weight[:, :8] = 0
    model.blocks[0].mlp.fc2.weight.zero_()
    model.blocks[0].mlp.fc2.bias.zero_()
    result = attributed(model)
    zero = [not share.any() for share in result.image_share.T]
    assert [result.names[i] for i in np.flatnonzero(zero)] == ["blocks.0.mlp", "blocks.1.attn.head.0"]
    cnn = built("resnet")
    cnn.layer4[1].bn2.weight.zero_()
    cnn.layer4[1].bn2.bias.zero_()
    result = attributed(cnn, (maps_of(cnn), torch.tensor([2, 4])))
    assert not result.image_share[:, at(result, "layer4.1")].any()


@torch.no_grad()
def test_heads_and_the_projections_bias_make_up_attention():
    model, (images, _) = toy("LayerScale"), pictures()
    added = []
    for block in model.blocks:
        block.ls1.register_forward_hook(lambda m, _, out: added.append(out[:, 0]))
    _, vectors = components_of(model)(images)
    last = []
    model.norm.register_forward_pre_hook(lambda m, args: last.append(args[0][:, 0]))
    model(images)
    frozen = freeze(model.norm, last[0])
    for b, whole in enumerate(added[:2]):
        parts = vectors[:, 1 + 4 * b : 4 + 4 * b].sum(1)
        np.testing.assert_allclose(parts, frozen.linear(whole), atol=1e-12)


@torch.no_grad()
def test_what_all_classes_get_alike_is_in_no_centred_share():
    model, (images, labels) = toy(), pictures()
    before = attributed(model)
    model.head.weight += torch.randn(16, generator=torch.Generator().manual_seed(3)).double()
    after = attributed(model)
    assert np.abs(after.share - before.share).max() > 0.1
    np.testing.assert_allclose(after.image_centred, before.image_centred, atol=1e-12)
    logits = model(images)
    centred = (logits - logits.mean(1, keepdim=True)).gather(1, labels[:, None])[:, 0]
    np.testing.assert_allclose(after.image_centred.sum(1), centred, atol=1e-12)


def test_batches_change_nothing():
    model, (images, labels) = toy("average of normed tokens"), pictures(9)
    whole = attributed(model, (images, labels))
    parts = list(zip(images.split(4), labels.split(4), strict=True))
    split = logit_attribution(model, parts, **CPU)
    np.testing.assert_allclose(split.image_share, whole.image_share, atol=1e-12)
    np.testing.assert_allclose(split.class_centred, whole.class_centred, atol=1e-12)
    assert split.provenance["n"] == 9


def test_means_are_over_all_images_and_over_those_of_a_class(tmp_path):
    model = toy()
    images, labels = pictures(20)
    labels = labels % 3  # of five classes, two have no image
    result = attributed(model, (images, labels))
    for name in ("share", "centred"):
        mean, error = mean_and_stderr(getattr(result, f"image_{name}"))
        np.testing.assert_array_equal(getattr(result, name), mean)
        np.testing.assert_array_equal(getattr(result, f"{name}_stderr"), error)
    for k in range(C):
        own = result.image_centred[labels.numpy() == k]
        assert result.class_count[k] == len(own)
        if len(own):
            np.testing.assert_allclose(result.class_centred[k], own.mean(0), atol=1e-12)
        else:
            assert np.isnan(result.class_centred[k]).all()
    with torch.no_grad():
        assert result.accuracy == float((model(images).argmax(1) == labels).double().mean())
    again = LogitAttribution.load(result.save(tmp_path / "a"))
    np.testing.assert_array_equal(again.image_centred, result.image_centred)
    assert again.to_frame().centred.sum() == pytest.approx(result.image_centred.sum(1).mean())
    table = result.by_block()
    assert table.group.tolist() == ["embedding", "attention", "mlp", "attention", "mlp", "bias"]
    assert table.block.tolist() == [-1, 0, 0, 1, 1, 2]
    assert table["mean"].sum() == pytest.approx(result.centred.sum())
    assert table["mean"][1] == pytest.approx(result.centred[1:4].sum())


@torch.no_grad()
def test_the_target_may_be_the_prediction_or_a_class():
    model, (images, _) = toy(), pictures()
    result = logit_attribution(model, [images], target="prediction", **CPU)
    np.testing.assert_array_equal(result.target, model(images).argmax(1))
    assert np.isnan(result.accuracy)
    assert (result.labels == -1).all()
    assert (logit_attribution(model, [images], target=2, **CPU).target == 2).all()
    with pytest.raises(ValueError, match="labels are needed"):
        logit_attribution(model, [images], **CPU)
    with pytest.raises(ValueError, match="target 'guess' is not known"):
        logit_attribution(model, [images], target="guess", **CPU)


def vit(**options):
    return VisionTransformer(
        img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2, **{"num_classes": C, **options}
    )


def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, C))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vit(block_fn=ResPostBlock), "norms after attention and MLP.*no plain sum over heads"),
        (lambda: toy("distilled"), "distilled: two classifiers read two tokens"),
        (lambda: without_skips(vit(), 1), "blocks.0 of VisionTransformer is a NoSkipBlock"),
        (lambda: vit(num_classes=0), "no linear classifier"),
        (lambda: vit(global_pool="map"), "pools by 'map'"),
        (lambda: timm.create_model("swin_tiny_patch4_window7_224", num_classes=5), "its stages merge patches"),
        (lambda: timm.create_model("tf_efficientnet_lite0", num_classes=5), "a convolution and an activation between"),
        (lambda: timm.create_model("resnet10t", act_layer="silu"), "layer4.0.act2 of ResNet is a SiLU: only a ReLU"),
        (flat, "the logits of Sequential are no sum over parts"),
    ],
)
def test_models_without_such_a_sum_are_refused_with_the_reason(make, message):
    with pytest.raises(ValueError, match=message):
        attributed(make())


def test_a_model_that_answers_otherwise_is_refused():
    class Twice(VisionTransformer):
        def forward(self, x):
            return 2 * super().forward(x)

    torch.manual_seed(0)
    model = Twice(img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=C, weight_init="").double()
    with pytest.raises(ValueError, match="the model's logits are not its classifier's"):
        attributed(model)


def test_figures_draw_the_shares():
    results = {
        "vit": attributed(toy(depth=3)),
        "cnn": attributed(built("resnet"), (maps_of(built("resnet")), torch.tensor([2, 4]))),
    }
    figure = plot_logit_attribution(results)
    for ax, result in zip(figure.axes, results.values(), strict=True):
        table = result.by_block()
        drawn = [bars.lines[0].get_xydata() for bars in ax.containers]
        table["x"] = table.block + 1
        expected = [rows[["x", "mean"]].to_numpy() for _, rows in table.groupby("group", sort=False)]
        for one, two in zip(drawn, expected, strict=True):
            np.testing.assert_allclose(one, two)
        low, high = ax.get_ylim()
        assert low < min(0, table["mean"].min()) < max(0, table["mean"].max()) < high
    assert "Bars: one standard error" in figure.caption
    heat = plot_class_attribution(results["vit"])
    shown = heat.axes[0].images[0].get_array()
    classes = np.flatnonzero(results["vit"].class_count)
    np.testing.assert_allclose(shown.sum(1), np.nansum(results["vit"].class_centred, 1)[classes])
    with pytest.raises(ValueError, match="of='share' is not known"):
        plot_logit_attribution(results, of="share")
    plt.close("all")
