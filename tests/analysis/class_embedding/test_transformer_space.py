"""Class-embedding space of timm's ViTs: what blocks add up to, what is read, what is refused, what is put back."""

import pytest
import timm.models.vision_transformer as timm_vit
import torch
from timm.layers import SwiGLU
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from utilities.analysis.class_embedding.block_tokens import read_blocks
from utilities.analysis.class_embedding.space import LensOptions
from utilities.analysis.class_embedding.spaces import class_space

MODELS = {
    "pre-norm": {},
    "LayerScale": {"init_values": 0.5},
    "post-norm": {"block_fn": timm_vit.ResPostBlock, "init_values": 0.5},
    "average, norm after": {"global_pool": "avg", "class_token": False},
    "average, norm before": {"global_pool": "avg", "class_token": False, "fc_norm": False},
    "average beside class token": {"global_pool": "avg", "fc_norm": False},
    "average with prefix": {"global_pool": "avg", "fc_norm": False, "pool_include_prefix": True},
    "post-norm average": {"block_fn": timm_vit.ResPostBlock, "global_pool": "avg", "class_token": False},
    "registers": {"reg_tokens": 2},
    "distilled": {"kind": VisionTransformerDistilled},
    "norm before blocks": {"pre_norm": True},
    "dynamic size": {"dynamic_img_size": True},
    "normed queries": {"qk_norm": True},
    "SwiGLU": {"mlp_layer": SwiGLU},
    "dropout": {"drop_path_rate": 0.5, "proj_drop_rate": 0.5, "attn_drop_rate": 0.5, "drop_rate": 0.5},
    "no final norm": {"final_norm": False},
}
AVERAGES = [name for name in MODELS if "average" in name]
OF_TOKEN = [name for name in MODELS if name not in (*AVERAGES, "distilled")]
# Float64 rounding of sums of a few numbers near 1 is near 1e-15.
CLOSE = {"rtol": 0, "atol": 1e-12}


def vit(kind=VisionTransformer, **options):
    small = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}
    torch.manual_seed(0)
    model = kind(**{**small, **options}).double().eval()
    for parameter in model.parameters():  # timm's start is so small that all tokens look alike
        nn.init.normal_(parameter, std=0.3)
    return model


def built(name):
    return vit(**MODELS[name])


def images(count=3, size=8):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def visited(model, options=None, batch=None, **forward):
    seen = []
    with torch.no_grad():
        logits = read_blocks(class_space(model, options), images() if batch is None else batch, seen.append, **forward)
    return seen, logits


@pytest.mark.parametrize("name", MODELS)
def test_attention_and_mlp_are_what_a_block_adds(name):
    model = built(name)
    seen, logits = visited(model)
    assert [tokens.index for tokens in seen] == [0, 1]
    for tokens in seen:
        assert torch.allclose(tokens.before + tokens.attn + tokens.mlp, tokens.after, **CLOSE)
        assert min(part.std() for part in (tokens.before, tokens.attn, tokens.mlp)) > 0.01
    assert torch.equal(seen[1].before, seen[0].after)
    with torch.no_grad():
        assert torch.equal(logits, model(images()))


def test_the_stream_begins_after_the_first_norm():
    model = built("norm before blocks")
    seen, _ = visited(model)
    with torch.no_grad():
        assert torch.allclose(seen[0].before, model.norm_pre(model._pos_embed(model.patch_embed(images()))), **CLOSE)


@pytest.mark.parametrize("name", OF_TOKEN)
def test_lens_of_the_last_class_token_is_the_models_answer(name):
    seen, logits = visited(built(name))
    assert torch.allclose(seen[-1].logits("block")[:, 0], logits, **CLOSE)
    assert not torch.allclose(seen[0].logits("block")[:, 0], logits, atol=0.01)


def test_distilled_answer_is_the_mean_of_two_tokens_each_by_its_own_head():
    model = built("distilled")
    seen, logits = visited(model)
    lens = seen[-1].logits("block")
    assert torch.allclose(lens[:, :2].mean(1), logits, **CLOSE)
    normed = model.norm(seen[-1].after)
    assert torch.allclose(lens[:, 1], model.head_dist(normed[:, 1]), **CLOSE)
    others = [0, *range(2, 6)]
    assert torch.allclose(lens[:, others], model.head(normed)[:, others], **CLOSE)
    without = class_space(model, LensOptions(bias=False)).project(seen[-1].after)
    assert torch.allclose(lens[:, 1] - without[:, 1], model.head_dist.bias.expand(3, 5), **CLOSE)


@pytest.mark.parametrize("name", ["average, norm before", "average with prefix"])
def test_mean_lens_of_averaged_tokens_is_the_models_answer(name):
    seen, logits = visited(built(name))
    assert torch.allclose(seen[-1].logits("block").mean(1), logits, **CLOSE)


def test_mean_lens_leaves_out_a_class_token_that_is_not_averaged():
    seen, logits = visited(built("average beside class token"))
    lens = seen[-1].logits("block")
    assert torch.allclose(lens[:, 1:].mean(1), logits, **CLOSE)
    assert not torch.allclose(lens.mean(1), logits, atol=1e-3)


def test_norm_after_the_average_is_not_the_average_of_norms():
    """Then the lens norms each token alone, and its mean is no answer of the model."""
    model = built("average, norm after")
    seen, logits = visited(model)
    assert torch.allclose(model.head(model.fc_norm(seen[-1].after.mean(1))), logits, **CLOSE)
    assert torch.allclose(model.head(model.fc_norm(seen[-1].after)), seen[-1].logits("block"), **CLOSE)
    assert not torch.allclose(seen[-1].logits("block").mean(1), logits, atol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_classify_is_the_models_head(name):
    model = built(name)
    seen, logits = visited(model)
    space, tokens = class_space(model, LensOptions(norm=False, bias=False)), seen[-1].after
    with torch.no_grad():
        assert torch.allclose(space.classify(tokens), logits, **CLOSE)
        assert torch.allclose(space.classify(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool)), logits, **CLOSE)


