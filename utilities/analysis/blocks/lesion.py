"""Lesion study: how much accuracy is lost without one unit of a trained network?

As in Park & Kim 2022, https://arxiv.org/abs/2202.06709, Fig. 10, one unit is removed at test time without any
retraining. In a transformer a unit is a residual branch; only the shortcut is left. In a CNN it is a spatial
convolution inside a block; its input is passed on. Units whose output and input differ in shape cannot be removed and
are skipped.

In deep plain ViTs the attention in the middle matters most, because late attention maps collapse. The authors remark on
this themselves; see `utilities.analysis.attention.attention_maps`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from einops import rearrange
from torch import nn

from utilities.analysis.blocks.units import Unit, find_units, mean_outputs, named_units, run_without
from utilities.analysis.stream import readable_twice, stream
from utilities.datasets.naming import known_facts
from utilities.hooks.block import Block
from utilities.hooks.block_sequence import BlockSequence, blocks
from utilities.hooks.calls.input_type import as_input
from utilities.hooks.calls.labels import BatchCheck, hits
from utilities.results.moments import Moments, precise
from utilities.results.result import Result
from utilities.utils import versions

ABLATIONS = ("identity", "zero", "mean")
UNITS = ("part", "block")
__all__ = ["ABLATIONS", "UNITS", "Lesions", "Unit", "find_units", "lesions"]


@dataclass(frozen=True)
class Lesions(Result):
    """The cost of removing each unit. Arrays have one entry per unit.

    Attributes:
        names: Names of the units.
        kinds: Kind of each unit: ``conv``, ``msa`` or ``mlp``.
        stages: Stage of each unit, from 1.
        depth: Relative depth of the unit's block, from 0 for the first block to 1 for the last.
        drop: Accuracy of the intact model minus that without the unit, as a fraction. It is below 0 where the model is
            better without the unit.
        drop_stderr: Standard error of ``drop`` over images, paired.
        loss: Rise of the cross-entropy, in nats.
        loss_stderr: Standard error of ``loss`` over images, paired.
        accuracy: Accuracy of the intact model.
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
        """Tabulate the result, one row per unit."""
        columns = ("depth", "drop", "drop_stderr", "loss", "loss_stderr")
        table = {"unit": self.names, "kind": self.kinds, "stage": self.stages}
        return pd.DataFrame(table | {name: getattr(self, name) for name in columns})


def lesions(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    units: str = "part",
    ablation: str = "identity",
    layers: Mapping[str, str] | Sequence[str] | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> Lesions:
    """Remove every unit by itself and measure the loss of accuracy.

    Args:
        model: A classifier whose blocks are known, see `utilities.hooks.blocks`, or any classifier with ``layers``.
            It is not changed.
        loader: Yields (images, labels). For mean ablation it is read twice.
        units: ``"part"``, as in the paper, is branches of transformers and spatial layers inside a CNN's blocks. If no
            layer inside a block keeps its shape (AlterNet's attention), it is the whole block. ``"block"`` is whole
            residual blocks.
        ablation: ``"identity"`` passes on a unit's input, ``"zero"`` outputs zeros, and ``"mean"`` outputs the unit's
            average over all images. For a branch, identity and zero are the same: only the shortcut is left.
        layers: The units of any other model: names or globs of layers, such as ``["stages.*.block?"]``, or these with
            their kinds, such as ``{"stages.*.block?": "conv"}``. Each is removed as it is, whatever ``units`` is, while
            the whole model runs. For a layer in a branch ``ablation="zero"`` leaves only the shortcut.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts to keep with the result.

    Returns:
        Drop of accuracy and rise of loss for each unit.

    Raises:
        ValueError: If an option is unknown, the model has no known blocks or units, no layer has an input of its
            output's shape, or there are no labelled images.

    Example:
        >>> from utilities.resnet import resnet18
        >>> images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
        >>> result = lesions(resnet18(10), [(images, labels)], device="cpu")
        >>> result.names[:2], result.kinds[0]
        (['layer1.0.conv1', 'layer1.0.conv2'], 'conv')
    """
    _check_options(units, ablation, loader)
    named = blocks(model, layers)
    # Any model is a sequence of one block, itself. Named layers are parts of it.
    sequence = named if layers is None else BlockSequence(model, [Block("", "conv", 0, model)])
    run = {"device": device, "progress": progress}
    found: list[Unit] = []
    means: dict[str, torch.Tensor] = {}
    drops, intact, check = Moments(), Moments(), BatchCheck(loader, model)
    sums = drops, intact, check
    with stream(model, loader, description="lesions", labelled=True, sums=sums, **run) as batches:
        for images, labels in batches:
            images = as_input(images, model)
            if not found:
                found = _units(named, images, whole=units == "block")
                means = mean_outputs(sequence, found, loader, run) if ablation == "mean" else {}
            features = [images, *(after for _, after in sequence.features(images))]
            labels = check(features[-1], labels)
            scores = _scores(features[-1], labels)
            without = [
                _scores(run_without(unit, sequence, features[unit.block], ablation, means.get(unit.name)), labels)
                for unit in found
            ]
            # (units, [right, loss], images) -> (images, units, [drop of accuracy, rise of loss])
            lost = rearrange(torch.stack(without) - scores, "unit score image -> image unit score")
            drops.add(lost * lost.new_tensor([-1.0, 1.0]))
            intact.add(scores[0])
    check.finish()
    facts = {"n": drops.n, "units": units if layers is None else "named", "ablation": ablation, "versions": versions()}
    return Lesions(
        names=[unit.name for unit in found],
        kinds=[unit.kind for unit in found],
        stages=[sequence[unit.block].stage for unit in found],
        depth=np.array([unit.depth for unit in found]),
        drop=drops.mean[:, 0],
        drop_stderr=drops.stderr[:, 0],
        loss=drops.mean[:, 1],
        loss_stderr=drops.stderr[:, 1],
        accuracy=float(intact.mean),
        provenance=known_facts(provenance, loader) | facts | {"num_classes": check.outputs},
    )


def _check_options(units: str, ablation: str, loader: Iterable[Any]) -> None:
    for name, value, known in (("units", units, UNITS), ("ablation", ablation, ABLATIONS)):
        if value not in known:
            raise ValueError(f"{name} {value!r} is not known; choose from {', '.join(known)}")
    if ablation == "mean":
        readable_twice(loader, "mean ablation")


def _units(sequence: BlockSequence, images: torch.Tensor, *, whole: bool) -> list[Unit]:
    """List the units that can be removed: the named layers, or those of the model's blocks after a check."""
    if not sequence.composes:
        return named_units(sequence, images[:1])
    sequence.check(images[:2])
    return find_units(sequence, images[:1], whole=whole)


def _scores(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute for each image whether it is classified correctly, and its cross-entropy: (2, images)."""
    loss = nn.functional.cross_entropy(precise(logits), labels, reduction="none")
    return torch.stack([hits(logits, labels).to(loss.dtype), loss])
