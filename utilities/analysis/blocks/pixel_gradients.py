"""Gradients of what a model holds at the middle of its grids with respect to the pixels, after and before each sum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from utilities.hooks.block import Block
from utilities.hooks.block_sequence import blocks
from utilities.hooks.grid_centres import GridCentres
from utilities.hooks.residual_reading import check_residuals, reading
from utilities.hooks.residuals import ResidualBranch, find_residuals
from utilities.hooks.trial import first_tensor

PARTS = ("after", "before")  # the sum of skip and branch


@dataclass(frozen=True)
class Middle:
    """What a layer holds at the middle of its grid.

    Attributes:
        block: The layer.
        part: ``"after"`` or ``"before"`` the residual sum.
        grid: Rows and columns of its grid.
        position: The position that is read.
        centre: Its pixel coordinates.
        value: Mean over channels at the position, for each image, (batch,).
    """

    block: Block
    part: str
    grid: tuple[int, int]
    position: tuple[int, int]
    centre: tuple[float, float]
    value: torch.Tensor


class MiddleReader:
    """Read the middle of each layer's grid in a forward pass that autograd follows.

    Args:
        model: See `utilities.hooks.blocks`; in eval mode by the time it runs.
        layers: Layers in place of the model's blocks, see `utilities.hooks.blocks`.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, str] | Sequence[str] | None = None) -> None:
        self.model, self.sequence = model, blocks(model, layers)
        self.blocks = {block.name: block for block in self.sequence}
        self.branches = _branches_of(model, self.blocks)
        self._centres: GridCentres | None = None

    def prepare(self, images: torch.Tensor) -> None:
        """Check blocks and branches on the first images, and learn where the positions of their grids lie."""
        if images.ndim == 4 and self._centres is None:
            self._centres = GridCentres(images.shape[-2:])
            with torch.no_grad(), self._centres.watching(self.model):
                self.model(images[:2])
            check_residuals(self.model, self.branches, images[:2])
            self.sequence.check(images[:2])
        if images.ndim != 4 or self._centres.size != tuple(images.shape[-2:]):
            size = "" if self._centres is None else f" of {'x'.join(map(str, self._centres.size))} pixels"
            raise ValueError(f"images should all be (batch, channels, rows, columns){size}, got {tuple(images.shape)}")

    def read(self, images: torch.Tensor) -> list[Middle]:
        """Run the model once, and return what its layers hold, in the order in which they run.

        Raises:
            ValueError: If a layer that was named has no positions.
        """
        found: list[Middle] = []

        def before(name: str, branch: ResidualBranch, skip: torch.Tensor, added: torch.Tensor) -> None:
            found.append(self._middle(self.blocks[branch.name], "before", added, images))

        with ExitStack() as stack:
            stack.enter_context(reading(self.branches, before))()
            if self.sequence.composes:
                for block, features in self.sequence.features(images):
                    if features.ndim > 2:  # logits have no positions
                        found.append(self._middle(block, "after", features, images))
                return found
            for block in self.sequence:
                stack.callback(block.module.register_forward_hook(self._hook(block, images, found)).remove)
            self.model(images)
        missing = self.blocks.keys() - {one.block.name for one in found}
        if missing:
            raise ValueError(f"layers that did not run: {', '.join(sorted(missing))}; leave them out")
        return found

    def _hook(self, block: Block, images: torch.Tensor, found: list[Middle]) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            features = first_tensor(output)
            if features is None or features.ndim < 1 or len(features) != len(images):
                shape = None if features is None else tuple(features.shape)
                raise ValueError(f"layer {block.name!r} has no row for each of {len(images)} images: it gives {shape}")
            if block.name not in {one.block.name for one in found if one.part == "after"}:  # the first call counts
                found.append(self._middle(block, "after", features, images))

        return hook

    def _middle(self, block: Block, part: str, features: torch.Tensor, images: torch.Tensor) -> Middle:
        """Take the mean over channels at the position in the middle; it is no view, so nothing writes into it."""
        maps = self.sequence.with_layout(block, features).to_maps(features, images)
        grid = tuple(maps.shape[2:])
        position, centre = self._centres.middle(grid)
        return Middle(block, part, grid, position, centre, maps[:, :, position[0], position[1]].mean(1))


def _branches_of(model: nn.Module, wanted: Mapping[str, Block]) -> list[ResidualBranch]:
    """Return the residual branches of some blocks; a model may have none."""
    try:
        return [branch for branch in find_residuals(model) if branch.name in wanted]
    except ValueError:
        return []


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Keep no gradients of weights inside the context.

    Example:
        >>> with frozen(layer := nn.Linear(1, 1)):
        ...     layer.weight.requires_grad
        False
        >>> layer.weight.requires_grad
        True
    """
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def pixel_gradients(reader: MiddleReader, images: torch.Tensor) -> Iterator[tuple[Middle, torch.Tensor]]:
    """Yield what each layer holds in the middle, and its absolute gradient summed over colours, (batch, rows, columns).

    One forward pass is made, and one backward pass for each layer and part; along a residual stream, for each branch.
    In eval mode images do not mix, so the gradient of the sum over images holds each image's own.

    Args:
        reader: Prepared for these images.
        images: Images on the model's device.

    Raises:
        ValueError: If the gradient of a layer does not reach the pixels.
    """
    # torch 2.14's batch norm on CPUs gives a wrong gradient for a single image where what follows hands it one whose
    # channels lie side by side in memory, as lambda layers do. Twice the image is right.
    count = len(images)
    pixels = images.detach().repeat(2 if count == 1 else 1, 1, 1, 1).requires_grad_()
    stream: torch.Tensor | None = None  # gradient after the block before, where a residual stream goes on
    branch: torch.Tensor | None = None
    for one in reader.read(pixels):
        if one.part == "before":
            gradient = branch = _gradient(reader.model, one, pixels, count)
        else:
            # Where a block returns its input plus a branch, so do the gradients: no backward pass is needed.
            known = one.block.is_branch and stream is not None and branch is not None
            gradient = stream + branch if known else _gradient(reader.model, one, pixels, count)
            stream, branch = gradient, None
        yield one, gradient[:count].abs().sum(1)


def _gradient(model: nn.Module, one: Middle, pixels: torch.Tensor, count: int) -> torch.Tensor:
    """Run one backward pass."""
    gradient = None
    if one.value.requires_grad:
        (gradient,) = torch.autograd.grad(one.value[:count].sum(), pixels, retain_graph=True, allow_unused=True)
    if gradient is None:
        raise ValueError(
            f"the gradient of {one.block.name!r} does not reach the pixels: {type(model).__name__} detaches or rounds "
            "its features, or runs under torch.no_grad; name layers before that"
        )
    return gradient
