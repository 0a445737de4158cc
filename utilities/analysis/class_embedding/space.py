"""Class-embedding space: the logits that a model's final norm and classifier give to any hidden token.

Follows Vilas et al. 2023, https://arxiv.org/abs/2310.18969. Let E be the classifier's rows (classes x width) and e its
bias. A token x of any layer is read as E norm(x) + e, with the final norm. A model with a class token does the same to
that token after its last block. For models that average tokens, each token is read alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

BLOCK_PARTS = ("block", "attn", "mlp")
Tuned = Callable[[int, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class LensOptions:
    """How tokens are read.

    Attributes:
        norm: Whether the final norm is applied first.
        bias: Whether the classifier's bias is added.
        scale: Whether attention and MLP are read as they are added to the residual stream, with LayerScale or the norm
            after the branch. If not, the output of the projection or the second linear layer is read.
        tuned: Learned map from each block's tokens to those of the last, called as ``tuned(index, tokens)``; see
            `utilities.analysis.class_embedding.tuned`. It only reads block outputs.
    """

    norm: bool = True
    bias: bool = True
    scale: bool = True
    tuned: Tuned | None = None


class ClassSpace(ABC):
    """The class-embedding space of one model.

    Attributes:
        model: The model as it was passed; it is not modified.
        options: How tokens are read.
        names: Names of the blocks.
        blocks: Modules whose outputs are read.
        parts: Parts that can be read of each block, some of `BLOCK_PARTS`.
        prefix: Number of tokens before those of the image.
        class_token: Whether the first of these is a class token.
        num_classes: Number of logits.
    """

    model: nn.Module
    options: LensOptions
    names: list[str]
    blocks: list[nn.Module]
    parts: tuple[str, ...]
    prefix: int
    class_token: bool
    num_classes: int

    @abstractmethod
    def project(self, tokens: torch.Tensor, index: int | None = None, tuned: Tuned | None = None) -> torch.Tensor:
        """Read tokens: (batch, tokens, width) -> logits (batch, tokens, classes).

        Args:
            tokens: Tokens of a block, or of a part of it.
            index: Index of the block that put out the tokens, for a learned lens; None for parts.
            tuned: Learned lens; None uses that of the options, if there is one.
        """

    @abstractmethod
    def classify(self, tokens: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Classify the tokens of the last block as the model does: (batch, tokens, width) -> (batch, classes).

        Args:
            tokens: Tokens after the last block.
            keep: Whether to include each token, booleans (batch, tokens), if the model averages tokens; None is all.
        """

    @abstractmethod
    def tokens(self, output: torch.Tensor) -> torch.Tensor:
        """Convert a block's output to (batch, tokens, width)."""

    @abstractmethod
    def grid(self, output: torch.Tensor, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Return rows and columns of the image tokens in a block's output.

        Args:
            output: Output of a block.
            size: Height and width of the images, for models that take any size; None is the model's own size.
        """

    def logits(self, images: torch.Tensor, **forward: Any) -> torch.Tensor:
        """Run the model for its logits, (batch, classes); `classify` must reproduce them."""
        return self.model(images, **forward)

    def depth(self) -> list[float]:
        """Return the share of all the model's blocks that have run after each block read: 1 for the last."""
        return [(index + 1) / len(self.blocks) for index in range(len(self.blocks))]

    def groups(self) -> dict[str, slice]:
        """Group the tokens: ``CLS``, if there is a class token, and ``image``; registers are left out."""
        image = {"image": slice(self.prefix, None)}
        return {"CLS": slice(0, 1)} | image if self.class_token else image
