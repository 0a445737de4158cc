"""Match the memories that a token activates with the memories that write its class.

A linear layer that writes to the residual stream sums its columns: x = sum over j of k_j v_j, with coefficients k and
value vectors v, the layer's memories (Geva et al. 2021, https://arxiv.org/abs/2012.14913; Vilas et al. 2023,
https://arxiv.org/abs/2310.18969). P[c, j] is how much memory j adds to the logit of class c. It tells what the memory
is about.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from utilities.analysis.class_embedding.block_tokens import BlockTokens
from utilities.analysis.class_embedding.readers import Batch
from utilities.analysis.class_embedding.transformer_space import TransformerSpace
from utilities.analysis.class_embedding.values import MEMORY_PARTS, memory_logits
from utilities.datasets.loaders import seeded_generator
from utilities.hooks.calls.merging import Sums
from utilities.results.moments import Moments

DEFINITIONS = ("code", "text")


@dataclass(frozen=True)
class Memories:
    """The memories of one layer, and what k memories drawn at random would hold.

    Attributes:
        logits: What each memory adds to the logit of each class, (classes, memories).
        belongs: Whether the memory belongs to the class, booleans (classes, memories), see `belonging`.
        classes: The class that each memory adds most to, (memories,).
        agreement_chance: Probability that some of the k random memories belong to a class, float32 (classes,).
        match_chance: Probability that a class is the strongest class of some of them, float32 (classes,).
    """

    logits: torch.Tensor
    belongs: torch.Tensor
    classes: torch.Tensor
    agreement_chance: torch.Tensor
    match_chance: torch.Tensor


def memories(logits: torch.Tensor, definition: str, k: int) -> Memories:
    """Sort the memories of a layer by class.

    Args:
        logits: What each memory adds to the logit of each class, (classes, memories).
        definition: See `belonging`.
        k: See `belonging`; also the number of memories drawn at random.

    Example:
        >>> found = memories(torch.tensor([[3.0, 1.0, 0.0], [2.0, 0.0, 1.0]]), "code", 1)
        >>> found.classes, found.agreement_chance
        (tensor([0, 0, 1]), tensor([0.3333, 0.3333]))
    """
    belongs, classes = belonging(logits, definition, k), logits.argmax(0)
    count = logits.shape[1]
    strongest = torch.bincount(classes, minlength=len(logits))
    # On the CPU: Apple's GPUs have no float64.
    chances = [chance_of_hit(h.cpu(), count, k).float().to(logits.device) for h in (belongs.sum(1), strongest)]
    return Memories(logits, belongs, classes, *chances)


def belonging(logits: torch.Tensor, definition: str, k: int) -> torch.Tensor:
    """Tell which memories belong to which class.

    Args:
        logits: What each memory adds to the logit of each class, (classes, memories).
        definition: ``"code"``: a class has the k memories that add most to it, as in the paper's published code.
            ``"text"``: a memory has the k classes that it adds most to, as in the paper's text.
        k: How many memories or classes to select; more are selected if the k-th is tied.

    Returns:
        Booleans (classes, memories).

    Example:
        >>> logits = torch.tensor([[3.0, 1.0, 0.0], [2.0, 0.0, 1.0]])
        >>> belonging(logits, "code", 1).int().tolist(), belonging(logits, "text", 1).int().tolist()
        ([[1, 0, 0], [1, 0, 0]], [[1, 1, 0], [0, 0, 1]])
    """
    dim = {"code": 1, "text": 0}[definition]
    return logits >= logits.topk(k, dim).values.amin(dim, keepdim=True)


def top_memories(keys: torch.Tensor, k: int) -> torch.Tensor:
    """Find the k memories with the largest coefficients: (batch, tokens, memories) -> (batch, tokens, k).

    Example:
        >>> top_memories(torch.tensor([[[0.1, -2.0, 0.7]]]), 2)
        tensor([[[2, 0]]])
    """
    return keys.topk(k, dim=-1).indices


def look_up(table: torch.Tensor, classes: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
    """Look up the entries of each image's class at each token's memories.

    Args:
        table: One entry for each class and memory, (classes, memories).
        classes: The class of each image, (batch,).
        top: Indices of memories from `top_memories`, (batch, tokens, k).

    Returns:
        Entries of the table, (batch, tokens, k).

    Example:
        >>> look_up(torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([1]), torch.tensor([[[0, 2]]]))
        tensor([[[4, 6]]])
    """
    return table[classes].gather(1, top.flatten(1)).view_as(top)


def chance_of_hit(hits: torch.Tensor, memories: int, k: int) -> torch.Tensor:
    """Compute the probability that k different memories, drawn uniformly, include one of ``hits`` marked ones.

    The draw is hypergeometric: 1 - C(memories - hits, k) / C(memories, k).

    Args:
        hits: Number of marked memories, whole numbers of any shape.
        memories: Number of memories.
        k: Number of memories drawn.

    Returns:
        Probabilities, float64, in the shape of ``hits``.

    Example:
        >>> chance_of_hit(torch.tensor([0, 5, 768]), 768, 5)
        tensor([0.0000, 0.0322, 1.0000], dtype=torch.float64)
    """
    # Factors can only become negative after one that is 0, where the draw cannot miss.
    missed = torch.ones_like(hits, dtype=torch.float64)
    for i in range(k):
        missed = missed * (memories - hits - i) / (memories - i)
    return 1 - missed


def other_class(target: torch.Tensor, num_classes: int, generator: torch.Generator) -> torch.Tensor:
    """Draw another class for each image, uniformly among all classes but its own.

    Args:
        target: Class of each image, (batch,).
        num_classes: Number of classes, two or more.
        generator: Generator on the CPU; images one by one draw the same classes as a whole batch.

    Example:
        >>> other_class(torch.tensor([0, 1, 1]), 2, torch.Generator().manual_seed(0))
        tensor([1, 0, 0])
    """
    step = torch.randint(1, num_classes, target.shape, generator=generator)
    return (target + step.to(target.device)) % num_classes


class MatchReader(Sums):
    """Reads tokens batch by batch, and keeps shares of tokens for each image."""

    OWN = ("k", "memories", "preactivation", "other", "found", "drawn")

    def __init__(self, space: TransformerSpace, definition: str, k: int, keys: str, fold: str, seed: int) -> None:
        self.space, self.definition, self.k, self.keys, self.fold = space, definition, k, keys, fold
        self.generator, self.drawn = seeded_generator(seed), 0
        self.memories: dict[tuple[int, str], Memories] = {}
        self.preactivation: list[torch.Tensor] = []
        self.shares: list[np.ndarray] = []
        self.targets: list[np.ndarray] = []
        self.correct: list[np.ndarray] = []
        self.means = Moments()

    @contextmanager
    def before_activation(self) -> Iterator[None]:
        """Capture the MLPs' coefficients before the nonlinearity, if these are asked for."""
        layers = [parts.hidden for parts in self.space.block_parts] if self.keys == "preactivation" else []
        handles = [layer.register_forward_hook(self._keep) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _keep(self, module: nn.Module, args: Any, output: torch.Tensor) -> None:
        self.preactivation = [output.clone()]  # the nonlinearity may work in place

    def block(self, tokens: BlockTokens, batch: Batch) -> None:
        """Compare a block's coefficients with its memories."""
        if tokens.index == 0:
            self.other, self.found = self._other(batch), []
        mlp_keys = self.preactivation.pop() if self.keys == "preactivation" else tokens.mlp_keys
        for part, keys in zip(MEMORY_PARTS, (tokens.attn_keys, mlp_keys), strict=True):
            self.found.append(self._look(tokens, part, keys, batch.target))

    def _other(self, batch: Batch) -> torch.Tensor:
        """Draw another class for each image; an image's draw is the same whoever sees those before it."""
        if self.drawn < batch.first:
            other_class(torch.zeros(batch.first - self.drawn).long(), self.space.num_classes, self.generator)
        self.drawn = batch.first + len(batch.target)
        return other_class(batch.target, self.space.num_classes, self.generator)

    def _look(self, tokens: BlockTokens, part: str, keys: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compare one part's coefficients with its memories, averaged over groups of tokens: (7, batch, groups)."""
        own, top = self._memories(tokens.index, part), top_memories(keys, self.k)
        said = tokens.logits(part).argmax(2)
        values = [look_up(own.belongs, classes, top).any(2) for classes in (target, self.other)]
        values += [(own.classes[top] == said[..., None]).any(2)]
        values += [look_up(own.logits, classes, top).mean(2) for classes in (target, self.other)]
        values += [own.agreement_chance[target, None].expand_as(said), own.match_chance[said]]
        stacked = torch.stack([value.float() for value in values])
        return torch.stack([stacked[..., group].mean(2) for group in self.space.groups().values()], 2)

    def _memories(self, index: int, part: str) -> Memories:
        if (index, part) not in self.memories:
            logits = memory_logits(self.space, index, part, self.fold).float()
            self.memories[index, part] = memories(logits, self.definition, self.k)
        return self.memories[index, part]

    def finish(self, batch: Batch) -> None:
        """Store the shares of a batch, and accumulate the other values."""
        found = torch.stack(self.found).cpu()  # blocks x parts, values, batch, groups
        found = found.unflatten(0, (-1, len(MEMORY_PARTS))).permute(3, 2, 1, 4, 0).numpy()
        self.shares.append(found[:, :3].copy())
        self.means.add(found[:, 3:])
        self.targets.append(batch.target.cpu().numpy())
        if batch.labels is not None:
            self.correct.append((batch.logits.argmax(1) == batch.labels).cpu().numpy())
