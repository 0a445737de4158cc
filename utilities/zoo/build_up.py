"""Turn a pre-activation ResNet into an AlterNet, one block at a time.

Park & Kim 2022, https://arxiv.org/abs/2202.06709. On CIFAR-100, ResNet-50 has an accuracy of 82.48 %. One to four
attention blocks raised it to 83.45, 83.66, 83.77 and 84.02 %; with others in their places it did worse.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from utilities.hooks.calls.seeding import seeded_torch
from utilities.zoo import alternet, preact_resnet
from utilities.zoo.alternet import HEADS, AlterNet, check_room, msa_counts, pattern
from utilities.zoo.preact_resnet import PreActResNet

BUILD_UP_ORDER = (4, 4, 3, 2)  # stages that got an MSA block, one after another, on CIFAR-100 in the paper
# MSA blocks in each stage after each step; the last one is the AlterNet itself.
MSA_COUNTS = {
    "alternet18": ((0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 1), (0, 1, 1, 1)),
    "alternet50": ((0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 0, 2), (0, 0, 1, 2), (0, 1, 1, 2)),
}


def build_up(
    model: str | PreActResNet,
    steps: int | None = None,
    *,
    order: Sequence[int] | None = None,
    seed: int = 0,
    window: int | None = None,
    heads: Sequence[int] | None = None,
    **options: Any,
) -> list[AlterNet]:
    """Turn a pre-activation ResNet into an AlterNet, one block at a time, as the paper did.

    Starting at the end of the network, every other convolution block is replaced by an MSA block. If one more does not
    help, the block at the end of the stage before is tried instead. On CIFAR-100, what helped was an MSA block in
    stage 4, another in stage 4, one in stage 3 and one in stage 2 (`BUILD_UP_ORDER`, `MSA_COUNTS`). Each model differs
    from the one before in a single block: all others are copies, with their weights.

    Args:
        model: The base, which is left unchanged; or a name, ``"alternet50"`` or ``"preact_resnet50"``, for a new base
            without MSA blocks. AlterNet's base has four blocks in stage 4; ResNet's has three, room for one MSA block.
        steps: Number of MSA blocks to add; None takes the whole order.
        order: For each step, the stage, 1 to 4, that gets an MSA block. None is the paper's order, less the MSA blocks
            that are there already and those for which the base's stages have no room.
        seed: Seed of the new weights: those of a named base, and those of each MSA block, which depend on its place
            only.
        window: Window of the new MSA blocks; None is that of a given AlterNet, or AlterNet's default for the stem.
        heads: Heads of each stage's new MSA blocks; None is those of a given AlterNet, or `HEADS`.
        **options: Options of the builder of a named base, such as ``num_classes``.

    Returns:
        steps + 1 models, from the base as given, to the one with all the MSA blocks.

    Raises:
        ValueError: For an unknown name, a stage without room, or more steps than the order has.
        TypeError: For another kind of model, or options with a model that exists.

    Example:
        >>> [pattern(model) for model in build_up("alternet18", steps=2)]
        ['CC/CC/CC/CC', 'CC/CC/CC/CA', 'CC/CC/CA/CA']
    """
    base = _as_alternet(model, window, heads, seed, options)
    models = [base]
    for stage in _planned(base, order, steps):
        grown = copy.deepcopy(models[-1])
        with seeded_torch(_seed_of(seed, stage, msa_counts(grown)[stage - 1])):
            grown.add_msa(stage)
        models.append(grown)
    return models


def _seed_of(*keys: int) -> int:
    """Make one seed from several integers, so that (seed 0, stage 1) and (seed 1, stage 0) are unrelated."""
    return int(np.random.SeedSequence(keys).generate_state(1)[0])


def _as_alternet(
    model: str | PreActResNet,
    window: int | None,
    heads: Sequence[int] | None,
    seed: int,
    options: dict[str, Any],
) -> AlterNet:
    """Build a base by name, or copy one, as an AlterNet without new MSA blocks."""
    if isinstance(model, str):
        model = model.partition("_msa")[0]  # all steps of a build-up share one base
        if model not in _BUILDERS:
            raise ValueError(f"unknown model {model!r}; choose from {', '.join(_BUILDERS)}, or pass a model")
        none = {"msa": (0, 0, 0, 0)} if model.startswith("alternet") else {}
        with seeded_torch(_seed_of(seed)):
            model = _BUILDERS[model](**none, **options)
    elif not isinstance(model, PreActResNet):
        raise TypeError(f"expected a PreActResNet, an AlterNet or a name, got {type(model).__name__}")
    elif options:
        raise TypeError(f"{', '.join(options)}: options go with a name, and this model exists already")
    window = getattr(model, "window", None) if window is None else window
    heads = getattr(model, "heads", HEADS) if heads is None else heads
    with torch.device("meta"):  # all its content is replaced by copies
        base = AlterNet(
            model.block, model.depths, (0, 0, 0, 0), 1, model.in_channels, window=window, heads=heads, stem=model.stem
        )
    for name, child in copy.deepcopy(model).named_children():
        setattr(base, name, child)
    base.training = model.training
    return base


def _planned(base: AlterNet, order: Sequence[int] | None, steps: int | None) -> list[int]:
    """Return the stage of each step, and refuse steps for which the base has no room."""
    counts = list(msa_counts(base))
    if order is None:
        wanted, order = [0, 0, 0, 0], []
        for stage in BUILD_UP_ORDER:
            wanted[stage - 1] += 1
            if counts[stage - 1] < wanted[stage - 1] <= base.depths[stage - 1] // 2:
                order.append(stage)
    if any(stage not in (1, 2, 3, 4) for stage in order):
        raise ValueError(f"order={tuple(order)} must name stages, 1 to 4")
    steps = len(order) if steps is None else steps
    if not 0 <= steps <= len(order):
        raise ValueError(
            f"steps={steps} must be between 0 and {len(order)}, as the order for {pattern(base)} is {tuple(order)}; "
            "pass another as order"
        )
    for stage in order[:steps]:
        counts[stage - 1] += 1
        check_room(stage, counts[stage - 1], base.depths[stage - 1])
    return list(order[:steps])


_BUILDERS: dict[str, Callable[..., PreActResNet]] = {
    f"{kind}{depth}": getattr(module, f"{kind}{depth}")
    for kind, module in (("alternet", alternet), ("preact_resnet", preact_resnet))
    for depth in (18, 34, 50, 101, 152)
}
