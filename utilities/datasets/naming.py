"""Name the set of images that a loader serves, for the provenance of results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# Containers, and classes of this package without a name of their own: what they hold is not known from them.
NAMELESS = ("builtins", "torch", "utilities", "datasets")
FOLDERS = ("ImageFolder", "DatasetFolder")  # torchvision's: two parts of their path tell more than their class


def known_facts(provenance: Mapping[str, Any] | None, *loaders: Iterable[Any] | None) -> dict[str, Any]:
    """Return the facts that a caller gives about a result, and before them the name of its images, if it is known.

    Args:
        provenance: The caller's facts, which take precedence, or None.
        *loaders: Loaders of the images; None stands for no loader. If the images of one are not known, none are named.

    Example:
        >>> from utilities.datasets import load_dataset, make_loader
        >>> loader = make_loader(load_dataset("digits", n_images=20), 10)
        >>> known_facts({"seed": 0}, loader)
        {'dataset': 'digits (test)', 'seed': 0}
        >>> known_facts({"dataset": "my digits"}, loader), known_facts(None, loader, [])
        ({'dataset': 'my digits'}, {})
    """
    names = [data_name(loader) for loader in loaders if loader is not None]
    known = {"dataset": " and ".join(dict.fromkeys(names))} if names and all(names) else {}
    return known | dict(provenance or {})


def data_name(loader: Any) -> str:
    """Name a loader's set of images and its split: by its ``name``, or by its class; empty where neither tells.

    Args:
        loader: Anything that yields batches. A ``Subset`` has the name of the set that it is part of.

    Example:
        >>> from torchvision.datasets import FakeData
        >>> from torch.utils.data import DataLoader, Subset
        >>> data_name(DataLoader(Subset(FakeData(), [0, 1]))), data_name([])
        ('FakeData', '')
    """
    data = getattr(loader, "dataset", None)
    while data is not None:
        if name := _own_name(data):
            parts = [_split(data), "augmented" if getattr(loader, "augment", None) else ""]
            text = ", ".join(part for part in parts if part)
            return f"{name} ({text})" if text else name
        data = getattr(data, "dataset", None)
    return ""


def _own_name(data: Any) -> str:
    name, kind = getattr(data, "name", None), type(data)
    if isinstance(name, str) and name:
        return name
    if kind.__module__.partition(".")[0] in NAMELESS:
        return ""
    if kind.__name__ in FOLDERS:
        return "folder:" + "/".join(Path(data.root).resolve().parts[1:][-2:])
    return kind.__name__


def _split(data: Any) -> str:
    """Return the split: ours is a ``part``, torchvision's a ``split``, or ``train``, which is true or false."""
    for split in (getattr(data, "part", None), getattr(data, "split", None)):
        if isinstance(split, str):
            return split
    train = getattr(data, "train", None)
    return ("train" if train else "test") if isinstance(train, bool) else ""
