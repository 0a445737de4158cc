"""The tuned lens: an affine map for each block from its tokens to those of the last, fitted to the model's own answers.

The lens of `utilities.analysis.class_embedding.space` reads every block as if it were the last. Where it reads nothing,
the class may exist in another basis. Belrose et al. 2023 (https://arxiv.org/abs/2303.08112) let each block b learn a
change of basis, x -> x + A_b x + b_b, before the model's own norm and classifier. The maps see no labels. They are
fitted so that each token's distribution over classes matches the one that the last block has for that token.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from utilities.zoo.checkpoints import write_torch


class TunedLens(nn.Module):
    """An affine map for each block; the map of the last block is always the identity.

    If a block is as wide as the last one, its map is x + A x + b. It starts as the identity, with A = 0 and b = 0. For
    other widths, the map is A x + b. Pass the lens as ``LensOptions(tuned=...)`` to read with it.

    Attributes:
        widths: Widths of the blocks' tokens.
        facts: How the lens was fitted, with each block's KL divergence and the epoch that its map was kept from (0 if
            no epoch improved on the start).

    Example:
        >>> tuned, tokens = TunedLens([4, 4]), torch.rand(1, 3, 4)
        >>> torch.equal(tuned(0, tokens), tokens)
        True
    """

    def __init__(self, widths: Sequence[int], dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.widths, self.facts = list(widths), {}
        linear = partial(nn.utils.skip_init, nn.Linear)  # nothing is drawn from the global generator
        self.maps = nn.ModuleList(linear(width, widths[-1], dtype=dtype) for width in widths[:-1])
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, index: int, tokens: torch.Tensor) -> torch.Tensor:
        """Map a block's tokens to the width of the last block: (batch, tokens, width) -> (batch, tokens, last width).

        The block's map moves to the device of the tokens.

        Raises:
            ValueError: If there is no such block, or it has another width.
        """
        self._check(index, tokens)
        if index == len(self.maps):
            return tokens
        layer = self.maps[index].to(tokens.device)
        change = layer(tokens.to(layer.weight.dtype)).to(tokens.dtype)
        return tokens + change if self.widths[index] == self.widths[-1] else change

    def with_classifier(
        self, index: int, tokens: torch.Tensor, head: nn.Linear, bias: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Merge a block's map and the classifier that follows into one linear map, and return its weight and bias.

        This needs a model without a norm between the two. It avoids widening the many positions of early stages to the
        width of the last one.

        Args:
            index: Index of the block.
            tokens: Tokens of the block, to check that they belong to it.
            head: The classifier.
            bias: Whether to add the classifier's own bias.

        Example:
            >>> tuned, tokens, head = TunedLens([4, 4]), torch.rand(1, 3, 4), nn.Linear(4, 2)
            >>> nn.functional.linear(tokens, *tuned.with_classifier(0, tokens, head)).allclose(head(tuned(0, tokens)))
            True
        """
        self._check(index, tokens)
        own = head.bias if bias else None
        if index == len(self.maps):
            return head.weight, own
        layer = self.maps[index].to(tokens.device)
        classifier = head.weight.to(layer.weight.dtype)
        weight, shift = classifier @ layer.weight, classifier @ layer.bias
        if self.widths[index] == self.widths[-1]:
            weight = weight + classifier
        shift = shift if own is None else shift + own
        return weight.to(head.weight.dtype), shift.to(head.weight.dtype)

    def _check(self, index: int, tokens: torch.Tensor) -> None:
        if not 0 <= index < len(self.widths) or tokens.shape[-1] != self.widths[index]:
            raise ValueError(
                f"tokens of block {index}, {tokens.shape[-1]} wide, do not belong to a tuned lens of blocks "
                f"{self.widths} wide; was it fitted to another model?"
            )

    def save(self, path: str | Path) -> Path:
        """Write the maps and how they were fitted to a file, completely or not at all."""
        content = {"widths": self.widths, "facts": self.facts, "state": self.state_dict()}
        return write_torch(path, content)

    @classmethod
    def load(cls, path: str | Path) -> TunedLens:
        """Load the file that `save` wrote, to the CPU.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file holds no tuned lens.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path} is missing; fit_tuned_lens makes a tuned lens, and its save() the file")
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            dtype = next((value.dtype for value in content["state"].values()), None)
            tuned = cls(content["widths"], dtype)
            tuned.load_state_dict(content["state"])
            tuned.facts = content["facts"]
        except Exception as error:  # torch, pickle and zipfile raise a dozen types for a damaged file
            raise ValueError(
                f"{path} holds no tuned lens: {error}; give a file of its save(), or fit it again"
            ) from error
        return tuned
