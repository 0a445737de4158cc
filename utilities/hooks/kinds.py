"""Read off the kind of a module which axis of its output holds the channels, and how many channels there are.

This covers torch's layers and those derived from them. A kind counts only where the output has as many channels on
that axis as the module declares: windows and tokens that were flattened into the batch shift the axes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import nn

_SECOND = (  # channels second, positions in any number
    nn.GroupNorm,
    nn.SyncBatchNorm,
    nn.LocalResponseNorm,
    nn.Upsample,
    nn.ChannelShuffle,
    nn.FeatureAlphaDropout,
    nn.Unfold,
    nn.Fold,
)
_LAST = (nn.Linear, nn.Bilinear, nn.Embedding, nn.MultiheadAttention, nn.RNNBase, nn.Transformer)
_LAST += (nn.TransformerEncoder, nn.TransformerDecoder, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
_WIDTHS = ("out_channels", "out_features", "num_features", "num_channels", "embedding_dim", "embed_dim")
_ELEMENTWISE = ("torch.nn.modules.activation", "torch.nn.modules.dropout", "timm.layers.activations",
                "timm.layers.drop", "torchvision.ops.stochastic_depth", "transformers.activations")  # fmt: skip


def spatial_dimensions(module: nn.Module) -> int | None:
    """Return how many axes of positions a torch layer works on, as its name says; None where it does not say.

    Example:
        >>> spatial_dimensions(nn.MaxPool1d(2)), spatial_dimensions(nn.Conv3d(1, 1, 1)), spatial_dimensions(nn.ReLU())
        (1, 3, None)
    """
    for kind in type(module).__mro__:
        digit = re.search("([123])d$", kind.__name__)
        if digit and kind.__module__.startswith(("torch.nn.", "torch.ao.nn.")):
            return int(digit[1])
    return 2 if isinstance(module, (nn.PixelShuffle, nn.PixelUnshuffle)) else None


def is_convolution(module: nn.Module, dimensions: int) -> bool:
    """Tell whether a module is a convolution over so many axes of positions, transposed or quantised ones included.

    Example:
        >>> is_convolution(nn.ConvTranspose1d(1, 1, 1), 1), is_convolution(nn.MaxPool1d(2), 1)
        (True, False)
    """
    return spatial_dimensions(module) == dimensions and hasattr(module, "out_channels")


def keeps_channels_last(module: nn.Module) -> bool:
    """Tell whether a layer's output has its channels last: linear, norm of the last axis, attention, recurrence.

    Example:
        >>> keeps_channels_last(nn.LayerNorm(8)), keeps_channels_last(nn.LayerNorm((8, 4, 4)))
        (True, False)
    """
    return isinstance(module, _LAST) or _is_linear(module) or _normalized(module) is not None


def declared_width(module: nn.Module) -> int | None:
    """Return the number of channels that a layer declares for its output.

    Example:
        >>> declared_width(nn.Conv1d(3, 8, 1)), declared_width(nn.LayerNorm(4)), declared_width(nn.ReLU())
        (8, 4, None)
    """
    if (normalized := _normalized(module)) is not None:
        return normalized
    values = (getattr(module, name, None) for name in _WIDTHS)
    return next((value for value in values if isinstance(value, int)), None)


def channel_axis_of(module: nn.Module, shape: torch.Size) -> int | None:
    """Return the axis of a layer's output that holds its channels, as far as the layer's kind tells.

    Args:
        module: The layer.
        shape: Shape of its output, three sizes or more.

    Example:
        >>> channel_axis_of(nn.Conv1d(3, 8, 1), torch.Size([2, 8, 20]))
        1
        >>> channel_axis_of(nn.Linear(3, 8), torch.Size([2, 20, 8])), channel_axis_of(nn.ReLU(), torch.Size([2, 20, 8]))
        (2, None)
    """
    last, width = len(shape) - 1, declared_width(module)
    if _normalized(module) is not None:
        return _axis_of_norm(module, shape, width)
    if keeps_channels_last(module):
        return last if width in (None, shape[last]) else None
    dimensions = spatial_dimensions(module)
    if dimensions is None and not isinstance(module, _SECOND):
        return None
    axis = 1 if dimensions is None else last - dimensions  # windows in the batch add an axis in front
    if isinstance(module, nn.BatchNorm1d) and shape[last] == width:
        # Tokens flattened for this layer, (batch, tokens, channels), may look like (batch, channels, length).
        return None if shape[1] == width else last
    if axis < 1 or width not in (None, shape[axis]):
        return None
    return None if (dimensions, width) == (1, 1) else axis  # a convolution over channels, as in ECA, has one channel


def told_by(model: nn.Module) -> dict[nn.Module, nn.Module]:
    """Map elementwise layers in an ``nn.Sequential``, and the whole of it, to the layer that tells their axes.

    Example:
        >>> model = nn.Sequential(nn.Conv1d(3, 8, 1), nn.ReLU())
        >>> told_by(model)[model[1]], told_by(model)[model]
        (Conv1d(3, 8, kernel_size=(1,), stride=(1,)), Conv1d(3, 8, kernel_size=(1,), stride=(1,)))
    """
    found: dict[nn.Module, nn.Module | None] = {}

    def walk(sequence: nn.Sequential, before: nn.Module | None) -> nn.Module | None:
        for child in sequence.children():
            if _is_sequence(child):
                before = walk(child, before)
            elif _is_elementwise(child):
                # One object in several places follows the layer that all its places follow.
                found[child] = before if found.get(child, before) is before else None
            else:
                before = child
        found[sequence] = before
        return before

    for module in model.modules():
        if _is_sequence(module) and module not in found:
            walk(module, None)
    return {module: teller for module, teller in found.items() if teller is not None}


def _is_sequence(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _is_elementwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Identity) or (
        type(module).__module__.startswith(_ELEMENTWISE)
        and not isinstance(module, (nn.MultiheadAttention, nn.Softmax2d))
    )


def _is_linear(module: nn.Module) -> bool:
    kind = type(module)  # quantised ones are not nn.Linear
    return kind.__module__.startswith("torch.ao.nn.") and "Linear" in kind.__name__


def _normalized(module: nn.Module) -> int | None:
    """Return the width of a norm over one axis."""
    shape = getattr(module, "normalized_shape", None)
    return shape[0] if isinstance(shape, (tuple, list)) and len(shape) == 1 else None


def _axis_of_norm(module: nn.Module, shape: torch.Size, width: int) -> int | None:
    """Find the axis of a layer norm: the last for torch's own, perhaps the second for others derived from it."""
    fitting = [axis for axis in (1, len(shape) - 1) if shape[axis] == width]
    if type(module) in (nn.LayerNorm, nn.RMSNorm) or len(fitting) < 2:
        return fitting[-1] if fitting else None
    said = getattr(module, "data_format", "channels_last")
    return fitting[0] if said == "channels_first" or "2d" in type(module).__name__.lower() else fitting[1]


def layers_in(module: nn.Module, dimensions: int) -> Iterator[tuple[bool, nn.Module]]:
    """Yield the layers inside that tell the axes of outputs with so many axes of positions: (channels last?, layer).

    Example:
        >>> [last for last, _ in layers_in(nn.Sequential(nn.Conv1d(3, 8, 1), nn.ReLU(), nn.Linear(8, 2)), 1)]
        [False, True]
    """
    for layer in module.modules():
        if keeps_channels_last(layer):
            yield True, layer
        elif spatial_dimensions(layer) == dimensions or isinstance(layer, nn.GroupNorm):
            yield False, layer
