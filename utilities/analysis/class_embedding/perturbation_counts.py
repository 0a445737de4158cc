"""Run perturbed models batch by batch, count the outcomes in each image, and turn counts into means with errors."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial

import numpy as np
import torch

from utilities.analysis.class_embedding.block_tokens import BlockTokens, read_blocks
from utilities.analysis.class_embedding.eager_attention import eager_attention
from utilities.analysis.class_embedding.lens import PerImage
from utilities.analysis.class_embedding.masking import drop_cls, key_mask, masking, no_cls_mask, self_only_mask
from utilities.analysis.class_embedding.ranks import ranks_and_firsts
from utilities.analysis.class_embedding.readers import Batch
from utilities.analysis.class_embedding.transformer_space import TransformerSpace
from utilities.hooks.calls.labels import hits
from utilities.hooks.calls.merging import Sums
from utilities.results.statistics import bootstrap_interval, mean_and_stderr, paired_p

OF_TOKENS = ("no_context", "no_class")


class Perturber(Sums):
    """Reads the intact model's last block, and then runs each batch again for each perturbation.

    Args:
        space: Space of the model.
        rows: Kind and blocks of each perturbation.
        threshold: Smallest fraction of a patch that the object covers in a token on the object.
        left_out: Kinds that are left out, with the reason; kinds that need masks may be added later. None if all kinds
            have to run.
    """

    OWN = ("rows", "threshold", "left_out")

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


def summarise(
    sums: np.ndarray, counts: np.ndarray, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, np.ndarray]:
    """Turn the counts of each image into means over images and over tokens, with their errors.

    The pooled mean of sums s over counts c is R = sum(s) / sum(c). Its errors are those of the mean over images of R +
    (s - R c) / mean(c), the linearisation of a ratio (Cochran 1977, *Sampling Techniques*, chapter 6).

    Args:
        sums: Four values for each image, perturbation and side (intact, perturbed), (n, rows, 2, 4): number of image
            tokens that put the class first, sum of their scores, whether the class token puts it first, and whether
            the model is right.
        counts: Number of image tokens, (n, rows); an image without any has no value in that row.
        confidence: Confidence level of the intervals.
        resamples: Number of resamples for bootstrap and test.
        seed: Seed of bootstrap and test.

    Returns:
        ``values, stderr, low, high``, (rows, sides, measures); ``p``, (rows, measures); ``images, tokens``, (rows,).

    Example:
        >>> sums = np.array([[[[2, 2, 1, 1], [0, 1, 1, 1]]], [[[1, 1, 0, 0], [1, 1, 0, 0]]]])
        >>> summarise(sums, np.array([[2], [4]]))["values"][0, :, :2].round(3).tolist()
        [[0.625, 0.5], [0.125, 0.167], [-0.5, -0.333]]
    """
    sums = np.stack([sums[:, :, 0], sums[:, :, 1], sums[:, :, 1] - sums[:, :, 0]], 2).astype(np.float64)
    counts = np.where(counts > 0, counts, np.nan).astype(np.float64)[:, :, None, None]
    of_tokens, of_model = sums[..., :2], np.where(np.isnan(counts), np.nan, sums[..., 2:])
    share, there = counts / mean_and_stderr(counts)[0], ~np.isnan(counts)
    means = of_tokens / counts
    additive = means * share  # its mean over images is the pooled mean
    pooled = mean_and_stderr(additive)[0]
    moves = np.where(there, pooled + (means - pooled) * share, np.nan)
    per_image = _in_order(means, moves, of_model)
    mean, stderr = mean_and_stderr(per_image)
    low, high = bootstrap_interval(per_image, confidence=confidence, resamples=resamples, seed=seed)
    p = paired_p(-_in_order(means, additive, of_model)[:, :, 2], resamples=resamples, seed=seed)
    known = there.reshape(len(sums), -1)
    tokens = np.nansum(counts, 0).reshape(-1).astype(np.int64)
    return {
        "values": mean,
        "stderr": stderr,
        "low": low,
        "high": high,
        "p": p,
        "images": known.sum(0),
        "tokens": tokens,
    }


def _in_order(means: np.ndarray, pooled: np.ndarray, of_model: np.ndarray) -> np.ndarray:
    """Arrange rates and scores of both averages, and the model's answers, in the order of `PERTURBATION_MEASURES`."""
    return np.concatenate([np.stack([means, pooled], -1).reshape(*means.shape[:-1], 4), of_model], -1)
