"""Build Hugging Face's image models by name, ``hf/NAME`` or ``hf/FOLDER``, if transformers is installed.

A folder is what ``save_pretrained`` wrote. A model with a classifier gives logits, any other the embedding of an image,
both as one tensor. Layers keep the names that they have in transformers.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utilities.datasets.folders import imagenet_classes
from utilities.hooks.trial import first_tensor
from utilities.zoo.huggingface_files import explaining, load_weights, quietly, reach, read_config

PREFIX = "hf/"
INSTALL = "pip install transformers, or this package with its extra, '[hf]'"
# Image towers of models that also read text, by the type in the configuration.
TOWERS = {
    "clip": "CLIPVisionModel",
    "clip_vision_model": "CLIPVisionModel",
    "siglip": "SiglipVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
}
WITHOUT_POOLER = ("vit", "deit")  # their pooler comes from the pre-training of text models; the class token is read


def is_hf(name: str) -> bool:
    """Tell whether a name is that of a Hugging Face model.

    Example:
        >>> is_hf("hf/google/vit-base-patch16-224"), is_hf("timm/vit_tiny_patch16_224")
        (True, False)
    """
    return name.startswith(PREFIX)


def where_is(name: str) -> str:
    """Return what transformers is asked for: the path of a folder that is there, else a name of the hub.

    Raises:
        ModuleNotFoundError: If transformers is not installed.
        ValueError: If nothing follows ``hf/``, or a path holds no configuration.

    Example:
        >>> where_is("hf/")
        Traceback (most recent call last):
        ValueError: 'hf/' names no model; write hf/NAME, as on the hub, or hf/FOLDER, which save_pretrained wrote
    """
    bare = name.removeprefix(PREFIX)
    if not bare:
        raise ValueError(
            f"{name!r} names no model; write hf/NAME, as on the hub, or hf/FOLDER, which save_pretrained wrote"
        )
    if importlib.util.find_spec("transformers") is None:
        raise ModuleNotFoundError(f"{name} needs the library transformers: {INSTALL}", name="transformers")
    path = Path(bare).expanduser()
    if path.is_dir() or bare.startswith(("/", "./", "../", "~")):
        if not (path / "config.json").is_file():
            raise ValueError(f"{name}: there is no config.json in {path}; name a folder that save_pretrained wrote")
        return str(path)
    return bare


def hf_folders(pattern: str) -> list[str]:
    """List the folders of models here that a pattern fits, such as ``hf/runs/*``.

    Example:
        >>> hf_folders("hf/nowhere/*")
        []
    """
    whole = Path(pattern.removeprefix(PREFIX)).expanduser()
    root = Path(whole.anchor)
    found = root.glob(str(whole.relative_to(root))) if whole.parts else ()
    return sorted(f"{PREFIX}{path}" for path in found if (path / "config.json").is_file())


class HuggingFaceModel(nn.Module):
    """Run a model of transformers on images, and return one tensor: its logits, else its embedding of each image.

    The layers are those of the model, under its own names, and so is the state dictionary.

    Args:
        model: A model of transformers that takes ``pixel_values``.

    Attributes:
        config: Its configuration.
        num_classes: Number of logits; 0 where it has no classifier, as in timm.
        classes: Their names in order, or None.
    """

    classes: tuple[str, ...] | None = None

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        own = [name for name, _ in (*model.named_parameters(recurse=False), *model.named_buffers(recurse=False))]
        if own:
            raise ValueError(f"{type(model).__name__} has tensors of its own, outside its layers: {', '.join(own)}")
        for name, child in model.named_children():
            self.add_module(name, child)
        self._source = (model,)  # in a tuple, so that its layers are registered once, under their own names
        self.config = model.config
        self.num_classes = next((head.out_features for head in _classifiers(model)), 0)

    @property
    def source(self) -> nn.Module:
        """The model of transformers, which shares all layers."""
        return self._source[0]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes), or embeddings (batch, width)."""
        found = self.source(pixel_values=images)
        if getattr(found, "logits", None) is not None:
            return found.logits
        if getattr(found, "pooler_output", None) is not None:
            return found.pooler_output.flatten(1)
        return first_tensor(found.last_hidden_state)[:, 0]

    def __repr__(self) -> str:
        return repr(self.source)


def _classifiers(model: nn.Module) -> Iterator[nn.Linear]:
    for name in ("classifier", "cls_classifier"):
        head = getattr(model, name, None)
        linear = [part for part in head.modules() if isinstance(part, nn.Linear)] if head is not None else []
        yield from linear[-1:]


def build_hf(name: str, num_classes: int | None, pretrained: bool, kwargs: dict[str, Any]) -> HuggingFaceModel:
    """Build a model of transformers.

    Args:
        name: ``hf/NAME`` or ``hf/FOLDER``.
        num_classes: Number of logits; None is the model's own, 0 leaves the classifier out.
        pretrained: Whether to load weights, from the folder or the hub; else they are random.
        kwargs: Options of the configuration, such as ``num_hidden_layers=2``.

    Returns:
        The model, with the names of its ``classes`` where these are known.

    Raises:
        ValueError: If there is no such model of images, or its files are broken or lack tensors.
        TypeError: For an option that the configuration does not have.
        ConnectionError: If it cannot be fetched.
    """
    place = where_is(name)
    with quietly(), explaining(name, place):
        where = reach(place)
        config = read_config(name, place, **where)
        unknown = [key for key in kwargs if not hasattr(config, key)]
        if unknown:
            raise TypeError(f"{name}: the configuration of {type(config).__name__} has no option {unknown[0]!r}")
        for key, value in kwargs.items():
            setattr(config, key, value)
        has_own = any("ForImageClassification" in one for one in config.architectures or ())
        headed = has_own if num_classes is None else num_classes > 0
        classes = class_names(config) if has_own and num_classes in (None, config.num_labels) else None
        fresh = headed and pretrained and (not has_own or num_classes not in (None, config.num_labels))
        if headed and num_classes is not None and num_classes != config.num_labels:
            config.num_labels = num_classes
        kind = _class_of(config, headed, name)
        options = {"add_pooling_layer": False} if not headed and config.model_type in WITHOUT_POOLER else {}
        if pretrained:
            saved = partial(_saved, config, name)
            model = load_weights(kind, _own_config(kind, config), name, place, saved, fresh, **options, **where)
        else:
            model = kind._from_config(_own_config(kind, config), **options)
    if fresh:
        found = "are for another number of classes" if has_own else "have no classifier"
        warnings.warn(f"the pretrained weights of {name} {found}: its classifier is newly initialised", stacklevel=4)
    wrapped = HuggingFaceModel(model)
    wrapped.classes = classes
    return wrapped


def _class_of(config: Any, headed: bool, name: str) -> Any:
    """Find the class of transformers that a configuration asks for: a classifier, or an image tower."""
    import transformers

    if headed:
        known = transformers.AutoModelForImageClassification._model_mapping
        if type(config) not in known:
            raise ValueError(
                f"{name}: transformers has no image classifier of type {config.model_type!r}; num_classes=0"
            )
        found = known[type(config)]
        several = found if isinstance(found, (list, tuple)) else (found,)
        return next((one for one in several if one.__name__ in (config.architectures or ())), several[0])
    if config.model_type in TOWERS:
        return getattr(transformers, TOWERS[config.model_type])
    found = transformers.AutoModel._model_mapping[type(config)]
    found = found[0] if isinstance(found, (list, tuple)) else found
    if getattr(found, "main_input_name", "") != "pixel_values" or hasattr(config, "text_config"):
        raise ValueError(f"{name} is a {found.__name__}, which does not map images to an embedding of each")
    return found


def _saved(config: Any, name: str) -> nn.Module:
    """Build the model that a configuration says was saved; where it names none, the image tower."""
    import transformers

    named = [getattr(transformers, one, None) for one in config.architectures or ()]
    kind = next((one for one in named if hasattr(one, "_from_config")), None) or _class_of(config, False, name)
    return kind._from_config(_own_config(kind, config))


def _own_config(kind: Any, config: Any) -> Any:
    """Take the tower's part of a configuration of images and text."""
    return config if isinstance(config, kind.config_class) else config.vision_config


def class_names(config: Any) -> tuple[str, ...] | None:
    """Return the names of a configuration's classes, or None where they are only numbered.

    ImageNet's classes, which transformers writes with all their synonyms, get the names that they have here.
    """
    names = tuple(str(config.id2label[key]) for key in sorted(config.id2label))
    if all(name == f"LABEL_{i}" for i, name in enumerate(names)):
        return None
    ours = imagenet_classes()[1]
    if len(names) == len(ours):
        same = sum(a.partition(",")[0].lower() == b.partition(",")[0].lower() for a, b in zip(names, ours, strict=True))
        if same >= 0.98 * len(ours):  # a few are spelt in two ways
            return tuple(ours)
    return names
