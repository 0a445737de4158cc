"""Build models of timm and torchvision, fetch their weights, and name the layers of timm's transformers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from timm.models.pit import PoolingVisionTransformer
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from utilities.hooks.vit_parts import ViTParts, vit_parts
from utilities.zoo.builder_options import check_image_size, naming_options

_VIT_BLOCK = ["norm1", *(f"attn.{part}" for part in ("qkv", "q_norm", "k_norm", "proj"))]
_VIT_BLOCK += ["norm2", "mlp.fc1", "mlp.act", "mlp.fc2"]
_SWIN_BLOCK = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.act", "mlp.fc2"]


def build_timm(name: str, classes: dict[str, int], pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    """Build a model of timm.

    Args:
        name: timm's name, with or without a tag.
        classes: ``{"num_classes": n}``, or nothing for timm's own number.
        pretrained: Whether to fetch weights; kwargs may name another source: ``pretrained_cfg_overlay={"file": PATH}``.
        kwargs: Options of the builder; ``in_channels`` becomes timm's ``in_chans``.

    Raises:
        TypeError: For an option that the model does not have.
        ValueError: If there are no pretrained weights, or the model cannot be built with an option.
        ConnectionError: If they cannot be fetched.

    Example:
        >>> build_timm("resnet10t", {"num_classes": 3}, False, {"in_channels": 1}).fc.out_features
        3
    """
    if not pretrained:
        return timm_model(name, classes, kwargs)
    config = timm.get_pretrained_cfg(name)
    if not config.has_weights and not kwargs.keys() & {"pretrained_cfg", "pretrained_cfg_overlay"}:
        raise ValueError(f"timm/{name} has no pretrained weights; timm.list_pretrained() lists the names that do")
    hub = f"https://huggingface.co/{config.hf_hub_id}/resolve/main/model.safetensors"
    remedy = (
        f"download {hub if config.hf_hub_id else config.url} elsewhere, copy it here and add "
        "pretrained_cfg_overlay={'file': PATH} to the call"
    )
    with _fetching(f"timm/{name}", remedy):
        model = timm_model(name, classes, kwargs, pretrained=True)
    if classes.get("num_classes", config.num_classes) not in (0, config.num_classes):
        _warn_new_classifier(f"timm/{name}", config.num_classes)
    return model


def timm_model(
    name: str, classes: Mapping[str, int], kwargs: Mapping[str, Any], *, pretrained: bool = False, remedy: str = ""
) -> nn.Module:
    """Call timm for a model, and let the model state the size of images that it is built for.

    Args:
        name: timm's name, with or without a tag.
        classes: See `build_timm`.
        kwargs: Options of the builder; ``in_channels`` becomes timm's ``in_chans``.
        pretrained: Whether to fetch weights.
        remedy: See `utilities.zoo.builder_options.naming_options`.

    Raises:
        TypeError: For an option that the model does not have.
        ValueError: If it cannot be built with the options.

    Example:
        >>> timm_model("vit_tiny_patch16_224", {}, {"img_size": 64}).pretrained_cfg["input_size"]
        (3, 64, 64)
    """
    options = {"in_chans" if key == "in_channels" else key: value for key, value in kwargs.items()}

    def builder(**more: Any) -> nn.Module:
        return timm.create_model(name, **more)

    with naming_options(f"timm/{name}", kwargs, builder, remedy):
        model = timm.create_model(name, pretrained=pretrained, **classes, **options)
    if options.get("img_size") is not None:
        check_image_size(f"timm/{name}", model, options["img_size"])
        _state_image_size(model, options["img_size"])
    return model


def resize_timm(name: str, model: nn.Module, size: int | Sequence[int]) -> None:
    """Let a timm model take images of another size: position embeddings are resampled, convolutions take any size.

    Args:
        name: The model, for messages.
        model: Changed in place.
        size: Pixels, of both sides or (height, width).

    Raises:
        ValueError: If its patches do not divide the size.

    Example:
        >>> model = timm.create_model("vit_tiny_patch16_224")
        >>> resize_timm("vit_tiny_patch16_224", model, 64)
        >>> model.pos_embed.shape, model.pretrained_cfg["input_size"]
        (torch.Size([1, 17, 192]), (3, 64, 64))
    """
    check_image_size(name, model, size)
    if hasattr(model, "set_input_size"):
        model.set_input_size(img_size=size)
    if getattr(model, "pretrained_cfg", None):
        _state_image_size(model, size)


def _state_image_size(model: nn.Module, size: int | Sequence[int]) -> None:
    """Write the size of images that a timm model takes into its ``pretrained_cfg``, where timm looks for it."""
    sides = (size, size) if isinstance(size, int) else tuple(size)
    config = dict(model.pretrained_cfg)
    model.pretrained_cfg = model.default_cfg = config | {"input_size": (config["input_size"][0], *sides)}


def build_torchvision(name: str, num_classes: int | None, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    """Build a model of torchvision; a classifier of another size comes from a randomly initialised model.

    Args:
        name: torchvision's name.
        num_classes: Number of logits; None is torchvision's own number.
        pretrained: Whether to fetch the best weights.
        kwargs: Options of the builder.

    Raises:
        TypeError: For an option that the model does not have.
        ValueError: If it cannot be built with an option.
        ConnectionError: If the weights cannot be fetched.

    Example:
        >>> build_torchvision("squeezenet1_1", 3, False, {}).classifier[1].out_channels
        3
    """
    classes = {} if num_classes is None else {"num_classes": num_classes}
    naming = partial(
        naming_options, f"torchvision/{name}", kwargs, partial(torchvision.models.get_model_builder(name), weights=None)
    )
    if not pretrained:
        with naming():
            return torchvision.models.get_model(name, weights=None, **classes, **kwargs)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    place = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    with naming(), _fetching(f"torchvision/{name}", f"download {weights.url} elsewhere and copy it to {place}"):
        model = torchvision.models.get_model(name, weights=weights, **kwargs)
    trained_for = len(weights.meta["categories"])
    if num_classes not in (None, trained_for):
        fresh = torchvision.models.get_model(name, weights=None, **classes, **kwargs)
        shapes = {key: value.shape for key, value in model.state_dict().items()}
        changed = {key for key, value in fresh.state_dict().items() if value.shape != shapes[key]}
        for part in {key.rpartition(".")[0] for key in changed}:
            model.set_submodule(part, fresh.get_submodule(part))
        _warn_new_classifier(f"torchvision/{name}", trained_for)
    return model


def torchvision_names() -> list[str]:
    """List torchvision's classifiers.

    Example:
        >>> "resnet18" in torchvision_names()
        True
    """
    return torchvision.models.list_models(module=torchvision.models)


def transformer_layers(model: nn.Module) -> list[str]:
    """Name the layers worth comparing in timm's ViT, Swin and PiT; layers that a variant lacks are skipped.

    Args:
        model: Any module.

    Returns:
        Names in the order of execution, see `utilities.zoo.comparison_layers`; an empty list for other models.

    Example:
        >>> from timm.models.pit import PoolingVisionTransformer
        >>> len(transformer_layers(PoolingVisionTransformer(32, 4, 4, depth=(1, 1, 1)))), transformer_layers(nn.ReLU())
        (34, [])
    """
    if isinstance(model, VisionTransformer):
        end = ["norm", "head"] if isinstance(model.fc_norm, nn.Identity) else ["norm", "fc_norm", "head"]
        names = ["patch_embed.proj", *_blocks("blocks", model.blocks, _VIT_BLOCK), *end]
    elif isinstance(model, SwinTransformer):
        stages = _stages("layers", model.layers, ["downsample.norm", "downsample.reduction"], _SWIN_BLOCK)
        names = ["patch_embed.proj", "patch_embed.norm", *stages, "norm", "head.global_pool", "head.fc"]
    elif isinstance(model, PoolingVisionTransformer):
        stages = _stages("transformers", model.transformers, ["pool.conv", "pool.fc"], _VIT_BLOCK)
        names = ["patch_embed.conv", *stages, "norm", "head", "head_dist"]
    else:
        parts = None if isinstance(model, torchvision.models.VisionTransformer) else vit_parts(model)
        return [] if parts is None else _of_parts(model, parts)
    known = dict(model.named_modules())
    return [name for name in names if name in known]


def _of_parts(model: nn.Module, parts: ViTParts) -> list[str]:
    """Name the layers of one of Hugging Face's transformers, in the order of execution."""
    wanted: list[nn.Module | None] = [parts.patches]
    wanted += [parts.before] if isinstance(parts.before, nn.LayerNorm) else []
    for block in parts.blocks:
        attention = block.attention
        wanted += [block.norm1, attention.q_proj, attention.k_proj, attention.v_proj, block.projection, block.norm2]
        own = [block.hidden, getattr(block.mlp, "activation_fn", None), block.memories]
        wanted += block.mlp.children() if block.hidden is None else own
    wanted += [parts.final, *parts.heads]
    names = {module: name for name, module in model.named_modules()}
    return [names[module] for module in wanted if module is not None and module in names]


