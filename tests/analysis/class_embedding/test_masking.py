"""Masks of attention: what they hide, that the rest is as attention without those tokens, and that nothing stays."""

from functools import partial

import pytest
import torch
from timm.layers import Attention
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import ResPostBlock, VisionTransformer

from utilities.analysis.attention.eager import attention_matrices
from utilities.analysis.class_embedding.block_tokens import read_blocks
from utilities.analysis.class_embedding.eager_attention import eager_attention
from utilities.analysis.class_embedding.masking import (
    check_maskable,
    chosen_blocks,
    deleting,
    drop_cls,
    key_mask,
    masking,
    no_cls_mask,
    self_only_mask,
    with_prefix,
)
from utilities.analysis.class_embedding.spaces import transformer_space
from utilities.zoo.local_vit import local_vit

SIZE = {"img_size": 8, "patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}
VARIANTS = {
    "token": {},
    "post_norm": {"block_fn": ResPostBlock},
    "scaled": {"init_values": 0.5},
    "registers": {"reg_tokens": 2},
    "average": {"class_token": False, "global_pool": "avg"},
    "average_norm_first": {"class_token": False, "global_pool": "avg", "fc_norm": False},
    "average_beside_class_token": {"global_pool": "avg"},
    "registers_alone": {"class_token": False, "global_pool": "avg", "reg_tokens": 2},
}
# Both ways compute the same sums in another order, in float64.
CLOSE = {"rtol": 0, "atol": 1e-10}


def build(variant="token", cls=VisionTransformer, **options):
    """A small model in float64 whose weights are large enough that attention is far from uniform."""
    torch.manual_seed(0)
    model = cls(**SIZE, **VARIANTS[variant], **options).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.4)
    return model


def images(n=3, seed=0):
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.no_grad()
def last_tokens(space, x):
    found = []
    logits = read_blocks(space, x, lambda tokens: found.append(tokens.after))
    return found[-1], logits


def every_block(space, edit):
    return eager_attention(space, dict.fromkeys(range(len(space.blocks)), edit))


