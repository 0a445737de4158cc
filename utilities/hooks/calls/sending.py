"""Send small tensors to a GPU without waiting for it."""

from __future__ import annotations

import torch


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to a device; a GPU receives it when its turn comes, while the CPU goes on.

    From ordinary memory, a copy would wait until the GPU has done all that it was given before. So it starts from
    memory that cannot be paged out, into which the tensor is copied first.

    Args:
        tensor: A tensor anywhere.
        device: The device.

    Example:
        >>> send(torch.ones(2), torch.device("cpu"))
        tensor([1., 1.])
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
