"""State which images a result rests on, and where their number is larger than that of independent pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utilities.results.formatting import counted

# Data sets, by name, of which several images show the same thing. Standard errors take images as independent.
ALIKE = {
    "photos": "crops of ten pictures: errors are too small",
    "canvas": "digits occur twice: errors are a little too small",
}


def alike(facts: Mapping[str, Any]) -> str:
    """State in which way the images of a data set are not independent; empty where nothing is known of that.

    Args:
        facts: Provenance of a result.

    Example:
        >>> alike({"dataset": "photos (test)"}), alike({"dataset": "folder:photos (test)"})
        ('crops of ten pictures: errors are too small', '')
    """
    return ALIKE.get(str(facts.get("dataset") or "").partition(" (")[0], "")


def dataset_name(facts: Mapping[str, Any]) -> str:
    """Name a data set as figures do: a folder by its name alone.

    Args:
        facts: Provenance of a result.

    Example:
        >>> dataset_name({"dataset": "folder:CIFAR-10 (JPEG) (test)"})
        'CIFAR-10 (JPEG) (test)'
    """
    return str(facts.get("dataset") or "").removeprefix("folder:")


def describe_images(facts: Mapping[str, Any], count: int | None, lead: str = "n = ") -> str:
    """State a data set, how its images were mixed, and their number, as far as known, and whether they are independent.

    Args:
        facts: Provenance of a result.
        count: Number of images.
        lead: What stands before the number.

    Example:
        >>> describe_images({"dataset": "digits (test)"}, 1540)
        'digits (test), n = 1,540 images'
        >>> describe_images({}, 1)
        'n = 1 image'
        >>> describe_images({"dataset": "digits (train)", "mix": "mixup 0.8"}, 9)
        'digits (train), mixup 0.8, n = 9 images'
        >>> describe_images({"dataset": "photos (test)"}, 96, "")
        'photos (test), 96 images (crops of ten pictures: errors are too small)'
    """
    known = [dataset_name(facts), facts.get("mix"), None if count is None else f"{lead}{counted(count, 'image')}"]
    note = alike(facts)
    return ", ".join(part for part in known if part) + (f" ({note})" if note else "")
