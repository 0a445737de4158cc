"""Tell which axes of a model's outputs hold positions and channels, by layer kind, given layout or surroundings."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from utilities.hooks.calls.weights import check_module
from utilities.hooks.kinds import channel_axis_of, declared_width, is_convolution, layers_in, told_by

CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
STATED = ("prefix", "patches", "width")  # what `Layout` reads off a model as a whole
_PREFIX_TOKENS = (*CLASS_TOKENS, "distillation_token", "dist_token", "register_tokens", "reg_token")


def prefix_tokens(model: nn.Module) -> int:
    """Count the tokens that a transformer puts before those of its patches: class, distillation, registers.

    timm states the number (``num_prefix_tokens``). For models of torchvision and Hugging Face, parameters of known
    names are counted.

    Args:
        model: Any module; the count is 0 for a CNN.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> prefix_tokens(vit_tiny_patch2_16()), prefix_tokens(vit_tiny_patch2_16(reg_tokens=4))
        (1, 5)
    """
    count = _first_integer(model, "num_prefix_tokens")
    return sum(_token_parameters(model).values()) if count is None else count


def has_class_token(model: nn.Module) -> bool:
    """Tell whether a transformer has a class token, by the names of its parameters.

    Example:
        >>> has_class_token(nn.Linear(1, 1))
        False
    """
    return bool(_token_parameters(model).keys() & set(CLASS_TOKENS))


class Layout:
    """Tell which axes of a model's outputs hold positions and which hold channels.

    The kind of a torch layer tells it, also for activations that follow the layer in an ``nn.Sequential``. Where the
    kind is silent, a given layout decides. Without one, it depends on the number of dimensions:

    - Three dimensions are (batch, positions, width) in models without 1-D convolutions.
    - In models with 1-D convolutions, and for five dimensions in models with 3-D ones, the channel axis is the one
      whose size is a width of the surrounding layers. Channels come second if all layers are convolutions.
    - With four dimensions, the width comes second or, in models with layer norms, perhaps last. It is the size that
      is a multiple of the patch embedding's, or that differs from two equal ones. Where that leaves both, timm's
      ``output_fmt`` decides.

    Args:
        model: Any module.
        letters: Axes such as ``"NCL"``, for outputs with as many dimensions whose layer's kind does not tell them.

    Example:
        >>> layout = Layout(nn.Sequential(nn.Conv1d(3, 8, 1), nn.ReLU()))
        >>> layout.channel_axis(torch.Size([2, 8, 20]))
        1
    """

    def __init__(self, model: nn.Module, letters: str | None = None) -> None:
        self.model, self.letters = model, letters
        self._said = letters is None  # whether it was reported that a layer's kind overrules the letters
        self.prefix = prefix_tokens(model)
        self.patches = _first_integer(model, "num_patches")
        self.nhwc = getattr(model, "output_fmt", None) == "NHWC"
        self.mixed = self.nhwc or any(isinstance(module, nn.LayerNorm) for module in model.modules())
        # Only a convolution whose windows do not overlap is a patch embedding: a ResNet's stem is not.
        stem = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
        embeds = stem is not None and stem.kernel_size == stem.stride and stem.kernel_size[0] > 1
        self.width = stem.out_channels if embeds else None
        self._teller = told_by(model)
        self._parent = {child: module for module in model.modules() for child in module.children()}
        self._known: dict[tuple[nn.Module | None, torch.Size], int | None] = {}

    @property
    def class_token(self) -> bool:
        """Whether the model has a class token."""
        return has_class_token(self.model)

    def facts(self) -> dict[str, Any]:
        """Return what the model as a whole tells, from which `StatedLayout` makes the same layout without it."""
        return {"class_token": self.class_token, **{name: getattr(self, name) for name in STATED}}

    def facts_of(self, shape: torch.Size, module: nn.Module) -> dict[str, Any]:
        """Return what is told about the axes of one layer's output, likewise."""
        if len(shape) < 3:
            return {"kind_axis": None, "model_axis": None, "teller": None}
        teller, axis = self._told(shape, module)
        teller = None if teller is None else type(teller).__name__
        return {"kind_axis": axis, "model_axis": self._by_model(shape, module), "teller": teller}

    def positions(self, tensor: torch.Tensor, module: nn.Module | None) -> tuple[torch.Tensor, int] | None:
        """Arrange (batch, ...) as (batch, positions, width, ...), and count the prefix tokens among the positions.

        A dense tensor is not copied.

        Returns:
            The arranged tensor and the count, or None if the tensor's dimensions are not known.
        """
        if self.holds_tokens(tensor.shape, module):
            tokens = tensor if tensor.ndim == 3 else tensor.transpose(1, 2)
            # Before the class token is added, patches have no prefix.
            return tokens, 0 if tokens.shape[1] == self.patches else self.prefix
        axis = self.channel_axis(tensor.shape, module)
        return None if axis is None else (tensor.movedim(axis, -1).flatten(1, -2), 0)

    def holds_tokens(self, shape: torch.Size, module: nn.Module | None = None) -> bool | None:
        """Tell tokens from maps; queries and keys (batch, heads, T, d) by T, or at other image sizes by heads x d.

        Returns:
            True or False, or None for an output of three dimensions if it cannot be told.
        """
        if len(shape) != 4:
            axis = self.channel_axis(shape, module) if len(shape) == 3 else 1
            return None if axis is None else axis == 2
        if self._by_kind(shape, module) not in (None, 3) or self._by_letters(shape) is not None:
            return False
        if self.patches is not None and shape[2] in (self.patches, self.patches + self.prefix):
            return True
        return self.width is not None and max(shape[1], shape[3]) < self.width == shape[1] * shape[3]

    def channel_axis(self, shape: torch.Size, module: nn.Module | None = None) -> int | None:
        """Return the axis that holds the channels of a layer's output of three or more dimensions.

        Args:
            shape: Shape of the output.
            module: The layer, where it is known.

        Returns:
            The axis, or None where it cannot be told.
        """
        key = module, shape[1:]
        if key not in self._known:
            ways = (self._by_kind(shape, module), self._by_letters(shape))
            told = next((axis for axis in ways if axis is not None), None)
            self._known[key] = self._by_model(shape, module) if told is None else told
        return self._known[key]

    def say_if_overruled(self, view: str, shape: torch.Size, module: nn.Module | None) -> None:
        """Warn, once, that the letters do not apply to an output, since its layer's kind says another axis."""
        asked = None if self._said else self._by_letters(shape)
        if asked is None or self._by_kind(shape, module) in (None, asked):
            return
        self._said = True
        teller, axis = self._told(shape, module)
        kind = teller if isinstance(teller, str) else type(teller).__name__
        axes = tuple(i for i in range(1, len(shape)) if i != asked)
        warnings.warn(
            f"view '{view}:{self.letters}': axis {axis} of an output of shape {tuple(shape)} is taken for the "
            f"channels, and not axis {asked}, since a {kind} tells it; letters hold where the kind "
            "of a layer is silent. If they are right for this layer, give a function: "
            f"view=lambda output: output.mean({axes})",
            stacklevel=3,
        )

    def _told(self, shape: torch.Size, module: nn.Module | None) -> tuple[nn.Module | str | None, int | None]:
        """Return the layer whose kind tells the axis of an output's channels, and the axis."""
        tellers = [one for one in (module, self._teller.get(module)) if one is not None]
        found = ((one, axis) for one in tellers if (axis := channel_axis_of(one, shape)) is not None)
        return next(found, (None, None))

    def _by_kind(self, shape: torch.Size, module: nn.Module | None) -> int | None:
        axis = self._told(shape, module)[1]
        return None if axis == 3 and self.prefix else axis  # among (batch, heads, T, d) there may be prefix tokens

    def _by_letters(self, shape: torch.Size) -> int | None:
        return self.letters.index("C") if self.letters and len(self.letters) == len(shape) else None

    def _by_model(self, shape: torch.Size, module: nn.Module | None) -> int | None:
        last, dimensions = len(shape) - 1, len(shape) - 2
        if dimensions != 2 and any(is_convolution(one, dimensions) for one in self.model.modules()):
            return self._by_surroundings(shape, module)
        if len(shape) == 3:
            return last
        channels_last = self._channels_last(shape)
        return None if channels_last is None else last if channels_last else 1

    def _channels_last(self, shape: torch.Size) -> bool | None:
        """Tell whether maps are (batch, H, W, C) rather than (batch, C, H, W); None where it cannot be told."""
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

    def _by_surroundings(self, shape: torch.Size, module: nn.Module | None) -> int | None:
        """Compare sizes with the widths of the layers in the module, failing that in the one around it, and so on."""
        last, dimensions = len(shape) - 1, len(shape) - 2
        if last == 2 and self.patches is not None and shape[1] in (self.patches, self.patches + self.prefix):
            return last
        plain = self._is_convnet(dimensions)
        if 1 in (shape[1], shape[last]) and not plain:
            return last if shape[1] == 1 else 1
        around: nn.Module | None = module if module is not None else self.model
        while around is not None:
            widths = {declared_width(layer) for _, layer in layers_in(around, dimensions)}
            second, ending = shape[1] in widths, shape[last] in widths
            if plain and second:
                return 1
            if second or ending:
                return None if second == ending or plain else 1 if second else last
            around = self._parent.get(around)
        return 1 if plain else None

    def _is_convnet(self, dimensions: int) -> bool:
        """Tell whether a model consists of convolutions over so many axes, with at most linear layers beside them."""
        others = [one for one in (1, 2, 3) if one != dimensions]
        layers = layers_in(self.model, dimensions)
        return (
            not self.prefix
            and all(isinstance(layer, nn.Linear) for is_last, layer in layers if is_last)
            and not any(is_convolution(module, one) for module in self.model.modules() for one in others)
        )


