"""Images by name: one word gives a labelled data set, cut into train, validation and test once and for all.

`factory` finds it, `folders` reads images of one's own, `loaders` serves batches, `corruptions` spoils them on purpose.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from utilities.datasets.factory import load_dataset
    from utilities.datasets.loaders import make_loader

__all__ = ["load_dataset", "make_loader"]
_HOMES = {"load_dataset": "factory", "make_loader": "loaders"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for, because torchvision takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
