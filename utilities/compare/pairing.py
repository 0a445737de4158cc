"""Check, as far as possible, whether two loaders serve the same images in the same order.

A comparison with two loaders pairs image i of one with image i of the other. Loaders of two data sets have no common
order that could be checked, unless they are seen to serve the same images. Within one data set, the samplers decide if
they are deterministic; otherwise what comes with the images does: labels, paths, numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from utilities.compare.orders import Drawn, alike, changes, order_of, placed, same_images, source_of
from utilities.compare.witnesses import PIXELS, Witnesses, fingerprints
from utilities.hooks.calls.batch_parts import place_of_images, split_batch
from utilities.hooks.calls.labels import as_labels
from utilities.hooks.calls.nested import tensors_in

NAME_KEYS = ("id", "ids", "image_id", "index", "indices", "idx", "path", "paths", "file", "filename", "name")
REMEDY = (
    "give both the same order, by utilities.datasets.make_loader, which shuffles once, by a seed, or by shuffle=False"
)


@dataclass(frozen=True)
class Pairing:
    """What is known of the orders of two loaders before they are read.

    Attributes:
        open: Whether both serve one data set, and their orders are not known: what comes with the images will tell.
        warned: Whether a warning has said that images may not meet their partners.
        silent: Kinds of facts that tell nothing of the order; None of a single loader, where there is none to tell.
    """

    open: bool = False
    warned: bool = False
    silent: tuple[str, ...] | None = None


def check_pairing(loader: Any, loader2: Any) -> Pairing:
    """Refuse two loaders that certainly serve one data set in two orders; warn of two that shuffle.

    Raises:
        ValueError: If the orders certainly differ; the message names the remedy.

    Example:
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> check_pairing(DataLoader(range(5)), DataLoader(range(5), sampler=[4, 3, 2, 1, 0])).open
        False
        >>> data = TensorDataset(torch.arange(5))
        >>> check_pairing(DataLoader(data), DataLoader(data, sampler=[0, 2, 1, 3, 4]))
        Traceback (most recent call last):
        ValueError: both loaders serve one data set, but in two orders: image 1 is number 1 of it in one and number 2...
    """
    by_ids = any(getattr(getattr(one, "dataset", None), "paired_by_ids", False) for one in (loader, loader2))
    if loader2 is None or by_ids:
        return Pairing()
    if loader is loader2 and changes(loader):
        raise ValueError(
            f"one {type(loader).__name__} cannot serve both models, since it gives other images each time it is read: "
            "leave loader2 out, and both get the same batches"
        )
    if isinstance(loader, (list, tuple)) and isinstance(loader2, (list, tuple)):
        _check_lists(loader, loader2)
        return Pairing(silent=(PIXELS,))  # in the user's order
    if not hasattr(loader, "dataset") or not hasattr(loader2, "dataset"):
        return Pairing(silent=())
    (base1, places1, sure1), (base2, places2, sure2) = (source_of(one.dataset) for one in (loader, loader2))
    both_tensors = isinstance(base1, TensorDataset) and isinstance(base2, TensorDataset)
    silent = ("label",) if both_tensors else ()  # they differ in their tensors, so labels tell nothing
    orders = placed(order_of(loader), places1), placed(order_of(loader2), places2)
    drawn = [order for order in orders if isinstance(order, Drawn)]
    if len(drawn) == 2 and drawn[0].repeats(drawn[1]):
        return Pairing(silent=silent)
    same = same_images(base1, base2)
    if len(drawn) == 2 and base1 is not base2:
        warnings.warn(
            "both loaders shuffle, each by itself: image i of one is not the partner of image i of the other; use "
            "utilities.datasets.make_loader, which shuffles once, by a seed",
            stacklevel=4,
        )
        return Pairing(same, warned=True, silent=silent)
    if same:
        return Pairing(_compare_orders(*orders, sure1 and sure2), silent=silent)
    alike_in_two_orders = hasattr(base1, "__dict__") and alike(base1, base2) and _differ(*orders, type(base1).__name__)
    return Pairing(warned=alike_in_two_orders, silent=silent)


def _differ(order1: Any, order2: Any, name: str) -> bool:
    """Warn of two orders of what is probably one data set."""
    try:
        _compare_orders(order1, order2, sure=True)
    except ValueError as error:
        warnings.warn(f"two {name} with equal attributes are probably one data set; then {error}", stacklevel=5)
        return True
    return False


def _compare_orders(order1: Any, order2: Any, sure: bool) -> bool:
    """Compare two orders of one data set; return whether it stays open that they are the same."""
    if order1 is None or order2 is None:
        return True
    drawn = [isinstance(order, Drawn) for order in (order1, order2)]
    images = [order.images if isinstance(order, Drawn) else order for order in (order1, order2)]
    n = min(map(len, images))
    differing = np.flatnonzero(images[0][:n] != images[1][:n])
    if not len(differing) and not any(drawn):
        return False
    if not np.isin(*images).any():
        return False  # two parts of it, such as training and validation images
    if any(drawn):
        how = "each shuffles by itself" if all(drawn) else "one shuffles and the other does not"
        raise ValueError(f"both loaders serve one data set, but {how}, so that no image meets its partner: {REMEDY}")
    if sure:
        first = differing[0]
        raise ValueError(
            f"both loaders serve one data set, but in two orders: image {first} is number {images[0][first]} of it in "
            f"one and number {images[1][first]} in the other: {REMEDY}"
        )
    return True


def _check_lists(batches1: Any, batches2: Any) -> None:
    """Refuse lists of the same batches in two orders."""
    keys1, keys2 = ([_memory(batch) for batch in batches] for batches in (batches1, batches2))
    there = set(keys2) - {None}
    for index, (one, two) in enumerate(zip(keys1, keys2, strict=False)):
        if one != two and one in there:
            raise ValueError(
                f"both lists hold the same batches, but in two orders: batch {index} of one is number "
                f"{keys2.index(one)} of the other; sort them alike"
            )


def _memory(batch: Any) -> tuple[Any, ...] | None:
    tensor = next((t for t in tensors_in(batch) if t.numel() and t.device.type != "meta"), None)
    return None if tensor is None else (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.device)


class Partners:
    """Watch whether paired batches hold the same images, where the samplers leave it open.

    Example:
        >>> watch = Partners(Pairing(open=True))
        >>> watch.see(0, {"images": torch.zeros(1, 3), "id": ["a"]}, {"images": torch.zeros(1, 3), "id": ["b"]})
        Traceback (most recent call last):
        ValueError: both loaders serve one data set, but in two orders: image 0 of batch 0 has id a in one and b in...
    """

    def __init__(self, pairing: Pairing) -> None:
        self._pairing = pairing
        watched = pairing.silent is not None and not pairing.open and not pairing.warned
        self._witnesses = Witnesses(pairing.silent) if watched else None
        self._told = 0  # images whose labels or names agreed, in batches where these vary

    def see(self, index: int, batch1: Any, batch2: Any) -> None:
        """Look at two paired batches.

        Raises:
            ValueError: If labels or names show that they hold different images.
        """
        if self._witnesses is not None:
            self._witnesses.add(*(self._all_facts(batch) for batch in (batch1, batch2)))
        if not self._pairing.open:
            return
        facts1, facts2 = _facts(batch1), _facts(batch2)
        for what in facts1.keys() & facts2.keys():
            values = list(zip(facts1[what], facts2[what], strict=False))
            if (differing := _first_difference(values)) is not None:
                wrong, one, two = differing
                raise ValueError(
                    f"both loaders serve one data set, but in two orders: image {wrong} of batch {index} has {what} "
                    f"{one} in one and {two} in the other: {REMEDY}"
                )
            self._told += len(values) if len(set(values)) > 1 else 0

    def _all_facts(self, batch: Any) -> dict[str, list[Any]]:
        facts = _facts(batch)
        return facts if PIXELS in self._pairing.silent else facts | {PIXELS: fingerprints(_split(batch)[0])}

    def end(self) -> None:
        """Warn if nothing showed whether the images were the same, or if they were, but in another order."""
        what = None if self._witnesses is None else self._witnesses.telling()
        if what is not None:
            said = "images" if what == PIXELS else f"images by their {what}s"
            warnings.warn(
                f"both loaders serve the same {said}, but in two orders, so that no image meets its partner and the "
                f"similarity means nothing: {REMEDY}",
                stacklevel=4,
            )
        if self._pairing.open and not self._told and not self._pairing.warned:
            warnings.warn(
                "both loaders serve one data set, and neither their samplers nor labels tell whether in the same "
                f"order; if not, the similarity means nothing: {REMEDY}",
                stacklevel=4,
            )


def check_same_labels(index: int, batch1: Any, batch2: Any) -> None:
    """Refuse two paired batches with labels that differ; without labels in both there is nothing to tell.

    Raises:
        ValueError: If they do; the message names the batch, and the first such image.

    Example:
        >>> images = torch.zeros(2, 3, 8, 8)
        >>> check_same_labels(4, (images, torch.tensor([0, 1])), (images, torch.tensor([0, 2])))
        Traceback (most recent call last):
        ValueError: the labels of batch 4 differ between both loaders, which should serve the same images: image 1 ...
    """
    labels1, labels2 = (None if labels is None else as_labels(labels) for _, labels in map(_split, (batch1, batch2)))
    if labels1 is None or labels2 is None:
        return
    values = list(zip(labels1.tolist(), labels2.tolist(), strict=False))
    if (differing := _first_difference(values)) is not None:
        wrong, one, two = differing
        raise ValueError(
            f"the labels of batch {index} differ between both loaders, which should serve the same images: image "
            f"{wrong} has {one} in one and {two} in the other; {REMEDY}"
        )


def _first_difference(values: list[tuple[Any, Any]]) -> tuple[int, Any, Any] | None:
    """Return the place and both sides of the first pair that differs, or None."""
    return next(((place, one, two) for place, (one, two) in enumerate(values) if one != two), None)


def _facts(batch: Any) -> dict[str, list[Any]]:
    """Return labels, numbers and names that come with a batch's images."""
    images, labels = _split(batch)
    parts = {"label": labels}
    if isinstance(batch, Mapping):
        parts |= {key: batch[key] for key in NAME_KEYS if key in batch}
    elif isinstance(batch, (tuple, list)) and images is not None:
        names = [part for part in batch if _are_names(part)]
        numbers = [part for part in batch[: place_of_images(batch)] if isinstance(part, torch.Tensor)]
        parts |= {"name": next(iter(names), None), "number": next(iter(numbers), None)}
    found = {}
    for what, values in parts.items():
        if isinstance(values, torch.Tensor) and not values.is_floating_point() and values.ndim == 1:
            values = values.tolist()
        if isinstance(values, (list, tuple)) and values and isinstance(values[0], (str, int)):
            found[what] = list(values)
    return found


def names_of(batch: Any) -> list[str] | None:
    """Return the names or numbers of images that come with a batch, or None where there are none.

    Example:
        >>> names_of({"images": torch.zeros(2, 3, 8, 8), "label": torch.zeros(2).long(), "path": ["a.png", "b.png"]})
        ['a.png', 'b.png']
    """
    found = (values for what, values in _facts(batch).items() if what != "label")
    return next(([str(one) for one in values] for values in found), None)


def _split(batch: Any) -> tuple[Any, Any]:
    """Return images and labels; neither if the batch has another structure, whose faults are reported elsewhere."""
    try:
        return split_batch(batch)
    except (TypeError, ValueError):
        return None, None


def _are_names(part: Any) -> bool:
    return isinstance(part, (tuple, list)) and bool(part) and all(isinstance(name, str) for name in part)
