"""The tuned lens: an affine map for each block from its tokens to those of the last, fitted to the model's own answers.

The lens of `utilities.analysis.class_embedding.space` reads every block as if it were the last. Where it reads nothing,
the class may exist in another basis. Belrose et al. 2023 (https://arxiv.org/abs/2303.08112) let each block b learn a
change of basis, x -> x + A_b x + b_b, before the model's own norm and classifier. The maps see no labels. They are
fitted so that each token's distribution over classes matches the one that the last block has for that token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from utilities.analysis.class_embedding.lens import lens_facts
from utilities.analysis.class_embedding.passes import Batch, read
from utilities.analysis.class_embedding.record import BlockTokens
from utilities.analysis.class_embedding.space import ClassSpace, LensOptions, class_space
from utilities.analysis.stream import readable_twice
from utilities.zoo.checkpoints import write_torch

IMAGES_PER_STEP = 32


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


def fit_tuned_lens(
    model: nn.Module | ClassSpace,
    loader: Iterable[Any],
    *,
    epochs: int = 5,
    learning_rate: float = 1e-3,
    seed: int = 0,
    lens: LensOptions | None = None,
    names: Mapping[str, Any] | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> TunedLens:
    """Fit a tuned lens to a model, which is not modified (Belrose et al. 2023, https://arxiv.org/abs/2303.08112).

    The fit minimises, for each block b, the mean of KL(p || p_b) over class and image tokens. Here p is the
    distribution over classes that the lens reads from a token after the last block, and p_b the one it reads from the
    token of block b after its map. Where grids differ, p is taken from the nearest position.

    Adam makes a step every `IMAGES_PER_STEP` images of a batch, in random order, with a learning rate that falls to 0
    linearly over the epochs. For each block, the fit keeps the map with the smallest mean divergence over an epoch. The
    identity at the start is a candidate too: if steps are too large for a block that is nearly right already, its lens
    stays the raw one.

    Args:
        model: See `utilities.analysis.class_embedding.space.class_space`, or a space with its own options, such as
            ``ConvolutionalSpace.every_stage(model)``.
        loader: Yields training images; labels are not needed.
        epochs: Number of passes over the images, each of which runs the model.
        learning_rate: Learning rate of the first epoch.
        seed: Seed of the order of images within batches.
        lens: How tokens are read, which must be the same later with the tuned lens; None is the paper's way.
        names: Names of the parts of an unknown model, see `utilities.analysis.class_embedding.space.class_space`.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.

    Returns:
        The tuned lens.

    Raises:
        ValueError: If an option is out of range, the model has only one block, or ``lens`` is tuned already.
        TypeError: If the loader can be read only once.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> model = vit_tiny_patch2_16(num_classes=10, depth=2)
        >>> tuned = fit_tuned_lens(model, [torch.rand(4, 3, 16, 16)], epochs=1, device="cpu")
        >>> class_space(model, LensOptions(tuned=tuned)).project(torch.zeros(1, 65, 96), 0).shape
        torch.Size([1, 65, 10])
    """
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1 or not learning_rate > 0 or seed < 0:
        raise ValueError(
            f"epochs should be 1 or more, learning_rate above 0, seed 0 or more; got {epochs}, {learning_rate}, {seed}"
        )
    space = space_of(model, lens, names)
    if space.options.tuned is not None:
        raise ValueError("the lens to fit is tuned already; pass LensOptions without tuned")
    if len(space.blocks) < 2:
        raise ValueError(f"{type(space.model).__name__} has one block, read as it is: there is nothing to tune")
    readable_twice(loader, "a tuned lens")
    fit = _Fit(space, torch.Generator().manual_seed(seed))
    for epoch in range(epochs):
        fit.begin(learning_rate * (1 - epoch / epochs))
        label = f"tuned lens, epoch {epoch + 1} of {epochs}"
        n = read(space, loader, [fit], target=0, device=device, progress=progress, description=label)
        fit.keep(epoch + 1, n)
    kl, kept = fit.restore()
    options = {"epochs": epochs, "learning_rate": float(learning_rate), "seed": seed, "lens": lens_facts(space.options)}
    fit.tuned.facts = {**options, "n": n, "train_kl": kl, "kept_epoch": kept}
    return fit.tuned.requires_grad_(False).cpu()


def space_of(
    model: nn.Module | ClassSpace, lens: LensOptions | None = None, names: Mapping[str, Any] | None = None
) -> ClassSpace:
    """Build a model's class-embedding space, or return a space unchanged.

    Raises:
        ValueError: If the model has no such space, or options are passed with a space, which has its own.

    Example:
        >>> from utilities.analysis.class_embedding.conv_space import ConvolutionalSpace
        >>> from utilities.resnet import resnet18
        >>> len(space_of(resnet18()).names), len(space_of(ConvolutionalSpace.every_stage(resnet18())).names)
        (2, 8)
    """
    if not isinstance(model, ClassSpace):
        return class_space(model, lens, names)
    if lens is not None or names is not None:
        raise ValueError("a space has options of its own; pass lens= and names= with a model, or when it is made")
    return model


def divergence(final: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Compute KL(softmax(final) || softmax(logits)) in nats: (..., classes) twice -> (...).

    Example:
        >>> divergence(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 0.0]))
        tensor(0.)
    """
    final, logits = (x.to(torch.promote_types(x.dtype, torch.float32)).log_softmax(-1) for x in (final, logits))
    return (final.exp() * (final - logits)).sum(-1)


def on_grid(logits: torch.Tensor, prefix: int, grid: tuple[int, int], wanted: tuple[int, int]) -> torch.Tensor:
    """Resample token logits from one grid to another by nearest neighbour; prefix tokens are unchanged.

    Args:
        logits: Logits of each token, (batch, prefix + rows * columns, classes).
        prefix: Number of tokens before those of the image.
        grid: Rows and columns of the image tokens.
        wanted: Rows and columns of the result.

    Example:
        >>> on_grid(torch.arange(4.0).view(1, 4, 1), 0, (2, 2), (2, 4)).flatten().tolist()
        [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
    """
    if grid == wanted:
        return logits
    image = logits[:, prefix:].mT.unflatten(2, grid)
    image = F.interpolate(image, wanted, mode="nearest-exact").flatten(2).mT
    return torch.cat([logits[:, :prefix], image], 1)


class AllBlocks(ABC):
    """Keeps the tokens of all blocks for a batch, because the last block's answer is only known at the end."""

    def __init__(self, space: ClassSpace) -> None:
        self.space = space
        self.after: list[torch.Tensor] = []
        self.grids: list[tuple[int, int]] = []

    def block(self, tokens: BlockTokens, batch: Batch) -> None:
        """Keep a block's tokens."""
        self.after.append(tokens.after)
        self.grids.append(tokens.grid)

    def finish(self, batch: Batch) -> None:
        """Process the batch, and drop its tokens."""
        self.work()
        self.after, self.grids = [], []

    @abstractmethod
    def work(self) -> None:
        """Process a batch, given the tokens of all its blocks."""

    def finals(self) -> list[torch.Tensor]:
        """Resample the logits of the last block's tokens to the grid of each block."""
        last = self.space.project(self.after[-1])
        return [on_grid(last, self.space.prefix, self.grids[-1], grid) for grid in self.grids]


class _Fit(AllBlocks):
    """Fits the maps of all blocks with Adam, batch by batch."""

    tuned: TunedLens | None = None  # the first batch shows how wide the blocks are
    optimiser: torch.optim.Optimizer

    def __init__(self, space: ClassSpace, generator: torch.Generator) -> None:
        super().__init__(space)
        self.generator = generator
        self.start: np.ndarray | float = 0.0  # divergence of the maps before any step
        self.best: list[tuple[float, int, dict[str, torch.Tensor]]] = []  # divergence, epoch and map of each block

    def begin(self, learning_rate: float) -> None:
        """Begin an epoch."""
        self.learning_rate, self.totals = learning_rate, 0.0

    def keep(self, epoch: int, n: int) -> None:
        """Keep the maps whose divergence over this epoch is the smallest so far."""
        if epoch == 1:
            self.best = [(float(start), 0, {}) for start in self.start / n]
        for index, (layer, total) in enumerate(zip(self.tuned.maps, self.totals / n, strict=True)):
            if total <= self.best[index][0] * (1 + 1e-6):  # equal except for rounding if an epoch is one step
                state = {name: value.clone() for name, value in layer.state_dict().items()}
                self.best[index] = (float(total), epoch, state)

    def restore(self) -> tuple[list[float], list[int]]:
        """Restore the best maps (zeros if no epoch improved on the start), and return divergences and epochs."""
        for layer, (_, _, state) in zip(self.tuned.maps, self.best, strict=True):
            layer.load_state_dict(state or {name: torch.zeros_like(x) for name, x in layer.state_dict().items()})
        return [kl for kl, _, _ in self.best], [epoch for _, epoch, _ in self.best]

    def work(self) -> None:
        """Make all optimiser steps for a batch."""
        if self.tuned is None:
            last = self.after[-1]
            precise = torch.promote_types(last.dtype, torch.float32)  # Adam's steps are lost in half precision
            self.tuned = TunedLens([x.shape[2] for x in self.after], precise).to(last.device)
            self.optimiser = torch.optim.Adam(self.tuned.parameters())
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate
        finals = self.finals()
        if not self.best:
            self.start = self.start + len(finals[0]) * self._untouched(finals)
        order = torch.randperm(len(finals[0]), generator=self.generator).to(finals[0].device)
        for images in order.split(IMAGES_PER_STEP):
            self.totals += len(images) * self._step(finals, images)

    def _untouched(self, finals: list[torch.Tensor]) -> np.ndarray:
        """Compute the mean divergence of each block without a map; infinity if a block cannot be read without one."""
        found = []
        for tokens, final in zip(self.after[:-1], finals, strict=False):
            if tokens.shape[2] != self.after[-1].shape[2]:
                found.append(np.inf)
                continue
            kl = divergence(final, self.space.project(tokens))
            found.append(float(kl[:, _seen(self.space, kl.shape[1])].mean()))
        return np.array(found)

    def _step(self, finals: list[torch.Tensor], images: torch.Tensor) -> np.ndarray:
        """Make one step, and return the mean KL divergence of each block before it."""
        losses = []
        for index, layer in enumerate(self.tuned.maps):
            with torch.enable_grad():
                logits = self.space.project(self.after[index][images], index, self.tuned)
                seen = _seen(self.space, logits.shape[1])
                loss = divergence(finals[index][images], logits)[:, seen].mean()
            loss.backward(inputs=list(layer.parameters()))  # computes no gradients for the model
            losses.append(loss.detach())
        self.optimiser.step()
        self.optimiser.zero_grad()
        torch.clear_autocast_cache()  # the caller's autocast would keep maps cast before the step
        return torch.stack(losses).double().cpu().numpy()


def _seen(space: ClassSpace, count: int) -> list[int]:
    """List the positions of class and image tokens among all tokens."""
    return [place for group in space.groups().values() for place in range(count)[group]]