class StatedLayout(Layout):
    """Tell axes by facts that `Layout` told of a model, for outputs that were kept without it.

    A layer is any module with ``facts``, those of `Layout.facts_of`.

    Args:
        facts: What `Layout.facts` returned.
        letters: See `Layout`.

    Example:
        >>> model = nn.Sequential(nn.Conv1d(3, 8, 1), nn.ReLU())
        >>> kept, shape = nn.Identity(), torch.Size([2, 8, 20])
        >>> kept.facts = Layout(model).facts_of(shape, model[1])
        >>> StatedLayout(Layout(model).facts()).channel_axis(shape, kept)
        1
    """

    class_token = False  # set for each

    def __init__(self, facts: Mapping[str, Any], letters: str | None = None) -> None:
        self.letters, self._said, self._known = letters, letters is None, {}
        for name in ("class_token", *STATED):
            setattr(self, name, facts[name])

    def _told(self, shape: torch.Size, module: nn.Module | None) -> tuple[nn.Module | str | None, int | None]:
        return module.facts["teller"], module.facts["kind_axis"]

    def _by_model(self, shape: torch.Size, module: nn.Module | None) -> int | None:
        return module.facts["model_axis"]


def layout_of(model: nn.Module, letters: str | None = None) -> Layout:
    """Make the layout of a model, or of features that were kept of one and state it: ``layout_facts``.

    Example:
        >>> type(layout_of(nn.Linear(1, 1))).__name__
        'Layout'
    """
    facts = getattr(model, "layout_facts", None)
    return Layout(model, letters) if facts is None else StatedLayout(facts, letters)


def _first_integer(model: nn.Module, name: str) -> int | None:
    """Find an integer attribute of the model, or of the model that it wraps."""
    check_module(model)
    values = (getattr(module, name, None) for module in model.modules())
    return next((value for value in values if isinstance(value, int)), None)


def _token_parameters(model: nn.Module) -> dict[str, int]:
    """Count the tokens in each parameter that holds prefix tokens: (D,), (n, D) or (1, n, D)."""
    check_module(model)
    found = {}
    for name, parameter in model.named_parameters():
        kind = name.rpartition(".")[2]
        if kind in _PREFIX_TOKENS:
            found.setdefault(kind, parameter.shape[-2] if parameter.ndim > 1 else 1)
    return found
