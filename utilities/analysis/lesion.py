"""Lesion study: how much accuracy is lost without one unit of a trained network?

Park & Kim 2022, https://arxiv.org/abs/2202.06709, Fig. 10: one unit is removed at test time, and nothing is trained
again. In a transformer a unit is a residual branch (the shortcut alone is left), in a CNN a spatial convolution inside
a block (its input is passed on). Units whose output has another shape than their input cannot be left out and are not.

In deep plain ViTs the attention in the middle matters most, since late attention maps collapse (the authors' own
remark): see `utilities.analysis.attention_maps`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from utilities.analysis.calibration import check_batch
from utilities.analysis.stream import Moments, precise, readable_twice, stream
from utilities.blocks import Block, Residual, blocks, check_sequence, run_blocks
from utilities.input_type import as_input
from utilities.lambda_layer import LambdaLayer
from utilities.results import Result
from utilities.utils import versions

ABLATIONS = ("identity", "zero", "mean")
UNITS = ("part", "block")


@dataclass(frozen=True)
class Unit:
    """What is removed.

    Attributes:
        name: Of the layer, branch or block.
        kind: ``conv``, ``msa`` or ``mlp``.
        block: Its place in the sequence of blocks.
        part: A layer inside the block; None where the branch, or the whole block, is removed.
    """

    name: str
    kind: str
    block: int
    part: nn.Module | None = None


@dataclass(frozen=True)
class Lesions(Result):
    """What each unit's removal costs; arrays have an entry for each unit.

    Attributes:
        names: Of the units.
        kinds: ``conv``, ``msa`` or ``mlp``.
        stages: From 1.
        depth: Of the unit's block, 0 for the first block to 1 for the last.
        drop: Accuracy of the intact model less that without the unit, a fraction; below 0 where it is better without.
        drop_stderr: Its standard error over images, paired.
        loss: Rise of the cross-entropy, nats.
        loss_stderr: Its standard error over images, paired.
        accuracy: Of the intact model.
        provenance: What it was made from.
    """

    names: list[str]
    kinds: list[str]
    stages: list[int]
    depth: np.ndarray
    drop: np.ndarray
    drop_stderr: np.ndarray
    loss: np.ndarray
    loss_stderr: np.ndarray
    accuracy: float
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """Tabulate: a row for each unit."""
        columns = ("depth", "drop", "drop_stderr", "loss", "loss_stderr")
        table = {"unit": self.names, "kind": self.kinds, "stage": self.stages}
        return pd.DataFrame(table | {name: getattr(self, name) for name in columns})


def lesions(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    units: str = "part",
    ablation: str = "identity",
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> Lesions:
    """Remove every unit by itself and measure what is lost.

    Args:
        model: A classifier whose blocks are known, see `utilities.blocks.blocks`; it is not changed.
        loader: Yields (images, labels). For mean ablation it is read twice.
        units: ``"part"``, the paper's: branches of transformers, spatial layers inside a CNN's blocks, and the whole
            block where none inside keeps its shape (AlterNet's attention); or ``"block"``, whole residual blocks.
        ablation: ``"identity"`` passes a unit's input on, ``"zero"`` gives nothing, ``"mean"`` what it gives on average
            over all images. Of a branch, identity and zero are the same: the shortcut alone is left.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts to keep with the result.

    Returns:
        Drop of accuracy and rise of loss for each unit.

    Raises:
        ValueError: For an unknown option, a model without known blocks or units, or no labelled images.

    Example:
        >>> from utilities.resnet import resnet18
        >>> images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
        >>> result = lesions(resnet18(10), [(images, labels)], device="cpu")
        >>> result.names[:2], result.kinds[0]
        (['layer1.0.conv1', 'layer1.0.conv2'], 'conv')
    """
    for name, value, known in (("units", units, UNITS), ("ablation", ablation, ABLATIONS)):
        if value not in known:
            raise ValueError(f"{name} {value!r} is not known; choose from {', '.join(known)}")
    if ablation == "mean":
        readable_twice(loader, "mean ablation")
    sequence = blocks(model)
    run = {"device": device, "progress": progress}
    removed: list[Unit] = []
    replaced: dict[str, torch.Tensor] = {}
    drops, intact = Moments(), Moments()
    with stream(model, loader, description="lesions", labelled=True, **run) as batches:
        for images, labels in batches:
            images = as_input(images, model)
            if not removed:
                check_sequence(model, sequence, images[:2])
                removed = find_units(sequence, images[:1], whole=units == "block")
                replaced = _means(model, sequence, removed, loader, run) if ablation == "mean" else {}
            features = [images, *(after for _, after in run_blocks(model, sequence, images))]
            check_batch(features[-1], labels)
            right, loss = _scores(features[-1], labels)
            without = []
            for unit in removed:
                with _removed(unit, sequence, ablation, replaced) as step:
                    x = step(features[unit.block])
                for block in sequence[unit.block + 1 :]:
                    x = block.module(x)
                without.append(torch.stack(_scores(x, labels)))
            # (images, units, [drop of accuracy, rise of loss])
            lost = (torch.stack(without) - torch.stack([right, loss])).permute(2, 0, 1)
            drops.add(lost * lost.new_tensor([-1.0, 1.0]))
            intact.add(right)
    last = max(1, len(sequence) - 2)
    facts = {"n": drops.n, "units": units, "ablation": ablation, "versions": versions()}
    return Lesions(
        names=[unit.name for unit in removed],
        kinds=[unit.kind for unit in removed],
        stages=[sequence[unit.block].stage for unit in removed],
        depth=np.array([unit.block / last for unit in removed]),
        drop=drops.mean[:, 0],
        drop_stderr=drops.stderr[:, 0],
        loss=drops.mean[:, 1],
        loss_stderr=drops.stderr[:, 1],
        accuracy=float(intact.mean),
        provenance=dict(provenance or {}) | facts,
    )


def find_units(sequence: list[Block], images: torch.Tensor, *, whole: bool = False) -> list[Unit]:
    """List what can be removed: what has the same shape before and after.

    Args:
        sequence: The blocks of a model in eval mode.
        images: One image or more, to see shapes.
        whole: Whether residual blocks are removed as a whole, rather than a layer inside.

    Raises:
        ValueError: If there is nothing.

    Example:
        >>> from utilities.vit import vit_tiny_patch2_16
        >>> model = vit_tiny_patch2_16().eval()
        >>> [unit.name for unit in find_units(blocks(model), torch.zeros(1, 3, 16, 16))][:2]
        ['blocks.0.attn', 'blocks.0.mlp']
    """
    if not all(block.in_sequence for block in sequence):
        raise ValueError("units can only be removed from a model whose blocks form a sequence")
    found, x = [], images
    for place, block in enumerate(sequence):
        before = x
        inside, x = _same_shape(block.module, before)
        if block.kind in ("stem", "classifier"):
            continue
        if not whole and not isinstance(block.module, Residual) and inside:
            found += [Unit(f"{block.name}.{name}", _kind(part), place, part) for name, part in inside.items()]
        elif before.shape == x.shape:
            found.append(Unit(block.name, block.kind, place))
    if not found:
        raise ValueError("no unit of this model has the same shape before and after, so none can be left out")
    return found


def _kind(part: nn.Module) -> str:
    return "msa" if isinstance(part, LambdaLayer) else "conv"


def _same_shape(module: nn.Module, x: torch.Tensor) -> tuple[dict[str, nn.Module], torch.Tensor]:
    """Find the spatial layers inside a block whose output has the shape of their input, and run the block."""
    found: dict[str, nn.Module] = {}
    handles = []
    for name, part in module.named_modules():
        wide = isinstance(part, nn.Conv2d) and max(part.kernel_size) > 1
        if name and (wide or isinstance(part, LambdaLayer)):

            def look(part: nn.Module, args: tuple, output: torch.Tensor, name: str = name) -> None:
                if args[0].shape == output.shape:
                    found[name] = part

            handles.append(part.register_forward_hook(look))
    try:
        with torch.no_grad():
            return found, module(x)
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _removed(
    unit: Unit, sequence: list[Block], ablation: str, means: Mapping[str, torch.Tensor]
) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """Give the unit's block without the unit, as a function of the features before it."""
    module = sequence[unit.block].module
    if unit.part is None:
        mean = means.get(unit.name)
        branch = isinstance(module, Residual)
        yield lambda x: x + mean if branch and mean is not None else _instead(x, ablation, mean, branch)
        return
    hook = unit.part.register_forward_hook(
        lambda part, args, output: _instead(args[0], ablation, means.get(unit.name), False)
    )
    try:
        yield module
    finally:
        hook.remove()


def _instead(x: torch.Tensor, ablation: str, mean: torch.Tensor | None, branch: bool) -> torch.Tensor:
    """Give what stands in the place of a unit's output, x being its input."""
    if ablation == "mean":
        return mean.expand_as(x)
    return torch.zeros_like(x) if ablation == "zero" and not branch else x


def _means(
    model: nn.Module, sequence: list[Block], units: list[Unit], loader: Iterable[Any], run: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Average over all images what each unit gives: the layer's or block's output, of a branch what it adds."""
    sums = {unit.name: Moments() for unit in units}
    whole = {unit.block: unit.name for unit in units if unit.part is None}
    hooks = [
        unit.part.register_forward_hook(lambda part, args, output, name=unit.name: sums[name].add(output))
        for unit in units
        if unit.part is not None
    ]
    try:
        with stream(model, loader, description="means", **run) as batches:
            for images, _ in batches:
                before = as_input(images, model)
                for place, (block, x) in enumerate(run_blocks(model, sequence, images)):
                    if place in whole:
                        sums[whole[place]].add(x - before if isinstance(block.module, Residual) else x)
                    before = x
    finally:
        for hook in hooks:
            hook.remove()
    means = {name: torch.from_numpy(moments.mean).to(before.dtype) for name, moments in sums.items()}
    return {name: mean.to(before.device) for name, mean in means.items()}


def _scores(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give for each image whether it is classified rightly, and its cross-entropy."""
    loss = nn.functional.cross_entropy(precise(logits), labels, reduction="none")
    return (logits.argmax(1) == labels).to(loss.dtype), loss
