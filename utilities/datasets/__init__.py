"""Images by name: one word gives a labelled data set, cut into train, validation and test once and for all.

`factory` finds it, `folders` reads images of one's own, `loaders` serves batches, `corruptions` spoils them on purpose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utilities import hand_on

if TYPE_CHECKING:
    from utilities.datasets.factory import load_dataset
    from utilities.datasets.loaders import make_loader

__all__ = ["load_dataset", "make_loader"]
__getattr__ = hand_on(__name__, {"factory": ["load_dataset"], "loaders": ["make_loader"]})
