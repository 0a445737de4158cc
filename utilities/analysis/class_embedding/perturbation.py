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
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from utilities.analysis.class_embedding.lens import lens_facts
from utilities.analysis.class_embedding.masking import check_maskable, chosen_blocks
from utilities.analysis.class_embedding.perturbation_counts import OF_TOKENS, Perturber, summarise
from utilities.analysis.class_embedding.readers import Target, run_readers
from utilities.analysis.class_embedding.space import LensOptions
from utilities.analysis.class_embedding.spaces import transformer_space
from utilities.analysis.class_embedding.transformer_space import TransformerSpace
from utilities.datasets.masks import class_tokens
from utilities.datasets.naming import known_facts
from utilities.results.result import Result
from utilities.results.statistics import bootstrap_interval
from utilities.utils import versions

OF_CLS = ("no_cls", "no_cls_unnormalised")
PERTURBATIONS = ("self_only", *OF_CLS, *OF_TOKENS)

SIDES = ("intact", "perturbed", "difference")
PERTURBATION_MEASURES = ("rate", "pooled_rate", "score", "pooled_score", "cls_rate", "accuracy")
WEIGHTS = {
    "self_only": "masked before softmax: each image token's weight on itself is 1",
    "no_cls": "masked before softmax: the weights on other tokens add up to 1",
    "no_cls_unnormalised": "zeroed after softmax: the weights on other tokens add up to less than 1",
    "no_context": "masked before softmax: the weights on the tokens kept add up to 1",
    "no_class": "masked before softmax: the weights on the tokens kept add up to 1",
}


class Estimate(NamedTuple):
    """A mean over images, its standard error, and its bootstrap interval."""

    value: float
    stderr: float
    low: float
    high: float


@dataclass(frozen=True)
class Perturbation(Result):
    """Effects of perturbations on the tokens after the last block, and on the model's answer.

    Rows are perturbations. Sides are `SIDES`; the difference is perturbed minus intact. Measures are
    `PERTURBATION_MEASURES`:

    - ``rate`` is the share of image tokens that put the class first, and ``score`` is 1 - rank / classes. Both are
      averaged over each image first, and then over images.
    - ``pooled_rate`` and ``pooled_score`` are averaged over all tokens of all images, so that images with more such
      tokens count more.
    - ``cls_rate`` is the rate of the class token, and ``accuracy`` that of the model.

    All values of a row are over the same images and, for image tokens, the same tokens.

    Attributes:
        kinds: Kind of each row, from `utilities.analysis.class_embedding.perturbation.PERTURBATIONS`.
        blocks: Indices of the blocks that each row perturbs.
        names: Names of the model's blocks.
        values: Mean values, as fractions, (rows, sides, measures); NaN where there is none.
        stderr: Standard errors of the values over images.
        low: Lower ends of the values' bootstrap intervals over images.
        high: Upper ends of these intervals.
        p: One-sided p-values, paired by image, under the hypothesis that a perturbation does not lower a measure,
            (rows, measures).
        images: Number of images with a value, (rows,).
        tokens: Number of image tokens measured in these images, (rows,).
        provenance: What the result was made from.
    """

    kinds: list[str]
    blocks: list[list[int]]
    names: list[str]
    values: np.ndarray
    stderr: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    images: np.ndarray
    tokens: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def chance(self) -> float:
        """Rate of a token that knows nothing about the class."""
        return 1 / self.provenance["num_classes"]

    def estimate(self, row: int | str, measure: str = "rate", side: str = "difference") -> Estimate:
        """Look up a value with its errors.

        Args:
            row: Index of the row, or a kind, which selects its first row.
            measure: One of `PERTURBATION_MEASURES`.
            side: One of `SIDES`.

        Raises:
            ValueError: If there is no such kind, measure or side.
        """
        for name, known in ((row, self.kinds), (measure, PERTURBATION_MEASURES), (side, SIDES)):
            if isinstance(name, str) and name not in known:
                raise ValueError(f"{name!r} is not there; there are {', '.join(dict.fromkeys(known))}")
        row = self.kinds.index(row) if isinstance(row, str) else row
        place = row, SIDES.index(side), PERTURBATION_MEASURES.index(measure)
        return Estimate(*(float(array[place]) for array in (self.values, self.stderr, self.low, self.high)))

    def to_frame(self) -> pd.DataFrame:
        """Tabulate: a row for each perturbation and measure, with the errors of the difference."""
        rows = []
        for i, kind in enumerate(self.kinds):
            for j, measure in enumerate(PERTURBATION_MEASURES):
                which = {"kind": kind, "blocks": ",".join(map(str, self.blocks[i])), "measure": measure}
                values = dict(zip(SIDES, self.values[i, :, j], strict=True))
                errors = {name: getattr(self, name)[i, -1, j] for name in ("stderr", "low", "high")}
                counts = {"images": self.images[i], "tokens": self.tokens[i]}
                rows.append(which | values | errors | {"p": self.p[i, j]} | counts)
        return pd.DataFrame(rows)


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
        kinds: Perturbations to run, some of `PERTURBATIONS`; None runs all that the model and the first batch allow.
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
    reader = Perturber(space, rows, threshold, left_out)
    masked = left_out is None and not set(OF_TOKENS).isdisjoint(wanted)
    run = {"device": device, "progress": progress, "description": "perturbation"}
    n = run_readers(space, loader, [reader], target=target, masked=masked, **run)
    facts = {"n": n, "target": target, "threshold": threshold, **draws, "lens": lens_facts(space.options)}
    return _collect(reader, draws, known_facts(provenance, loader) | facts | {"versions": versions()})


def perturb_each_block(model: nn.Module, loader: Iterable[Any], kind: str, **options: Any) -> Perturbation:
    """Perturb one block after the other in one way: a row for each block.

    Args:
        model: timm's VisionTransformer.
        loader: Images, as for `perturb`.
        kind: Perturbation to run, one of `PERTURBATIONS`.
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
        return [kind for kind in PERTURBATIONS if kind not in left_out], left_out
    if isinstance(kinds, str):
        raise ValueError(f"kinds={kinds!r} should be a list of some of {', '.join(PERTURBATIONS)}, such as {[kinds]}")
    for kind in kinds:
        if kind not in PERTURBATIONS:
            raise ValueError(f"kind {kind!r} is not known; choose from {', '.join(PERTURBATIONS)}")
        if kind in OF_CLS and not space.class_token:
            raise ValueError(f"{name} has no class token that {kind} could hide; leave it out")
    if not kinds or len(set(kinds)) < len(kinds):
        raise ValueError(f"kinds={list(kinds)} should be one or more of {', '.join(PERTURBATIONS)}, each once")
    return list(kinds), None


def _collect(reader: Perturber, draws: Mapping[str, Any], provenance: dict[str, Any]) -> Perturbation:
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
