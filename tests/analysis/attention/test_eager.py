"""The weights that are handed over give the layer's own output, and everything is put back."""

import pytest
import torch
from torch import nn

from utilities.analysis.attention.eager import attention_matrices
from utilities.zoo import create_model
from utilities.zoo.local_attention import LocalAttention


def test_weights_times_values_are_the_layers_output():
    attention, seen = create_model("vit_tiny_patch2_16", 5, seed=0).eval().blocks[0].attn, []
    x = torch.randn(2, 65, 96)
    with torch.no_grad():
        with attention_matrices({"attn": attention}, {"attn": seen.append}):
            attention(x)
        values = attention.qkv(x).unflatten(2, (3, 3, 32))[:, :, 2].transpose(1, 2)
        output = attention.proj((seen[0] @ values).transpose(1, 2).flatten(2))
        assert torch.allclose(output, attention(x), atol=1e-5)


def test_local_attention_is_asked_and_not_replaced():
    layer, seen = LocalAttention(8, heads=2, window=4).eval(), []
    x = torch.randn(2, 8, 6, 4)
    with attention_matrices({"attn": layer}, {"attn": seen.append}):
        layer(x)
    assert torch.equal(seen[0], layer.attention_weights(x))
    with pytest.raises(TypeError, match="not replaced"), attention_matrices({"a": layer}, {"a": lambda w: w}):
        layer(x)
    assert not layer._forward_pre_hooks


def test_layers_that_show_no_weights_are_refused_by_name():
    layers = {"good": LocalAttention(8, heads=2, window=4), "bad": nn.Linear(1, 1)}
    with pytest.raises(TypeError, match="bad is a Linear"), attention_matrices(layers, dict.fromkeys(layers, print)):
        pass
