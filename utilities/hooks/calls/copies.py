"""Copy what a model is called with, since the model may write into its input.

If a model's first step is a normalisation in place (``x -= 0.5``), it changes the images that the caller keeps, or
shows to the next model. ``x += branch(x)`` changes the features that a hook has kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from utilities.hooks.calls.nested import map_tensors
from utilities.hooks.calls.weights import check_module


def copied(value: Any) -> Any:
    """Copy every tensor inside; gradients flow through the copies.

    Args:
        value: See `utilities.hooks.calls.nested.map_tensors`.

    Example:
        >>> images = torch.zeros(2)
        >>> copied({"images": images})["images"].add_(1).tolist(), images.tolist()
        ([1.0, 1.0], [0.0, 0.0])
    """
    return map_tensors(torch.clone, value)


@contextmanager
def own_inputs(model: nn.Module) -> Iterator[None]:
    """Let every call of a model work on its own copy of the tensors it receives.

    Inside another such context the copy is made once. Other hooks on the model see the copy.

    Args:
        model: The model, called as ``model(...)``; its methods are not watched.

    Example:
        >>> images = torch.zeros(1, 2)
        >>> with own_inputs(model := nn.Hardtanh(1.0, 2.0, inplace=True)):
        ...     model(images).tolist(), images.tolist()
        ([[1.0, 1.0]], [[0.0, 0.0]])
    """
    if has_own_inputs(model):
        yield
        return
    # Not by replacing the instance's method: a ScriptModule refuses that, though its hooks run.
    handle = nn.Module.register_forward_pre_hook(model, _copy_inputs, prepend=True, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def has_own_inputs(model: nn.Module) -> bool:
    """Tell whether a model is inside `own_inputs`.

    Example:
        >>> has_own_inputs(nn.Flatten())
        False
    """
    check_module(model)
    return _copy_inputs in model._forward_pre_hooks.values()


def _copy_inputs(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    return copied(args), copied(kwargs)
