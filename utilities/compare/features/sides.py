"""Kept features on one side or both of a comparison: opened, paired image by image, and stated in its provenance."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from utilities.compare.features.folder import KeptFeatures, open_features
from utilities.compare.features.rows import is_rows, refuse_other_images, rows_like
from utilities.compare.options import ComparisonOptions

Pairs = Sequence[tuple[nn.Module, nn.Module]]


def opened(*sides: Any) -> list[Any]:
    """Open the sides that are folders of kept features; one folder on both sides becomes one object.

    Example:
        >>> opened(nn.Identity(), [nn.Identity()])
        [Identity(), [Identity()]]
    """
    known: dict[Path, KeptFeatures] = {}
    found = []
    for side in sides:
        if isinstance(side, (str, Path)):
            place = Path(side).resolve()
            if place not in known:
                known[place] = open_features(side)
            side = known[place]
        found.append(side)
    return found


def with_rows(
    pairs: Pairs, loader: Iterable[Any] | None, loader2: Iterable[Any] | None, options: ComparisonOptions
) -> tuple[Any, Any]:
    """Return the loaders of both sides, in which kept features get the numbers of their rows in place of images.

    Args:
        pairs: Pairs of models or kept features.
        loader: Loader of images for the side that is a model, of rows where both are kept, or None.
        loader2: Loader of the second side's images, where both sides are models.
        options: What kept features cannot give is refused.

    Raises:
        ValueError: If kept features are of other images, or asked for what needs images.
        TypeError: If a model has no loader.
    """
    one, two = pairs[0]
    kept = [isinstance(side, KeptFeatures) for side in (one, two)]
    if not any(isinstance(side, KeptFeatures) for pair in pairs for side in pair):
        if loader is None:
            raise TypeError("a loader of images is missing: only kept features go without, see save_features")
        return loader, loader2
    if len(pairs) > 1:
        raise ValueError("several models of one side are run, not kept: compare kept features one with one")
    if options.confounder is not None:
        raise ValueError("a confounder needs images, which kept features have no longer; compare the models themselves")
    if loader2 is not None:
        raise ValueError("kept features know their images: leave loader2 out, they are paired by the images' ids")
    if not all(kept):
        if loader is None or is_rows(loader):
            raise TypeError("one side is a model, so a loader of images is needed; kept features follow it")
        side = one if kept[0] else two
        rows = rows_like(loader, side.ids, str(side.path))
        count = sum(map(len, rows.batch_sampler))
        if count < len(side.ids):
            warnings.warn(
                f"the loader serves {count} of the {len(side.ids)} images kept in {side.path}; the others are left out",
                stacklevel=3,
            )
        return (rows, loader) if kept[0] else (loader, rows)
    if options.forward1 is not None or options.forward2 is not None or options.batch_axis is not None:
        raise ValueError("forward and batch_axis say how a model is run, and features were kept: leave them out")
    refuse_other_images(one.ids, two.ids, str(one.path), str(two.path))
    if loader is not None and not is_rows(loader):
        raise ValueError(
            "both sides were kept, so that no images are needed: leave the loader out, or take KeptFeatures.loader(64) "
            "for batches of another size"
        )
    loader = one.loader() if loader is None else loader
    return loader, None if one.ids == two.ids else rows_like(loader, two.ids, str(two.path))


def facts_of_kept(pairs: Pairs) -> dict[str, Any]:
    """State the models of kept features, their weights, their images and their files; nothing without such.

    Example:
        >>> facts_of_kept([(nn.Identity(), nn.Identity())])
        {}
    """
    one, two = pairs[0]
    sides = {"": one} if one is two else {"1": one, "2": two}
    kept = {k: side for k, side in sides.items() if isinstance(side, KeptFeatures)}
    facts: dict[str, Any] = {}
    for k, side in sides.items() if kept else ():
        own = side.provenance if k in kept else {"model": type(side).__name__}
        facts |= {f"{what}{k}": own[what] for what in ("model", "weights", "accuracy") if what in own}
        facts |= {f"features{k}": side.facts()} if k in kept else {}
    data = list(dict.fromkeys(side.provenance["dataset"] for side in kept.values() if "dataset" in side.provenance))
    return facts | ({"dataset": " and ".join(data)} if data else {})
