"""Vision Transformers without the skip connections of one block."""

import pytest
import torch
from timm.models.vision_transformer import ResPostBlock

from utilities.analysis.class_embedding.spaces import class_space
from utilities.hooks import blocks
from utilities.train import fit
from utilities.training.recipes import Recipe
from utilities.zoo import comparison_layers, create_model, family, input_options, list_models
from utilities.zoo.no_skip import NoSkipBlock, without_skips

NAME = "vit_tiny_noskip3_patch2_16"


def images(size=16):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_the_block_alone_is_attention_and_then_the_mlp():
    usual, changed = (create_model(name, 7, seed=0).eval() for name in ("vit_tiny_patch2_16", NAME))
    for model in (usual, changed):  # so that no part is the identity, or does nothing
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                torch.nn.init.normal_(module.weight, generator=torch.Generator().manual_seed(2))
    x = images()
    with torch.no_grad():
        stream = [changed.norm_pre(changed._pos_embed(changed.patch_embed(x)))]
        for i, block in enumerate(changed.blocks):
            before = stream[-1]
            skip = 0 if i == 2 else 1
            middle = skip * before + block.attn(block.norm1(before))
            stream.append(skip * middle + block.mlp(block.norm2(middle)))
        expected = changed.forward_head(changed.norm(stream[-1]))
        torch.testing.assert_close(changed(x), expected)
        assert (changed(x) - usual(x)).abs().max() > 0.01


def test_names_layers_and_initial_weights_are_those_of_the_ordinary_model():
    usual, changed = (create_model(name, 7, seed=0) for name in ("vit_tiny_patch2_16", NAME))
    assert comparison_layers(changed) == comparison_layers(usual)
    theirs = usual.state_dict()
    assert list(theirs) == list(changed.state_dict())
    assert all(torch.equal(value, theirs[key]) for key, value in changed.state_dict().items())
    assert (family(NAME), input_options(NAME)) == ("vit", {"image_size": 16})
    assert create_model(NAME, 7, depth=4, init_values=0.1)(images()).shape == (2, 7)


@pytest.mark.parametrize("name", ["vit_tiny_noskip1_patch2_16", "vit_tiny_noskip6_patch2_16"])
@pytest.mark.parametrize("options", [{}, {"init_values": 0.3, "class_token": False, "global_pool": "avg"}])
def test_blocks_compose_to_the_logits_and_only_ordinary_ones_are_branches(name, options):
    model = create_model(name, 7, **options).eval()
    found = blocks(model)
    found.check(images())
    number = int(name[len("vit_tiny_noskip")])
    without = [block.name for block in found if block.kind in ("msa", "mlp") and not block.is_branch]
    assert without == [f"blocks.{number - 1}.attn", f"blocks.{number - 1}.mlp"]


def test_which_models_there_are():
    assert list_models("vit_tiny_noskip*16") == [
        f"vit_tiny_noskip{block}_patch{patch}_16" for block in range(1, 7) for patch in (2, 4)
    ]
    assert list_models("vit_tiny_noskip*32") == [
        f"vit_tiny_noskip{block}_patch{patch}_32" for block in (10, 1, 7) for patch in (2, 4)
    ]
    model = create_model("vit_tiny_noskip7_patch2_32", 7, embed_dim=24)
    assert [i for i, block in enumerate(model.blocks, 1) if isinstance(block, NoSkipBlock)] == [7]
    assert model(images(32)).shape == (2, 7)


def test_what_cannot_lose_its_skips_is_refused():
    model = create_model("vit_tiny_patch2_16", 7)
    for block in (0, 7):
        with pytest.raises(ValueError, match=f"block={block} should be from 1 to 6"):
            without_skips(model, block)
    with pytest.raises(TypeError, match="not a NoSkipBlock"):
        without_skips(without_skips(model, 2), 2)
    with pytest.raises(TypeError, match="not a ResPostBlock"):
        NoSkipBlock(ResPostBlock(8, 2))
    for name, fault in (("resnet18", "a ResNet has no row of blocks; give one of"), ("swin_tiny_patch2_16", "no row")):
        with pytest.raises(TypeError, match=fault):
            without_skips(create_model(name, 7), 1)


def test_analyses_of_the_residual_stream_refuse_it():
    with pytest.raises(ValueError, match=r"blocks\.2 .* is a NoSkipBlock"):
        class_space(create_model(NAME, 7))


def test_stochastic_depth_spares_the_block_without_skips():
    model = create_model(NAME, 7, drop_path_rate=0.5)
    assert not any(type(module).__name__ == "DropPath" for module in model.blocks[2].modules())
    assert any(type(module).__name__ == "DropPath" for module in model.blocks[3].modules())


def test_it_trains(tmp_path):
    recipe = Recipe("digits", epochs=1, image_size=16, n_images=40, batch_size=20)
    path = fit(NAME, recipe, 0, tmp_path, device="cpu", report=lambda line: None)
    assert isinstance(create_model(NAME, None, weights=path).blocks[2], NoSkipBlock)
