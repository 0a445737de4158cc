import inspect

import pytest
import torch
import torchvision
from timm.models.swin_transformer import SwinTransformerStage
from torch import nn

from utilities.zoo import cifar as cifar_models
from utilities.zoo import comparison_layers, create_model, input_options
from utilities.zoo.cifar import PlainNetwork, alexnet, mixer_tiny_patch2_32, pit_tiny_patch2_32, resnext50, vgg11
from utilities.zoo.swin import swin_tiny_patch1_32
from utilities.zoo.vit import vit_ti_patch2_32, vit_tiny_patch2_32

SHALLOW = {
    "vit_ti_patch2_32": {"depth": 2},
    "pit_tiny_patch2_32": {"depth": (1, 1, 1)},
    "swin_tiny_patch1_32": {"depths": (2, 2, 2, 1), "embed_dim": 12},
    "mixer_tiny_patch2_32": {"num_blocks": 2},
    "mixer_tiny_patch2_16": {"num_blocks": 2},
    "resnext50": {},
    "vgg11": {},
    "vgg19": {},
    "alexnet": {},
}


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        # as Park and Kim (2022) have them, rounded to 0.1 million
        ("resnet50", 23.7),
        ("vit_ti_patch2_32", 5.4),
        ("pit_tiny_patch2_32", 4.6),
        ("swin_tiny_patch1_32", 27.6),
        ("mixer_tiny_patch2_32", 4.8),
        # by hand: torchvision's convolutions and norms, and a linear layer of 512 or 256 channels
        ("vgg11", 9.3),
        ("vgg16", 14.8),
        ("alexnet", 2.5),
    ],
)
def test_numbers_of_parameters(name, millions):
    with torch.device("meta"):
        assert round(count(create_model(name)) / 1e6, 1) == millions


def test_resnext_is_torchvisions_but_for_the_stem():
    with torch.device("meta"):
        ours, theirs = resnext50(), torchvision.models.resnext50_32x4d(num_classes=100)
    shapes, other = ({key: value.shape for key, value in model.state_dict().items()} for model in (ours, theirs))
    assert shapes.pop("conv1.weight") == (64, 3, 3, 3)
    assert other.pop("conv1.weight") == (64, 3, 7, 7)
    assert shapes == other


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_vgg_is_torchvisions_but_for_the_classifier(depth):
    with torch.device("meta"):
        ours = getattr(cifar_models, f"vgg{depth}")()
        theirs = getattr(torchvision.models, f"vgg{depth}_bn")()
    shapes, other = (
        {key: value.shape for key, value in model.features.state_dict().items()} for model in (ours, theirs)
    )
    assert shapes == other
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in ours.modules())
    assert convolutions == depth - 3  # the three fully connected layers are one


@pytest.mark.parametrize("name", SHALLOW)
def test_layers_run_in_the_order_listed_and_keep_their_outputs(name):
    torch.manual_seed(0)
    model, calls = create_model(name, num_classes=7, in_channels=1, **SHALLOW[name]).eval(), []
    for layer in comparison_layers(model):
        model.get_submodule(layer).register_forward_hook(
            lambda module, inputs, output, layer=layer: calls.append((layer, output, output.clone()))
        )
    with torch.no_grad():
        size = input_options(name).get("image_size", 32)
        logits = model(torch.randn(2, 1, size, size))
    assert logits.shape == (2, 7)
    assert (logits[0] != logits[1]).all()  # untrained, and yet no constant
    assert [layer for layer, _, _ in calls] == comparison_layers(model)
    assert all(torch.equal(kept, then) for _, kept, then in calls)  # nothing later wrote into them


def test_grids_and_widths_of_pit():
    shapes = []
    model = pit_tiny_patch2_32(depth=(1, 1, 1)).eval()
    for stage in model.transformers:
        stage.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output[0].shape[1:])))
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    assert shapes == [(64, 31, 31), (128, 16, 16), (256, 8, 8)]
    heads = [stage.blocks[0].attn.num_heads for stage in model.transformers]
    assert heads == [2, 4, 8]
    assert [len(stage.blocks) for stage in pit_tiny_patch2_32().transformers] == [2, 6, 4]


def test_mlps_have_the_published_widths():
    pit = [(block.mlp.fc1.in_features, block.mlp.fc1.out_features) for block in pit_blocks()]
    assert pit == 2 * [(64, 256)] + 6 * [(128, 512)] + 4 * [(256, 1024)]
    blocks = mixer_tiny_patch2_32().blocks
    widths = [(block.mlp_tokens.fc1.weight.shape, block.mlp_channels.fc1.weight.shape) for block in blocks]
    assert widths == 8 * [((128, 256), (1024, 256))]


