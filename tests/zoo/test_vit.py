import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from utilities.zoo.vit import (
    vit_large_patch32_224,
    vit_tiny_patch2_16,
    vit_tiny_patch2_32,
    vit_tiny_patch4_24,
    vit_tiny_patch4_32,
)

SMALL = {vit_tiny_patch2_16: 16, vit_tiny_patch4_24: 24, vit_tiny_patch4_32: 32, vit_tiny_patch2_32: 32}


@pytest.mark.parametrize(("build", "size"), SMALL.items(), ids=lambda x: getattr(x, "__name__", x))
def test_small_vits(build, size):
    torch.manual_seed(0)
    model = build(num_classes=7, in_channels=1, depth=2).eval()
    assert isinstance(model, VisionTransformer)
    with torch.no_grad():
        logits = model(torch.randn(2, 1, size, size))
    assert logits.shape == (2, 7)
    assert (logits[0] != logits[1]).all()  # untrained, and yet no constant


def test_the_vit_for_canvases_has_six_patches_across():
    model = vit_tiny_patch4_24(num_classes=10)
    assert model.patch_embed.grid_size == (6, 6)
    assert (len(model.blocks), model.embed_dim, model.blocks[0].attn.num_heads) == (6, 96, 4)
    assert sum(p.numel() for p in model.parameters()) == 680_554


def test_small_vits_start_with_positions_that_differ():
    model = vit_tiny_patch2_16(depth=1)
    codes = model.pos_embed[0, 1:].detach()
    assert torch.allclose(codes.pow(2).sum(1), torch.full((64,), 48.0), atol=1e-4)  # 48 pairs sin^2 + cos^2
    distance = torch.cdist(codes, codes)
    nearest = distance.fill_diagonal_(torch.inf).min(1).values
    assert nearest.min() > 0.5
    assert torch.allclose(distance[0, 1], distance[0, 8], atol=1e-5)  # a step right is as far as a step down
    bound = (6 / (96 + 288)) ** 0.5
    assert 0.99 * bound < model.blocks[0].attn.qkv.weight.abs().max() <= bound
    assert vit_tiny_patch2_16(depth=1, weight_init="").blocks[0].attn.qkv.weight.std() < 0.021


def test_small_vits_without_class_token_or_with_an_odd_width():
    pooled = vit_tiny_patch2_16(depth=1, class_token=False, global_pool="avg")
    assert pooled(torch.zeros(1, 3, 16, 16)).shape == (1, 100)
    assert vit_tiny_patch2_16(depth=1, embed_dim=30)(torch.zeros(1, 3, 16, 16)).shape == (1, 100)


def test_vit_large_is_the_studys_model():
    with torch.device("meta"):
        model = vit_large_patch32_224(num_classes=100)
        assert vit_large_patch32_224(depth=1, in_channels=1).patch_embed.proj.weight.shape[1] == 1
    assert (len(model.blocks), model.embed_dim, model.blocks[0].attn.num_heads) == (24, 1024, 16)
    assert sum(p.numel() for p in model.parameters()) == 305_612_900
    assert model.pretrained_cfg["tag"] == "orig_in21k"
    assert timm.is_model_pretrained("vit_large_patch32_224")


@pytest.mark.parametrize("fused", [True, False])
def test_queries_and_keys_pass_modules_of_their_own(fused):
    torch.manual_seed(0)
    model, calls = vit_tiny_patch2_16(num_classes=3).eval(), []
    for block in model.blocks:
        block.attn.fused_attn = fused
        for name in ("q_norm", "k_norm"):
            getattr(block.attn, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    model(torch.zeros(1, 3, 16, 16))
    assert calls == ["q_norm", "k_norm"] * 6
