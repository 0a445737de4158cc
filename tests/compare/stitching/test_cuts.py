import pytest
import torch
from torch import nn

from utilities.compare.stitching.cuts import check_cut, cuts_among, leak_of, replacing
from utilities.resnet import resnet18
from utilities.zoo.vit import vit_tiny_patch4_16


def images(n=3, size=16):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


class Shared(nn.Module):
    """Runs one layer twice."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.layer(self.layer(x)))


class Dense(nn.Module):
    """A layer's input goes on beside its output, as in a DenseNet."""

    def __init__(self, share=1.0):
        super().__init__()
        self.layer, self.head, self.share = nn.Linear(4, 4), nn.Linear(8, 2), share

    def forward(self, x):
        return self.head(torch.cat([self.layer(x), self.share * x], 1))


@pytest.mark.parametrize("make", [resnet18, lambda: vit_tiny_patch4_16(depth=2)])
def test_blocks_cut_and_branches_do_not(make):
    torch.manual_seed(0)
    model = make().eval()
    blocks = ["layer2.0", "layer4.1"] if hasattr(model, "layer2") else ["blocks.0", "blocks.1"]
    inner = ["layer2.0.conv2", "layer2.0.bn1"] if hasattr(model, "layer2") else ["blocks.0.attn", "blocks.1.mlp"]
    assert cuts_among(model, blocks + inner, images()) == blocks
    assert all(leak_of(model, layer, images()) > 0.01 for layer in inner)
    with pytest.raises(
        ValueError, match=rf"'{inner[0]}' does not cut .* in two: .*; take {inner[0].rpartition('.')[0]}"
    ):
        check_cut(model, inner[0], images())


def test_what_runs_beside_a_layer_is_seen_however_little():
    torch.manual_seed(0)
    x = torch.randn(3, 4)
    assert leak_of(Dense().eval(), "layer", x) > 0.1
    assert leak_of(Dense(0.01).eval(), "layer", x) > 1e-3
    assert leak_of(Dense(0.0).eval(), "layer", x) == 0
    with pytest.raises(ValueError, match="take a layer that all paths go through"):
        check_cut(Dense(), "layer", x)


def test_a_layer_that_runs_twice_is_refused():
    with pytest.raises(ValueError, match="'layer' runs more than once"):
        leak_of(Shared(), "layer", torch.randn(2, 4))


def test_a_model_that_looks_at_nothing_is_refused():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    nn.init.zeros_(model[1].weight)
    with pytest.raises(ValueError, match="same for all images"):
        check_cut(model, "0", torch.randn(2, 4))


def test_hooks_are_gone_after_an_error():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    wrong = pytest.raises(ValueError, match=r"puts out \(1, 3\) in this pass, and \(1, 2\)")
    with wrong, replacing(model, "0", lambda output: output[:, :2]):
        model(torch.zeros(1, 4))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_a_replaced_output_may_be_written_into():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True))
    put = torch.tensor([[-1.0, 1.0]])
    with replacing(model, "0", lambda output: put.clone()):
        assert model(torch.zeros(1, 2)).tolist() == [[0.0, 1.0]]
    assert put.tolist() == [[-1.0, 1.0]]