def weights_of(layer, x):
    seen = []
    with torch.no_grad(), attention_matrices({"layer": layer}, {"layer": seen.append}):
        layer(x)
    return seen[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_self_only_by_mask_is_one_hot_rows_after_softmax(variant):
    space = transformer_space(build(variant))

    def one_hot(weights):
        weights = weights.clone()
        weights[:, :, space.prefix :] = torch.eye(weights.shape[-1], dtype=weights.dtype)[space.prefix :]
        return weights

    tokens = 16 + space.prefix
    with masking(space, self_only_mask(tokens, space.prefix)):
        masked = last_tokens(space, images())
    with every_block(space, one_hot):
        edited = last_tokens(space, images())
    intact = last_tokens(space, images())
    for one, two, three in zip(masked, edited, intact, strict=True):
        torch.testing.assert_close(one, two, **CLOSE)
        assert (one - three).abs().max() > 1e-2


def test_image_tokens_that_see_themselves_alone_depend_on_their_own_patch():
    space, x = transformer_space(build()), images(1)
    other = x.clone()
    other[..., 2:, :] += 1  # all patches but those of the first row
    with masking(space, self_only_mask(17, 1)):
        (one, _), (two, _) = last_tokens(space, x), last_tokens(space, other)
    torch.testing.assert_close(one[:, 1:5], two[:, 1:5], **CLOSE)
    assert (one[:, 5:] - two[:, 5:]).abs().amax(2).min() > 1e-3
    assert (one[:, 0] - two[:, 0]).abs().max() > 1e-2  # the class token sees all


@pytest.mark.parametrize("variant", ["token", "registers"])
def test_no_cls_by_mask_is_softmax_without_that_key(variant):
    space = transformer_space(build(variant))
    layer, prefix = space.blocks[0].attn, space.prefix
    x = torch.randn(2, 16 + prefix, 16, dtype=torch.float64)
    with torch.no_grad(), masking(space, no_cls_mask(16 + prefix, prefix), [0]):
        masked = layer(x)
    q, k, v = layer.qkv(x).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    rest = (q[:, :, prefix:] @ k[:, :, 1:].mT / 8**0.5).softmax(-1) @ v[:, :, 1:]
    whole = (q[:, :, :prefix] @ k.mT / 8**0.5).softmax(-1) @ v
    by_hand = layer.proj(torch.cat([whole, rest], 2).transpose(1, 2).flatten(2))
    torch.testing.assert_close(masked, by_hand, **CLOSE)


def test_no_cls_by_mask_gives_rows_that_add_up_to_one_and_the_published_edit_does_not():
    space, seen = transformer_space(build()), {}
    with masking(space, no_cls_mask(17, 1)), every_block(space, lambda weights: seen.update(masked=weights)):
        last_tokens(space, images())
    assert (seen["masked"][:, :, 1:, 0] == 0).all()
    torch.testing.assert_close(seen["masked"].sum(-1), torch.ones(3, 2, 17, dtype=torch.float64))
    weights = torch.rand(1, 2, 4, 4).softmax(-1)
    edited = drop_cls(weights)
    assert torch.equal(edited[:, :, 1:].sum(-1), weights[:, :, 1:, 1:].sum(-1))
    assert torch.equal(edited[:, :, 0], weights[:, :, 0])
    assert (weights[:, :, 1:, 0] > 0).all()  # a copy was edited


def test_the_unnormalised_edit_is_attention_without_the_class_tokens_share():
    space = transformer_space(build("registers"))
    layer, x = space.blocks[1].attn, torch.randn(2, 19, 16, dtype=torch.float64)
    with torch.no_grad(), eager_attention(space, {1: partial(drop_cls, prefix=3)}):
        edited = layer(x)
    weights = weights_of(layer, x)
    v = layer.qkv(x).unflatten(2, (3, 2, 8))[:, :, 2].transpose(1, 2)
    mixed = weights @ v
    mixed[:, :, 3:] -= weights[:, :, 3:, :1] * v[:, :, :1]
    torch.testing.assert_close(edited, layer.proj(mixed.transpose(1, 2).flatten(2)), **CLOSE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_hidden_tokens_are_the_same_as_deleted_ones(variant):
    space, x = transformer_space(build(variant)), images()
    order = torch.stack([torch.randperm(16)[:6] for _ in x])
    indices = with_prefix(order, space.prefix)
    keep = torch.zeros(3, 16 + space.prefix, dtype=torch.bool).scatter_(1, indices, True)
    with masking(space, key_mask(keep)):
        hidden, _ = last_tokens(space, x)
    gathered = []
    hook = space.blocks[-1].register_forward_hook(lambda block, args, output: gathered.append(output))
    with torch.no_grad(), deleting(space, indices):
        logits = space.model(x)
    hook.remove()
    assert gathered[0].shape == (3, 6 + space.prefix, 16)
    kept = hidden.gather(1, indices[..., None].expand(-1, -1, 16))
    torch.testing.assert_close(kept, gathered[0], **CLOSE)
    torch.testing.assert_close(space.classify(hidden, keep), logits, **CLOSE)
    if space.model.global_pool == "avg":  # an average over hidden tokens too is another one
        assert (space.classify(hidden) - logits).abs().max() > 1e-3


def test_hidden_tokens_of_a_distilled_model_are_the_same_as_deleted_ones():
    space, x = transformer_space(build(cls=VisionTransformerDistilled)), images()
    indices = with_prefix(torch.tensor([[0, 5, 11]] * 3), space.prefix)
    keep = torch.zeros(3, 18, dtype=torch.bool).scatter_(1, indices, True)
    with masking(space, key_mask(keep)):
        _, hidden = last_tokens(space, x)
    with torch.no_grad(), deleting(space, indices):
        torch.testing.assert_close(hidden, space.model(x), **CLOSE)


def test_images_with_different_counts_are_as_one_at_a_time():
    space, x = transformer_space(build()), images()
    keep = torch.rand(3, 17) < torch.tensor([[0.2], [0.5], [0.9]])
    keep[:, 0] = True
    assert len(set(keep.sum(1).tolist())) == 3
    with masking(space, key_mask(keep)):
        _, together = last_tokens(space, x)
    for i in range(3):
        with torch.no_grad(), deleting(space, keep[i].nonzero().T):
            torch.testing.assert_close(space.model(x[i : i + 1])[0], together[i], **CLOSE)


def test_nothing_hidden_or_deleted_is_the_intact_model():
    space, x = transformer_space(build()), images()
    tokens, logits = last_tokens(space, x)
    with masking(space, key_mask(torch.ones(3, 17, dtype=torch.bool))):
        torch.testing.assert_close(last_tokens(space, x)[0], tokens, **CLOSE)
    with torch.no_grad(), deleting(space, with_prefix(torch.arange(16).expand(3, -1), 1)):
        assert torch.equal(space.model(x), logits)


@pytest.mark.parametrize("fused", [True, False])
def test_an_image_of_which_all_is_hidden_gives_no_nan(fused):
    space, x = transformer_space(build("average")), images(2)
    for block in space.blocks:
        block.attn.fused_attn = fused
    keep = torch.zeros(2, 16, dtype=torch.bool)
    keep[1, :3] = True
    with masking(space, key_mask(keep)):
        hidden, _ = last_tokens(space, x)
    assert hidden.isfinite().all()
    with torch.no_grad(), deleting(space, torch.arange(3)[None]):
        alone = space.model(x[1:])
    torch.testing.assert_close(space.classify(hidden, keep)[1:], alone, **CLOSE)


@pytest.mark.parametrize("mask", [self_only_mask(17, 1), no_cls_mask(17, 1), key_mask(torch.rand(3, 17) < 0.5)])
def test_fused_and_stepwise_attention_heed_a_mask_alike(mask):
    space, x, results = transformer_space(build()), images(), []
    for fused in (True, False):
        for block in space.blocks:
            block.attn.fused_attn = fused
        with masking(space, mask):
            results.append(last_tokens(space, x)[1])
    torch.testing.assert_close(*results, **CLOSE)


def test_masks_in_all_blocks_are_those_that_the_model_takes_itself():
    space, x, mask = transformer_space(build()), images(), no_cls_mask(17, 1, dtype=torch.float64)
    with torch.no_grad():
        own = space.model(x, attn_mask=mask)
        with masking(space, mask):
            torch.testing.assert_close(space.model(x), own, **CLOSE)


def test_a_mask_in_one_block_leaves_the_blocks_before_it_alone():
    space, x, outputs = transformer_space(build()), images(), []

    def run():
        found = []
        read_blocks(space, x, lambda tokens: found.append(tokens.after))
        outputs.append(found)

    with torch.no_grad():
        run()
        with masking(space, self_only_mask(17, 1), [1]):
            run()
    intact, masked = outputs
    assert torch.equal(intact[0], masked[0])
    assert (intact[1] - masked[1]).abs().max() > 1e-2


def test_masks_take_the_precision_of_the_tokens():
    for dtype in (torch.float32, torch.bfloat16):
        space = transformer_space(build().to(dtype))
        with masking(space, self_only_mask(17, 1)), torch.no_grad():
            assert space.model(images().to(dtype)).dtype == dtype
    space = transformer_space(build().float())
    with masking(space, no_cls_mask(17, 1)), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert space.model(images().float()).isfinite().all()


def test_all_is_put_back_also_after_an_error():
    space, x = transformer_space(build()), images()
    space.blocks[1].attn.fused_attn = False
    _, before = last_tokens(space, x)

    def fail(context):
        with context:
            space.model(x)
            raise ZeroDivisionError

    contexts = [
        masking(space, self_only_mask(17, 1)),
        deleting(space, with_prefix(torch.tensor([[1]] * 3), 1)),
        every_block(space, drop_cls),
    ]
    for context in contexts:
        with pytest.raises(ZeroDivisionError):
            fail(context)
        assert torch.equal(last_tokens(space, x)[1], before)
    assert [block.attn.fused_attn for block in space.blocks] == [True, False]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in space.model.modules()]
    assert sum(hooks) == 0


def test_attention_with_a_forward_pass_of_its_own_is_refused():
    class Deaf(Attention):
        def forward(self, x, attn_mask=None, is_causal=False):
            return super().forward(x)

    local = local_vit("16", 5, reach=3, depth=1)
    for model, name in ((build(attn_layer=Deaf), "Deaf"), (local, "NeighbourhoodAttention")):
        space = transformer_space(model)
        with pytest.raises(ValueError, match=rf"blocks\.0\.attn is a {name}"), masking(space, self_only_mask(17, 1)):
            pass
        with pytest.raises(ValueError, match=name), deleting(space, torch.tensor([[0]])):
            pass


def test_attention_replaced_on_the_layer_itself_is_refused():
    model = build()
    model.blocks[1].attn.forward = lambda x, attn_mask=None, is_causal=False: x
    with pytest.raises(ValueError, match=r"blocks\.1\.attn"):
        check_maskable(transformer_space(model))


def test_a_timm_whose_attention_takes_no_mask_is_refused(monkeypatch):
    monkeypatch.setattr(Attention, "forward", lambda self, x: x)
    with pytest.raises(ValueError, match="update timm"):
        check_maskable(transformer_space(build()))


@pytest.mark.parametrize("blocks", [[], [2], [-1], [0.5], [True]])
def test_blocks_that_are_not_there_are_refused(blocks):
    with pytest.raises(ValueError, match="from 0 to 1; None is all"):
        chosen_blocks(transformer_space(build()), blocks)


def test_masks_of_what_is_not_there_are_refused():
    with pytest.raises(ValueError, match="prefix=0"):
        no_cls_mask(4, 0)
    with pytest.raises(TypeError, match="float32"):
        key_mask(torch.ones(1, 4))
    with pytest.raises(ValueError, match=r"\(4,\)"):
        key_mask(torch.ones(4, dtype=torch.bool))


@pytest.mark.parametrize(
    ("indices", "error", "match"),
    [
        (torch.tensor([[0.0]]), TypeError, "float32"),
        (torch.tensor([0, 1]), ValueError, r"got \(2,\)"),
        (torch.zeros(1, 0, dtype=torch.int64), ValueError, r"\(1, 0\)"),
        (torch.tensor([[1, 2]]), ValueError, "start with the 1 tokens"),
        (torch.tensor([[0, 2, 2]]), ValueError, "once"),
        (torch.tensor([[0, -1]]), ValueError, "0 or more"),
        (torch.tensor([[0, 17]]), ValueError, "up to 17"),
        (torch.tensor([[0, 1], [0, 2]]), ValueError, "of 2 images"),
    ],
)
def test_tokens_that_cannot_be_kept_are_refused(indices, error, match):
    space = transformer_space(build())
    with pytest.raises(error, match=match), torch.no_grad(), deleting(space, indices):
        space.model(images(1))
