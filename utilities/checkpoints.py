"""Checkpoint files: read without running what is in them, and loaded in full or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from utilities.old_checkpoints import map_keys, map_names


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a file of tensors and plain values; nothing in it is run.

    Args:
        path: A file of ``torch.save`` or safetensors.

    Returns:
        What is in the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or holds objects that could run code.

    Example:
        >>> read_checkpoint(Path("absent.pth"))
        Traceback (most recent call last):
        FileNotFoundError: no checkpoint 'absent.pth'; weights is 'random', 'pretrained', or a file's path
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {str(path)!r}; weights is 'random', 'pretrained', or a file's path")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:200]
        reason = "" if "weights_only" in reason else f": {reason}"  # torch advises to switch the protection off
        raise ValueError(
            f"{path} cannot be read as weights: it is damaged, or holds objects other than tensors and plain "
            f"values, which are refused because such a file can run code ({type(error).__name__}{reason})"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dictionary")
    return content


def state_of(content: dict[str, Any]) -> dict[str, Any]:
    """Take the state dictionary out of a checkpoint, without what wrappers put in front of all names.

    Args:
        content: A state dictionary, or a dictionary that holds one as ``"model"`` or ``"state_dict"``.

    Example:
        >>> state_of({"epoch": 3, "state_dict": {"module.model.fc.bias": 0}})
        {'fc.bias': 0}
    """
    state = next((content[key] for key in ("model", "state_dict") if isinstance(content.get(key), dict)), content)
    for prefix in ("_orig_mod.", "module.", "model."):  # of torch.compile, DataParallel, and classes that hold a model
        if state and all(str(key).startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def load_checkpoint(model: nn.Module, content: dict[str, Any], path: Path, asked: dict[str, Any]) -> None:
    """Copy a checkpoint's state into a model, in full or not at all.

    Args:
        model: Changed in place.
        content: A state dictionary, or a dictionary that holds one as ``"model"`` or ``"state_dict"``. Old names of
            models and entries are brought up to date, see `utilities.old_checkpoints`.
        path: Where it came from, for messages.
        asked: Facts that have to agree where the checkpoint states them, ``name`` among them.

    Raises:
        ValueError: Naming the file and what did not fit.

    Example:
        >>> load_checkpoint(nn.Linear(1, 2), {"bias": torch.zeros(3)}, Path("a.pth"), {"name": "linear"})
        Traceback (most recent call last):
        ValueError: checkpoint a.pth does not fit linear: 1 missing keys: weight; ...
    """
    content = map_names(content)
    problems = [
        f"{key} is {content[key]!r} in the file, {value!r} was asked for"
        for key, value in asked.items()
        if value is not None and content.get(key, value) != value
    ]
    state = map_keys(state_of(content), asked["name"])
    problems += _misfits(model.state_dict(), state)
    if problems:
        raise ValueError(f"checkpoint {path} does not fit {asked['name']}: {'; '.join(problems)}")
    model.load_state_dict(state)


def _misfits(wanted: dict[str, torch.Tensor], state: dict[str, Any]) -> list[str]:
    """Describe how a state dictionary differs from the one a model wants."""
    groups = {
        "missing keys": [key for key in wanted if key not in state],
        "unexpected keys": [str(key) for key in state if key not in wanted],
        "other shapes": [
            f"{key} {list(getattr(state[key], 'shape', [type(state[key]).__name__]))} in the file, "
            f"{list(tensor.shape)} in the model"
            for key, tensor in wanted.items()
            if key in state and getattr(state[key], "shape", None) != tensor.shape
        ],
    }
    return [
        f"{len(found)} {what}: {', '.join(found[:4])}{', ...' if len(found) > 4 else ''}"
        for what, found in groups.items()
        if found
    ]
