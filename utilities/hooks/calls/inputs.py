"""Explain in one sentence, with the remedy, what is wrong with images that a model cannot take.

Only running a model shows whether it takes some images: it may repeat channels, resize, or read numbers as words.
So only what no model takes is refused beforehand; errors of torch, timm, torchvision and transformers are translated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import nn

from utilities.hooks.calls.nested import tensors_in

CHANNELS = 1, 3, 4  # numbers for grey, colour and transparent images
SINGLE = "give a single image as images[None]"
FROM_BYTES = "divide 8-bit images by 255 and normalise them, as utilities.datasets.load_dataset does"


def check_images(images: Any, model: nn.Module | None = None) -> None:
    """Refuse images, or a model, that hold no values.

    Args:
        images: A tensor, or a whole batch of any structure.
        model: The model that is to take them.

    Raises:
        ValueError: If they hold no values; the message names the remedy.

    Example:
        >>> check_images(torch.zeros(2, 3, 8, 8, device="meta"))
        Traceback (most recent call last):
        ValueError: images are on the meta device, which keeps no values: load them outside `torch.device('meta')`
    """
    if any(tensor.is_meta for tensor in tensors_in(images)):
        raise ValueError(
            "images are on the meta device, which keeps no values: load them outside `torch.device('meta')`"
        )
    if model is not None:
        check_model(model)


def check_model(model: nn.Module) -> None:
    """Refuse a model on the meta device.

    Raises:
        ValueError: If it is; the message names the remedy.

    Example:
        >>> check_model(nn.Linear(2, 2, device="meta"))
        Traceback (most recent call last):
        ValueError: 'weight' of Linear has no values (meta device); load weights
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise ValueError(f"{name!r} of {type(model).__name__} has no values (meta device); load weights")


def check_gradients(what: str) -> None:
    """Refuse `torch.inference_mode` around code that needs gradients.

    Raises:
        ValueError: If it is in force; the message names the remedy.

    Example:
        >>> with torch.inference_mode():
        ...     check_gradients("importance")
        Traceback (most recent call last):
        ValueError: importance needs gradients, which torch.inference_mode switches off: call it outside
    """
    if torch.is_inference_mode_enabled():
        raise ValueError(f"{what} needs gradients, which torch.inference_mode switches off: call it outside")


@contextmanager
def explaining() -> Iterator[None]:
    """Turn a model's errors about its images into one sentence; without an error this costs nothing.

    Raises:
        ValueError: In place of an error that `explain` knows.

    Example:
        >>> with explaining():
        ...     nn.Conv2d(3, 4, 3)(torch.zeros(2, 1, 8, 8))
        Traceback (most recent call last):
        ValueError: images have 1 channel, 2x1x8x8, and Conv2d takes 3: repeat grey images, images.expand(-1, 3, -1, -1)
    """
    try:
        yield
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        sentence = explain(error)
        if sentence is None:
            raise
        raise ValueError(sentence) from error


def explain(error: Exception) -> str | None:
    """State in one sentence what was wrong with the images, or return None where that is not known.

    Args:
        error: The error as it was caught; its traceback tells which layer of which model got which images.
    """
    text = str(error)
    if "does not require grad" in text and torch.is_inference_mode_enabled():
        return "gradients are needed, which torch.inference_mode switches off: call this outside"
    if "nference tensor" in text:
        return (
            "what was made under torch.inference_mode can be neither changed nor differentiated: make model and "
            "images outside of it, or clone them"
        )
    call = _call_in(error.__traceback__)
    if call is None:
        return None
    if isinstance(error, TypeError):
        return _several_inputs(text, call)
    if "meta" in text and call.images.is_meta | any(p.is_meta for p in call.model.parameters()):
        return "a tensor on the meta device keeps no values: load images and weights outside `torch.device('meta')`"
    return next(filter(None, (rule(text, call) for rule in RULES)), None)


