"""The calls of torch_cka and its descendants that are kept."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from utilities.compare import CKA
from utilities.metrics import cka

IMAGES = torch.randn(9 * 20, 8, generator=torch.Generator().manual_seed(0))
LOADER = DataLoader(TensorDataset(IMAGES, torch.arange(180) % 10), batch_size=20)


def net(seed, width):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, 6))


def values_by_hand(student, teacher, layer1, layer2):
    values = []
    for images in IMAGES.double().split(20):
        features = [model.double()[: layer + 1](images) for model, layer in ((student, layer1), (teacher, layer2))]
        values.append(cka(*features, estimator="debiased"))
    student.float(), teacher.float()
    return values


@pytest.mark.parametrize(("layers", "places"), [(None, (2, 2)), (("0", "1"), (0, 1)), ("1", (1, 1))])
def test_one_value_a_batch_is_the_debiased_cka_of_that_batch(layers, places):
    student, teacher = net(0, 12), net(1, 16)
    comparison = CKA(student, teacher, "student", "teacher", device="cpu")
    comparison.compare_minibatches(LOADER, layers=layers, precision="exact", progress=False)
    results = comparison.export()
    assert results["CKA"].dtype == torch.float64
    # float32 features against float64 ones: relative errors of some 1e-6
    np.testing.assert_allclose(results["CKA"], values_by_hand(student, teacher, *places), atol=2e-5)
    assert results["model1_layers"] == [str(places[0])]
    assert results["model2_layers"] == [str(places[1])]


def test_the_published_figure_can_be_drawn():
    comparison = CKA(net(0, 12), net(1, 16), "student", "teacher", ["0", "2"], ["2"], device="cpu")
    comparison.compare_minibatches(LOADER)
    square = np.sort(comparison.export()["CKA"])
    square = square.reshape(int(np.sqrt(square.shape[0])), int(np.sqrt(square.shape[0])))
    assert square.shape == (3, 3)
    assert (np.diff(square.ravel()) >= 0).all()
    image = comparison.plot_results(title="student").axes[0].images[0]
    np.testing.assert_allclose(image.get_array(), square)
    plt.close("all")
    comparison.compare(LOADER)
    assert comparison.export()["CKA"].shape == (2, 1)


def test_a_pair_is_one_layer_of_each_model():
    comparison = CKA(net(0, 12), net(1, 16), "student", "teacher", device="cpu")
    with pytest.raises(ValueError, match="two names, one of each model"):
        comparison.compare_minibatches(LOADER, layers=("0", "1", "2"))
    with pytest.raises(ValueError, match="name one pair"):
        comparison.compare_minibatches(LOADER, layers="*")


def test_data_are_named_in_a_few_words_and_never_by_what_they_hold():
    images, comparison = torch.randn(8, 8), CKA(net(0, 12), net(1, 16), "student", "teacher", device="cpu")
    named = {
        "list of 2 batches": list(images.split(4)),
        "tuple of 1 batch": images.split(8),
        "Tensor of 8 images": DataLoader(images, batch_size=4),
        "list of 8 images": DataLoader(list(images), batch_size=4),
        "generator": (batch for batch in images.split(4)),
    }
    for name, loader in named.items():
        comparison.compare(loader)
        assert comparison.export()["dataset1_name"] == comparison.export()["dataset2_name"] == name
