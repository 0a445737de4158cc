"""The tuned lens: where it starts, what it learns, and what it leaves alone."""

import copy

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch.nn import functional as F

from utilities.analysis.class_embedding.block_tokens import read_blocks
from utilities.analysis.class_embedding.conv_space import ConvolutionalSpace
from utilities.analysis.class_embedding.lens_kl import tuned_lens_kl
from utilities.analysis.class_embedding.space import LensOptions
from utilities.analysis.class_embedding.spaces import class_space, space_of
from utilities.analysis.class_embedding.tuned import TunedLens
from utilities.analysis.class_embedding.tuned_fit import fit_tuned_lens
from utilities.resnet import BasicBlock, ResNet

CPU = {"device": "cpu", "progress": False}


def toy(**options):
    """A ViT whose blocks change their tokens clearly."""
    torch.manual_seed(0)
    size = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 5}
    model = VisionTransformer(**{**size, **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    return model


def images(n, seed=1):
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def all_tokens(space, x):
    """Return the outputs of all blocks."""
    after = []
    with torch.no_grad():
        read_blocks(space, x, lambda tokens: after.append(tokens.after))
    return after


def test_fitting_lowers_the_divergence_on_other_images():
    model = toy()
    tuned = fit_tuned_lens(model, [images(96), images(96, 2)], epochs=4, learning_rate=3e-3, **CPU)
    result = tuned_lens_kl(model, tuned, [images(64, 3)], **CPU)
    (raw, learned), errors = result.kl, result.stderr
    assert (raw[:2] - learned[:2] > 4 * errors.max(0)[:2]).all()
    assert result.provenance["n"] == 64
    assert not result.kl[:, -1].any()  # the last block is read as it is


def test_the_last_block_and_the_model_are_left_alone():
    model = toy()
    before = copy.deepcopy(model.state_dict())
    model.train()
    tuned = fit_tuned_lens(model, [images(8)], epochs=2, **CPU)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert len(tuned.maps) == 2
    assert all(parameter.any() for parameter in tuned.parameters())
    tokens = torch.randn(2, 5, 16)
    assert tuned(2, tokens) is tokens


class Rotation(Block):
    """A block that rotates and shifts its tokens, which an affine map undoes."""

    def __init__(self, dim, *args, **options):
        super().__init__(dim, *args, **options)
        generator = torch.Generator().manual_seed(7)
        self.rotation = torch.linalg.qr(torch.randn(dim, dim, generator=generator))[0]
        self.shift = torch.randn(dim, generator=generator)

    def forward(self, x, **options):
        return x @ self.rotation + self.shift


def test_an_affine_block_is_recovered():
    model = toy(block_fn=Rotation, depth=2, global_pool="avg", class_token=False)
    tuned = fit_tuned_lens(model, [images(128), images(128, 2)], epochs=60, learning_rate=2e-2, **CPU)
    raw, learned = tuned_lens_kl(model, tuned, [images(64, 3)], **CPU).kl[:, 0, 0]
    assert raw > 0.3
    assert learned < 0.003 * raw


def test_gradient_of_a_step_is_that_of_the_mean_divergence():
    """Adam's first step has the learning rate as its size, against the gradient's sign."""
    model, x = toy(depth=2, reg_tokens=2), images(6)
    space = class_space(model)
    first, last = all_tokens(space, x)
    matrix = torch.zeros(16, 16, requires_grad=True)
    seen = [0, 3, 4, 5, 6]  # the class token and those of the image, not the registers
    target = space.project(last)[:, seen].softmax(-1).detach()
    lens = space.project(first + first @ matrix.T)[:, seen].log_softmax(-1)
    F.kl_div(lens, target, reduction="none").sum(2).mean().backward()
    tuned = fit_tuned_lens(model, [x], epochs=1, learning_rate=1e-3, **CPU)
    clear = matrix.grad.abs() > 1e-5  # Adam's epsilon is 1e-8
    assert clear.sum() > 200
    torch.testing.assert_close(tuned.maps[0].weight[clear], -1e-3 * matrix.grad.sign()[clear], rtol=2e-3, atol=0)


def test_a_map_that_gets_worse_is_not_kept():
    """With steps far too large every map is worse than none, and the lens stays the raw one."""
    model, loader = toy(), [images(40), images(40, 2)]
    wild = fit_tuned_lens(model, loader, epochs=2, learning_rate=30.0, **CPU)
    assert all(bool((parameter == 0).all()) for parameter in wild.parameters())
    assert wild.facts["kept_epoch"] == [0] * len(wild.maps)
    measured = tuned_lens_kl(model, wild, loader, **CPU).kl
    np.testing.assert_array_equal(measured[0], measured[1])
    mild = fit_tuned_lens(model, loader, epochs=2, **CPU)
    assert set(mild.facts["kept_epoch"]) <= {1, 2}


def test_one_seed_gives_one_lens_whatever_the_global_generator():
    model, loader = toy(), [images(40), images(40, 2)]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, two, three = (fit_tuned_lens(model, loader, epochs=2, seed=seed, **CPU) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.maps[0].weight, three.maps[0].weight)


def test_a_cnns_stages_of_other_widths_and_grids():
    torch.manual_seed(0)
    model = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=5).eval()
    space = ConvolutionalSpace.every_stage(model)
    x = torch.randn(16, 3, 16, 16)
    tuned = fit_tuned_lens(space, [x], epochs=2, **CPU)
    assert tuned.widths == [64, 128, 256, 512]
    kl = tuned_lens_kl(space, tuned, [x], **CPU).kl[:, :, 0]
    assert np.isnan(kl[0, :3]).all()
    assert np.isfinite(kl[1]).all()
    assert kl[:, 3].tolist() == [0, 0]
    blind = tuned_lens_kl(space, TunedLens(tuned.widths), [x], **CPU).kl[1]
    assert (kl[1, :3] < blind[:3, 0]).all()


def test_bad_input():
    model, tuned = toy(), TunedLens([16, 16, 16])
    for options in ({"epochs": 0}, {"learning_rate": 0}, {"seed": -1}, {"epochs": True}):
        with pytest.raises(ValueError, match=rf"{next(iter(options))}=.* should be a (whole )?number"):
            fit_tuned_lens(model, [images(2)], **options, **CPU)
    with pytest.raises(ValueError, match="tuned already"):
        fit_tuned_lens(model, [images(2)], lens=LensOptions(tuned=tuned), **CPU)
    with pytest.raises(TypeError, match="reads the images twice"):
        fit_tuned_lens(model, iter([images(2)]), **CPU)
    with pytest.raises(ValueError, match="nothing to tune"):
        fit_tuned_lens(toy(depth=1), [images(2)], **CPU)
    with pytest.raises(ValueError, match="was not fitted to 3 blocks"):
        tuned_lens_kl(model, TunedLens([16, 16]), [images(2)], **CPU)
    with pytest.raises(ValueError, match="2 blocks was not fitted to these 3 blocks of VisionTransformer"):
        class_space(model, LensOptions(tuned=TunedLens([16, 16])))
    with pytest.raises(ValueError, match="fitted to another model"):
        tuned(1, torch.zeros(1, 2, 8))
    with pytest.raises(ValueError, match="options of its own"):
        space_of(class_space(model), LensOptions())
