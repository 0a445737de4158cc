"""Closed forms of the variance of feature maps."""

import numpy as np
import pytest
import torch
from torch import nn

from utilities.analysis.blocks.spectra import log_amplitude
from utilities.analysis.blocks.variance import Variance, feature_variance, over_positions
from utilities.resnet import BasicBlock, ResNet
from utilities.zoo import create_model

H = 16


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_constant_maps_have_none_and_a_factor_is_squared():
    x = noise(3, 2, H, H)
    assert torch.equal(over_positions(torch.full((3, 2, H, H), 7.0)), torch.zeros(3))
    assert torch.allclose(over_positions(3 * x), 9 * over_positions(x))


@pytest.mark.parametrize("k", [2, 4])
def test_a_circular_box_blur_of_white_noise_leaves_one_over_its_area(k):
    """But for the mean over all positions: (HW - k^2) / (HW - 1) / k^2 of the variance."""
    x = noise(4000, 1, H, H)
    blurred = sum(x.roll((i, j), (-2, -1)) for i in range(k) for j in range(k)) / k**2
    expected = (H * H - k * k) / (H * H - 1) / k**2
    # Sampling error of the mean of 4,000 variances: below 0.5 % of it; four of them.
    assert over_positions(blurred).mean().item() == pytest.approx(expected, rel=0.02)


def test_the_mean_of_n_independent_maps_has_a_nth():
    x = noise(4000, 8, H, H)
    assert over_positions(x.mean(1, keepdim=True)).mean().item() == pytest.approx(1 / 8, rel=0.01)


def test_it_is_parsevals_power_without_frequency_zero():
    x = noise(2, 1, H, 10)
    power = log_amplitude(x, 0.0).exp().square().flatten(2)[..., 1:].sum(-1).mean(1)
    assert torch.allclose(over_positions(x), power / (H * 10 * (H * 10 - 1)))


def test_attention_without_queries_adds_the_same_to_all_positions():
    model = create_model("vit_tiny_patch2_16", 5, seed=0)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight[:96] = 0
            block.attn.qkv.bias[:96] = 0
    result = feature_variance(model, [noise(3, 3, 16, 16).float()], device="cpu")
    attention = np.array(result.kinds) == "msa"
    assert (result.branch[attention] < 1e-10).all()
    assert (result.branch[np.array(result.kinds) == "mlp"] > 1e-4).all()


def identity(channels=3):
    return nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(channels * H * H, 2))


def test_over_positions_and_over_samples_are_different_things():
    """Images that are each constant vary over samples alone; one image many times varies over positions alone."""
    constant = noise(6, 3, 1, 1).float().expand(-1, -1, H, H)
    repeated = noise(1, 3, H, H).float().expand(6, -1, -1, -1)
    values = {
        (kind, over): feature_variance(identity(), [images], over=over, layers={"0": "conv"}, device="cpu").variance[0]
        for kind, images in (("constant", constant), ("repeated", repeated))
        for over in ("positions", "samples")
    }
    assert values["constant", "positions"] == pytest.approx(0, abs=1e-12)
    assert values["repeated", "samples"] == pytest.approx(0, abs=1e-12)
    assert values["constant", "samples"] == pytest.approx(constant[..., 0, 0].double().var(0).mean().item())
    assert values["repeated", "positions"] == pytest.approx(over_positions(repeated.double())[0].item())


@pytest.mark.parametrize("over", ["positions", "samples"])
def test_result_does_not_depend_on_batches_and_equals_all_images_at_once(over):
    torch.manual_seed(0)
    model, images = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=5), noise(7, 3, 16, 16).float()
    whole = feature_variance(model, [images], over=over, device="cpu")
    parts = feature_variance(model, [images[:2], images[2:3], images[3:]], over=over, device="cpu")
    for name in ("variance", "stderr", "relative", "branch", "change_stderr"):
        np.testing.assert_allclose(getattr(whole, name), getattr(parts, name), rtol=1e-4, atol=1e-9)
    with torch.no_grad():
        stem = model.eval().relu(model.bn1(model.conv1(images))).double()
    expected = stem.flatten(2).var(2).mean() if over == "positions" else stem.var(0).mean()
    assert whole.variance[0] == pytest.approx(expected.item(), rel=1e-5)
    assert whole.provenance["n"] == 7


def test_branch_is_what_the_block_adds_and_change_is_paired():
    model = create_model("vit_tiny_patch2_16", 5, seed=0).eval()
    images = noise(3, 3, 16, 16).float()
    result = feature_variance(model, [images], device="cpu")
    with torch.no_grad():
        x = model._pos_embed(model.patch_embed(images))
        added = model.blocks[0].attn(model.blocks[0].norm1(x))[:, 1:].mT.unflatten(2, (8, 8)).double()
    assert result.branch[1] == pytest.approx(over_positions(added).mean().item(), rel=1e-4)
    np.testing.assert_allclose(result.change[1:], np.diff(result.variance), atol=1e-9)
    np.testing.assert_allclose(result.relative_change[1:], np.diff(result.relative), atol=1e-9)
    assert (result.relative > 0).all()
    assert (result.relative < 64 / 63).all()  # the unbiased variance of 64 positions is at most 64/63 mean squares


def test_files_and_bad_input(tmp_path):
    result = feature_variance(identity(), [noise(3, 3, H, H).float()], layers={"0": "conv"}, device="cpu")
    assert Variance.load(result.save(tmp_path / "a")).to_frame().equals(result.to_frame())
    with pytest.raises(ValueError, match="choose from positions, samples"):
        feature_variance(identity(), [noise(3, 3, H, H)], over="tokens", device="cpu")
    with pytest.raises(ValueError, match="two images"):
        feature_variance(identity(), [noise(1, 3, H, H).float()], over="samples", layers={"0": "conv"}, device="cpu")
    with pytest.raises(TypeError, match="reads the images twice"):
        feature_variance(identity(), iter([noise(3, 3, H, H).float()]), over="samples", device="cpu")
    with pytest.raises(ValueError, match="several sizes"):
        feature_variance(create_model("resnet18", 5), [noise(2, 3, s, s).float() for s in (8, 16)], device="cpu")
    with pytest.raises(ValueError, match="no image"):
        feature_variance(identity(), [], layers={"0": "conv"}, device="cpu")
