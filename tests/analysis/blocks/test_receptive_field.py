"""Effective receptive fields of networks whose fields are known, and of a twin that is computed image by image."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from utilities.analysis.blocks.gradient_extent import half_radius, own_share, pooled
from utilities.analysis.blocks.receptive_field import ReceptiveField, receptive_field
from utilities.resnet import BasicBlock, ResNet
from utilities.zoo import create_model


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def fields(model, images, layers=None, **options):
    return receptive_field(model, [images], layers=layers, device="cpu", progress=False, **options)


def test_layers_may_be_given_by_position():
    model, images = (
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)).double(),
        noise(2, 3, 8, 8),
    )
    result = receptive_field(model, [images], {"1": "conv"}, device="cpu", progress=False)
    assert result.names == ["1"]
    assert result.to_frame().equals(fields(model, images, {"1": "conv"}).to_frame())


def box_stack(depth, channels=4):
    """Make a stack of 3x3 convolutions whose weights are all 1."""
    layers = [nn.Conv2d(3 if i == 0 else channels, channels, 3, padding=1, bias=False) for i in range(depth)]
    for layer in layers:
        nn.init.ones_(layer.weight)
    return nn.Sequential(*layers).double()


def boxes(depth, size):
    """Convolve a box of three with itself, in the middle of so many entries."""
    row = np.ones(1)
    for _ in range(depth):
        row = np.convolve(row, np.ones(3))
    return np.pad(row, (size - len(row)) // 2)


def test_a_stack_of_boxes_is_boxes_convolved():
    """Each further layer adds its channels as a factor; the three colours are summed."""
    depth, size = 4, 17
    result = fields(box_stack(depth), noise(2, 3, size, size), {"*": "conv"})
    for i in range(depth):
        expected = 3 * 4**i * np.outer(boxes(i + 1, size), boxes(i + 1, size))
        np.testing.assert_allclose(result.maps[i], expected, rtol=1e-6)
        assert (result.maps[i] > 0).sum() == (2 * i + 3) ** 2  # the theoretical receptive field, and no pixel more
    np.testing.assert_array_equal(result.position, np.full((depth, 2), 8))
    np.testing.assert_array_equal(result.centre, np.full((depth, 2), 8.0))
    assert (np.diff(result.radius) > 0).all()
    assert np.isnan(result.before_maps).all()  # nothing is added to a skip


def test_the_identity_sees_one_pixel():
    result = fields(nn.Sequential(nn.Identity(), nn.ReLU()), noise(3, 3, 9, 9).abs(), {"*": "conv"})
    expected = np.zeros((9, 9))
    expected[4, 4] = 3 * (1 / 3)  # three colours, of whose mean each is a third
    np.testing.assert_allclose(result.maps, np.stack([expected, expected]), rtol=1e-6)
    np.testing.assert_array_equal(result.image_radius, np.zeros((3, 2)))
    np.testing.assert_array_equal(result.image_share, np.ones((3, 2)))


class Mean(nn.Module):
    def forward(self, x):
        return x.mean((2, 3), keepdim=True).expand_as(x)


def test_a_global_average_is_flat():
    result = fields(nn.Sequential(Mean()), noise(2, 3, 65, 65), {"0": "conv"})
    np.testing.assert_allclose(result.maps[0], np.full((65, 65), 1 / 65**2), rtol=1e-6)
    assert result.radius[0] == pytest.approx(65 / math.sqrt(2 * math.pi), rel=0.01)
    np.testing.assert_allclose(result.radius, result.flat_radius)
    assert result.image_share[0, 0] == pytest.approx(1 / 65**2)


def test_a_strided_layer_sees_its_cell():
    """The lower right of the four positions in the middle of 4x4 is read, which covers pixels 4 and 5."""
    layer = nn.Conv2d(3, 2, 2, stride=2, bias=False)
    nn.init.ones_(layer.weight)
    result = fields(nn.Sequential(layer.double()), noise(1, 3, 8, 8), {"0": "conv"})
    expected = np.zeros((8, 8))
    expected[4:6, 4:6] = 3
    np.testing.assert_allclose(result.maps[0], expected)
    assert result.position.tolist() == [[2, 2]]
    assert result.centre.tolist() == [[4.5, 4.5]]
    assert result.image_share[0, 0] == 1


def test_patches_that_do_not_attend_see_themselves_whatever_stands_before_them():
    """With class token and registers, a place miscounted by one would show another patch."""
    model = create_model("vit_tiny_patch2_16", 5, seed=0, reg_tokens=3, depth=2).double()
    with torch.no_grad():
        for block in model.blocks:
            block.attn.proj.weight.zero_()
            block.attn.proj.bias.zero_()
    with pytest.warns(UserWarning, match=r"blocks.0.attn before the sum \(2\), blocks.1.attn before"):
        result = fields(model, noise(2, 3, 16, 16))
    assert result.names == ["stem", *(f"blocks.{i}.{part}" for i in (0, 1) for part in ("attn", "mlp"))]
    for seen in result.maps:
        assert np.argwhere(seen > 0).min(0).tolist() == [8, 8]
        assert np.argwhere(seen > 0).max(0).tolist() == [9, 9]
    np.testing.assert_allclose(result.image_share, 1)
    assert np.isnan(result.image_before_radius[:, 1]).all()  # attention adds nothing
    np.testing.assert_allclose(result.image_before_share[:, [2, 4]], 1)  # and an MLP sees its own token


def twin_of_resnet(model, images):
    """Compute all maps of a ResNet image by image: after each block, and of each branch."""
    maps = {}
    for image in images:
        pixels = image[None].clone().requires_grad_()
        x = torch.relu(model.bn1(model.conv1(pixels)))
        read = {("stem", "after"): x}
        for stage in range(1, 5):
            for i, block in enumerate(getattr(model, f"layer{stage}")):
                branch = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
                x = torch.relu(branch + (x if block.downsample is None else block.downsample(x)))
                read |= {(f"layer{stage}.{i}", "before"): branch, (f"layer{stage}.{i}", "after"): x}
        for key, value in read.items():
            height, width = value.shape[2:]
            # With padding 1 and kernel 3, position p lies at stride * p; the middle of 16 pixels is 7.5.
            row, column = (round(7.5 * n / 16 + 1e-9) for n in (height, width))
            gradient = torch.autograd.grad(value[0, :, row, column].mean(), pixels, retain_graph=True)[0]
            maps.setdefault(key, []).append(gradient[0].abs().sum(0))
    return {key: torch.stack(values) for key, values in maps.items()}


def test_it_is_the_gradient_of_one_image_at_a_time():
    torch.manual_seed(0)
    model, images = ResNet(BasicBlock, (2, 1, 1, 1), num_classes=5).double().eval(), noise(3, 3, 16, 16)
    result = fields(model.train(), images)
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    for (name, part), maps in twin_of_resnet(model.eval(), images).items():
        row, own = result.names.index(name), result.maps if part == "after" else result.before_maps
        np.testing.assert_allclose(own[row], maps.mean(0), rtol=1e-5, atol=1e-9)
        radius = result.image_radius if part == "after" else result.image_before_radius
        np.testing.assert_allclose(radius[:, row], half_radius(maps, tuple(result.centre[row])), rtol=1e-9)
    assert np.isnan(result.before_maps[0]).all()  # the stem has no branch


def twin_of_vit(model, images):
    """Compute the maps of a ViT image by image, each by its own backward pass."""
    maps = {}
    for image in images:
        pixels = image[None].clone().requires_grad_()
        x = model._pos_embed(model.patch_embed(pixels))
        read = {("stem", "after"): x}
        for i, block in enumerate(model.blocks):
            for part, norm, scale in (("attn", block.norm1, block.ls1), ("mlp", block.norm2, block.ls2)):
                branch = scale(getattr(block, part)(norm(x)))
                x = x + branch
                read |= {(f"blocks.{i}.{part}", "before"): branch, (f"blocks.{i}.{part}", "after"): x}
        for key, value in read.items():
            middle = value[0, 3:].unflatten(0, (8, 8))[4, 4].mean()  # behind the class token and two registers
            gradient = torch.autograd.grad(middle, pixels, retain_graph=True)[0]
            maps.setdefault(key, []).append(gradient[0].abs().sum(0))
    return {key: torch.stack(values).mean(0) for key, values in maps.items()}


def test_gradients_along_a_residual_stream_are_those_of_each_block():
    model = create_model("vit_tiny_patch2_16", 5, seed=0, depth=3, reg_tokens=2, init_values=0.5).double().eval()
    images = noise(2, 3, 16, 16)
    result = fields(model, images)
    for (name, part), maps in twin_of_vit(model, images).items():
        own = result.maps if part == "after" else result.before_maps
        np.testing.assert_allclose(own[result.names.index(name)], maps, rtol=1e-5, atol=1e-12)


BATCHED = {"vit_tiny_patch2_16": 16, "swin_tiny_patch2_16": 16, "alternet18": 8, "lambda_resnet26": 8}


@pytest.mark.parametrize("name", BATCHED)
@pytest.mark.filterwarnings("ignore:maps that are zero")  # means over channels straight after a layer norm
def test_it_does_not_depend_on_batches(name):
    """One of the batches is a single image, whose gradient torch may get wrong."""
    model, images = create_model(name, 5, seed=0).double(), noise(5, 3, BATCHED[name], BATCHED[name])
    whole = fields(model, images)
    batches = (batch for batch in (images[:2], images[2:3], images[3:]))  # a generator is read once
    parts = receptive_field(model, batches, device="cpu", progress=False)
    for field in ("maps", "before_maps", "image_radius", "image_before_share"):
        np.testing.assert_allclose(getattr(parts, field), getattr(whole, field), rtol=1e-5, atol=1e-7)
    assert whole.before_maps.shape == whole.maps.shape
    assert np.isfinite(whole.before_maps[-1]).all()
    few = receptive_field(model, [images[:3], images[3:]], n_images=4, device="cpu", progress=False)
    assert few.provenance["n"] == 4
    np.testing.assert_allclose(few.image_radius, whole.image_radius[:4], rtol=1e-9)


def test_reduced_maps_are_means_over_areas_and_radii_stay():
    model, images = box_stack(2), noise(2, 3, 16, 8)
    whole, small = fields(model, images, {"*": "conv"}), fields(model, images, {"*": "conv"}, reduce_to=4)
    assert small.maps.shape == (2, 4, 2)
    np.testing.assert_allclose(small.maps, whole.maps.reshape(2, 4, 4, 2, 4).mean((2, 4)), rtol=1e-6)
    np.testing.assert_array_equal(small.image_radius, whole.image_radius)
    np.testing.assert_array_equal(fields(model, images, {"*": "conv"}, reduce_to=20).maps, whole.maps)


def test_radius_and_share_in_closed_form():
    disc = torch.zeros(1, 41, 41, dtype=torch.float64)
    disc[0, 20, 20], disc[0, 20, 30] = 1, 1
    assert half_radius(disc, (20, 20)).item() == 0  # half of it is in the middle
    disc[0, 20, 20] = 0
    # The sum rises between the last smaller distance of two pixels, sqrt(98), and 10, and half of it lies half-way.
    assert half_radius(disc, (20, 20)).item() == pytest.approx((math.sqrt(98) + 10) / 2)
    assert torch.allclose(half_radius(3 * disc, (20, 20)), half_radius(disc, (20, 20)))
    assert half_radius(torch.zeros(1, 3, 3), (1, 1)).isnan().all()
    assert own_share(torch.ones(1, 6, 6), (2.5, 2.5), (2, 4)).item() == pytest.approx(8 / 36)


class Cut(nn.Module):
    def forward(self, x):
        return x.detach() + 0 * self.training


@pytest.mark.parametrize(
    ("model", "layers", "options", "text"),
    [
        (nn.Sequential(nn.Conv2d(3, 2, 1), Cut()), {"1": "conv"}, {}, "gradient of '1' does not reach the pixels"),
        (nn.Sequential(nn.Flatten()), {"0": "conv"}, {}, "'0' gives .*, which has no positions"),
        (nn.Sequential(nn.Conv2d(3, 2, 1)), None, {}, "blocks of a Sequential are not known"),
        (nn.Sequential(nn.Conv2d(3, 2, 1)), {"0": "conv"}, {"reduce_to": 0}, "reduce_to should be at least 1"),
        (nn.Sequential(nn.Conv2d(3, 2, 1)), {"0": "conv"}, {"n_images": 0}, "at least 1"),
    ],
)
def test_bad_input(model, layers, options, text):
    with pytest.raises(ValueError, match=text):
        fields(model, noise(2, 3, 8, 8).float(), layers, **options)


def test_images_of_one_size_and_files(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 2, 1))
    images = [noise(1, 3, size, size).float() for size in (8, 9)]
    with pytest.raises(ValueError, match=r"should all be .* of 8x8 pixels"):
        receptive_field(model, images, layers={"0": "conv"}, device="cpu")
    result = fields(model, images[0], {"0": "conv"})
    assert ReceptiveField.load(result.save(tmp_path / "a")).to_frame().equals(result.to_frame())
    assert pooled(torch.ones(1, 4, 4), None).shape == (1, 4, 4)


@pytest.mark.parametrize("layers", ["layer[12].1", ["layer1.1", "layer2.1"], {"layer[12].1": "conv"}])
def test_layers_are_named_as_in_other_analyses(layers):
    model, images = create_model("resnet18", 5, seed=0).eval(), noise(2, 3, 16, 16).float()
    named, every = fields(model, images, layers), fields(model, images, None)
    assert (named.names, named.kinds) == (["layer1.1", "layer2.1"], ["conv", "conv"])
    places = [every.names.index(name) for name in named.names]
    assert named.maps == pytest.approx(every.maps[places])


def test_images_that_move_nothing_are_refused():
    with pytest.raises(ValueError, match="no layer moves with any pixel of the 2 images"):
        fields(create_model("resnet18", 5, seed=0).eval(), torch.zeros(2, 3, 16, 16), None)
