"""Read the attention weights of a running model: attention is computed step by step while they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from utilities.analysis.attention.stepwise import is_stepwise, stepwise

Visit = Callable[[torch.Tensor], "torch.Tensor | None"]


@contextmanager
def attention_matrices(layers: Mapping[str, nn.Module], visits: Mapping[str, Visit]) -> Iterator[None]:
    """Hand over the attention weights of some layers whenever the model runs; restore fused attention on exit.

    A layer with timm's ``attn_drop`` hands over what goes into it, the weights that are about to meet the values. Its
    fused attention is switched off meanwhile. Hugging Face's layers and torch's ``MultiheadAttention`` are computed by
    `utilities.analysis.attention.stepwise`. A layer with a method ``attention_weights``, as this package's
    `utilities.zoo.local_attention.LocalAttention`, is asked for the weights of its input.

    Args:
        layers: Name -> attention layer.
        visits: Name -> function of the weights after softmax, (batch, heads, queries, keys); windows of an image count
            as a batch. It may return other weights to replace them, but those of `LocalAttention`.

    Raises:
        TypeError: If a layer has neither.
        RuntimeError: If the model ran and a layer handed over no weights.

    Example:
        >>> from timm.layers import Attention
        >>> layer, seen = Attention(8, num_heads=2).eval(), []
        >>> with attention_matrices({"attn": layer}, {"attn": lambda weights: seen.append(weights.shape)}):
        ...     _ = layer(torch.rand(1, 5, 8))
        >>> seen, layer.fused_attn
        ([torch.Size([1, 2, 5, 5])], True)
    """
    unreadable = [name for name, layer in layers.items() if not _is_readable(layer)]
    if unreadable:
        kind = type(layers[unreadable[0]]).__name__
        raise TypeError(f"{unreadable[0]} is a {kind} without attn_drop or attention_weights: it shows no weights")
    before = {name: layer.fused_attn for name, layer in layers.items() if hasattr(layer, "fused_attn")}
    calls = dict.fromkeys(layers, 0)

    def counted(name: str) -> Visit:
        def visit(weights: torch.Tensor) -> torch.Tensor | None:
            calls[name] += 1
            return visits[name](weights)

        return visit

    with ExitStack() as stack:
        for name, layer in layers.items():
            if name in before:
                stack.callback(setattr, layer, "fused_attn", before[name])
                layer.fused_attn = False
            if is_stepwise(layer):
                stack.enter_context(stepwise(layer, counted(name)))
            else:
                stack.callback(_hook(layer, counted(name)).remove)
        yield
    missing = [name for name, count in calls.items() if count == 0]
    if missing:
        raise RuntimeError(f"no attention matrix came out of {', '.join(missing)}; did the model run?")


def _is_readable(layer: nn.Module) -> bool:
    if isinstance(getattr(layer, "attn_drop", None), nn.Module) or hasattr(layer, "attention_weights"):
        return True
    return is_stepwise(layer)


def _hook(layer: nn.Module, visit: Visit) -> Any:
    """Register the hook that hands weights to ``visit``, and return its handle."""
    if isinstance(getattr(layer, "attn_drop", None), nn.Module):
        return layer.attn_drop.register_forward_hook(lambda module, args, output: visit(output))

    def ask(module: nn.Module, args: Any) -> None:
        if visit(module.attention_weights(args[0].clone())) is not None:
            raise TypeError(f"the weights of {type(module).__name__} can be read, but not replaced")

    return layer.register_forward_pre_hook(ask)
