"""Choose which part of a layer's output represents an image: all of it, a mean, the class token or one position.

======================  ==========================================================================================
view                    for tokens (batch, T, D) or maps (batch, C, H, W); an output (batch, D) is used as it is
======================  ==========================================================================================
``"flatten"``           everything (Raghu et al. 2021, https://arxiv.org/abs/2108.08810)
``"gap"``               mean over positions, without class and register tokens
``"mean_all"``          mean over positions, class and register tokens included
``"cls"``               the class token; an error for maps
``"spatial"``           everything but class and register tokens
``"token:i"``           position i of the sequence, counting class and register tokens; for maps, in raster order
a function              whatever it returns for the tensor (batch, ...)
======================  ==========================================================================================

The kind of the layer tells which axis holds the channels. Failing that, the sizes of the layers around it do, or you
do: in ``"gap:NCL"``, letters after a colon name the axes. N is the batch, C the channels, and any of L, T, D, H and W
positions. The letters apply to outputs with as many dimensions, unless the layer's kind says otherwise. Convolutions,
for example, have their channels second whatever the letters say, and a warning says so. See
`utilities.hooks.layout.Layout`.
Queries and keys of a ViT (batch, heads, T, d) are tokens. Inside the attention of Swin, positions follow the order of
its windows.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import nn

from utilities.hooks.features import as_real
from utilities.hooks.layout import Layout, layout_of, prefix_tokens

__all__ = ["VIEWS", "View", "channels_last", "check_view", "make_view", "prefix_tokens"]

View = str | Callable[[torch.Tensor], torch.Tensor]

VIEWS = ("flatten", "gap", "cls", "spatial", "mean_all", "token:i")


def check_view(view: View) -> None:
    """Refuse an unknown view before anything is run.

    Raises:
        ValueError: For an unknown view; the message names the choices.

    Example:
        >>> check_view("mean")
        Traceback (most recent call last):
        ValueError: view 'mean' is not known; choose 'flatten', 'gap', 'cls', 'spatial', 'mean_all', 'token:i' (i = ...
    """
    if not callable(view) and _parts(view) is None:
        choices = ", ".join(map(repr, VIEWS))
        raise ValueError(
            f"view {view!r} is not known; choose {choices} (i = 0, 1, ...), all but the first perhaps with the axes of "
            "the outputs, as in 'gap:NCL', or a function of the (batch, ...) tensor"
        )


def _parts(view: object) -> tuple[str, str | None] | None:
    """Split a view into its kind and the letters of the axes; return None if it is no view."""
    match = re.fullmatch(
        r"(flatten|gap|cls|spatial|mean_all|token:[0-9]+)(?::(N[CLTDHW]+))?", view if type(view) is str else ""
    )
    if match is None:
        return None
    kind, letters = match.groups()
    wrong = letters and ("C" not in letters or len(set(letters)) < max(3, len(letters)) or kind == "flatten")
    return None if wrong else (kind, letters)


def make_view(view: View, model: nn.Module) -> Callable[..., torch.Tensor]:
    """Make the function that turns a layer's output into one row of features for each image.

    Features come in the order of memory, since no measure depends on their order: activations in channels-last memory
    are not copied. The result may share memory with the tensor. Use or clone it before the model goes on, since the
    model may change the tensor in place.

    Args:
        view: See the module's table.
        model: The model whose layers the function is for.

    Returns:
        A function that takes a layer's output (batch, ...), and optionally the layer, whose kind tells the axes. It
        returns (batch, p). It raises ValueError, naming view and shape, for an output without the view's positions.

    Raises:
        ValueError: For an unknown view, or ``"cls"`` with a model that has no class token.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> tokens = torch.randn(2, 65, 96)  # the class token and 64 patches
        >>> {view: make_view(view, vit_tiny_patch2_16())(tokens).shape[1] for view in ("flatten", "gap", "spatial")}
        {'flatten': 6240, 'gap': 96, 'spatial': 6144}
    """
    check_view(view)
    if callable(view):
        return lambda tensor, module=None: _applied(view, tensor)
    kind, letters = _parts(view)
    if kind == "flatten":
        return lambda tensor, module=None: _rows(tensor)
    layout = layout_of(model, letters)
    if kind == "cls" and not layout.class_token:
        raise ValueError(f"view 'cls': {type(model).__name__} has no class token; take view='gap'")

    def rows(tensor: torch.Tensor, module: nn.Module | None = None) -> torch.Tensor:
        return _rows(tensor if tensor.ndim <= 2 else _selected(kind, tensor, module, layout))

    return rows


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """Flatten to (batch, p), features in the order of memory; a dense tensor is not copied, whatever its layout."""
    order = sorted(range(1, tensor.ndim), key=tensor.stride, reverse=True)
    return as_real(tensor.permute(0, *order).flatten(1) if tensor.ndim > 1 else tensor[:, None])


def _applied(view: Callable[[torch.Tensor], torch.Tensor], tensor: torch.Tensor) -> torch.Tensor:
    """Apply a user's function and check that it returns one row for each image."""
    result = view(tensor.clone())  # the view must not change what the model goes on with
    rows = result.shape[0] if isinstance(result, torch.Tensor) and result.ndim else None
    if rows != len(tensor):
        came = tuple(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
        name = getattr(view, "__name__", type(view).__name__)
        raise ValueError(
            f"view {name} made {came} of an output of shape {tuple(tensor.shape)}; it should return a tensor with "
            f"{len(tensor)} rows, one for each image"
        )
    return _rows(result)


def _selected(view: str, tensor: torch.Tensor, module: nn.Module | None, layout: Layout) -> torch.Tensor:
    """Select the positions that a named view asks for, or their mean."""
    if view == "spatial" and (not layout.prefix or layout.holds_tokens(tensor.shape, module) is False):
        return tensor
    layout.say_if_overruled(view, tensor.shape, module)
    found = layout.positions(tensor, module)
    if found is None:
        names = {3: ("NCL", "NLC"), 4: ("NCHW", "NHWC")}.get(tensor.ndim, ("NCDHW", "NDHWC"))
        raise ValueError(
            f"view {view!r}: it is not known which dimensions of an output of shape {tuple(tensor.shape)} are "
            f"positions; say it, as in '{view}:{names[0]}' or '{view}:{names[1]}', leave this layer out, or take "
            "view='flatten' or a function"
        )
    positions, prefix = found
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
    if view == "mean_all":
        return _mean(positions)
    if count <= prefix:
        raise ValueError(
            f"view {view!r}: {where} has no tokens but the model's {prefix} class and register tokens; leave this "
            "layer out or take view='flatten'"
        )
    spatial = positions[:, prefix:]
    return spatial if view == "spatial" else _mean(spatial)


def _mean(positions: torch.Tensor) -> torch.Tensor:
    """Average over positions; whole numbers have no mean of their own type."""
    return (positions if positions.is_floating_point() or positions.is_complex() else positions.float()).mean(1)


def channels_last(model: nn.Module, shape: torch.Size, module: nn.Module | None = None) -> bool | None:
    """Tell whether a layer's maps are (batch, H, W, C) rather than (batch, C, H, W), as `make_view` does.

    Args:
        model: The model the layer belongs to.
        shape: Shape of the layer's output, four sizes.
        module: The layer.

    Returns:
        True or False, or None where it cannot be told.

    Example:
        >>> channels_last(nn.Conv2d(3, 8, 3), torch.Size([2, 8, 4, 6]))
        False
    """
    axis = Layout(model).channel_axis(shape, module)
    return None if axis is None else axis == 3
