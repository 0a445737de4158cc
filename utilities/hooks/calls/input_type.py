"""Find the type of number that a model takes: half-precision models take half-precision images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from utilities.hooks.calls.nested import map_tensors, tensors_in
from utilities.hooks.calls.weights import check_module


def input_type(model: nn.Module) -> torch.dtype | None:
    """Return the floating-point type of a model's first convolution or linear layer, else of its first parameter.

    Parameters before that layer, such as a class token or a scale, may be of another type: it is the first layer that
    meets the images.

    Args:
        model: Any module.

    Returns:
        The type. None for a model without floating-point parameters, such as a quantised one, and for one that states
        ``takes_any_type = True``: such models receive images as they are.

    Example:
        >>> input_type(nn.Linear(2, 2).half()), input_type(nn.Flatten())
        (torch.float16, None)
    """
    check_module(model)
    if getattr(model, "takes_any_type", False):
        return None
    layers = [module for module in model.modules() if isinstance(module, (_ConvNd, nn.Linear))]
    types = (p.dtype for module in [*layers, model] for p in module.parameters() if p.is_floating_point())
    return next(types, None)


def as_input(images: torch.Tensor, model: nn.Module, device: torch.device | None = None) -> torch.Tensor:
    """Convert images to the type that a model takes, and move them; only floating-point numbers change type.

    Args:
        images: Images, (batch, ...); token ids and 8-bit images stay integers.
        model: See `input_type`.
        device: Device to move them to, or None.

    Example:
        >>> as_input(torch.zeros(1, 2), nn.Linear(2, 2).half()).dtype
        torch.float16
    """
    return images.to(device=device, dtype=input_type(model) if images.is_floating_point() else None)


@contextmanager
def casting_inputs(model: nn.Module) -> Iterator[None]:
    """Let every call of a model convert the floating-point tensors it receives to the type that the model takes.

    An autocast of the caller casts the weights anew for each call: its cache would not follow weights that change in
    place, as along a loss landscape.

    Args:
        model: The model, called as ``model(...)``; its methods and submodules are not watched.

    Example:
        >>> with casting_inputs(model := nn.Linear(2, 3).bfloat16()):
        ...     model(torch.zeros(1, 2)).dtype
        torch.bfloat16
    """
    wanted = input_type(model)

    def cast(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        torch.clear_autocast_cache()
        tensors = tensors_in((args, kwargs))
        if wanted is None or all(tensor.dtype == wanted or not tensor.is_floating_point() for tensor in tensors):
            return None
        return tuple(map_tensors(lambda tensor: as_input(tensor, model), value) for value in (args, kwargs))

    # Not by replacing the instance's method: a ScriptModule refuses that, though its hooks run.
    handle = nn.Module.register_forward_pre_hook(model, cast, prepend=True, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
