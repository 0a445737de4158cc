"""State which classes a checkpoint was trained on, and whether they are those of the images at hand."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from utilities.hooks.calls.labels import refuse_no_classifier

if TYPE_CHECKING:
    from utilities.datasets.images import ImageDataset


@dataclass(frozen=True)
class TrainedOn:
    """State what a checkpoint records about the images it was trained on.

    Attributes:
        path: The file.
        classes: Names of the classes in the order of the labels, or None where the file does not state them.
        num_classes: Number of classes, or None where the file has no classifier.
    """

    path: Path
    classes: tuple[str, ...] | None
    num_classes: int | None

    @classmethod
    def of(cls, content: Mapping[str, Any], path: Path, num_classes: int | None) -> TrainedOn:
        """Read the facts from a checkpoint: ``classes`` or ``class_names``, a list, or torchvision's ``class_to_idx``.

        Example:
            >>> TrainedOn.of({"class_to_idx": {"dog": 1, "cat": 0}}, Path("a.pth"), 2).classes
            ('cat', 'dog')
        """
        found = next((content[key] for key in ("classes", "class_names", "class_to_idx") if key in content), None)
        if isinstance(found, Mapping) and all(isinstance(value, int) for value in found.values()):
            found = sorted(found, key=found.get)
        known = isinstance(found, (list, tuple)) and found and all(isinstance(name, str) for name in found)
        return cls(path, tuple(found) if known else None, num_classes)


def difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """Describe how two lists of classes differ; return an empty string if they do not.

    Args:
        ours: Classes of the images at hand.
        theirs: Classes of the checkpoint.

    Example:
        >>> difference(["cat", "dog"], ["ant", "dog"])
        'its classes are ant, dog, not cat, dog'
        >>> difference(["cat", "dog"], ["dog", "cat"])
        'its classes are in another order: dog, cat, not cat, dog'
    """
    if list(ours) == list(theirs):
        return ""
    place = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), 0)
    shown = [_shown(names, max(0, min(place, len(names) - 4))) for names in (theirs, ours)]
    order = "in another order: " if sorted(ours) == sorted(theirs) else ""
    counts = f" ({len(theirs)} and {len(ours)})" if len(ours) != len(theirs) else ""
    return f"its classes are {order}{shown[0]}, not {shown[1]}{counts}"


def _shown(names: Sequence[str], first: int) -> str:
    """Name four classes, starting at the first that differs."""
    rest = ["..."] if len(names) > first + 4 else []
    return ", ".join([*(["..."] if first else []), *names[first : first + 4], *rest])


def other_classes(model: nn.Module, data: ImageDataset) -> str:
    """Explain why a model from a checkpoint has no accuracy on a data set; return an empty string if it has one.

    If the checkpoint does not name its classes, a warning says so, and the number of classes decides.

    Args:
        model: A model from `utilities.zoo.create_model`; for others nothing is known, and the result is empty.
        data: Data set with ``classes``.

    Example:
        >>> other_classes(nn.Identity(), None)
        ''
    """
    known: TrainedOn | None = getattr(model, "trained_on", None)
    if known is None:
        return ""
    fault = ""
    if known.classes is not None:
        fault = difference(data.classes, known.classes)
    elif known.num_classes is not None and known.num_classes != data.num_classes:
        fault = f"it has {known.num_classes} classes, not {data.num_classes}"
    else:
        warnings.warn(
            f"{known.path} does not name its classes; they are taken for those of {data.name}, in their order",
            stacklevel=3,
        )
    return f"{known.path} was not trained on the classes of {data.name}: {fault}" if fault else ""


def refuse_other_classes(model: nn.Module, data: ImageDataset) -> None:
    """Refuse to measure the accuracy of a model without a classifier, or on classes that it was not trained on.

    Raises:
        ValueError: If there is no classifier, or the classes differ; the message names them and the file.
    """
    refuse_no_classifier(model)
    fault = other_classes(model, data)
    if fault:
        raise ValueError(
            f"{fault}; name the data it was trained on (a folder: with the order of its classes) or another checkpoint"
        )
