"""Positions of tokens and maps."""

import pytest
import timm
import torch
from torch import nn

from utilities.hooks.block_families import block_outputs
from utilities.hooks.block_sequence import blocks
from utilities.hooks.layout import Layout
from utilities.hooks.positions import PositionRecorder, positions_of, spread


def test_maps_in_raster_order_whatever_the_layout():
    maps = torch.arange(24.0).view(1, 2, 3, 4)
    conv = nn.Conv2d(3, 2, 1)
    found = positions_of(maps, conv, Layout(nn.Sequential(conv)), torch.Size([6, 8]))
    assert (found.grid, found.prefix) == ((3, 4), 0)
    assert torch.equal(found.values[0, 7], maps[0, :, 1, 3])
    assert found.places[7].tolist() == [1, 3]
    swin = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, window_size=2, num_classes=2)
    last = positions_of(torch.zeros(2, 4, 8, 192), swin.layers[1], Layout(swin), torch.Size([32, 64]))
    assert (last.grid, last.values.shape) == ((4, 8), (2, 32, 192))


def test_tokens_keep_their_prefix_and_a_wide_grid():
    model = timm.create_model("vit_tiny_patch16_224", img_size=(32, 64), num_classes=2, reg_tokens=2)
    recorder = PositionRecorder(model, ["blocks.0", "patch_embed"], most=3)
    recorder.size = torch.Size([32, 64])
    with recorder:
        recorder.run(torch.zeros(2, 3, 32, 64))
    found = recorder.activations["blocks.0"]
    assert (found.prefix, found.grid, found.values.shape[1]) == (3, (2, 4), 3 + 6)
    assert recorder.activations["patch_embed"].prefix == 0


def test_what_has_no_positions_is_refused():
    layout, size = Layout(nn.Linear(2, 2)), torch.Size([4, 4])
    for shape, text in (((2, 5), "no positions"), ((2, 7, 3), "are no grid"), ((2, 1, 2, 3, 4), "no positions")):
        with pytest.raises(ValueError, match=text):
            positions_of(torch.zeros(shape), None, layout, size)


def test_chosen_places_are_spread_evenly():
    assert spread(112, 16) == list(range(3, 112, 7))
    assert all(len(set(spread(count, 5))) == 5 for count in range(5, 40))


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "efficientnet_b0"])
def test_efficientnet_is_its_blocks(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3).eval()
    sequence = blocks(model)
    sequence.check(torch.randn(2, 3, 32, 32))
    assert block_outputs(model) == [block.name for block in sequence[1:-1]]
    assert [block.kind for block in sequence[:3]] == ["stem", "conv", "pool"]


def test_outputs_of_transformer_blocks_are_named_once():
    assert block_outputs(timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=0)) == ["blocks.0", "blocks.1"]
    with pytest.raises(ValueError, match="are not known"):
        block_outputs(nn.Sequential(nn.Linear(1, 1)))
