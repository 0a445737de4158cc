"""Run a model in eval mode on a device, on its own copies of what it is given, and put everything back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from utilities.hooks.calls.copies import has_own_inputs, own_inputs
from utilities.hooks.calls.input_type import casting_inputs
from utilities.hooks.calls.inputs import check_model, explaining
from utilities.hooks.calls.tf32 import forbidding_tf32
from utilities.hooks.calls.weights import check_module


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Turn a device name into a device; ``"auto"`` means cuda, then mps, then cpu.

    Args:
        device: ``"auto"`` or anything that ``torch.device`` accepts.

    Returns:
        The device.

    Raises:
        ValueError: If the named device is not present on this machine.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if str(device) == "auto":
        return torch.device(next(name for name, here in present.items() if here))
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device {str(device)!r} is not known; use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'"
        ) from error
    if not present.get(resolved.type, True):
        raise ValueError(f"device {str(device)!r} is not available here; use device='auto' or 'cpu'")
    return resolved


def has_fast_bfloat16(device: torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 matrices in hardware.

    Example:
        >>> has_fast_bfloat16(torch.device("mps"))
        False
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.9 or newer
    return device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@contextmanager
def evaluating(model: nn.Module, device: str | torch.device | None = None) -> Iterator[torch.device]:
    """Put a model in eval mode on a device, and restore every module's mode and place on exit.

    Inside the context, every call of the model works on its own copy of the input tensors, because it may write into
    them. The copy has the type that the model takes. On a GPU, float32 is computed as such, not as TF32. If the model
    cannot take the images, an error explains in one sentence what is wrong with them.

    Args:
        model: The model. Each submodule's own ``training`` flag is restored.
        device: Device to run on, see `resolve_device`; None leaves the model where it is.

    Yields:
        The device the model is on.

    Raises:
        ValueError: If weights have no values, or for a problem that `utilities.hooks.calls.inputs.explain` recognises.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
        >>> with evaluating(model) as device:
        ...     device, model.training
        (device(type='cpu'), False)
        >>> model[1].training
        True
    """
    check_module(model)
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]  # or frozen
    tensor = next((t for group in (model.parameters(), model.buffers()) for t in group), None)
    home = tensor.device if tensor is not None else torch.device("cpu")
    if device is None and has_own_inputs(model) and not any(training for _, training in modes):
        yield home  # inside another such context; a recorder enters one for each batch of a comparison
        return
    check_model(model)
    target = home if device is None else resolve_device(device)
    try:
        model.eval()
        if target != home:
            model.to(target)
        with forbidding_tf32(target), own_inputs(model), casting_inputs(model), explaining():
            yield target
    finally:
        if target != home:
            model.to(home)
        for module, training in modes:
            module.training = training