@pytest.mark.parametrize("name", AVERAGES)
def test_classify_averages_kept_tokens(name):
    model = built(name)
    (*_, last), _ = visited(model)
    space, keep = class_space(model), torch.ones(last.after.shape[:2], dtype=torch.bool)
    keep[0, -1] = keep[1, -3:-1] = False
    first = 0 if model.pool_include_prefix else space.prefix
    with torch.no_grad():
        found = space.classify(last.after, keep)
        for image in range(3):
            kept = model.norm(last.after[image, first:][keep[image, first:]])
            assert torch.allclose(found[image], model.head(model.fc_norm(kept.mean(0))), **CLOSE)


def test_norm_and_bias_by_hand():
    model = built("pre-norm")
    tokens = torch.randn(2, 4, 16, dtype=torch.float64)
    spread = (tokens - tokens.mean(-1, keepdim=True)) / (tokens.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
    normed, head = spread * model.norm.weight + model.norm.bias, model.head
    for options, expected in (
        (LensOptions(), normed @ head.weight.T + head.bias),
        (LensOptions(bias=False), normed @ head.weight.T),
        (LensOptions(norm=False), tokens @ head.weight.T + head.bias),
        (LensOptions(norm=False, bias=False), tokens @ head.weight.T),
    ):
        assert torch.allclose(class_space(model, options).project(tokens), expected, **CLOSE)


@pytest.mark.parametrize("name", ["LayerScale", "post-norm"])
def test_raw_branches_are_those_before_scale_or_norm(name):
    model = built(name)
    scaled, _ = visited(model)
    raw, _ = visited(model, LensOptions(scale=False))
    for block, one, other in zip(model.blocks, scaled, raw, strict=True):
        after = (block.norm1, block.norm2) if name == "post-norm" else (block.ls1, block.ls2)
        for scale, part in zip(after, ("attn", "mlp"), strict=True):
            assert torch.allclose(scale(getattr(other, part)), getattr(one, part), **CLOSE)
            assert not torch.allclose(getattr(other, part), getattr(one, part), atol=0.01)


def test_without_scale_the_raw_branch_is_the_branch():
    scaled, _ = visited(built("pre-norm"))
    raw, _ = visited(built("pre-norm"), LensOptions(scale=False))
    assert torch.equal(raw[0].attn, scaled[0].attn)
    assert torch.equal(raw[1].mlp, scaled[1].mlp)


@pytest.mark.parametrize("name", MODELS)
def test_keys_and_value_vectors_give_the_branch(name):
    """sum_j k_j v_j + bias is what the projection, and the second linear layer, put out."""
    model = built(name)
    seen, _ = visited(model, LensOptions(scale=False))
    for block, tokens in zip(model.blocks, seen, strict=True):
        for keys, layer, branch in (
            (tokens.attn_keys, block.attn.proj, tokens.attn),
            (tokens.mlp_keys, block.mlp.fc2, tokens.mlp),
        ):
            assert torch.allclose(keys @ layer.weight.T + layer.bias, branch, **CLOSE)


def test_a_learned_map_is_for_blocks_alone():
    model = built("pre-norm")
    plain, _ = visited(model)
    tuned, _ = visited(model, LensOptions(tuned=lambda index, tokens: (index + 2) * tokens + 1))
    for index in (0, 1):
        expected = class_space(model).project((index + 2) * plain[index].after + 1)
        assert torch.allclose(tuned[index].logits("block"), expected, **CLOSE)
        assert torch.equal(tuned[index].logits("mlp"), plain[index].logits("mlp"))


def test_groups_leave_registers_out():
    groups = {name: class_space(built(name)).groups() for name in MODELS}
    assert groups["pre-norm"] == {"CLS": slice(0, 1), "image": slice(1, None)}
    assert groups["registers"] == {"CLS": slice(0, 1), "image": slice(3, None)}
    assert groups["distilled"] == {"CLS": slice(0, 1), "image": slice(2, None)}
    assert groups["average, norm after"] == {"image": slice(0, None)}
    (first, _), _ = visited(built("registers"))
    assert first.grid == (2, 2)
    assert first.after[:, groups["registers"]["image"]].shape == (3, 4, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"global_pool": "map"}, "VisionTransformer pools by 'map'"),
        ({"global_pool": "max"}, "VisionTransformer pools by 'max'.*only 'token' and 'avg' are read"),
        ({"global_pool": ""}, "VisionTransformer pools by ''"),
        ({"num_classes": 0}, r"VisionTransformer has no linear classifier \(its head is Identity\)"),
        ({"block_fn": timm_vit.ParallelScalingBlock}, "blocks.0 of VisionTransformer is a ParallelScalingBlock"),
        ({"block_fn": timm_vit.ParallelThingsBlock}, "blocks.0 of VisionTransformer is a ParallelThingsBlock"),
        ({"attn_layer": "diff"}, "blocks.0 of VisionTransformer is a Block with DiffAttention"),
    ],
)
def test_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        class_space(vit(**options))


@pytest.mark.parametrize(("rows", "columns"), [(1, 4), (4, 1), (3, 2), (2, 2)])
def test_grids_follow_images_of_any_size(rows, columns):
    """Also where another shape has as many patches as the model's own."""
    batch = torch.randn(1, 3, 4 * rows, 4 * columns, dtype=torch.float64)
    seen, _ = visited(built("dynamic size"), batch=batch)
    assert {tokens.grid for tokens in seen} == {(rows, columns)}
