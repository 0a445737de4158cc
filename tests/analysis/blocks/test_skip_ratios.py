"""Ratios and cosines of blocks whose branches are known, and of twins computed by hand in each family."""

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from utilities.analysis.blocks.skip_ratios import SkipRatios, skip_ratios
from utilities.analysis.blocks.skip_sums import TokenMoments, ratio_and_cosine
from utilities.resnet import resnet18
from utilities.zoo import create_model


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def ratios(model, *batches):
    return skip_ratios(model, batches, device="cpu", progress=False)


class Block(nn.Module):
    """Adds what a function makes of the input."""

    has_skip = True

    def __init__(self, function):
        super().__init__()
        self.function, self.drop_path = function, nn.Identity()

    def forward(self, x):
        return x + self.drop_path(self.function(x))


@pytest.mark.parametrize(("c", "cosine"), [(0.25, 1), (4, 1), (-0.5, 1), (-2, -1)])
def test_a_branch_along_the_skip(c, cosine):
    result = ratios(nn.Sequential(Block(lambda x: c * x)), noise(3, 4, 5, 6))
    np.testing.assert_allclose(result.image_ratio, 1 / abs(c))
    np.testing.assert_allclose(result.image_cosine, cosine)
    assert result.groups == ["spatial"]
    assert result.grid.tolist() == [[5, 6]]


@pytest.mark.parametrize("c", [0.5, 3])
def test_a_branch_at_right_angles(c):
    """Channels are turned by 90 degrees in pairs: cos = 1 / sqrt(1 + c^2)."""

    def turned(x):
        return c * torch.stack([-x[:, 1], x[:, 0], -x[:, 3], x[:, 2]], 1)

    result = ratios(nn.Sequential(Block(turned)), noise(3, 4, 5, 6))
    np.testing.assert_allclose(result.image_ratio, 1 / c)
    np.testing.assert_allclose(result.image_cosine, 1 / np.sqrt(1 + c**2))


def test_branches_of_zero_are_left_out_and_named():
    model = resnet18(5, zero_init_residual=True).double()
    with pytest.warns(UserWarning, match=r"branch is exactly zero have no ratio.*layer1.0 \(192 of 192\)"):
        result = ratios(model, noise(3, 3, 8, 8))
    assert np.isnan(result.image_ratio).all()
    assert result.left_out.tolist() == result.tokens_seen.tolist()
    np.testing.assert_allclose(result.image_cosine, 1)


def test_some_tokens_of_zero():
    def half(x):
        return 0.5 * x * (torch.arange(6) > 2)

    with pytest.warns(UserWarning, match=r"0 \(45 of 90\)"):
        result = ratios(nn.Sequential(Block(half)), noise(3, 4, 5, 6))
    np.testing.assert_allclose(result.image_ratio, 2)  # the mean of those that have one
    assert np.isnan(result.token_ratio.reshape(5, 6)[:, :3]).all()
    assert result.left_out.tolist() == [45]


def expected(pairs):
    """Compute ratio and cosine of (name, z, f) with the channels last."""
    found = {}
    for name, z, f in pairs:
        y = z + f
        cosine = (z * y).sum(-1) / (z.norm(dim=-1) * y.norm(dim=-1))
        found[name] = (z.norm(dim=-1) / f.norm(dim=-1)).flatten(1), cosine.flatten(1)
    return found


def last(x):
    return x.movedim(1, -1)


def vit():
    model = create_model("vit_tiny_patch2_16", 5, seed=0, depth=3, reg_tokens=2, init_values=0.5).double()

    def twin(x):
        x = model._pos_embed(model.patch_embed(x))
        for i, block in enumerate(model.blocks):
            f = block.ls1.gamma * block.attn(block.norm1(x))
            yield f"blocks.{i}.attn", x, f
            x = x + f
            f = block.ls2.gamma * block.mlp(block.norm2(x))
            yield f"blocks.{i}.mlp", x, f
            x = x + f

    return model, 16, twin


def own_resnet18():
    model = create_model("resnet18", 5, seed=0).double()

    def twin(x):
        x = model.bn1(model.conv1(x)).relu()
        for i, block in enumerate([b for s in range(1, 5) for b in getattr(model, f"layer{s}")]):
            z = x if block.downsample is None else block.downsample(x)
            f = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
            yield f"layer{i // 2 + 1}.{i % 2}", last(z), last(f)
            x = (z + f).relu()

    return model, 8, twin


def _bottlenecks(model, x):
    for stage in range(1, 5):
        for i, block in enumerate(getattr(model, f"layer{stage}")):
            z = x if block.downsample is None else block.downsample(x)
            f = block.bn1(block.conv1(x)).relu()
            f = block.bn3(block.conv3(block.bn2(block.conv2(f)).relu()))
            yield f"layer{stage}.{i}", last(z), last(f)
            x = (z + f).relu()


def torchvision_resnet50():
    model = torchvision.models.resnet50().double()
    return model, 32, lambda x: _bottlenecks(model, model.maxpool(model.bn1(model.conv1(x)).relu()))


def lambda_resnet26():
    model = create_model("lambda_resnet26", 5, seed=0).double()
    return model, 8, lambda x: _bottlenecks(model, model.bn1(model.conv1(x)).relu())