@dataclass(frozen=True)
class _Call:
    """Hold a model that ran on images, and the innermost of its layers that failed."""

    model: nn.Module
    images: torch.Tensor
    layer: nn.Module
    given: torch.Tensor | None

    @property
    def at_once(self) -> bool:
        """Tell whether the layer got the images unchanged."""
        return self.given is not None and self.given.shape[1:] == self.images.shape[1:]

    @property
    def taker(self) -> str:
        """Name the model, and the layer where it has a name."""
        names = [name for name, module in self.model.named_modules() if module is self.layer and name]
        return f"{type(self.model).__name__}'s {names[0]!r}" if names else type(self.model).__name__

    @property
    def size(self) -> str:
        """Describe the images' shape."""
        return _pixels(tuple(self.images.shape))


def _call_in(traceback: TracebackType | None) -> _Call | None:
    """Find the outermost and the innermost module that were running when an error was raised."""
    runs = []
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code is nn.Module._call_impl.__code__:
            given = (*frame.f_locals.get("args", ()), *frame.f_locals.get("kwargs", {}).values())
            runs.append((frame.f_locals["self"], next(tensors_in(given), None)))
        traceback = traceback.tb_next
    if not runs or runs[0][1] is None:
        return None
    return _Call(*runs[0], *runs[-1])


def _several_inputs(text: str, call: _Call) -> str | None:
    missing = re.search(r"forward\(\) missing \d+ required (?:positional|keyword-only) arguments?: (.+)", text)
    if missing is None:
        return None
    return (
        f"{type(call.layer).__name__} takes more than images, {missing[1]} too: say how it is run with a whole batch, "
        "forward=lambda model, batch: model(**batch)"
    )


def _wrong_type(text: str, call: _Call) -> str | None:
    weight = getattr(call.layer, "weight", None)
    if not isinstance(weight, torch.Tensor) or call.given is None or isinstance(call.layer, nn.Embedding):
        return None
    images, taken = (str(t.dtype).removeprefix("torch.") for t in (call.images, weight))
    if call.given.dtype != call.images.dtype or images == taken or not re.search("type|implemented for", text):
        return None
    what = f"images are {images}, and {call.taker} takes {taken}"
    if call.images.is_floating_point():
        return f"{what}: give images.to(torch.{taken})"
    return f"{what}: {FROM_BYTES}"


def _wrong_channels(text: str, call: _Call) -> str | None:
    found = re.search(
        r"to have (\d+) channels, but got|expected images of shape \(batch, (\d+), height, width\)|"
        r"channel dimension of the pixel values .* Expected (\d+) but got",
        text,
    )
    shape = call.images.shape
    if found is None or not call.at_once or len(shape) not in (3, 4, 5):
        return None
    taken, got = int(next(filter(None, found.groups()))), shape[1]
    if len(shape) == 3:
        return f"images have no axis of channels, {call.size}, and {call.taker} takes {taken} channels: {_batch(taken)}"
    if shape[-1] == taken:
        return channels_last(call.images, call.taker)
    remedy = f"give it images of {taken}, or make the model for {got} (in_chans of timm)"
    if got == 1:
        remedy = f"repeat grey images, images.expand(-1, {taken}, {', '.join(['-1'] * (len(shape) - 2))})"
    elif taken == 1:
        remedy = "average colours, images.mean(1, keepdim=True)"
    elif (got, taken) == (4, 3):
        remedy = "leave the transparency out, images[:, :3]"
    return f"images have {got} channel{'s' * (got > 1)}, {call.size}, and {call.taker} takes {taken}: {remedy}"


def _batch(channels: int) -> str:
    grey = "images[:, None]" if channels == 1 else f"images[:, None].expand(-1, {channels}, -1, -1)"
    return f"give grey images as {grey}, and a single image as images[None]"


def has_channels_last(images: torch.Tensor) -> bool:
    """Tell whether a batch seems to have its channels on the last axis.

    Example:
        >>> has_channels_last(torch.zeros(2, 8, 8, 3)), has_channels_last(torch.zeros(2, 3, 8, 8))
        (True, False)
    """
    return images.ndim == 4 and images.shape[-1] in CHANNELS and images.shape[1] not in CHANNELS


