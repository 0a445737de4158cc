"""The classifier is the ridge regression of scikit-learn on what the classifier reads."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn

from utilities.study.probe_head import with_probe_classifier
from utilities.zoo import create_model


@pytest.mark.parametrize("name", ["vit_tiny_patch2_16", "timm/resnet10t"])
def test_the_classifier_is_the_probe_of_its_own_input(name):
    model = create_model(name, 5, seed=0).eval()
    images, labels = torch.rand(40, 3, 32 if "timm" in name else 16, 32 if "timm" in name else 16), torch.arange(40) % 4
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = with_probe_classifier(model, [(images[:17], labels[:17]), (images[17:], labels[17:])], 4, device="cpu")
    with torch.no_grad():
        features = model.forward_head(model.forward_features(images), pre_logits=True).double().numpy()
        logits = found.eval()(images).numpy()
    expected = Ridge(alpha=1.0).fit(features, 2.0 * np.eye(4)[labels] - 1).predict(features)
    assert np.abs(logits - expected).max() < 1e-3  # float32 features against float64
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_models_of_another_kind_and_missing_labels_are_refused():
    with pytest.raises(TypeError, match="is no model of timm's"):
        with_probe_classifier(nn.Flatten(), [], 2)
    same = [(torch.rand(4, 3, 16, 16), torch.ones(4, dtype=torch.long))]
    with pytest.raises(ValueError, match="all 4 training images are of class 1"):
        with_probe_classifier(create_model("vit_tiny_patch2_16", 2), same, 2, device="cpu")
    with pytest.raises(ValueError, match="labels are needed"):
        with_probe_classifier(create_model("vit_tiny_patch2_16", 2), [torch.rand(2, 3, 16, 16)], 2, device="cpu")
