"""Class-embedding space of timm's ViTs: what blocks add up to, what is read, what is refused, what is put back."""

import weakref

import pytest
import timm.models.vision_transformer as timm_vit
import torch
from timm.layers import SwiGLU
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from utilities.analysis.class_embedding.record import eager_attention, read_blocks
from utilities.analysis.class_embedding.space import LensOptions, class_space, transformer_space

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


def test_other_models_and_memories_are_refused_by_name():
    with pytest.raises(ValueError, match="Linear has no class-embedding space that is known; it takes timm's"):
        class_space(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="masking needs timm's VisionTransformer, not a Sequential"):
        transformer_space(nn.Sequential(), what="masking")
    with pytest.raises(ValueError, match="OptimizedModule has no class-embedding space"):
        class_space(torch.compile(vit(), backend="eager"))
    model = vit()
    model.blocks[1].mlp = nn.Linear(16, 16)
    with pytest.raises(ValueError, match=r"blocks.1.mlp of VisionTransformer has no linear layer fc2"):
        class_space(model)


def state(model):
    modes = {name: module.training for name, module in model.named_modules()}
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    fused = [block.attn.fused_attn for block in model.blocks]
    return modes, hooks, fused, {key: value.clone() for key, value in model.state_dict().items()}


def same(one, other):
    return one[:3] == other[:3] and all(torch.equal(value, other[3][key]) for key, value in one[3].items())


@pytest.mark.parametrize("fails_at", [None, 0, 1])
def test_nothing_is_left_behind_also_after_an_exception(fails_at):
    model = built("LayerScale")
    model.blocks[0].attn.fused_attn = False
    model.blocks[1].mlp.train()
    before = state(model)

    def visit(tokens):
        if tokens.index == fails_at:
            raise KeyError("stop")

    if fails_at is None:
        read_blocks(class_space(model), images(), visit)
    else:
        with pytest.raises(KeyError, match="stop"):
            read_blocks(class_space(model), images(), visit)
    assert same(before, state(model))
    assert before[2] == [False, True]


def test_hooks_of_others_stay():
    model, calls = built("pre-norm"), []
    model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    visited(model)
    model(images())
    assert len(calls) == 2


def test_a_blocks_tokens_are_let_go_of_after_the_visit():
    alive = []

    def visit(tokens):
        assert tokens.logits("attn") is tokens.logits("attn")  # computed once
        assert not any(one() is not None for one in alive)
        alive.extend(weakref.ref(value) for value in (tokens, tokens.attn, tokens.mlp_keys, tokens.logits("attn")))

    with torch.no_grad():
        read_blocks(class_space(built("LayerScale")), images(), visit)
    assert len(alive) == 8


def test_blocks_that_do_not_run_once_are_an_error():
    model = built("pre-norm")
    model.blocks = nn.Sequential(model.blocks[0], model.blocks[0])
    with pytest.raises(RuntimeError, match=r"blocks ran in the order \[0, 1, 0, 1\], not each once"):
        visited(model)
    model = built("pre-norm")
    space = class_space(model)
    model.blocks = model.blocks[:1]
    with pytest.raises(RuntimeError, match=r"blocks ran in the order \[0\], not each once"):
        read_blocks(space, images(), lambda tokens: None)


def test_forward_options_reach_the_model():
    model = built("pre-norm")
    mask = torch.zeros(5, 5, dtype=torch.float64)
    mask[0, 1:] = -torch.inf  # the class token sees itself alone: the image is lost on it
    _, logits = visited(model, attn_mask=mask)
    assert torch.allclose(logits, logits[:1].expand(3, -1), **CLOSE)
    assert not torch.allclose(visited(model)[1], logits, atol=0.01)


def rows_of(seen):
    def edit(weights):
        seen.append(weights)

    return edit


@pytest.mark.parametrize("name", ["pre-norm", "registers", "normed queries", "post-norm"])
def test_eager_attention_hands_over_rows_that_sum_to_one(name):
    model, seen = built(name), []
    before, space, expected = state(model), transformer_space(model), model(images())
    with eager_attention(space, {0: rows_of(seen), 1: rows_of(seen)}):
        logits = model(images())
    tokens = 4 + space.prefix
    assert [tuple(weights.shape) for weights in seen] == [(3, 2, tokens, tokens)] * 2
    for weights in seen:
        assert torch.allclose(weights.sum(-1), torch.ones_like(weights[..., 0]), **CLOSE)
        assert (weights >= 0).all()
    assert torch.allclose(logits, expected, **CLOSE)
    assert same(before, state(model))


def test_eager_attention_gives_the_memories_of_its_rows():
    """Keys of attention are the values averaged by the rows, head by head."""
    model, rows, values, keys = built("pre-norm"), [], [], []
    block = model.blocks[1]
    block.attn.qkv.register_forward_hook(lambda m, a, output: values.append(output))
    with torch.no_grad(), eager_attention(transformer_space(model), {1: rows_of(rows)}):
        read_blocks(class_space(model), images(), lambda tokens: keys.append(tokens.attn_keys))
    by_head = values[0].reshape(3, 5, 3, 2, 8)[:, :, 2].transpose(1, 2)
    assert torch.allclose((rows[0] @ by_head).transpose(1, 2).reshape(3, 5, 16), keys[1], **CLOSE)


def test_an_edit_takes_the_place_of_the_rows():
    model = built("pre-norm")
    space, one_hot = transformer_space(model), torch.eye(5, dtype=torch.float64)
    with torch.no_grad():
        with eager_attention(space, dict.fromkeys(range(2), lambda weights: one_hot.expand_as(weights))):
            edited = model(images())
        mask = torch.full((5, 5), -torch.inf, dtype=torch.float64).fill_diagonal_(0)
        assert torch.allclose(edited, model(images(), attn_mask=mask), **CLOSE)
        assert not torch.allclose(edited, model(images()), atol=0.01)


def test_eager_attention_is_put_back_after_an_exception():
    model = built("pre-norm")
    model.blocks[1].attn.fused_attn = False
    before = state(model)

    def fail(weights):
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"), eager_attention(transformer_space(model), {0: fail, 1: fail}):
        model(images())
    assert same(before, state(model))


def test_attention_that_did_not_run_is_an_error():
    model = built("pre-norm")
    before = state(model)
    with (
        pytest.raises(RuntimeError, match=r"no attention matrix came out of blocks.0, blocks.1; did the model run"),
        eager_attention(transformer_space(model), {0: rows_of([]), 1: rows_of([])}),
    ):
        pass
    assert same(before, state(model))


@pytest.mark.parametrize(("rows", "columns"), [(1, 4), (4, 1), (3, 2), (2, 2)])
def test_grids_follow_images_of_any_size(rows, columns):
    """Also where another shape has as many patches as the model's own."""
    batch = torch.randn(1, 3, 4 * rows, 4 * columns, dtype=torch.float64)
    seen, _ = visited(built("dynamic size"), batch=batch)
    assert {tokens.grid for tokens in seen} == {(rows, columns)}


def test_blocks_that_are_not_there_are_named():
    space = transformer_space(built("pre-norm"))
    with (
        pytest.raises(ValueError, match="there is no block 2; the model has 0 to 1"),
        eager_attention(space, {2: print}),
    ):
        pass
