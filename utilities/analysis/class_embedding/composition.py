"""What a block changes in class-embedding space, and which of its parts its answer agrees with.

Follows Vilas et al. 2023, https://arxiv.org/abs/2310.18969. A block raises a token's similarity with a class if the
class's logit is higher after the block than before it. Attention and MLP raise it if the logit of what they add, read
alone, is higher than that of the block's input. After the block, a token's first class may be the one that the block's
input, attention or the MLP has by itself, or a new one composed of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from utilities.analysis.class_embedding.block_tokens import BlockTokens
from utilities.analysis.class_embedding.lens import PerImage, known_labels
from utilities.analysis.class_embedding.object_and_context import by_place, difference
from utilities.analysis.class_embedding.ranks import ranks_and_firsts, target_logit
from utilities.analysis.class_embedding.readers import Batch
from utilities.analysis.class_embedding.space import ClassSpace
from utilities.hooks.calls.labels import hits
from utilities.hooks.calls.merging import Sums
from utilities.results.moments import precise

REFERENCES = ("input", "own")
# Where a block's first class comes from. SOURCES are exclusive and add up to 1; OVERLAPS overlap.
SOURCES = ("previous", "attn", "mlp", "several", "none")
OVERLAPS = ("previous", "attn", "mlp", "none")


@dataclass(frozen=True)
class Reading:
    """Reading of one block's output, for comparison with the next block.

    Attributes:
        logit: Logit of the target, (batch, tokens), through a learned lens where there is one.
        plain: The same through the model's own norm and classifier alone, as attention and MLP are read.
        first: First class of each token, (batch, tokens), also through the model's own norm and classifier. The lowest
            index wins a tie.
    """

    logit: torch.Tensor
    plain: torch.Tensor
    first: torch.Tensor


def read_output(tokens: BlockTokens, batch: Batch) -> Reading:
    """Read a block's output; with a learned lens, read it both ways if there are parts to compare with."""
    logits = plain = tokens.logits("block")
    if tokens.space.options.tuned is not None and tokens.attn is not None:
        plain = tokens.space.project(tokens.after)
    logit = target_logit(logits, batch.target)
    return Reading(logit, logit if plain is logits else target_logit(plain, batch.target), plain.argmax(2))


def layer_changes(tokens: BlockTokens, batch: Batch, before: Reading, reference: str = "input") -> torch.Tensor:
    """Compute the target's logit in what attention and MLP add, minus its logit in the reference.

    Args:
        tokens: Tokens of a transformer's block.
        batch: The images they belong to.
        before: Reading of the previous block.
        reference: What to subtract. ``"input"`` is the block's input for both, as published. ``"own"`` is the same for
            attention, but for the MLP it is the MLP's own input, to which attention has been added.

    Returns:
        Differences of logits, (batch, 2, tokens): attention, MLP.
    """
    attn, mlp = (target_logit(tokens.logits(part), batch.target) for part in ("attn", "mlp"))
    base = before.plain
    if reference == "own":
        base = target_logit(tokens.space.project(tokens.before + tokens.attn), batch.target)
    return torch.stack([attn - before.plain, mlp - base], 1)


def agreement(tokens: BlockTokens, now: Reading, before: Reading) -> torch.Tensor:
    """Tell whether a block's first class is that of its input, of attention and of the MLP: bool (batch, tokens, 3)."""
    others = [before.first, tokens.logits("attn").argmax(2), tokens.logits("mlp").argmax(2)]
    return torch.stack([now.first == other for other in others], 2)


def exclusive(agree: torch.Tensor) -> torch.Tensor:
    """Assign each token to one of `SOURCES`, by where its first class comes from.

    Args:
        agree: Whether the first class is that of input, attention and MLP, booleans (..., 3).

    Returns:
        Booleans (..., 5), exactly one of them true: a single source, several sources, or none.

    Example:
        >>> exclusive(torch.tensor([[False, True, False], [True, True, False], [False, False, False]])).int()
        tensor([[0, 1, 0, 0, 0],
                [0, 0, 0, 1, 0],
                [0, 0, 0, 0, 1]], dtype=torch.int32)
    """
    count = agree.sum(-1, keepdim=True)
    return torch.cat([agree & (count == 1), count > 1, count == 0], -1)


def overlapping(agree: torch.Tensor) -> torch.Tensor:
    """Mark the sources as published, where a token may count for several: (..., 3) -> booleans (..., 4) of `OVERLAPS`.

    Example:
        >>> overlapping(torch.tensor([[True, True, False]])).int()
        tensor([[1, 1, 0, 0]], dtype=torch.int32)
    """
    return torch.cat([agree, ~agree.any(-1, keepdim=True)], -1)


