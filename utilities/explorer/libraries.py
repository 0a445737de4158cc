"""Import what models need from one thread at a time.

The explorer has several: one fills its lists, one follows each command, and one answers clicks. Two threads that import
parts of torchvision or timm at the same time find half-made modules, for these libraries have circular imports. So all
come here first.
"""

from __future__ import annotations

import threading
from importlib import import_module

MODULES = (
    "torch",
    "torchvision",
    "timm",
    "matplotlib.pyplot",
    "utilities.zoo.factory",
    "utilities.compare.measures.table",
    "utilities.gallery.tables",
    "utilities.gallery.curves",
    "utilities.study.class_embedding",
    "utilities.explorer.token_lens",
)
_LOCK = threading.Lock()


def import_libraries() -> None:
    """Import the models' libraries, or wait until another thread has done so.

    Example:
        >>> import_libraries()
    """
    with _LOCK:
        for name in MODULES:
            import_module(name)
