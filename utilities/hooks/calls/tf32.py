"""Forbid TF32 where numbers are measured: on a GPU, torch rounds the factors of convolutions to ten bits by default."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

import torch

_chosen: ContextVar[bool] = ContextVar("TF32 is chosen", default=False)


@contextmanager
def choosing_tf32(device: torch.device, allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 for matrix products and convolutions, and restore what was set before on exit.

    Args:
        device: Nothing is changed unless it is a CUDA device.
        allowed: Whether products of float32 numbers may round their factors to TF32.

    Example:
        >>> with choosing_tf32(torch.device("cuda"), allowed=False):
        ...     torch.backends.cudnn.allow_tf32
        False
    """
    with ExitStack() as stack:
        if device.type == "cuda":
            stack.callback(_chosen.reset, _chosen.set(True))
            for backend in (torch.backends.cuda.matmul, torch.backends.cudnn):
                stack.callback(setattr, backend, "allow_tf32", backend.allow_tf32)
                backend.allow_tf32 = allowed
        yield


@contextmanager
def forbidding_tf32(device: torch.device) -> Iterator[None]:
    """Forbid TF32 as `choosing_tf32` does, unless we are inside a context that has chosen.

    Example:
        >>> device = torch.device("cuda")
        >>> with choosing_tf32(device, allowed=True), forbidding_tf32(device):
        ...     torch.backends.cudnn.allow_tf32
        True
    """
    if _chosen.get():
        yield
    else:
        with choosing_tf32(device, allowed=False):
            yield