def _blocks(prefix: str, blocks: Sequence[nn.Module], parts: list[str]) -> list[str]:
    """Name the parts of each block."""
    return [f"{prefix}.{index}.{part}" for index in range(len(blocks)) for part in parts]


def _stages(prefix: str, stages: Sequence[nn.Module], first: list[str], parts: list[str]) -> list[str]:
    """Name what comes first in each stage, and the parts of its blocks."""
    names = []
    for index, stage in enumerate(stages):
        names += [f"{prefix}.{index}.{name}" for name in [*first, *_blocks("blocks", stage.blocks, parts)]]
    return names


def _warn_new_classifier(name: str, trained_for: int) -> None:
    """Warn that a pretrained model's classifier is untrained."""
    found = f"are for {trained_for} classes" if trained_for else "have no classifier"
    warnings.warn(f"the pretrained weights of {name} {found}: its classifier is newly initialised", stacklevel=5)


@contextmanager
def _fetching(name: str, remedy: str) -> Iterator[None]:
    """Turn whatever a failed download raises into a ConnectionError that states what to do."""
    try:
        yield
    except Exception as error:
        source = type(error).__module__.partition(".")[0]
        if isinstance(error, OSError) or source in {"huggingface_hub", "httpx", "httpcore", "requests"}:
            reason = str(error).strip().partition("\n")[0]
            raise ConnectionError(f"cannot fetch the weights of {name} ({reason}); {remedy}") from error
        raise
