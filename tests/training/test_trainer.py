"""Batch-norm statistics that training estimates at its end."""

import pytest
import torch
from torch import nn

from utilities.training.trainer import estimate_batch_norm
from utilities.zoo import create_model


def test_nothing_is_dropped_while_batch_norms_are_estimated():
    images = torch.randn(64, 3, 1, 1)
    norm = nn.BatchNorm2d(3)
    model = nn.Sequential(nn.Dropout(0.5), norm).train()
    estimate_batch_norm(model, [images], "cpu")
    torch.testing.assert_close(norm.running_mean, images.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, images.var((0, 2, 3)))
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("training", [True, False])
def test_stochastic_depth_leaves_no_trace_in_the_statistics(training):
    """AlterNet drops blocks in training mode; its statistics differed each time they were estimated."""
    images = torch.randn(8, 3, 16, 16)
    found = []
    for seed in (1, 2):
        model = create_model("alternet18", 10, seed=0).train(training)
        torch.manual_seed(seed)
        estimate_batch_norm(model, [images], "cpu")
        assert model.training is training
        found.append([buffer for name, buffer in model.named_buffers() if "running" in name])
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)
