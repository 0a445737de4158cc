"""Whether tokens know the class by themselves or from others: perturbed attention, and removed tokens.

Vilas et al. 2023 (https://arxiv.org/abs/2310.18969) ask where image tokens get the class from. They restrict what
tokens may see, and count how many still put the class first in class-embedding space after the last block. Here a
perturbed model is compared with the intact one on the same tokens of the same images, without the class token.

=======================  ==========================================================================================
``self_only``            each image token sees only itself; the class token and registers see all tokens
``no_cls``               image tokens do not see the class token; their other weights add up to 1 again
``no_cls_unnormalised``  the same after softmax, so that weights add up to less than 1, as in the paper's code
``no_context``           tokens beside the object are removed; tokens on it are measured
``no_class``             tokens on the object are removed; tokens beside it are measured
=======================  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from utilities.analysis.class_embedding.lens import PerImage, lens_facts
from utilities.analysis.class_embedding.masking import (
    check_maskable,
    chosen_blocks,
    drop_cls,
    key_mask,
    masking,
    no_cls_mask,
    self_only_mask,
)
from utilities.analysis.class_embedding.passes import Batch, Target, read
from utilities.analysis.class_embedding.perturbation_result import WEIGHTS, Perturbation, summarise
from utilities.analysis.class_embedding.ranks import ranks_and_firsts
from utilities.analysis.class_embedding.record import BlockTokens, eager_attention, read_blocks
from utilities.analysis.class_embedding.space import LensOptions, TransformerSpace, transformer_space
from utilities.datasets.masks import class_tokens
from utilities.hooks.calls.labels import hits
from utilities.results.statistics import bootstrap_interval
from utilities.utils import versions

OF_CLS = ("no_cls", "no_cls_unnormalised")
OF_TOKENS = ("no_context", "no_class")
KINDS = ("self_only", *OF_CLS, *OF_TOKENS)


def perturb(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    kinds: Sequence[str] | None = None,
    blocks: Sequence[int] | None = None,
    one_at_a_time: bool = False,
    threshold: float = 0.5,
    target: Target = "label",
    lens: LensOptions | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> Perturbation:
    """Perturb a Vision Transformer in several ways, and compare its last tokens and its answer with the intact model.

    Images that lack tokens on the object, or tokens beside it, have no value for ``no_context`` and ``no_class``.

    Args:
        model: timm's VisionTransformer.
        loader: Yields (images, labels), or (images, labels, masks) for ``no_context`` and ``no_class``; read once.
        kinds: Perturbations to run, some of `KINDS`; None runs all that the model and the first batch allow.
        blocks: Indices of the blocks to perturb; None is all. Removed tokens are hidden from the attention of these
            blocks. If hidden in all blocks, they are also left out of the model's average of tokens.
        one_at_a_time: Whether to perturb each block by itself, with a row for each, instead of all at once.
        threshold: Smallest fraction of a patch that the object must cover for its token to be on the object.
        target: The class to look for: ``"label"``, ``"prediction"`` (the intact model's) or an index.
        lens: How tokens are read; None is the paper's way.
        confidence: Confidence level of the intervals.
        resamples: Number of resamples of images, for intervals and p-values.
        seed: Seed of the resamples.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts to keep with the result.

    Returns:
        Means over images with their errors, for the intact model, the perturbed model and the difference.

    Raises:
        ValueError: If an option is out of range, or a kind needs masks or a class token that are missing.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> batch = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])
        >>> result = perturb(vit_tiny_patch2_16(3, depth=2), [batch], device="cpu")
        >>> result.kinds, result.values.shape
        (['self_only', 'no_cls', 'no_cls_unnormalised'], (3, 3, 6))
    """
    space = transformer_space(model, lens, "perturbation")
    check_maskable(space)
    draws = {"confidence": confidence, "resamples": resamples, "seed": seed}
    bootstrap_interval(np.zeros(0), **draws)  # refuses options out of range, as does the next line
    class_tokens(torch.zeros(1), threshold)
    wanted, left_out = _wanted(space, kinds)
    chosen = chosen_blocks(space, blocks)
    rows = [(kind, part) for kind in wanted for part in ([[index] for index in chosen] if one_at_a_time else [chosen])]
    reader = _Perturber(space, rows, threshold, left_out)
    masked = left_out is None and not set(OF_TOKENS).isdisjoint(wanted)
    run = {"device": device, "progress": progress, "description": "perturbation"}
    n = read(space, loader, [reader], target=target, masked=masked, **run)
    facts = {"n": n, "target": target, "threshold": threshold, **draws, "lens": lens_facts(space.options)}
    return _collect(reader, draws, dict(provenance or {}) | facts | {"versions": versions()})


def perturb_each_block(model: nn.Module, loader: Iterable[Any], kind: str, **options: Any) -> Perturbation:
    """Perturb one block after the other in one way: a row for each block.

    Args:
        model: timm's VisionTransformer.
        loader: Images, as for `perturb`.
        kind: Perturbation to run, one of `KINDS`.
        **options: Other options of `perturb`.

    Raises:
        ValueError: As `perturb` does.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> batch = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])
        >>> perturb_each_block(vit_tiny_patch2_16(3, depth=2), [batch], "self_only", device="cpu").blocks
        [[0], [1]]
    """
    return perturb(model, loader, kinds=(kind,), one_at_a_time=True, **options)


def _wanted(space: TransformerSpace, kinds: Sequence[str] | None) -> tuple[list[str], dict[str, str] | None]:
    """Choose the kinds to run; if the caller leaves the choice open, also explain why others are left out."""
    name = type(space.model).__name__
    if kinds is None:
        left_out = {} if space.class_token else dict.fromkeys(OF_CLS, f"{name} has no class token")
        return [kind for kind in KINDS if kind not in left_out], left_out
    if isinstance(kinds, str):
        raise ValueError(f"kinds={kinds!r} should be a list of some of {', '.join(KINDS)}, such as {[kinds]}")
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r} is not known; choose from {', '.join(KINDS)}")
        if kind in OF_CLS and not space.class_token:
            raise ValueError(f"{name} has no class token that {kind} could hide; leave it out")
    if not kinds or len(set(kinds)) < len(kinds):
        raise ValueError(f"kinds={list(kinds)} should be one or more of {', '.join(KINDS)}, each once")
    return list(kinds), None


def _collect(reader: _Perturber, draws: Mapping[str, Any], provenance: dict[str, Any]) -> Perturbation:
    """Average over images, and collect the result."""
    kinds, blocks = ([row[i] for row in reader.rows] for i in range(2))
    summary = summarise(**reader.values.arrays(), **draws)
    missing = {
        kind: provenance["n"] - int(known)
        for kind, known in zip(kinds, summary["images"], strict=True)
        if known < provenance["n"]
    }
    facts = {
        "num_classes": reader.space.num_classes,
        "weights_of_attention": {kind: WEIGHTS[kind] for kind in kinds},
        "left_out": reader.left_out or {},
        "images_without_value": missing,
    }
    return Perturbation(kinds, blocks, list(reader.space.names), **summary, provenance=provenance | facts)


class _Perturber:
    """Reads the intact model's last block, and then runs each batch again for each perturbation.

    Args:
        space: Space of the model.
        rows: Kind and blocks of each perturbation.
        threshold: Smallest fraction of a patch that the object covers in a token on the object.
        left_out: Kinds that are left out, with the reason; kinds that need masks may be added later. None if all kinds
            have to run.
    """

    def __init__(
        self,
        space: TransformerSpace,
        rows: list[tuple[str, list[int]]],
        threshold: float,
        left_out: dict[str, str] | None,
    ) -> None:
        self.space, self.rows, self.threshold, self.left_out = space, rows, threshold, left_out
        self.read: tuple[torch.Tensor, torch.Tensor] | None = None
        self.grid: tuple[int, int] | None = None
        self.started, self.values = False, PerImage()

    def block(self, tokens: BlockTokens, batch: Batch) -> None:
        """Look at the intact model's last block."""
        if tokens.index == len(self.space.blocks) - 1:
            self.read, self.grid = _read(tokens, batch), tokens.grid

    def finish(self, batch: Batch) -> None:
        """Run the batch again for each perturbation, and count the outcomes."""
        intact = self.read, _right(batch.logits, batch)
        on_object = batch.on_object(self.grid, self.threshold)
        if not self.started and on_object is None and self.left_out is not None:
            self.left_out |= {kind: "the images have no masks" for kind, _ in self.rows if kind in OF_TOKENS}
            self.rows = [row for row in self.rows if row[0] not in OF_TOKENS]
        self.started = True
        for kind, blocks in self.rows:
            used = self._used(kind, on_object)
            perturbed = self._run(kind, blocks, used, batch)
            self.values.add("sums", torch.stack([self._count(*side, used.cpu()) for side in (intact, perturbed)], 1))
            self.values.add("counts", used.sum(1))
        self.values.end_batch()

    def _used(self, kind: str, on_object: torch.Tensor | None) -> torch.Tensor:
        """Tell which image tokens are measured, (batch, tokens); an image without a value has none."""
        if kind not in OF_TOKENS:
            return torch.ones_like(self.read[0][:, self.space.prefix :], dtype=torch.bool)
        both = on_object.any(1, keepdim=True) & ~on_object.all(1, keepdim=True)
        return (on_object if kind == "no_context" else ~on_object) & both

    def _run(
        self, kind: str, blocks: list[int], used: torch.Tensor, batch: Batch
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
        """Run a batch with a perturbation; return the class's rank in all tokens, and whether the model is right."""
        space, found, keep = self.space, {}, None
        if kind in OF_TOKENS:
            keep = used | ~used.any(1, keepdim=True)  # an image without a value stays whole, so that nothing is NaN
            keep = torch.cat([keep.new_ones(len(keep), space.prefix), keep], 1)

        def visit(tokens: BlockTokens) -> None:
            if tokens.index == len(space.blocks) - 1:
                found["read"] = _read(tokens, batch)
                if keep is not None and len(blocks) == len(space.blocks):
                    found["answer"] = space.classify(tokens.after, keep)

        with self._perturbed(kind, blocks, keep):
            logits = read_blocks(space, batch.images, visit)
        return found["read"], _right(found.get("answer", logits), batch)

    def _perturbed(self, kind: str, blocks: list[int], keep: torch.Tensor | None) -> AbstractContextManager[None]:
        """Return the context manager that perturbs the model."""
        space, tokens = self.space, self.read[0].shape[1]
        if kind == "no_cls_unnormalised":
            return eager_attention(space, dict.fromkeys(blocks, partial(drop_cls, prefix=space.prefix)))
        if kind in OF_TOKENS:
            return masking(space, key_mask(keep), blocks)
        mask = self_only_mask if kind == "self_only" else no_cls_mask
        return masking(space, mask(tokens, space.prefix), blocks)

    def _count(self, read: tuple[torch.Tensor, torch.Tensor], right: torch.Tensor, used: torch.Tensor) -> torch.Tensor:
        """Count the outcomes in each image, (batch, 4), see `summarise`."""
        (ranks, firsts), total = (values.double() for values in read), used.sum(1)
        of_image = torch.stack([firsts, ranks / self.space.num_classes])[..., self.space.prefix :]
        rate, lost = (of_image * used).sum(2)
        first = firsts[:, 0] if self.space.class_token else torch.full_like(right, torch.nan)
        return torch.stack([rate, total - lost, first, right], 1)


def _read(tokens: BlockTokens, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the class's rank in all tokens, and whether it comes first."""
    ranks, firsts = ranks_and_firsts(tokens.logits("block"), batch.target)
    return ranks.cpu(), firsts.cpu()


def _right(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Tell which images are classified correctly, 1 or 0; NaN without labels."""
    if batch.labels is None:
        return torch.full((len(logits),), torch.nan, dtype=torch.float64)
    return hits(logits, batch.labels).cpu().double()
