"""What of a layer's output stands for an image: all of it, a mean over positions, the class token, one position.

======================  ==========================================================================================
view                    of tokens (batch, T, D); of maps (batch, C, H, W); an output (batch, D) is taken as it is
======================  ==========================================================================================
``"flatten"``           everything (Raghu et al. 2021, https://arxiv.org/abs/2108.08810)
``"gap"``               mean over positions, class and register tokens left out
``"cls"``               the class token; of maps an error
``"spatial"``           everything but class and register tokens
``"token:i"``           position i of the sequence, class and register tokens counted; of maps, in raster order
a function              what it makes of the tensor (batch, ...)
======================  ==========================================================================================

An output of three dimensions is taken as (batch, positions, width). Of four, the width comes second (a convolution)
or, in models with layer norms, perhaps last (Swin, the inside of ConvNeXt blocks): it is the one that is a multiple
of the patch embedding's width, or that differs from two equal ones; where that leaves both, timm's ``output_fmt``
decides, or there is an error. Queries and keys of a ViT (batch, heads, T, d) are tokens. Inside the attention of Swin,
positions follow the order of its windows.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import nn

from utilities.features import as_real

View = str | Callable[[torch.Tensor], torch.Tensor]

VIEWS = ("flatten", "gap", "cls", "spatial", "token:i")
_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
_PREFIX_TOKENS = (*_CLASS_TOKENS, "distillation_token", "dist_token", "register_tokens", "reg_token")


def check_view(view: View) -> None:
    """Refuse what is no view, before anything has been run.

    Raises:
        ValueError: Naming the choices.

    Example:
        >>> check_view("mean")
        Traceback (most recent call last):
        ValueError: view 'mean' is not known; choose 'flatten', 'gap', 'cls', 'spatial', 'token:i' (i = 0, 1, ...) ...
    """
    known = isinstance(view, str) and (view in VIEWS[:-1] or re.fullmatch(r"token:[0-9]+", view))
    if not known and not callable(view):
        choices = ", ".join(map(repr, VIEWS))
        raise ValueError(
            f"view {view!r} is not known; choose {choices} (i = 0, 1, ...) or a function of the (batch, ...) tensor"
        )


def prefix_tokens(model: nn.Module) -> int:
    """Count the tokens that a transformer puts before those of its patches: class, distillation, registers.

    timm says it (``num_prefix_tokens``); of torchvision's and Hugging Face's models, parameters of known names are
    counted.

    Args:
        model: Any module; of a CNN the count is 0.

    Example:
        >>> from utilities.vit import vit_tiny_patch2_16
        >>> prefix_tokens(vit_tiny_patch2_16()), prefix_tokens(vit_tiny_patch2_16(reg_tokens=4))
        (1, 5)
    """
    count = _first_integer(model, "num_prefix_tokens")
    return sum(_token_parameters(model).values()) if count is None else count


def make_view(view: View, model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Make the function that turns a layer's output into one row of features for each image.

    The order of the features is whatever the memory has, for no measure depends on it: so activations in
    channels-last memory are not copied. The result may share memory with the tensor. Use it, or clone it, before
    the model goes on and perhaps changes the tensor in place.

    Args:
        view: See the module's table.
        model: The model whose layers it is for.

    Returns:
        A function (batch, ...) -> (batch, p). It raises ValueError, naming view and shape, for an output that has
        no such positions.

    Raises:
        ValueError: For an unknown view, or ``"cls"`` of a model that has no class token.

    Example:
        >>> from utilities.vit import vit_tiny_patch2_16
        >>> tokens = torch.randn(2, 65, 96)  # the class token and 64 patches
        >>> {view: make_view(view, vit_tiny_patch2_16())(tokens).shape[1] for view in ("flatten", "gap", "spatial")}
        {'flatten': 6240, 'gap': 96, 'spatial': 6144}
    """
    check_view(view)
    if callable(view):
        return lambda tensor: _applied(view, tensor)
    if view == "flatten":
        return _rows
    layout = _Layout(model)
    if view == "cls" and not _token_parameters(model).keys() & set(_CLASS_TOKENS):
        raise ValueError(f"view 'cls': {type(model).__name__} has no class token; take view='gap'")
    return lambda tensor: _rows(tensor) if tensor.ndim <= 2 else _rows(_selected(view, tensor, layout))


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """Flatten to (batch, p), features in the order of memory: of a dense tensor this is a view, whatever its layout."""
    order = sorted(range(1, tensor.ndim), key=tensor.stride, reverse=True)
    return as_real(tensor.permute(0, *order).flatten(1) if tensor.ndim > 1 else tensor[:, None])


