"""Refuse what is no model, and weights that are not finite, before the work rather than after it in the results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

STATISTICS = ("running_mean", "running_var")  # buffers of batch norms, which have to be finite


def check_module(model: Any) -> None:
    """Refuse what is no torch module, such as a model's name in place of the model.

    Raises:
        TypeError: If it is none; the message names its type and the remedy.

    Example:
        >>> check_module("resnet18")
        Traceback (most recent call last):
        TypeError: a model should be a torch module, not a str; zoo.create_model makes some
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"a model should be a torch module, not a {type(model).__name__}; zoo.create_model makes some")


def check_weights(model: nn.Module) -> None:
    """Refuse a model whose weights hold NaN or infinity.

    Parameters and the running statistics of batch norms have to be finite. Other buffers may hold infinities, as
    attention masks do, but no NaN. Integers, and kinds of tensors that have no minimum, are not checked.

    Args:
        model: Any module.

    Raises:
        TypeError: If it is no module.
        ValueError: If one does; the message names the first such parameter or buffer, and how many more there are.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        >>> check_weights(model)
        >>> model[1].running_var[0] = float("inf")
        >>> check_weights(model)
        Traceback (most recent call last):
        ValueError: buffer '1.running_var' of Sequential holds infinity (1 of 2 values); the training has diverged ...
    """
    check_module(model)
    wrong = [(what, values) for what, values, masks in _weights(model) if not _is_sound(values, masks)]
    if not wrong:
        return
    what, values = wrong[0]
    kind = "NaN" if values.isnan().any() else "infinity"
    bad = int((~values.isfinite()).sum())
    more = f", and {len(wrong) - 1} more parameters or buffers are as bad" if len(wrong) > 1 else ""
    raise ValueError(
        f"{what} of {type(model).__name__} holds {kind} ({bad} of {values.numel()} values){more}; the training has "
        "diverged or the checkpoint is damaged: load other weights"
    )


def _weights(model: nn.Module) -> Iterator[tuple[str, torch.Tensor, bool]]:
    """Yield the name of each parameter or buffer, its values, and whether it may hold infinities."""
    for kind, named in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in named:
            if nn.parameter.is_lazy(tensor) or not (tensor.is_floating_point() or tensor.is_complex()):
                continue
            what = f"{kind} {name!r}"
            if tensor.is_meta:
                raise ValueError(f"{what} of {type(model).__name__} has no values (meta device); load weights")
            values = tensor.detach()
            values = values.coalesce().values() if values.is_sparse else values
            values = torch.view_as_real(values) if values.is_complex() else values
            values = values.float() if values.dtype.itemsize == 1 else values  # few operations support 8-bit floats
            yield what, values, kind == "buffer" and not name.endswith(STATISTICS)


def _is_sound(values: torch.Tensor, masks: bool) -> bool:
    if not values.numel():
        return True
    try:
        ends = torch.stack(torch.aminmax(values))  # one pass over the values; NaN propagates
    except NotImplementedError:
        return True  # other kinds of tensors, such as quantised or sharded weights, cannot be checked like this
    return not bool(ends.isnan().any() if masks else (~ends.isfinite()).any())
