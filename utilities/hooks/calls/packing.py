"""Pickle the sums of one process for another, which may keep them on another device."""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch
from torch import nn


class _Pickler(pickle.Pickler):
    """Pickle sums, with tensors from main memory, and refuse models, which every process has for itself."""

    def persistent_id(self, value: Any) -> torch.Tensor | None:
        if isinstance(value, nn.Module):
            raise TypeError(
                f"a {type(value).__name__} is among the sums; models do not travel between processes: name the "
                "attribute that holds it in OWN"
            )
        return value.detach().cpu() if isinstance(value, torch.Tensor) and value.device.type != "cpu" else None


class _Unpickler(pickle.Unpickler):
    """Read what `_Pickler` has written, and put those tensors on this process's device."""

    device: torch.device | str = "cpu"

    def persistent_load(self, found: torch.Tensor) -> torch.Tensor:
        return found.to(self.device)


def packed_sums(sums: Any) -> bytes:
    """Pickle sums for another process.

    Args:
        sums: Anything that can be pickled, with tensors on any device.

    Raises:
        TypeError: If a model is among them.

    Example:
        >>> unpacked_sums(packed_sums({"n": 2, "total": torch.ones(2)}), "cpu")
        {'n': 2, 'total': tensor([1., 1.])}
    """
    file = io.BytesIO()
    _Pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(sums)
    return file.getvalue()


def unpacked_sums(packed: bytes, device: torch.device | str) -> Any:
    """Read what `packed_sums` has written.

    Args:
        packed: From `packed_sums`.
        device: Where tensors go that lay on a device other than the CPU.
    """
    reader = _Unpickler(io.BytesIO(packed))
    reader.device = device
    return reader.load()
