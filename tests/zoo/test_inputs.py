"""What images a model takes: sizes, means and transforms."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from utilities.zoo import create_model, input_options, list_models, preprocessing


def test_models_of_fixed_size_say_so():
    sizes = {name: input_options(name).get("image_size") for name in list_models("*_tiny_*") + list_models("vit_ti_*")}
    assert len(sizes) == 48
    assert all(size == int(name.rpartition("_")[2]) for name, size in sizes.items())
    assert input_options("vgg11") == input_options("resnext50") == input_options("alexnet") == {}


def test_preprocessing():
    vit = preprocessing("vit_large_patch32_224")
    assert (vit.input_size, vit.mean, vit.std) == ((3, 224, 224), (0.5,) * 3, (0.5,) * 3)
    image = torchvision.transforms.functional.to_pil_image(torch.full((3, 300, 250), 0.5))
    for name in ("timm/resnet10t", "torchvision/resnet18"):
        found = preprocessing(name)
        assert found.transform(image).shape == found.input_size
        assert found.mean == (0.485, 0.456, 0.406)
    by_model = preprocessing(create_model("timm/resnet10t"))
    assert by_model.mean == preprocessing(timm.create_model("resnet10t")).mean
    for model in ("resnet18", create_model("vit_tiny_patch2_16"), nn.ReLU()):
        with pytest.raises(ValueError, match="has no preprocessing of its own"):
            preprocessing(model)