def _applied(view: Callable[[torch.Tensor], torch.Tensor], tensor: torch.Tensor) -> torch.Tensor:
    """Apply a user's function and check that it left one row for each image."""
    result = view(tensor)
    rows = result.shape[0] if isinstance(result, torch.Tensor) and result.ndim else None
    if rows != len(tensor):
        came = tuple(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
        name = getattr(view, "__name__", type(view).__name__)
        raise ValueError(
            f"view {name} made {came} of an output of shape {tuple(tensor.shape)}; it should return a tensor with "
            f"{len(tensor)} rows, one for each image"
        )
    return _rows(result)


def _selected(view: str, tensor: torch.Tensor, layout: _Layout) -> torch.Tensor:
    """Take the positions that a named view asks for, or their mean."""
    if view == "spatial" and not layout.holds_tokens(tensor.shape):
        return tensor
    positions, prefix = layout.positions(view, tensor)
    count, where = positions.shape[1], f"an output of shape {tuple(tensor.shape)}"
    if view == "cls":
        if not prefix:
            raise ValueError(f"view 'cls': {where} holds no class token; leave this layer out or take view='gap'")
        return positions[:, 0]
    if view.startswith("token:"):
        index = int(view.partition(":")[2])
        if index >= count:
            raise ValueError(f"view {view!r}: {where} has {count} tokens, 0 to {count - 1}")
        return positions[:, index]
    if count <= prefix:
        raise ValueError(
            f"view {view!r}: {where} has no tokens but the model's {prefix} class and register tokens; leave this "
            "layer out or take view='flatten'"
        )
    spatial = positions[:, prefix:]
    return spatial.mean(1) if view == "gap" else spatial


def channels_last(model: nn.Module, shape: torch.Size) -> bool | None:
    """Tell maps (batch, H, W, C) of a model's layer from (batch, C, H, W), as `make_view` does.

    Args:
        model: The model the layer belongs to.
        shape: Of the layer's output, four sizes.

    Returns:
        None where it cannot be told.

    Example:
        >>> channels_last(nn.Conv2d(3, 8, 3), torch.Size([2, 8, 4, 6]))
        False
    """
    return _Layout(model)._channels_last(shape)


class _Layout:
    """Where a model's outputs have their positions and their width.

    Args:
        model: Any module.
    """

    def __init__(self, model: nn.Module) -> None:
        self.prefix = prefix_tokens(model)
        self.patches = _first_integer(model, "num_patches")
        self.nhwc = getattr(model, "output_fmt", None) == "NHWC"
        self.mixed = self.nhwc or any(isinstance(module, nn.LayerNorm) for module in model.modules())
        # Only a convolution whose windows do not overlap is a patch embedding: the stems of ResNets are none.
        stem = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
        embeds = stem is not None and stem.kernel_size == stem.stride and stem.kernel_size[0] > 1
        self.width = stem.out_channels if embeds else None

    def positions(self, view: str, tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Arrange (batch, ...) as (batch, positions, width, ...), and count the prefix tokens among the positions.

        A dense tensor is not copied.

        Raises:
            ValueError: If the tensor's dimensions are not known.
        """
        if self.holds_tokens(tensor.shape):
            tokens = tensor if tensor.ndim == 3 else tensor.transpose(1, 2)
            # Patches alone, before the class token is added, have no prefix.
            return tokens, 0 if tokens.shape[1] == self.patches else self.prefix
        channels_last = self._channels_last(tensor.shape)
        if channels_last is None:
            raise ValueError(
                f"view {view!r}: it is not known which dimensions of an output of shape {tuple(tensor.shape)} are "
                "positions; leave this layer out, or take view='flatten' or a function"
            )
        maps = tensor if channels_last else tensor.movedim(1, -1)
        return maps.flatten(1, -2), 0

    def _channels_last(self, shape: torch.Size) -> bool | None:
        """Tell maps (batch, H, W, C) from (batch, C, H, W); None where it cannot be told."""
        first, last = (self.width is not None and shape[i] % self.width == 0 for i in (1, -1))
        if len(shape) > 4:  # windows of maps
            return last or None
        if not self.mixed:
            return False
        if first == last:  # the images may be square
            first, last = shape[2] == shape[3], shape[1] == shape[2]
        if first == last:
            return self.nhwc or None
        return last

    def holds_tokens(self, shape: torch.Size) -> bool:
        """Tell tokens from maps: queries and keys (batch, heads, T, d) by T, or at another image size by heads x d."""
        if len(shape) != 4:
            return len(shape) == 3
        if self.patches is not None and shape[2] in (self.patches, self.patches + self.prefix):
            return True
        return self.width is not None and max(shape[1], shape[3]) < self.width == shape[1] * shape[3]


def _first_integer(model: nn.Module, name: str) -> int | None:
    """Find an attribute of the model, or of what it is wrapped around."""
    values = (getattr(module, name, None) for module in model.modules())
    return next((value for value in values if isinstance(value, int)), None)


def _token_parameters(model: nn.Module) -> dict[str, int]:
    """Count the tokens in each parameter that holds prefix tokens: (D,), (n, D) or (1, n, D)."""
    found = {}
    for name, parameter in model.named_parameters():
        kind = name.rpartition(".")[2]
        if kind in _PREFIX_TOKENS:
            found.setdefault(kind, parameter.shape[-2] if parameter.ndim > 1 else 1)
    return found
