"""Fit a tuned lens: find the affine maps by which blocks say what the last block says (Belrose et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from utilities.analysis.class_embedding.lens import lens_facts
from utilities.analysis.class_embedding.lens_kl import AllBlocks, divergence
from utilities.analysis.class_embedding.readers import run_readers
from utilities.analysis.class_embedding.space import ClassSpace, LensOptions
from utilities.analysis.class_embedding.spaces import space_of
from utilities.analysis.class_embedding.tuned import TunedLens
from utilities.analysis.stream import readable_twice
from utilities.hooks.calls.options import check_number, check_whole

IMAGES_PER_STEP = 32


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
        model: See `utilities.analysis.class_embedding.spaces.class_space`, or a space with its own options, such as
            ``ConvolutionalSpace.every_stage(model)``.
        loader: Yields training images; labels are not needed.
        epochs: Number of passes over the images, each of which runs the model.
        learning_rate: Learning rate of the first epoch.
        seed: Seed of the order of images within batches.
        lens: How tokens are read, which must be the same later with the tuned lens; None is the paper's way.
        names: Names of the parts of an unknown model, see `utilities.analysis.class_embedding.spaces.class_space`.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.

    Returns:
        The tuned lens.

    Raises:
        ValueError: If an option is out of range, the model has only one block, or ``lens`` is tuned already.
        TypeError: If the loader can be read only once.

    Example:
        >>> from utilities.analysis.class_embedding.spaces import class_space
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> model = vit_tiny_patch2_16(num_classes=10, depth=2)
        >>> tuned = fit_tuned_lens(model, [torch.rand(4, 3, 16, 16)], epochs=1, device="cpu")
        >>> class_space(model, LensOptions(tuned=tuned)).project(torch.zeros(1, 65, 96), 0).shape
        torch.Size([1, 65, 10])
    """
    check_whole("epochs", epochs, 1)
    check_number("learning_rate", learning_rate, above=0)
    check_whole("seed", seed, 0)
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
        n = run_readers(space, loader, [fit], target=0, device=device, progress=progress, description=label)
        fit.keep(epoch + 1, n)
    kl, kept = fit.restore()
    options = {"epochs": epochs, "learning_rate": float(learning_rate), "seed": seed, "lens": lens_facts(space.options)}
    fit.tuned.facts = {**options, "n": n, "train_kl": kl, "kept_epoch": kept}
    return fit.tuned.requires_grad_(False).cpu()


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
