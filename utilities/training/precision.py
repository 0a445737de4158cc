"""Choose the numerical precision of a training."""

from __future__ import annotations

import torch

from utilities.utils import has_fast_bfloat16

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Choose the type of mixed precision, None for float32; ``"auto"`` is bfloat16 where hardware supports it.

    Args:
        precision: One of ``auto``, ``float32``, ``bfloat16``, ``float16``.
        device: Device that trains the model.

    Raises:
        ValueError: For another precision, or float16 on a CPU, where small gradients would vanish.

    Example:
        >>> autocast_dtype("bfloat16", torch.device("cpu"))
        torch.bfloat16
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is not known; choose from {', '.join(PRECISIONS)}")
    if precision == "float16" and device.type != "cuda":
        raise ValueError(f"float16 training needs a CUDA device, not {device.type}; use bfloat16 or float32")
    if precision == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else None
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)
