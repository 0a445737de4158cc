"""Decide by looking in which precision two models are compared: on the first images, in each one and exactly.

On a CPU with native bfloat16 a forward pass in it takes half the time or less. What that does to a similarity depends
on the models and the images: roundings are relative to a layer's values, and the similarity is one of their spread over
images, which may be small beside them. So it is measured, on images of the run and with its measure.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from utilities.compare.features.folder import KeptFeatures
from utilities.hooks.calls.batch_parts import first_images, images_in
from utilities.hooks.calls.evaluating import has_fast_bfloat16
from utilities.hooks.calls.processes import Processes
from utilities.hooks.calls.seeding import keeping_generators, seeded_torch

if TYPE_CHECKING:
    from utilities.compare.engine import Comparison
    from utilities.compare.paired_batches import Pair

CANDIDATES = ("half", "centred", "fast")  # the fastest first
LOOKED_AT = 32  # images
ROUNDING = 1e-6  # largest difference between sums in float32 and in float64
FEWEST = 1024  # images; a look that finds nothing takes as long as some 85 of them do exactly


@dataclass(frozen=True)
class Difference:
    """State how far a precision is from the exact similarity.

    Attributes:
        largest: Largest absolute difference over all pairs of layers; infinite where a layer has a value in one and
            none in the other, NaN where there is no value at all.
        layers: The pair of layers with the largest difference.
        by_layer: For each layer of both models, the largest difference of its pairs.
    """

    largest: float
    layers: tuple[str, str]
    by_layer: tuple[list[float], list[float]]

    @classmethod
    def between(cls, exact: pd.DataFrame, other: pd.DataFrame) -> Difference:
        """Compare two matrices with the names of their layers.

        Example:
            >>> nan = float("nan")
            >>> exact, other = (pd.DataFrame([row], ["a"], ["b", "c"]) for row in ([0.5, nan], [0.25, nan]))
            >>> Difference.between(exact, other)
            Difference(largest=0.25, layers=('a', 'b'), by_layer=([0.25], [0.25, nan]))
            >>> Difference.between(exact, exact.fillna(0.1)).largest
            inf
        """
        same = exact.index.equals(other.index) and exact.columns.equals(other.columns)
        before, now = exact.to_numpy(), other.to_numpy() if same else np.full(exact.shape, np.nan)
        gone = np.isnan(before)
        apart = np.where(gone != np.isnan(now), np.inf, np.where(gone, np.nan, np.abs(before - now)))
        known = np.where(np.isnan(apart), -1.0, apart)
        row, column = np.unravel_index(known.argmax(), known.shape)
        sides = [np.where(known.max(axis) < 0, np.nan, known.max(axis)).tolist() for axis in (1, 0)]
        return cls(float(apart[row, column]), (exact.index[row], exact.columns[column]), (sides[0], sides[1]))


class _Failed(Exception):
    """Tells that the similarity of a few images cannot be computed."""


def settled(comparison: Comparison, pairs: Iterable[Pair], batches: int | None, processes: Processes) -> Iterator[Pair]:
    """Decide the precision of a comparison that waits for it, and yield its batches, those looked at among them.

    The first process looks, at the first 32 images of its share, and all take its decision. Where that has been made
    before, by an earlier run or for earlier images, it holds.

    Args:
        comparison: The comparison; its sums keep the decision.
        pairs: Paired batches that this process is going to show it.
        batches: How many these are, or None where it is not known.
        processes: The processes that share the work.
    """
    pairs, held = iter(pairs), []
    if processes.rank == 0 and comparison.sums.decision is None:
        first = next(pairs, None)
        held = [] if first is None else [first]
        reason = _reason_not_to_look(comparison, first, None if batches is None else batches * processes.count)
        while reason is None and sum(images_in(one) for _, one, _ in held) < LOOKED_AT:
            following = next(pairs, None)
            if following is None:
                break
            held.append(following)
        comparison.sums.decision = _by_rule(comparison, reason) if reason else _look(comparison, held)
    comparison.sums.decision = processes.first(comparison.sums.decision)
    comparison.use(comparison.sums.decision["chosen"])
    return chain(held, pairs)


def _reason_not_to_look(comparison: Comparison, first: Pair | None, batches: int | None) -> str | None:
    if first is None:
        return "no batch was left to look at"
    slow = next((device for device in comparison.devices if not has_fast_bfloat16(device)), None)
    if slow is not None:
        return f"{slow.type} has no bfloat16 in hardware here"
    if all(isinstance(model, KeptFeatures) for model in comparison.models):
        return "features were kept, so that no model runs"
    if comparison.options.tolerance == 0:
        return "the tolerance is 0"
    if not _candidates(comparison):
        return "the models' own type leaves no choice"
    if batches is not None and batches * images_in(first[1]) < FEWEST:
        return f"fewer than {FEWEST:,} images are not worth a look"
    return None


def _candidates(comparison: Comparison) -> list[str]:
    """List the precisions in which anything is computed otherwise than exactly."""

    def what(name: str) -> list[tuple[str, str]]:
        return [(one.forward, one.gram) for one in comparison.choices(name)]

    seen, chosen = [what("exact")], []
    for name in reversed(CANDIDATES):
        if what(name) not in seen:  # inside an autocast of the caller, both are one
            seen.append(what(name))
            chosen.insert(0, name)
    return chosen


def _by_rule(comparison: Comparison, reason: str) -> dict[str, Any]:
    return {"chosen": "exact", "tolerance": comparison.options.tolerance, "reason": reason}


def _look(comparison: Comparison, held: list[Pair]) -> dict[str, Any]:
    """Compute the similarity of the first images in each precision until one is close enough."""
    tolerance = comparison.options.tolerance
    facts: dict[str, Any] = {"chosen": "exact", "tolerance": tolerance}
    try:
        with _silent():
            twin = comparison.twin()
        exact, pairs = _exactly(twin, held)
    except _Failed as error:
        return facts | {"reason": f"a few images cannot be compared: {error}"}
    facts |= {"images": sum(images_in(one) for _, one, _ in pairs), "differences": {}, "layers": {}, "by_layer": {}}
    for name in _candidates(comparison):
        try:
            found = Difference.between(exact, _similarity(twin, name, pairs))
        except _Failed as error:  # under autocast a model may not run
            facts.setdefault("failed", {})[name] = str(error)
            continue
        facts["differences"][name], facts["layers"][name] = found.largest, list(found.layers)
        facts["by_layer"][name] = list(found.by_layer)
        # Other than half, a precision leaves small layers in float32: without a difference it saves no time.
        if found.largest < tolerance and (found.largest > ROUNDING or name == "half"):
            return facts | {"chosen": name, "reason": "the largest difference is under the tolerance"}
    return facts | {"reason": "no precision both saves time and has its largest difference under the tolerance"}


def _exactly(twin: Comparison, held: list[Pair]) -> tuple[pd.DataFrame, list[Pair]]:
    """Compute the exact similarity of the first images, failing that of the whole first batches."""
    try:
        pairs = _first(held, twin.options.min_images)
        return _similarity(twin, "exact", pairs), pairs
    except _Failed:
        if sum(images_in(one) for _, one, _ in held) <= LOOKED_AT:
            raise
        return _similarity(twin, "exact", held), held


def _similarity(twin: Comparison, precision: str, pairs: list[Pair]) -> pd.DataFrame:
    """Compute the similarity of a few batches, and leave no trace.

    Raises:
        _Failed: If it cannot be computed: a measure may need more images, a model whole batches. What else is wrong
            will show when the comparison runs.
    """
    with ExitStack() as stack:
        stack.enter_context(_silent())
        stack.enter_context(keeping_generators(seed=0))  # models that draw at random draw the same each time
        for device in set(twin.devices):
            stack.enter_context(seeded_torch(0, device))
        for model in dict.fromkeys(twin.models):
            stack.enter_context(_keeping_buffers(model))
        try:
            twin.restart(precision)
            for pair in pairs:
                twin.add(*pair)
            twin.refuse_non_finite()
        except Exception as error:
            raise _Failed(str(error).partition("\n")[0]) from error
        rows, columns = twin.sums.sides
        return pd.DataFrame(twin.sums.cpu().matrix(), rows.names, columns.names)


@contextmanager
def _silent() -> Iterator[None]:
    """Say nothing twice: the comparison warns of its layers itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _first(held: list[Pair], least: int) -> list[Pair]:
    """Cut batches to the first images, leaving out a rest that is too small to be a batch."""
    first, left = [], LOOKED_AT
    for index, one, two in held:
        size = min(left, images_in(one))
        if size >= (least if first else 1):
            first.append((index, *_cut(one, two, size)))
        left -= size
    return first


def _cut(one: Any, two: Any, size: int) -> tuple[Any, Any]:
    short = first_images(one, size)
    return short, short if two is one else first_images(two, size)


@contextmanager
def _keeping_buffers(model: nn.Module) -> Iterator[None]:
    """Put a model's buffers back on exit, whether it wrote into them or replaced them."""
    kept = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
    values = {id(x): (x, x.clone()) for _, own in kept for x in own.values() if x is not None}
    try:
        yield
    finally:
        for module, own in kept:
            module._buffers.clear()
            module._buffers.update(own)
        with torch.no_grad():
            for buffer, value in values.values():
                buffer.copy_(value)