def alternet18():
    model = create_model("alternet18", 5, seed=0).double()

    def twin(x):
        x = model.conv1(x)
        for stage in range(1, 5):
            for i, block in enumerate(getattr(model, f"layer{stage}")):
                y = block.bn1(x)
                y = block.gelu(y) if block.kind == "A" else y.relu()
                z = x if block.downsample is None else block.downsample(y)
                if block.kind == "A":
                    f = block.attn(block.bn2(block.conv1(y)))
                else:
                    f = block.conv2(block.bn2(block.conv1(y)).relu())
                yield f"layer{stage}.{i}", last(z), last(f)
                x = z + f

    return model, 8, twin


def swin():
    model = create_model("swin_tiny_patch2_16", 5, seed=0).double()

    def twin(x):
        x = model.patch_embed(x)
        for i, stage in enumerate(model.layers):
            x = stage.downsample(x)
            for j, block in enumerate(stage.blocks):
                f = block._attn(block.norm1(x))
                yield f"layers.{i}.blocks.{j}.attn", x, f
                x = x + f
                f = block.mlp(block.norm2(x))
                yield f"layers.{i}.blocks.{j}.mlp", x, f
                x = x + f

    return model, 16, twin


@pytest.mark.parametrize("make", [vit, own_resnet18, torchvision_resnet50, lambda_resnet26, alternet18, swin])
def test_each_family_against_its_blocks_run_by_hand(make):
    torch.manual_seed(0)
    model, size, twin = make()
    images = noise(3, 3, size, size)
    result = ratios(model.train(), images[:2], images[2:])
    assert model.training
    with torch.no_grad():
        found = expected(twin(images)) if model.eval() else {}
    assert list(found) == result.names
    for row, (ratio, cosine) in enumerate(found.values()):
        prefix, count = result.prefix[row], ratio.shape[1]
        assert np.prod(result.grid[row]) == count - prefix
        for value, each in (("ratio", ratio), ("cosine", cosine)):
            mean = getattr(result, f"token_{value}")[row, :count]
            np.testing.assert_allclose(mean, each.mean(0), rtol=1e-9)
            error = getattr(result, f"token_{value}_stderr")[row, :count]
            np.testing.assert_allclose(error, each.std(0) / 3**0.5, rtol=1e-6)
            np.testing.assert_allclose(getattr(result, f"image_{value}")[:, row, -1], each[:, prefix:].mean(1))
            if result.groups[0] == "CLS":
                np.testing.assert_allclose(getattr(result, f"image_{value}")[:, row, 0], each[:, 0])
                np.testing.assert_allclose(getattr(result, f"image_{value}")[:, row, 1], each[:, 1:3].mean(1))


def test_groups_and_grids():
    assert ratios(vit()[0], noise(1, 3, 16, 16)).groups == ["CLS", "registers", "spatial"]
    model = create_model("vit_tiny_patch2_16", 5, class_token=False, global_pool="avg", depth=1)
    result = ratios(model, noise(1, 3, 16, 16).float())
    assert (result.groups, result.prefix.tolist()) == (["spatial"], [0, 0])


def test_files_frame_and_refusals(tmp_path):
    model = nn.Sequential(Block(lambda x: 0.5 * x))
    result = ratios(model, noise(2, 4, 5, 6))
    assert SkipRatios.load(result.save(tmp_path / "a")).to_frame().equals(result.to_frame())
    assert result.to_frame()[["branch", "tokens", "ratio"]].values.tolist() == [["0", "spatial", 2.0]]
    with pytest.raises(ValueError, match="several sizes, 5x6 and 6x6"):
        ratios(model, noise(1, 4, 5, 6), noise(1, 4, 6, 6))
    with pytest.raises(ValueError, match="no image"):
        ratios(model)
    with pytest.raises(ValueError, match="VGG has no residual branches"):
        ratios(timm.create_model("vgg11"), noise(1, 3, 32, 32))
    assert not model[0].drop_path._forward_hooks


def test_half_precision_and_moments():
    z, f = noise(5, 8).half(), noise(5, 8, seed=1).half()
    for half, whole in zip(ratio_and_cosine(z, f), ratio_and_cosine(z.double(), f.double()), strict=True):
        torch.testing.assert_close(half, whole, rtol=1e-6, atol=1e-6)
    values = 1e6 + noise(7, 3).numpy()
    moments = TokenMoments()
    for part in (values[:1], values[1:4], values[4:]):
        moments.add(part)
    mean, error = moments.mean_and_stderr()
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(error, values.std(0, ddof=1) / 7**0.5, rtol=1e-6)


@pytest.mark.parametrize("name", ["xcit_nano_12_p16_224", "mvitv2_tiny"])
def test_families_whose_blocks_are_others_are_refused_with_a_remedy(name):
    model = timm.create_model(name, img_size=64) if "mvit" in name else timm.create_model(name, depth=2)
    with pytest.raises(ValueError, match=r"(another meaning|do not fit)\. What is read are .*: take one of these"):
        skip_ratios(model, [torch.rand(2, 3, 64, 64)], device="cpu", progress=False)


def test_images_on_which_all_is_zero_are_refused():
    with pytest.raises(ValueError, match="skips and branches are exactly zero on every token"):
        ratios(nn.Sequential(Block(lambda x: 0.5 * x)), 0 * noise(2, 4, 5, 6))
