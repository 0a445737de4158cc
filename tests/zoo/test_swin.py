import torch
from timm.models.swin_transformer import SwinTransformer

from utilities.zoo.swin import swin_tiny_patch2_16


def test_shape_and_size():
    torch.manual_seed(0)
    model = swin_tiny_patch2_16(num_classes=7, in_channels=1).eval()
    assert isinstance(model, SwinTransformer)
    with torch.no_grad():
        logits = model(torch.randn(2, 1, 16, 16))
        stages = [model.layers[:end](model.patch_embed(torch.randn(2, 1, 16, 16))).shape for end in (1, 2)]
    assert logits.shape == (2, 7)
    assert (logits[0] != logits[1]).all()  # untrained, and yet no constant
    assert stages == [(2, 8, 8, 64), (2, 4, 4, 128)]
    assert sum(p.numel() for p in swin_tiny_patch2_16(num_classes=10).parameters()) == 929_822


def test_windows_shift_in_every_other_block_of_the_first_stage():
    model = swin_tiny_patch2_16()
    assert [block.shift_size for block in model.layers[0].blocks] == [(0, 0), (2, 2)]
    assert all(block.shift_size == (0, 0) and block.window_size == (4, 4) for block in model.layers[1].blocks)


def test_a_pixel_is_seen_within_its_window_first():
    torch.manual_seed(0)
    model = swin_tiny_patch2_16().eval()
    images = torch.randn(1, 3, 16, 16)
    changed = images.clone()
    changed[..., 0, 0] += 1
    with torch.no_grad():
        a, b = model.patch_embed(images), model.patch_embed(changed)
        seen = [(a != b).any(-1)[0]]
        for block in model.layers[0].blocks:
            a, b = block(a), block(b)
            seen.append((a != b).any(-1)[0])
    assert [int(mask.sum()) for mask in seen] == [1, 16, 36]
    assert seen[1][:4, :4].all()
    assert seen[2][:6, :6].all()  # the shifted windows that the first one meets


def test_start():
    torch.manual_seed(0)
    model = swin_tiny_patch2_16()
    bound = (6 / (64 + 192)) ** 0.5
    assert 0.99 * bound < model.layers[0].blocks[0].attn.qkv.weight.abs().max() <= bound
    assert swin_tiny_patch2_16(weight_init="").layers[0].blocks[0].attn.qkv.weight.std() < 0.021
    assert not any("DropPath" in type(module).__name__ for module in model.modules())
