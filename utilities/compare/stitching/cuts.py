"""Replace a layer's output while a model runs, and find out whether that cuts the model in two.

A stitch is what it seems only where all that the second model knows of an image goes through the layer. Inside a
residual branch the shortcut carries the model's own features around it, and a stitch of noise would still do well. So a
layer counts as a cut only if images lead to the same logits whenever its output is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from utilities.hooks.calls.labels import check_logits
from utilities.hooks.calls.nested import map_tensors, tensors_in
from utilities.hooks.trial import first_tensor
from utilities.zoo.layers import known_blocks

LEAK = 1e-4  # share of the spread of logits over images that rounding may leave
ENOUGH = 4  # images on which this is looked at


@contextmanager
def replacing(model: nn.Module, layer: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Replace a layer's output in each pass inside the context; the hook is removed on exit, also after an error.

    Args:
        model: The model.
        layer: Name of the layer.
        make: Is given the output (batch, ...), and returns what takes its place, of the same shape.

    Raises:
        ValueError: In a pass, if the layer runs twice, puts out nothing that can be replaced, or the shapes differ.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Flatten())
        >>> with replacing(model, "0", torch.zeros_like):
        ...     model(torch.ones(1, 2)).tolist()
        [[0.0, 0.0]]
    """
    runs = [0]

    def start(module: nn.Module, args: Any) -> None:
        runs[0] = 0

    def put(module: nn.Module, args: Any, output: Any) -> Any:
        found, runs[0] = first_tensor(output), runs[0] + 1
        if runs[0] > 1:
            raise ValueError(
                f"layer {layer!r} runs more than once in a pass, so that it is no single cut; leave it out"
            )
        if found is None or not any(tensor is found for tensor in tensors_in(output)):
            raise ValueError(f"layer {layer!r} puts out {type(output).__name__}, no tensor that can be replaced")
        instead = make(found)
        if instead.shape != found.shape:
            raise ValueError(
                f"layer {layer!r} puts out {tuple(found.shape)} in this pass, and {tuple(instead.shape)} should take "
                "its place; images of one size and a layer with a row for each image are needed"
            )
        return map_tensors(lambda tensor: instead.to(found) if tensor is found else tensor, output)

    handles = [model.register_forward_pre_hook(start), model.get_submodule(layer).register_forward_hook(put)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def leak_of(model: nn.Module, layer: str, images: torch.Tensor) -> float:
    """Measure how much of the logits' spread over images is left when a layer's output is the same for all.

    The output of the first image takes the place of all others' once, and that of the last one once.

    Args:
        model: A model in eval mode that gives logits.
        layer: Name of the layer.
        images: Two images or more, on the model's device.

    Returns:
        A share: 0, up to rounding, where the layer cuts the model in two.

    Raises:
        ValueError: As in `replacing`, or if logits are the same for all images anyway.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> leak_of(model, "0", torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
        0.0
    """
    own, largest = own_spread(model, images), 0.0
    for place in (0, len(images) - 1):

        def repeat(output: torch.Tensor, place: int = place) -> torch.Tensor:
            return output[place : place + 1].expand_as(output).clone() if len(output) == len(images) else output

        with torch.no_grad(), replacing(model, layer, repeat):
            logits = model(images)
        spread = _spread(logits)
        largest = max(largest, 0.0 if spread <= _rounding(logits) else spread / own)
    return largest


def own_spread(model: nn.Module, images: torch.Tensor) -> float:
    """Measure how far the logits of some images lie from those of the first.

    Raises:
        ValueError: If they are the same for all images, or no logits.
    """
    with torch.no_grad():
        logits = model(images)
    check_logits(logits)
    own = _spread(logits)
    if own <= _rounding(logits):
        raise ValueError(
            f"the logits of {type(model).__name__} are the same for all images, up to rounding, so that nothing of an "
            "image could be stitched into it; look at its weights"
        )
    return own


def _spread(logits: torch.Tensor) -> float:
    return float((logits - logits[:1]).abs().max())


def _rounding(logits: torch.Tensor) -> float:
    return 32 * torch.finfo(logits.dtype).eps * float(logits.abs().max())


def cuts_among(model: nn.Module, layers: Iterable[str], images: torch.Tensor) -> list[str]:
    """List the layers that cut a model in two, of those that run once and put out a tensor."""
    found = []
    for layer in layers:
        try:
            if leak_of(model, layer, images) <= LEAK:
                found.append(layer)
        except ValueError:
            continue
    return found


def check_cut(model: nn.Module, layer: str, images: torch.Tensor) -> None:
    """Refuse a layer that does not cut a model in two.

    Args:
        model: A model in eval mode that gives logits.
        layer: Name of the layer.
        images: Two images or more, on the model's device.

    Raises:
        ValueError: If it is none; the message names layers that are, as far as the model's blocks are known.
    """
    leak = leak_of(model, layer, images)
    if leak <= LEAK:
        return
    try:
        known = cuts_among(model, known_blocks(model), images)
    except ValueError:
        known = []
    inside = [name for name in known if layer.startswith(f"{name}.")]
    first = inside or known
    remedy = f"; take {', '.join(first[:8])}" if first else "; take a layer that all paths go through"
    raise ValueError(
        f"layer {layer!r} does not cut {type(model).__name__} in two: with its output the same for all images, "
        f"{leak:.0%} of the logits' spread is left, which a shortcut carries around it; a stitch there would keep the "
        f"model's own features{remedy}"
    )
