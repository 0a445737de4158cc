"""The two passes of linear probes: one sums what the probes are fitted to, one reads test tokens with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import numpy as np
import torch

from utilities.analysis.class_embedding.block_tokens import BlockTokens, read_blocks
from utilities.analysis.class_embedding.lens import PerImage
from utilities.analysis.class_embedding.ranks import rank
from utilities.analysis.class_embedding.readers import Batch
from utilities.analysis.class_embedding.space import ClassSpace
from utilities.analysis.probing import Probe, ProbeSums, refuse_large_sums, scores, warn_of_still
from utilities.analysis.ridge import RidgeSums
from utilities.analysis.stream import stream
from utilities.hooks.calls.labels import hits
from utilities.hooks.calls.merging import Sums, Total

READOUTS = ("probe", "lens", "tuned")
Key = tuple[int, str, str]  # block, part, group of tokens


@dataclass
class ProbedLayers:
    """Which tokens of which layers are read.

    Attributes:
        width: Width of the last block's tokens, the only width that the raw lens can read; known after `check_memory`.
    """

    space: ClassSpace
    blocks: list[int]
    parts: list[str]
    shared: bool
    width: int = 0

    def of(self, tokens: BlockTokens) -> Iterator[tuple[str, torch.Tensor]]:
        """Iterate over the parts of a block that are read, with their tokens."""
        if tokens.index in self.blocks:
            for part in self.parts:
                yield part, tokens.after if part == "block" else getattr(tokens, part)

    def groups(self, tokens: BlockTokens) -> Iterator[tuple[Key, torch.Tensor]]:
        """Iterate over parts and groups, with the tokens of each: (batch, tokens of the group, width)."""
        for part, x in self.of(tokens):
            for group, places in self.space.groups().items():
                yield (tokens.index, part, group), x[:, places]

    def check_memory(self, loader: Iterable[Any], limit: float, **options: Any) -> None:
        """Run the model on one image to find how much memory the sums need, and refuse to start above the limit."""
        needed: dict[Key, int] = {}
        probes = 0

        def visit(tokens: BlockTokens) -> None:
            nonlocal probes
            self.width = tokens.after.shape[2]
            for key, x in self.groups(tokens):
                problems = 1 if self.shared else x.shape[1]
                needed[key] = RidgeSums.bytes_needed(problems, x.shape[2], self.space.num_classes)
                probes += problems

        with stream(self.space.model, islice(loader, 1), description="probes", sums=(), **options) as batches:
            read_blocks(self.space, next(batches)[0][:1], visit)
        if sum(needed.values()) > limit:
            sharing = "" if self.shared else ", tokens='shared' for one probe for all image tokens"
            most = max(sum(size for key, size in needed.items() if key[0] == index) for index in self.blocks)
            remedy = f"choose fewer blocks= or parts= at a time (the largest block takes {most / 1e9:.3g} GB){sharing}"
            refuse_large_sums(probes, sum(needed.values()), limit, remedy)


class ProbeTraining(Sums):
    """Accumulates the sums of all probes."""

    def __init__(self, layers: ProbedLayers) -> None:
        self.layers, self.probes = layers, ProbeSums(layers.space.num_classes)

    def block(self, tokens: BlockTokens, batch: Batch) -> None:
        """Add the tokens of a batch."""
        for key, x in self.layers.groups(tokens):
            labels = batch.labels
            if self.layers.shared:
                labels, x = labels.repeat_interleave(x.shape[1]), x.flatten(0, 1)[:, None]
            self.probes.add(key, x, labels)

    def finish(self, batch: Batch) -> None:
        """Do nothing; all sums are up to date."""

    def solve(self, alpha: float) -> dict[Key, Probe]:
        """Solve for weights and intercepts of all probes, and free the sums one after the other."""
        self.probes.warn_of_missing("the model's", stacklevel=3)
        names, sums = self.layers.space.names, self.probes.sums
        warn_of_still(((f"{names[i]} {part}, {group}", one) for (i, part, group), one in sums.items()), stacklevel=3)
        return {key: self.probes.solve(key, alpha) for key in list(self.probes.sums)}


class ProbeTest(Sums):
    """Reads each token with its probe and with the lens."""

    OWN = ("probes", "readings", "groups", "ranks")

    def __init__(self, layers: ProbedLayers, probes: dict[Key, Probe]) -> None:
        self.layers, self.probes, self.values = layers, probes, PerImage()
        space = layers.space
        self.readings = list(READOUTS if space.options.tuned is not None else READOUTS[:2])
        self.groups = [slice(0, 1), slice(1, None)] if space.class_token else [slice(None)]  # CLS first, no registers
        self.hits: dict[tuple[int, str], Total] = {}
        self.ranks: list[torch.Tensor] = []

    def block(self, tokens: BlockTokens, batch: Batch) -> None:
        """Read the parts of a block."""
        shares = []
        read = self._scores(tokens)
        for part, x in self.layers.of(tokens):
            readings = [read[part], *self._lenses(tokens, part, x)]
            right = torch.stack([_right(logits, batch.labels, read[part].shape[1]) for logits in readings])
            self.hits.setdefault((tokens.index, part), Total()).add(right.sum(1))
            shares.append(torch.stack([right[:, :, group].mean(2) for group in self.groups], 2).transpose(0, 1))
        if shares:
            self.values.add("correct", torch.stack(shares, 2), axis=3)
        if "block" in read:
            image = read["block"][:, self.groups[-1]]
            self.ranks.append(rank(image, batch.labels.to(image.device)))

    def finish(self, batch: Batch) -> None:
        """Sum ranks over blocks, if all blocks have the same tokens."""
        same = len({ranks.shape[1] for ranks in self.ranks}) == 1
        total = sum(self.ranks) if same else torch.zeros(len(batch.images), 0)
        self.values.end_batch(rank_sum=total, labels=batch.labels)
        self.ranks = []

    def accuracy(self, n: int) -> np.ndarray:
        """Compute the accuracy of each token position, (readings, parts, blocks, positions)."""
        parts, blocks = self.layers.parts, self.layers.blocks
        most = max(hits.value.shape[1] for hits in self.hits.values())
        table = np.full((len(self.readings), len(parts), len(blocks), most), np.nan)
        for (p, part), (b, index) in product(enumerate(parts), enumerate(blocks)):
            hits = self.hits[index, part].value.double().cpu().numpy()
            table[:, p, b, : hits.shape[1]] = hits / n
        return table

    def _scores(self, tokens: BlockTokens) -> dict[str, torch.Tensor]:
        """Compute the probes' scores of each part: (batch, positions, classes)."""
        found: dict[str, list[torch.Tensor]] = {}
        for key, x in self.layers.groups(tokens):
            found.setdefault(key[1], []).append(scores(x, self.probes[key]))
        return {part: torch.cat(groups, 1) for part, groups in found.items()}

    def _lenses(self, tokens: BlockTokens, part: str, x: torch.Tensor) -> Iterator[torch.Tensor | None]:
        """Compute the logits of the raw lens and of the tuned lens, if there is one; None where a lens cannot read."""
        places = torch.cat([torch.arange(x.shape[1])[group] for group in self.layers.space.groups().values()])
        yield self.layers.space.project(x)[:, places] if x.shape[2] == self.layers.width else None
        if "tuned" in self.readings:
            yield tokens.logits(part)[:, places] if part == "block" else None


def _right(logits: torch.Tensor | None, labels: torch.Tensor, positions: int) -> torch.Tensor:
    """Tell whether the label's logit is the largest, float32 (batch, positions); 1/m in a tie; NaN without logits."""
    if logits is None:
        return torch.full((len(labels), positions), torch.nan, device=labels.device)
    return hits(logits, labels.to(logits.device)[:, None].expand(logits.shape[:2])).to(labels.device).float()
