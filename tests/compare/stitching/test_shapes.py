import pytest
import torch
from torch import nn

from utilities.compare.stitching.shapes import Shape, describe, parts_of, read, resized, shape_of
from utilities.hooks.layout import Layout
from utilities.zoo.vit import vit_tiny_patch4_16

MAPS, COARSE = Shape((8, 4, 4), 1, 0, (4, 4)), Shape((6, 2, 2), 1, 0, (2, 2))
TOKENS, REGISTERED = Shape((17, 5), 2, 1, (4, 4)), Shape((21, 5), 2, 5, (4, 4))
VECTOR = Shape((7,), 1, 1, (0, 0))


@pytest.mark.parametrize(
    "shape", [MAPS, COARSE, TOKENS, REGISTERED, VECTOR, Shape((4, 3, 9), 3, 0, (4, 3))], ids=lambda shape: str(shape)
)
def test_restoring_undoes_arranging(shape):
    output = torch.arange(2.0 * torch.Size(shape.sizes).numel()).view(2, *shape.sizes)
    arranged = shape.arrange(output)
    assert arranged.shape == (2, shape.prefix + shape.positions, shape.width)
    assert torch.equal(shape.restore(arranged), output)


def test_shapes_are_told_by_the_model():
    vit = vit_tiny_patch4_16(depth=1)
    found = shape_of(torch.zeros(2, 17, 96), vit.blocks[0], Layout(vit), torch.Size([16, 16]), (4, 4))
    assert (found.prefix, found.grid, found.width) == (1, (4, 4), 96)
    conv = nn.Conv2d(3, 8, 3)
    assert shape_of(torch.zeros(2, 8, 4, 6), conv, Layout(conv), torch.Size([8, 12])).grid == (4, 6)
    assert shape_of(torch.zeros(2, 9), nn.Linear(3, 9), Layout(conv), torch.Size([8, 12])).positions == 0
    with pytest.raises(ValueError, match="by head"):
        shape_of(torch.zeros(2, 3, 17, 32), vit.blocks[0].attn, Layout(vit), torch.Size([16, 16]), (4, 4))


def test_a_grid_is_averaged_where_it_is_finer_and_interpolated_where_it_is_coarser():
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    assert resized(maps, (2, 2)).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    wide = resized(torch.tensor([[[[0.0, 4.0], [8.0, 12.0]]]]), (1, 4))  # averaged over rows, interpolated over columns
    assert wide.flatten().tolist() == [4.0, 5.0, 7.0, 8.0]
    constant = torch.full((1, 2, 3, 5), 0.7)
    torch.testing.assert_close(resized(constant, (7, 2)), torch.full((1, 2, 7, 2), 0.7))


def test_a_shared_affine_map_may_come_before_or_after():
    generator = torch.Generator().manual_seed(0)
    maps, weight = torch.randn(2, 3, 4, 4, generator=generator), torch.randn(5, 3, generator=generator)
    for grid in ((2, 2), (7, 3)):
        before = resized(torch.einsum("oc,nchw->nohw", weight, maps) + 1, grid)
        after = torch.einsum("oc,nchw->nohw", weight, resized(maps, grid)) + 1
        torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("one", "two", "said"),
    [
        (MAPS, COARSE, "4x4 averaged to 2x2"),
        (COARSE, TOKENS, "2x2 interpolated to 4x4; class token from the mean over positions"),
        (TOKENS, TOKENS, "4x4 as they are; class token from the class token"),
        (TOKENS, MAPS, "4x4 as they are; 1 of the first layer's prefix tokens unused"),
        (MAPS, VECTOR, "features from the mean over positions"),
        (TOKENS, VECTOR, "features from the class token"),
        (VECTOR, VECTOR, "features from features"),
    ],
)
def test_what_was_done_is_said(one, two, said):
    assert describe(one, two) == said


def test_registers_that_are_missing_come_from_the_mean():
    sources = {part.name: part.source[0] for part in parts_of(TOKENS, REGISTERED)}
    assert sources == {"positions": "grid", "class token": "token", **{f"token {k}": "mean" for k in (1, 2, 3, 4)}}
    values = torch.arange(17.0)[None, :, None].expand(1, 17, 5)
    assert read(values, TOKENS, ("mean", 0, 0)).unique().tolist() == [8.5]  # without the class token
    assert read(values, TOKENS, ("token", 0, 0)).unique().tolist() == [0.0]


def test_a_vector_has_no_class_token():
    assert [part.name for part in parts_of(VECTOR, VECTOR)] == ["features"]
    assert [part.name for part in parts_of(TOKENS, TOKENS)] == ["positions", "class token"]


@pytest.mark.parametrize("two", [MAPS, TOKENS])
def test_features_without_positions_make_no_map(two):
    with pytest.raises(ValueError, match="7 features without positions tell nothing of where"):
        parts_of(VECTOR, two)
