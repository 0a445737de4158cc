"""All pairs of several models in one pass, against one comparison for each pair."""

import numpy as np
import pytest
import torch

from utilities.compare import compare
from utilities.compare.all_pairs import compare_all
from utilities.zoo import comparison_layers, create_model


@pytest.fixture(scope="module")
def models():
    return {"cnn": create_model("plain_cnn8", 10, seed=0), "vit": create_model("vit_tiny_patch2_16", 10, seed=1)}


def test_each_block_is_the_comparison_of_its_pair(models):
    batches = list(torch.randn(48, 3, 16, 16).split(24))
    options = {"device": "cpu", "precision": "exact", "permutations": 3, "progress": False}
    facts = {name: {"model": name, "accuracy": 0.5} for name in models}
    results = compare_all(models, batches, facts=facts, **options)
    assert list(results) == [("cnn", "cnn"), ("cnn", "vit"), ("vit", "cnn"), ("vit", "vit")]
    layers = {name: comparison_layers(model) for name, model in models.items()}
    for (one, two), result in results.items():
        alone = compare(models[one], models[two], batches, layers1=layers[one], layers2=layers[two], **options)
        assert (result.layers1, result.layers2, result.n) == (alone.layers1, alone.layers2, 48)
        np.testing.assert_allclose(result.matrix, alone.matrix, atol=1e-6)
        np.testing.assert_allclose(result.stderr, alone.stderr, atol=1e-6)
        assert result.details1["width"] == alone.details1["width"]
    assert results["cnn", "vit"].provenance["model2"] == "vit"
    assert results["vit", "vit"].provenance["model"] == "vit"
    assert "model1" not in results["vit", "vit"].provenance
