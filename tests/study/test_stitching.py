import numpy as np
import pytest
import torch
from torch import nn

from utilities.claims.stitching import claims_of_stitching
from utilities.results.stitching import Stitching
from utilities.study.stitching import rotated_copy, rotation
from utilities.zoo.plain_cnn import PlainCNN
from utilities.zoo.vit import vit_tiny_patch4_16


@pytest.mark.parametrize("make", [lambda: PlainCNN(4, (4, 6, 8)), lambda: vit_tiny_patch4_16(depth=2, num_classes=4)])
def test_a_rotated_copy_computes_the_same_from_other_features(make):
    torch.manual_seed(0)
    model, images = make().eval(), torch.randn(3, 3, 16, 16)
    twin = rotated_copy(model, images)
    with torch.no_grad():
        torch.testing.assert_close(twin(images), model(images), rtol=1e-4, atol=1e-4)
    assert not any(part._forward_hooks for part in model.modules())


def test_rotations_are_orthogonal_and_differ_by_seed():
    one, two = rotation(5, 0), rotation(5, 1)
    torch.testing.assert_close(one.T @ one, torch.eye(5).double())
    assert not torch.allclose(one, two)


class Leaky(nn.Module):
    """The classifier reads the first block too, which no rotation can be hidden from."""

    def __init__(self):
        super().__init__()
        self.block1, self.block2, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(8, 2)

    def forward(self, x):
        one = self.block1(x)
        return self.head(torch.cat([one.mean((2, 3)), self.block2(one).mean((2, 3))], 1))


def test_a_copy_that_cannot_be_turned_back_is_refused():
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="not only the next block reads a block"):
        rotated_copy(Leaky(), torch.randn(2, 3, 8, 8))


def made(diagonal, own=0.95, n=400, better=0.9):
    values = np.full((1, 2, 2), np.nan)
    values[0, [0, 1], [0, 1]] = diagonal
    error, part = np.where(np.isnan(values), np.nan, 0.01), values[:1]
    facts = {"model1": "a", "model2": "b", "weights1": "trained for 4 epochs", "weights2": "trained for 4 epochs"}
    return Stitching(
        ["a0", "a1"], ["b0", "b1"], ["closed form"], values, error, error, values, values, error, ["positions"],
        part, part, part, np.array([better, own]), np.full(2, 0.01), np.ones(2), 0.1, n,
        provenance=facts | {"dataset": "digits (test)", "num_classes": 10},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("last", "untrained", "known", "verdicts"),
    [
        (0.99, 0.2, 0.95, [True, True, True]),
        (0.5, 0.7, 0.90, [False, False, False]),
        (0.96, 0.95, 0.95, [True, None, None]),
    ],
)
def test_claims_follow_the_numbers(last, untrained, known, verdicts):
    claims = claims_of_stitching(
        {"a into b": made([0.3, last], better=0.99)},
        {"a into b": made([0.9, untrained])},
        {"b into itself": made([known, 0.95])},
    )
    assert [claim.holds for claim in claims] == verdicts
    assert all("digits (test)" in claim.about for claim in claims)


def test_a_weaker_network_is_not_asked_to_improve_a_better_one():
    assert claims_of_stitching({"a into b": made([0.9, 0.9])}, {}, {}) == []


def test_few_images_give_no_verdict():
    (claim,) = claims_of_stitching({}, {}, {"x": made([0.95, 0.95], n=20)})
    assert claim.holds is None
