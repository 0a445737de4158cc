"""Handle tensors inside tuples, lists, mappings and dataclasses, as loaders yield and models take and return them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import torch


def map_tensors(function: Callable[[torch.Tensor], Any], value: Any) -> Any:
    """Apply a function to every tensor inside, and keep everything else as it is.

    Args:
        function: Function of a tensor.
        value: A tensor, or tuples, lists, mappings and dataclasses of tensors and of anything else.

    Returns:
        The same structure; an immutable mapping becomes a dictionary.

    Example:
        >>> map_tensors(len, {"pixel_values": torch.zeros(4, 3), "sizes": (torch.zeros(2), "px")})
        {'pixel_values': 4, 'sizes': (2, 'px')}
    """
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, Mapping):
        parts = {key: map_tensors(function, part) for key, part in value.items()}
        if type(value) is dict or not isinstance(value, MutableMapping):
            return parts
        twin = copy.copy(value)  # keeps the class, since a model may read batch.pixel_values
        for key, part in parts.items():
            twin[key] = part
        return twin
    if isinstance(value, (tuple, list)):
        parts = [map_tensors(function, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        twin = copy.copy(value)
        for name, part in _fields(value).items():
            object.__setattr__(twin, name, map_tensors(function, part))  # works for frozen dataclasses too
        return twin
    return value


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yield every tensor inside, in order.

    Example:
        >>> [tensor.item() for tensor in tensors_in([torch.tensor(1), {"a": torch.tensor(2), "b": None}])]
        [1, 2]
    """
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors_in(part)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from tensors_in(_fields(value))


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