def channels_last(images: torch.Tensor, taker: str) -> str:
    """State that channels are on the last axis, where ``taker`` expects them first.

    Example:
        >>> channels_last(torch.zeros(2, 8, 8, 3), "Conv2d")
        'images have channels last, 2x8x8x3, and Conv2d takes them first: use images.permute(0, 3, 1, 2)'
    """
    size = _pixels(tuple(images.shape))
    return f"images have channels last, {size}, and {taker} takes them first: use images.permute(0, 3, 1, 2)"


def _wrong_axes(text: str, call: _Call) -> str | None:
    found = re.search(r"expected images of|xpected .*\dD .*input|not enough values to unpack", text)
    if found is None or not call.at_once:
        return None
    single = f": {SINGLE}" if call.images.ndim == 3 else ""
    return f"images are {call.size}, and {call.taker} takes (n, channels, height, width){single}"


def _wrong_size(text: str, call: _Call) -> str | None:
    if call.images.ndim != 4:
        return None
    stated = re.search(
        r"(doesn't match model|should be divisible by|Wrong image (height|width)|not divisible by)|must match the size",
        text,
    )
    if stated is None:
        return None
    if has_channels_last(call.images):
        return channels_last(call.images, call.taker)
    size, made_for = tuple(call.images.shape[-2:]), _made_for(call.model) or _made_for(call.layer)
    if made_for is None or made_for == size:
        return f"images are {_pixels(size)}, which {call.taker} cannot take: {text.rstrip('.')}" if stated[1] else None
    return (
        f"images are {_pixels(size)} pixels, and {type(call.model).__name__} takes {_pixels(made_for)}: load them with "
        f"image_size={made_for[0]}, or make the model for their size (img_size of timm)"
    )


def _pixels(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


def _made_for(model: nn.Module) -> tuple[int, int] | None:
    """Return the height and width that a model declares for its images."""
    patches = getattr(model, "patch_embed", None)
    places = [
        (owner, name)
        for owner in (model, patches, getattr(model, "config", None))
        for name in ("img_size", "image_size")
    ]
    size = next((getattr(owner, name) for owner, name in places if getattr(owner, name, None) is not None), None)
    if size is None:
        facts = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
        size = facts.get("input_size", (None,))[1:] if isinstance(facts, dict) else None
    size = (size, size) if isinstance(size, int) else size
    return tuple(size) if size is not None and len(size) == 2 else None


def _too_small(text: str, call: _Call) -> str | None:
    if not re.search(
        "Kernel size can't be greater than actual input|[Oo]utput size is too small|Padding size should be", text
    ):
        return None
    return f"images are {call.size}, which is too small for {call.taker}: load them in the size that it was made for"


def _other_features(text: str, call: _Call) -> str | None:
    if "shapes cannot be multiplied" not in text or not isinstance(call.layer, nn.Linear) or call.given is None:
        return None
    return (
        f"inputs are {call.size}, and {call.taker} gets {call.given.shape[-1]} features of them where it takes "
        f"{call.layer.in_features}: give them in the size that the model was made for"
    )


RULES: tuple[Callable[[str, _Call], str | None], ...] = (
    _wrong_type, _wrong_channels, _wrong_axes, _wrong_size, _too_small, _other_features,
)  # fmt: skip


def check_finite(images: torch.Tensor, what: str) -> None:
    """Refuse images that are no finite float tensor.

    Args:
        images: Images of a batch.
        what: What they are for, the beginning of the message.

    Raises:
        ValueError: If they are not; the message says what they hold.

    Example:
        >>> check_finite(torch.tensor([float("nan")]), "predictions")
        Traceback (most recent call last):
        ValueError: predictions: images should be finite float tensors, normalised; batch holds NaN or infinity
    """
    if not images.is_floating_point() or not images.isfinite().all():
        floats, dtype = images.is_floating_point(), str(images.dtype).removeprefix("torch.")
        kind = "NaN or infinity" if floats else f"{dtype}: {FROM_BYTES}"
        raise ValueError(f"{what}: images should be finite float tensors, normalised; batch holds {kind}")
