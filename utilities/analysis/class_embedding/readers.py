"""One pass over labelled images: several readers look at every block's tokens, and keep only numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch

from utilities.analysis.class_embedding.block_tokens import BlockTokens, read_blocks
from utilities.analysis.class_embedding.space import ClassSpace
from utilities.analysis.class_embedding.transformer_space import TransformerSpace
from utilities.analysis.stream import stream
from utilities.datasets.masks import class_tokens, token_coverage
from utilities.hooks.calls.inputs import channels_last, has_channels_last
from utilities.hooks.calls.labels import BatchCheck, check_labels
from utilities.hooks.calls.merging import Sums, Total

Target = str | int
TARGETS = ("label", "prediction")


@dataclass
class Batch:
    """Images of a batch, and what is asked about them.

    Attributes:
        images: Input images, (batch, channels, height, width).
        target: The class whose rank and logit are looked at, (batch,).
        labels: The true class, (batch,), or None.
        masks: Fraction of each pixel that the object covers, (batch, height, width), or None.
        first: Number of the first of these images in the loader.
        logits: The model's own logits, (batch, classes); set once all blocks have been visited.
    """

    images: torch.Tensor
    target: torch.Tensor
    labels: torch.Tensor | None
    masks: torch.Tensor | None
    first: int = 0
    logits: torch.Tensor | None = None

    def on_object(self, grid: tuple[int, int], threshold: float = 0.5) -> torch.Tensor | None:
        """Tell class-labelled image tokens from those of the context, (batch, tokens), or None without masks."""
        return None if self.masks is None else class_tokens(token_coverage(self.masks, grid), threshold)


class Reader(Protocol):
    """Something that looks at tokens, and keeps a few numbers for each image.

    One with a method ``merge``, as `utilities.hooks.calls.merging.Sums` gives it, may see a share of the images.
    """

    def block(self, tokens: BlockTokens, batch: Batch) -> None:
        """Look at one block of a batch."""

    def finish(self, batch: Batch) -> None:
        """Look at the batch after its last block, when ``batch.logits`` is set."""


def run_readers(
    space: ClassSpace,
    loader: Iterable[Any],
    readers: Sequence[Reader],
    *,
    target: Target = "label",
    masked: bool = False,
    device: str | torch.device = "auto",
    progress: bool = True,
    description: str = "class embedding",
) -> int:
    """Run a model over a loader's images, once, with several readers.

    Args:
        space: Space of the model, which runs in eval mode and is restored afterwards.
        loader: Yields (images, labels) or (images, labels, masks).
        readers: Readers; each sees every block of every batch.
        target: The class to look at: ``"label"``, ``"prediction"`` (the model's own; it runs twice) or an index.
        masked: Whether masks of the objects are needed.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        description: Text for the bar and for errors.

    Returns:
        The number of images.

    Raises:
        ValueError: If a target or mask is missing or out of range, or the classifier does not belong to the blocks.

    Example:
        >>> from utilities.analysis.class_embedding.spaces import class_space
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> space = class_space(vit_tiny_patch2_16(num_classes=10, depth=2))
        >>> run_readers(space, [(torch.rand(3, 3, 16, 16), torch.tensor([1, 2, 3]))], [], device="cpu")
        3
    """
    check_target(target, space.num_classes)
    count, readers, check = Total(), [_Readout(space), *readers], BatchCheck(loader)
    shared = all(hasattr(reader, "merge") for reader in readers)
    options = {"device": device, "progress": progress, "description": description}
    options |= {"sums": (*readers, count, check) if shared else None}
    with stream(space.model, loader, labelled=target == "label" or masked, masked=masked, **options) as batches:
        for images, labels, masks in batches:
            labels = None if labels is None else check_labels(labels, space.num_classes)
            check_size(space, images)
            batch = Batch(images, targets_of(space, images, labels, target), labels, masks, batches.served.first)
            batch.logits = read_blocks(space, images, partial(_show, readers, batch))
            if labels is not None:
                check(batch.logits, labels)
            for reader in readers:
                reader.finish(batch)
            count.add(len(images))
    check.finish(stacklevel=4)
    return count.value


def _show(readers: Sequence[Reader], batch: Batch, tokens: BlockTokens) -> None:
    for reader in readers:
        reader.block(tokens, batch)


class _Readout(Sums):
    """Checks on the first batch that the model classifies the tokens of its last block as its space does."""

    OWN = ("final",)

    def __init__(self, space: ClassSpace) -> None:
        self.space, self.final, self.checked = space, None, False

    def block(self, tokens: BlockTokens, batch: Batch) -> None:
        """Classify the last block's tokens."""
        if not self.checked and tokens.index == len(self.space.blocks) - 1:
            self.final = self.space.classify(tokens.after)

    def finish(self, batch: Batch) -> None:
        """Compare with the model's own answer."""
        if not self.checked:
            check_readout(self.final, batch.logits)
            self.final, self.checked = None, True


def check_target(target: Target, num_classes: int) -> None:
    """Refuse a target that is neither a class nor a way to choose one.

    Raises:
        ValueError: If the target is refused; the message names it and the choices.

    Example:
        >>> check_target("guess", 10)
        Traceback (most recent call last):
        ValueError: target 'guess' is not known; it is 'label', 'prediction' or a class from 0 to 9
    """
    index = isinstance(target, int) and not isinstance(target, bool)
    if not (0 <= target < num_classes if index else target in TARGETS):
        raise ValueError(
            f"target {target!r} is not known; it is 'label', 'prediction' or a class from 0 to {num_classes - 1}"
        )


def check_size(space: ClassSpace, images: torch.Tensor, *, own: bool = False) -> None:
    """Refuse images of a size that a Vision Transformer cannot take.

    Args:
        space: Space of the model.
        images: Input images, (batch, channels, height, width).
        own: Whether even a model that takes any size must get its own size.

    Raises:
        ValueError: If the size does not fit; the message names both sizes, or says that channels come last.

    Example:
        >>> from utilities.analysis.class_embedding.spaces import class_space
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> check_size(class_space(vit_tiny_patch2_16(depth=1)), torch.zeros(1, 3, 24, 24))
        Traceback (most recent call last):
        ValueError: images have 24x24 pixels, the VisionTransformer takes 16x16; load them with image_size=16
    """
    if not isinstance(space, TransformerSpace) or (space.any_size and not own):
        return
    asked, given = tuple(space.image_size), tuple(images.shape[-2:])
    if given != asked:
        if has_channels_last(images):
            raise ValueError(channels_last(images, type(space.model).__name__))
        sizes = ["x".join(map(str, size)) for size in (given, asked)]
        raise ValueError(
            f"images have {sizes[0]} pixels, the {type(space.model).__name__} takes {sizes[1]}; load them with "
            f"image_size={asked[0]}"
        )


def check_readout(ours: torch.Tensor, logits: torch.Tensor) -> None:
    """Refuse a model whose own answer is not what its classifier says about the last block's tokens.

    Raises:
        ValueError: If the answers differ; the message reports the shapes or the largest difference.

    Example:
        >>> check_readout(torch.zeros(1, 2), torch.ones(1, 2))
        Traceback (most recent call last):
        ValueError: the model's logits are not its classifier's on its last block's tokens (they differ by 1); ...
    """
    if ours.shape != logits.shape:
        raise ValueError(
            f"the model gives {tuple(logits.shape)}, its classifier {tuple(ours.shape)} of its last block's tokens; "
            "they cannot be read in class-embedding space"
        )
    gap = float((ours - logits).abs().max())
    if not gap <= 1e-3 * float(logits.abs().max()):
        raise ValueError(
            f"the model's logits are not its classifier's on its last block's tokens (they differ by {gap:.3g}); its "
            "forward pass is not the usual one, and tokens cannot be read in class-embedding space"
        )


def targets_of(space: ClassSpace, images: torch.Tensor, labels: torch.Tensor | None, target: Target) -> torch.Tensor:
    """Return the class asked about in each image, (batch,); for the model's own answer, run the model."""
    if target == "label":
        return labels
    if target == "prediction":
        return space.logits(images).argmax(1)
    return torch.full((len(images),), target, device=images.device)
