"""What is known of both models comes with the comparison of heads."""

import torch

from utilities.analysis.attention.attention_distance import attention_distance
from utilities.study.local_heads import heads_against_cnn
from utilities.study.real_weights import Opened
from utilities.zoo import create_model

FACTS = {"dataset": "noise", "seed": 0}


def test_both_models_are_named():
    images = [torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    vit, cnn = (
        Opened(create_model(name, 5, seed=0), images, FACTS | {"model": name, "weights": f"those of {name}"})
        for name in ("vit_tiny_patch2_16", "resnet18")
    )
    distances = attention_distance(vit.model, images, device="cpu")
    result = heads_against_cnn(vit, cnn, distances, ["conv1"], device="cpu")
    facts = result.provenance
    assert (facts["model1"], facts["model2"]) == ("vit_tiny_patch2_16", "resnet18")
    assert (facts["weights2"], facts["dataset"]) == ("those of resnet18", "noise")
    assert "model" not in facts
    assert result.matrix.shape == (3, 1)
