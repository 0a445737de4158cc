"""Models by name: one word gives a model, its weights, its preprocessing and the layers worth comparing.

`factory` finds it, `checkpoints` reads files of weights, `own_models` calls a user's function, `families` tells what
it is.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from utilities.zoo.factory import create_model, list_models
    from utilities.zoo.families import family
    from utilities.zoo.inputs import input_options, preprocessing
    from utilities.zoo.layers import comparison_layers

__all__ = ["comparison_layers", "create_model", "family", "input_options", "list_models", "preprocessing"]
_HOMES = {
    "comparison_layers": "layers",
    "create_model": "factory",
    "family": "families",
    "input_options": "inputs",
    "list_models": "factory",
    "preprocessing": "inputs",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for, because timm and torchvision take seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
