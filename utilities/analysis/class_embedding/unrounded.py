"""Copy a model of half precision to float32, for analyses that take its sums apart.

bfloat16 rounds each sum of the residual stream to 8 bits, float16 to 11. What the parts add up to in exact numbers then
is not what the model puts out.
"""

from __future__ import annotations

import copy
import warnings

import torch
from torch import nn

from utilities.hooks.calls.weights import check_module

HALF = (torch.bfloat16, torch.float16)


def half_type(model: nn.Module) -> str | None:
    """Name the first half-precision type among a model's parameters, or return None.

    Example:
        >>> half_type(nn.Linear(2, 2).bfloat16()), half_type(nn.Linear(2, 2))
        ('bfloat16', None)
    """
    check_module(model)
    found = next((one.dtype for one in model.parameters() if one.dtype in HALF), None)
    return None if found is None else str(found).removeprefix("torch.")


def unrounded(model: nn.Module, what: str) -> nn.Module:
    """Return a copy in float32 of a model of half precision, with a warning; any other model as it is.

    Args:
        model: The model, which is not changed.
        what: Name of the analysis, for the warning.

    Example:
        >>> unrounded(model := nn.Linear(2, 2), "logit attribution") is model
        True
    """
    half = half_type(model)
    if half is None:
        return model
    warnings.warn(
        f"{what} runs a copy of {type(getattr(model, 'source', model)).__name__} in float32: {half} rounds its sums, "
        "and shares would not add up to its logits",
        stacklevel=3,
    )
    return copy.deepcopy(model).float()
