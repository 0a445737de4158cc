"""Refuse options that a model's builder does not take, or cannot build with, in words that name option and model."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from timm.layers import PatchEmbed
from torch import nn

from utilities.hooks.calls.seeding import seeded_torch

# What `utilities.zoo.create_model` has arguments of its own for, or what a library keeps for itself.
_NOT_OPTIONS = {"num_classes", "pretrained", "weights", "progress", "device", "dtype"}
_UNKNOWN = re.compile(r"unexpected keyword argument '(\w+)'")
_REFUSALS = (AssertionError, AttributeError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)


@contextmanager
def naming_options(
    name: str, given: Mapping[str, Any], builder: Callable[..., nn.Module], remedy: str = ""
) -> Iterator[None]:
    """Turn what a builder raises about its options into an error that names them and the model.

    Args:
        name: The model, for the message.
        given: Options that the builder is called with.
        builder: The builder, for what it takes; called without options if its signature does not tell.
        remedy: End of the message where an option is known, but cannot be built with.

    Raises:
        TypeError: For an option that the builder does not know; the message lists those that it takes.
        ValueError: If it cannot build with the options.

    Example:
        >>> from utilities.resnet import resnet18
        >>> with naming_options("resnet18", {"in_chanels": 1}, resnet18):
        ...     resnet18(in_chanels=1)
        Traceback (most recent call last):
        TypeError: resnet18 has no option 'in_chanels'; close: in_channels; it takes ...
    """
    try:
        yield
    except _REFUSALS as error:
        if not given or isinstance(error, OSError):  # errors of huggingface_hub are both
            raise
        unknown = _UNKNOWN.search(str(error))
        if isinstance(error, TypeError) and unknown and unknown[1] in given:
            known = accepted_options(builder)
            close = difflib.get_close_matches(unknown[1], known, cutoff=0.5)
            hint = f"; close: {', '.join(close)}" if close else ""
            takes = f"; it takes {', '.join(known)}" if known else ""
            raise TypeError(f"{name} has no option {unknown[1]!r}{hint}{takes}") from error
        options = ", ".join(f"{key}={value!r}" for key, value in given.items())
        reason = str(error).strip().partition("\n")[0].rstrip(".:") or type(error).__name__
        raise ValueError(f"{name} cannot be built with {options}: {reason}{remedy}") from error


def accepted_options(builder: Callable[..., nn.Module]) -> list[str]:
    """List the options that a builder takes, and those of the class that it hands further options to.

    Example:
        >>> accepted_options(lambda depth=2, **options: nn.Linear(1, 1))
        ['depth', 'bias']
    """
    names, handed_on = _optional(builder)
    if handed_on:
        with suppress(Exception):  # the list only helps: a builder that needs options shows its own alone
            names += _optional(type(on_meta(builder)).__init__)[0]
    return [name for name in dict.fromkeys(names) if name not in _NOT_OPTIONS]


def on_meta(builder: Callable[..., nn.Module]) -> nn.Module:
    """Build a model without memory for its weights; on the CPU if its builder computes with them.

    Example:
        >>> on_meta(lambda: nn.Linear(1, 1)).weight.device.type
        'meta'
    """
    with seeded_torch(0):  # so that the generators go on as if nothing had been built
        try:
            with torch.device("meta"):
                return builder()
        except Exception:  # it may raise anything; on the CPU it raises it again
            return builder()


def _optional(function: Callable[..., Any]) -> tuple[list[str], bool]:
    """Name the parameters with a default, and tell whether any other keyword is taken too."""
    try:
        known = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):  # for a function in another language
        return [], False
    found = [one.name for one in known if one.default is not inspect.Parameter.empty]
    return found, any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known)


def check_image_size(name: str, model: nn.Module, size: Any) -> None:
    """Refuse an image size that the patches of a transformer do not divide, whose last pixels would be cut off.

    Args:
        name: The model, for the message.
        model: Built at any size. Models that pad their images, or have no patches, take all sizes.
        size: Pixels, of both sides or (height, width).

    Raises:
        ValueError: If a side is no number of pixels, or no multiple of the patches'; the message names the nearest.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> check_image_size("vit_tiny_patch2_16", vit_tiny_patch2_16(), 15)
        Traceback (most recent call last):
        ValueError: img_size=15 of vit_tiny_patch2_16 is no multiple of its patches of 2 pixels; the nearest: 14, 16
    """
    sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(sides) != 2 or any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides):
        raise ValueError(f"img_size={size!r} of {name} should be a number of pixels, such as 224, or (height, width)")
    for patches in (part for part in model.children() if isinstance(part, PatchEmbed) and not part.dynamic_img_pad):
        for side, patch in zip(sides, patches.patch_size, strict=True):
            if side % patch:
                near = [count * patch for count in (side // patch, side // patch + 1) if count]
                raise ValueError(
                    f"img_size={size!r} of {name} is no multiple of its patches of {patch} pixels; the nearest: "
                    f"{', '.join(map(str, near))}"
                )