def over_groups(values: torch.Tensor, groups: dict[str, slice]) -> torch.Tensor:
    """Average over the tokens of each group, in float64: (batch, tokens, ...) -> (batch, groups, ...).

    Example:
        >>> over_groups(torch.tensor([[1.0, 2.0, 4.0]]), {"CLS": slice(0, 1), "image": slice(1, None)})
        tensor([[1., 3.]], dtype=torch.float64)
    """
    values = precise(values)
    return torch.stack([values[:, tokens].mean(1) for tokens in groups.values()], 1)


class BlockReader(Sums):
    """Reduces each block of a batch to a few numbers per image, see `utilities.analysis.class_embedding.readers`.

    Shares are kept in float32. Quantities that enter a test are kept in float64. Scores are multiples of
    1 / (tokens * classes): rounding would break their ties, and with them the p-values of few images.

    Attributes:
        values: What `utilities.analysis.class_embedding.identifiability.Identifiability` averages over images.
        image_tokens: Number of image tokens in the block read last.
    """

    KEEPS, OWN = ("image_tokens",), ("groups", "prefix", "num_classes", "threshold")

    def __init__(self, space: ClassSpace, reference: str, threshold: float) -> None:
        self.groups, self.prefix, self.has_layers = space.groups(), space.prefix, len(space.parts) > 1
        self.num_classes, self.reference, self.threshold = space.num_classes, reference, threshold
        self.before: tuple[Reading, tuple[int, int]] | None = None
        self.values, self.image_tokens = PerImage(), 0

    def block(self, tokens: BlockTokens, batch: Batch) -> None:
        """Read a block, and compare it with the previous one."""
        now = read_output(tokens, batch)
        before, grid = self.before or (None, None)
        self.before = now, tokens.grid
        places = batch.on_object(tokens.grid, self.threshold)
        self._scores(tokens, batch, places)
        missing = torch.full_like(now.logit, torch.nan)
        change = (now.logit > before.logit).float() if grid == tokens.grid else missing
        self.values.add("change", over_groups(change, self.groups).float())
        has_layers = self.has_layers and before is not None
        changes = layer_changes(tokens, batch, before, self.reference) if has_layers else None
        self._layers(missing, changes, places)
        agree = agreement(tokens, now, before) if has_layers else None
        for quantity, sort, kinds in (("composition", exclusive, SOURCES), ("overlap", overlapping, OVERLAPS)):
            shares = missing[..., None].expand(-1, -1, len(kinds)) if agree is None else sort(agree)
            self.values.add(quantity, over_groups(shares, self.groups).float())

    def _scores(self, tokens: BlockTokens, batch: Batch, places: torch.Tensor | None) -> None:
        """Rank the class among all classes, in every part."""
        read = [ranks_and_firsts(tokens.logits(part), batch.target) for part in tokens.space.parts]
        ranks, firsts = zip(*read, strict=True)
        means = [1 - over_groups(r, self.groups) / self.num_classes for r in ranks]
        self.values.add("score", torch.stack(means, 1), axis=2)
        self.values.add("rate", torch.stack([over_groups(one, self.groups) for one in firsts], 1).float(), axis=2)
        of_image = ranks[0][:, self.prefix :]
        self.image_tokens = of_image.shape[1]
        # Without ties this is a product of zeros and ones. With ties it is a probability: each token breaks its ties
        # at random, independently of the others.
        self.values.add("any_token", 1 - (1 - firsts[0][:, self.prefix :]).prod(1))
        scores = 1 - by_place(of_image, places) / self.num_classes
        self.values.add("place_score", scores)
        self.values.add("place_difference", difference(scores))

    def _layers(self, missing: torch.Tensor, changes: torch.Tensor | None, places: torch.Tensor | None) -> None:
        """Average the changes of attention and MLP over groups and places; they are missing in the first block."""
        if changes is None:
            changes = missing[:, None].expand(-1, 2 if self.has_layers else 0, -1)
        raised = torch.where(changes.isnan(), torch.nan, (changes > 0).float()).mT
        self.values.add("layer_change", over_groups(raised, self.groups).mT.float(), axis=2)
        of_image = changes[..., self.prefix :]
        gaps = [difference(by_place(layer, places)) for layer in of_image.unbind(1)]
        self.values.add("place_layer_difference", torch.stack(gaps, 1) if gaps else precise(changes[..., 0]), axis=2)

    def finish(self, batch: Batch) -> None:
        """Keep the label of each image, and whether the model is right."""
        self.before = None
        right = torch.full((len(batch.images),), torch.nan)
        if batch.labels is not None:
            right = hits(batch.logits, batch.labels)
        self.values.end_batch(labels=known_labels(batch), correct=right)
