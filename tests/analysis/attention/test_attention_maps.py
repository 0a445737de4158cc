"""Diversity is what it says, and does not depend on batches."""

import numpy as np
import pytest
import torch
from torch import nn

from utilities.analysis.attention.attention_maps import Diversity, attention_diversity, diversity
from utilities.resnet import resnet18
from utilities.zoo import create_model

IMAGES = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_diversity_is_one_less_the_mean_cosine_of_pairs_of_rows():
    attention = torch.rand(2, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    rows = nn.functional.normalize(attention, dim=-1)
    upper = torch.triu_indices(7, 7, 1)
    cosines = (rows @ rows.mT)[..., upper[0], upper[1]]
    assert torch.allclose(diversity(attention), 1 - cosines.mean(-1), atol=1e-6)


def test_collapsed_attention_has_no_diversity_and_batches_do_not_matter(tmp_path):
    model = create_model("vit_tiny_patch2_16", 5, seed=0).train()
    with torch.no_grad():
        model.blocks[3].attn.qkv.weight[:96] = 0
        model.blocks[3].attn.qkv.bias[:96] = 0
    whole = attention_diversity(model, [IMAGES], device="cpu")
    parts = attention_diversity(model, [IMAGES[:2], IMAGES[2:]], device="cpu")
    assert whole.diversity[3] == pytest.approx(0, abs=1e-6)
    assert (np.delete(whole.diversity, 3) > 1e-4).all()
    np.testing.assert_allclose(whole.diversity, parts.diversity, atol=1e-6)
    assert model.training
    assert all(block.attn.fused_attn for block in model.blocks)
    assert not any(module._forward_hooks for module in model.modules())
    assert Diversity.load(whole.save(tmp_path / "a")).to_frame().equals(whole.to_frame())


def test_models_without_attention_are_refused():
    with pytest.raises(ValueError, match="no attention layer"):
        attention_diversity(resnet18(), [IMAGES], device="cpu")