def pit_blocks():
    return [block for stage in pit_tiny_patch2_32().transformers for block in stage.blocks]


def test_vit_without_biases_of_queries_keys_and_values():
    with torch.device("meta"):
        ours, usual = vit_ti_patch2_32(), vit_tiny_patch2_32()
    assert count(usual) - count(ours) == 12 * 3 * 192
    assert set(usual.state_dict()) - set(ours.state_dict()) == {f"blocks.{i}.attn.qkv.bias" for i in range(12)}
    assert (
        vit_ti_patch2_32(depth=1).blocks[0].attn.qkv.weight.std() < 0.021
    )  # timm's start, a standard deviation of 0.02


def test_swin_without_biases_of_queries_keys_and_values():
    model = swin_tiny_patch1_32(embed_dim=12)
    assert all(block.attn.qkv.bias is None for stage in model.layers for block in stage.blocks)
    assert [len(stage.blocks) for stage in model.layers] == [2, 2, 6, 2]
    shifts = [[block.shift_size[0] for block in stage.blocks] for stage in model.layers]
    assert shifts == [[0, 2], [0, 2], [0, 2, 0, 2, 0, 2], [0, 0]]  # the last stage is one window


@pytest.mark.parametrize("per_side", [1, 2, 4, 8])
def test_shifted_windows_hide_exactly_what_was_wrapped_around(per_side):
    window, shift, size = 4, 2, 4 * per_side
    stage = SwinTransformerStage(8, 8, (size, size), depth=2, downsample=False, num_heads=1, window_size=window)
    mask = stage.blocks[1].attn_mask
    if per_side == 1:
        assert mask is None
        return
    place = torch.arange(size).roll(-shift)  # of the rows, and of the columns, after the shift
    places = torch.cartesian_prod(place, place).view(per_side, window, per_side, window, 2)
    places = places.transpose(1, 2).reshape(per_side**2, window**2, 2)
    near = ((places[:, :, None] - places[:, None]).abs() < window).all(-1)  # in the image, not around its edge
    assert torch.equal(mask == 0, near)
    assert (mask[~near] <= -100).all()
    masked = (mask != 0).flatten(1).any(1).view(per_side, per_side)
    expected = torch.zeros(per_side, per_side, dtype=torch.bool)
    expected[-1], expected[:, -1] = True, True
    assert torch.equal(masked, expected)


@pytest.mark.parametrize("build", [vit_ti_patch2_32, pit_tiny_patch2_32, swin_tiny_patch1_32, mixer_tiny_patch2_32])
def test_stochastic_depth_is_off_unless_asked_for(build):
    def rates(model):
        return [module.drop_prob for module in model.modules() if type(module).__name__ == "DropPath"]

    assert rates(build()) == []
    found = rates(build(drop_path_rate=0.1))
    assert len(found) > 0
    assert max(found) == pytest.approx(0.1)


@pytest.mark.parametrize("build", [vgg11, alexnet])
def test_images_that_do_not_fit(build):
    model = build(in_channels=1).eval()
    least = model.least
    with torch.no_grad():
        assert model(torch.zeros(1, 1, least, least)).shape == (1, 100)
        with pytest.raises(
            ValueError, match=rf"images of {least - 1}x40 pixels are too small.*{least}x{least}; enlarge"
        ):
            model(torch.zeros(1, 1, least - 1, 40))
        with pytest.raises(
            ValueError, match=r"expected images of shape \(batch, 1, height, width\), got \(1, 3, 32, 32\)"
        ):
            model(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="num_classes=0"):
        build(num_classes=0)


def test_no_activation_works_in_place():
    for build in (resnext50, vgg11, alexnet, mixer_tiny_patch2_32, pit_tiny_patch2_32):
        with torch.device("meta"):
            assert not any(getattr(module, "inplace", False) for module in build().modules())


def test_plain_networks_can_be_traced():
    model = alexnet().eval()
    traced = torch.fx.symbolic_trace(model)
    images = torch.ones(1, 3, 32, 32)
    assert torch.equal(traced(images), model(images))
    assert isinstance(model, PlainNetwork)


def test_builders_have_the_arguments_of_the_others():
    for name in ("resnext50", "vgg11", "vgg13", "vgg16", "vgg19", "alexnet", "pit_tiny_patch2_32"):
        parameters = inspect.signature(getattr(cifar_models, name)).parameters
        assert list(parameters)[:2] == ["num_classes", "in_channels"]
        assert parameters["num_classes"].default == 100
