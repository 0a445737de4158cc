"""Read checkpoint files without running their content, and load them in full or not at all."""

from __future__ import annotations

import argparse
import pathlib
import re
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from utilities.hooks.calls.nested import tensors_in
from utilities.results.writing import write_whole
from utilities.zoo.old_checkpoints import map_keys, map_names
from utilities.zoo.smoothing import SUFFIX
from utilities.zoo.state_dicts import fitted, state_of

SENTENCE = re.compile(r"\n|\. (?=[A-Z])")  # where the first of several ends


def read_checkpoint(path: Path, remedy: str = "copy or make it again") -> dict[str, Any]:
    """Load a file of tensors and plain values; no code in it is run.

    Args:
        path: A file of ``torch.save`` or safetensors. Command lines (``argparse.Namespace``), paths and NumPy's
            numbers, which training scripts save beside the weights, count as plain values.
        remedy: Advice for a damaged file, for the message.

    Returns:
        The content of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or holds objects that could run code.

    Example:
        >>> read_checkpoint(Path("absent.pth"))
        Traceback (most recent call last):
        FileNotFoundError: no checkpoint 'absent.pth'; weights are 'random', 'pretrained', 'wheel', or a file's path
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no checkpoint {str(path)!r}; weights are 'random', 'pretrained', 'wheel', or a file's path"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with _plain_values():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as weights: {_reason(error, path, remedy)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dictionary: save model.state_dict()")
    return content


def _plain_values() -> AbstractContextManager:
    """Let torch read values that cannot run code."""
    if not hasattr(torch.serialization, "safe_globals"):  # torch 2.4
        return nullcontext()
    scalar = np.float64(0).__reduce__()[0]  # constructor of all of NumPy's numbers, under another name in NumPy 1
    kinds = [np.dtype, *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}]
    numbers = [scalar, (scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
    paths = [pathlib.PurePosixPath, pathlib.PureWindowsPath, type(Path())]
    return torch.serialization.safe_globals([argparse.Namespace, *paths, *kinds, *numbers])


def _reason(error: Exception, path: Path, remedy: str) -> str:
    """Explain why a file cannot be read, and what to do."""
    text = str(error).strip()
    named = re.search(r"GLOBAL ([\w.]+)|(Unsupported (?:class|type)|TorchScript)", text)
    if named:
        return (
            f"it holds {f'objects ({named[1]})' if named[1] else 'objects'} other than tensors and plain values, which "
            "are refused because such a file can run code; where it was made, or where you trust it, save "
            f"model.state_dict() in its place (read it by torch.load({str(path)!r}, weights_only=False))"
        )
    # torch first advises to switch the protection off, and names the problem after that.
    text = text.partition("WeightsUnpickler error: ")[2] if "weights_only" in text else text
    reason = f"{type(error).__name__}: {SENTENCE.split(text, maxsplit=1)[0][:200]}".rstrip(": ")
    return f"it is damaged, cut short or no checkpoint ({reason}); {remedy}"


def load_checkpoint(model: nn.Module, content: dict[str, Any], path: Path, asked: dict[str, Any]) -> None:
    """Copy a checkpoint's state into a model, in full or not at all.

    Args:
        model: Model to fill, changed in place.
        content: A state dictionary, or a dictionary that holds one, see `utilities.zoo.state_dicts`. Old names of
            models and entries are translated, see `utilities.zoo.old_checkpoints`.
        path: Where the checkpoint came from, for messages.
        asked: Facts that must agree where the checkpoint states them, ``name`` among them. A network and its twin with
            spatial smoothing have the same weights: those of either are loaded into the other with a warning.

    Raises:
        ValueError: If something does not fit; the message names it and the file.

    Example:
        >>> load_checkpoint(nn.Linear(1, 2), {"bias": torch.zeros(3)}, Path("a.pth"), {"name": "linear"})
        Traceback (most recent call last):
        ValueError: checkpoint a.pth does not fit linear: 1 missing keys: weight; 1 other shapes: bias [3] in the ...
    """
    content = _as_twin(map_names(content), path, asked["name"])
    problems = [
        f"{key} is {content[key]!r} in the file, {value!r} was asked for"
        for key, value in asked.items()
        if value is not None and content.get(key, value) != value
    ]
    wanted = model.state_dict()
    try:
        state, outside = fitted(map_keys(state_of(content), asked["name"].removesuffix(SUFFIX)), wanted)
    except ValueError as error:
        raise ValueError(f"checkpoint {path} cannot be loaded into {asked['name']}: {error}") from error
    problems += _misfits(wanted, state)
    if problems:
        problems.append(
            "give the name and the options that it was made with"
            + (", or num_classes=None for the file's own number" if asked.get("num_classes") else "")
        )
        raise ValueError(f"checkpoint {path} does not fit {asked['name']}: {'; '.join(problems)}")
    if outside:
        listed = f"{', '.join(outside[:4])}{', ...' if len(outside) > 4 else ''}"
        warnings.warn(f"{len(outside)} entries of {path} lie outside the model: {listed}", stacklevel=3)
    model.load_state_dict(state)


def _as_twin(content: dict[str, Any], path: Path, name: str) -> dict[str, Any]:
    """Let a checkpoint of a network's twin, with spatial smoothing or without it, pass for its own."""
    own = content.get("name")
    if not isinstance(own, str) or own == name or own.removesuffix(SUFFIX) != name.removesuffix(SUFFIX):
        return content
    warnings.warn(f"{path} is of {own}, and {name} has not learnt with it: both have the same weights", stacklevel=4)
    return content | {"name": name}


def _misfits(wanted: dict[str, torch.Tensor], state: dict[str, Any]) -> list[str]:
    """Describe how a state dictionary differs from the one that a model needs."""
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


def write_torch(path: str | Path, content: Any) -> Path:
    """Write tensors and plain values by ``torch.save``, whole or not at all.

    Example:
        >>> import tempfile
        >>> import torch
        >>> torch.load(write_torch(Path(tempfile.mkdtemp()) / "a.pth", {"n": 3}), weights_only=True)
        {'n': 3}
    """

    def save(temporary: Path) -> None:
        # Through a Python file, whose error says what went wrong; torch's own error says "unexpected pos".
        with temporary.open("wb") as file:
            torch.save(content, file)

    return write_whole(path, save, tensor_bytes(content))


def tensor_bytes(content: Any) -> int:
    """Count the bytes of all tensors inside, each storage once, as a file of them needs.

    Example:
        >>> import torch
        >>> x = torch.zeros(4)
        >>> tensor_bytes({"a": x, "b": [x, torch.zeros(2)]})
        24
    """
    storages = (tensor.untyped_storage() for tensor in tensors_in(content) if tensor.layout == torch.strided)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
