"""Models that have no class-embedding space are refused by name."""

import pytest
import torch
from torch import nn

from tests.analysis.class_embedding.test_transformer_space import vit
from utilities.analysis.class_embedding.spaces import class_space, transformer_space


def test_other_models_and_memories_are_refused_by_name():
    with pytest.raises(ValueError, match="Linear has no class-embedding space that is known; it takes timm's"):
        class_space(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="masking needs timm's VisionTransformer, not a Sequential"):
        transformer_space(nn.Sequential(), what="masking")
    with pytest.raises(ValueError, match="OptimizedModule has no class-embedding space"):
        class_space(torch.compile(vit(), backend="eager"))
    model = vit()
    model.blocks[1].mlp = nn.Linear(16, 16)
    with pytest.raises(ValueError, match=r"blocks.1.mlp of VisionTransformer has no linear layer fc2"):
        class_space(model)
