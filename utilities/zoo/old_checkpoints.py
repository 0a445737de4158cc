"""Translate checkpoints of earlier code to the names that this package's models have.

Park and Kim (2022, https://arxiv.org/abs/2202.06709) published ResNet-50, ViT-Ti, PiT-Ti and Swin-Ti trained on
CIFAR-100 (https://github.com/xxxnell/how-do-vits-work). Their files are dictionaries ``{"name", "state_dict"}``, some
with an ``"optimizer"``. The ResNet is the authors' own, the others are timm's of 2021 and 2022 (0.4.9, 0.5.4), whose
layout has changed since:

| family | then | now |
|---|---|---|
| ResNet | ``layer0.0, layer0.1`` | ``conv1, bn1`` |
| ResNet | ``conv2.0, conv2.1`` in a block, or ``conv2, bn2`` | ``conv2, bn2`` |
| ResNet | ``shortcut`` | ``downsample`` |
| ResNet | ``classifier.0.dense`` | ``fc`` |
| ViT | the same | |
| PiT | ``transformers.0.pool``, at the end of a stage | ``transformers.1.pool``, at the start of the next |
| Swin | ``layers.0.downsample``, at the end of a stage | ``layers.1.downsample``, at the start of the next |
| Swin | ``head`` | ``head.fc`` |
| Swin | buffers ``attn_mask, relative_position_index`` | computed, not saved |

Naseer et al. (2022, https://arxiv.org/abs/2106.04169) published DeiTs (https://github.com/Muzammal-Naseer/ATViT) with a
module after each block but the last. It refines the block's tokens for the classifier; its entries begin with
``transformerheads``. The rest is timm's ViT as it is now, see `without_block_heads`.

None of these files comes with this package, and the mapping could not be tried on the files themselves. It is tested on
states in the documented layouts. Models made by timm 0.4.9 and 0.5.4 returned the same logits here to 1e-6. A file that
the mapping does not fit is refused like any other checkpoint, never loaded in part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

NAMES = {
    "vit_ti": "vit_ti_patch2_32",
    "pit_ti": "pit_tiny_patch2_32",
    "swin_ti": "swin_tiny_patch1_32",
    **{f"resnet_{depth}": f"resnet{depth}" for depth in (18, 34, 50, 101)},
    **{f"resnet_dnn_{depth}": f"resnet{depth}" for depth in (18, 34, 50, 101)},
}

_RESNET = (
    (r"^layer0\.0\.", "conv1."),
    (r"^layer0\.1\.", "bn1."),
    (r"^(layer\d+\.\d+)\.conv(\d)\.0\.", r"\1.conv\2."),
    (r"^(layer\d+\.\d+)\.conv(\d)\.1\.", r"\1.bn\2."),
    (r"^(layer\d+\.\d+)\.shortcut\.", r"\1.downsample."),
    (r"^classifier\.0\.dense\.", "fc."),
)


def map_names(content: Mapping[str, Any]) -> dict[str, Any]:
    """Replace a checkpoint's model name by this package's name.

    Args:
        content: A checkpoint. Its ``"name"`` is looked at only where it holds a ``"state_dict"``: this package's own
            files hold a ``"model"``.

    Returns:
        A copy. A name that is not in `NAMES` is left out, since outside this package it can be anything: shapes show
        whether the weights fit.

    Example:
        >>> map_names({"name": "vit_ti", "state_dict": {}})["name"]
        'vit_ti_patch2_32'
        >>> map_names({"name": "my best run", "state_dict": {}})
        {'state_dict': {}}
    """
    mapped = dict(content)
    if "state_dict" in content and "model" not in content:
        name = mapped.pop("name", None)
        if name in NAMES:
            mapped["name"] = NAMES[name]
    return mapped


def map_keys(state_dict: Mapping[str, Any], model_name: str) -> dict[str, Any]:
    """Rename the entries of an old state dictionary; entries of a current one keep their names.

    timm's own filters are not used here, because they also resample weights of another size, which must be refused.

    Args:
        state_dict: State of the model, without the prefixes that wrappers put before the names (``module.``).
        model_name: This package's name, such as ``"swin_tiny_patch1_32"``; nothing is renamed for other models.

    Returns:
        The same tensors under the names that the model has now.

    Example:
        >>> list(map_keys({"layer0.0.weight": 0, "layer1.0.shortcut.1.bias": 0}, "resnet50"))
        ['conv1.weight', 'layer1.0.downsample.1.bias']
        >>> list(map_keys({"layers.0.downsample.norm.bias": 0, "head.bias": 0}, "swin_tiny_patch1_32"))
        ['layers.1.downsample.norm.bias', 'head.fc.bias']
    """
    if re.fullmatch(r"resnet\d+", model_name):
        return {_renamed(key, _RESNET): value for key, value in state_dict.items()}
    if model_name.startswith("pit_"):
        return _pushed_on(state_dict, "transformers", "pool")
    if model_name.startswith("swin_"):
        computed = ("attn_mask", "relative_position_index")
        kept = {key: value for key, value in state_dict.items() if key.rpartition(".")[2] not in computed}
        head = ((r"^head\.(weight|bias)$", r"head.fc.\1"),)
        return {_renamed(key, head): value for key, value in _pushed_on(kept, "layers", "downsample").items()}
    return dict(state_dict)


def without_block_heads(state_dict: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Remove the modules that Naseer et al. (2022, https://arxiv.org/abs/2106.04169) added after inner blocks.

    Returns:
        The remaining entries, and the names of the removed ones, in order.

    Example:
        >>> without_block_heads({"head.bias": 0, "transformerheads.0.token_fc.bias": 0})
        ({'head.bias': 0}, ['transformerheads.0.token_fc.bias'])
    """
    extra = [key for key in state_dict if re.match(r"transformerheads\.\d+\.", key)]
    return {key: value for key, value in state_dict.items() if key not in extra}, extra


def _renamed(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    """Apply all rules (pattern, replacement) to a key."""
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def _pushed_on(state_dict: Mapping[str, Any], stages: str, part: str) -> dict[str, Any]:
    """Move a part from the end of each stage to the start of the next; only old states have it in the first stage."""
    if not any(key.startswith(f"{stages}.0.{part}.") for key in state_dict):
        return dict(state_dict)
    pattern = re.compile(rf"^{stages}\.(\d+)\.{part}\.")
    return {
        pattern.sub(lambda found: f"{stages}.{int(found[1]) + 1}.{part}.", key): value
        for key, value in state_dict.items()
    }
