"""Split a model into the sequence of its blocks, which the companion analyses walk through.

Park & Kim 2022 (https://arxiv.org/abs/2202.06709) follow the features of a network from block to block. A residual
block of a CNN is one block. In a transformer each residual branch is one block, attention and MLP apart, and the
features are the residual stream after it. Blocks run the model's own modules: nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from utilities.hooks.block import BLOCK_KINDS, Block
from utilities.hooks.block_families import family_blocks
from utilities.hooks.calls.copies import own_inputs
from utilities.hooks.calls.input_type import as_input
from utilities.hooks.calls.inputs import SINGLE
from utilities.hooks.layer_kind import told_kind
from utilities.hooks.recorder import Forward, Recorder
from utilities.hooks.selection import Layers, select_layers
from utilities.hooks.views import channels_last, prefix_tokens

TOLERANCE = 1e-5  # difference between a model and its blocks, relative to the logits' largest magnitude

BlockFeatures = Iterator[tuple[Block, torch.Tensor]]


class BlockSequence(Sequence[Block]):
    """Hold a model and its blocks: what to walk through, with everything checked once. `blocks` makes one.

    Args:
        model: In eval mode by the time it runs.
        blocks: In the order in which they run.
        recorder: Records the features after blocks that cannot be run one after the other.

    Example:
        >>> from utilities.resnet import resnet18
        >>> sequence, batches = blocks(resnet18().eval()), [(torch.ones(1, 3, 8, 8), None)]
        >>> for images, maps in sequence.walk(batches):
        ...     print([(block.name, tuple(x.shape[1:])) for block, x in maps][::3])
        [('stem', (64, 8, 8)), ('layer2.0', (128, 4, 4)), ('layer3.1', (256, 2, 2))]
    """

    def __init__(self, model: nn.Module, blocks: Iterable[Block], recorder: Recorder | None = None) -> None:
        self.model, self.blocks, self.recorder = model, tuple(blocks), recorder

    def __getitem__(self, place: int | slice) -> Block | tuple[Block, ...]:
        return self.blocks[place]

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def composes(self) -> bool:
        """Tell whether the blocks, run one after the other, are the model; named layers need not be."""
        return self.recorder is None

    def walk(self, batches: Iterable[Sequence]) -> Iterator[tuple[torch.Tensor, BlockFeatures]]:
        """Yield the images of each batch with an iterator over the blocks and the maps after them.

        Args:
            batches: Tuples whose first part is images, all of one size.

        Raises:
            ValueError: If the blocks are not the model, see `check`; or if images have several sizes.
        """
        size = None
        for images, *_ in batches:
            if size is None:
                self.check(images[:2])
                size = images.shape[-2:]
            if images.shape[-2:] != size:
                sizes = " and ".join(f"{height}x{width}" for height, width in (size, images.shape[-2:]))
                raise ValueError(f"images have several sizes, {sizes} pixels; bring them to one")
            yield images, self.maps(images)

    def maps(self, images: torch.Tensor) -> BlockFeatures:
        """Yield each block with the maps (batch, channels, height, width) after it, where they have positions.

        Args:
            images: Batch of images, (batch, channels, height, width).

        Raises:
            ValueError: If no block gives maps or tokens, or if a grid cannot be told, see `Block.to_maps`.
        """
        found = False
        for block, features in self.features(images):
            if features.ndim > 2:  # logits have no positions
                found = True
                yield block, block.to_maps(features, images)
        if not found:
            names = ", ".join(block.name for block in self.blocks[:5])
            raise ValueError(f"none of the layers {names} gives maps or tokens, so there are no positions; name others")

    def features(self, images: torch.Tensor) -> BlockFeatures:
        """Yield each block with the features after it, in order.

        Args:
            images: Batch of images, (batch, channels, height, width).

        Example:
            >>> from utilities.resnet import resnet18
            >>> [tuple(x.shape) for _, x in blocks(resnet18().eval()).features(torch.zeros(1, 3, 8, 8))][::3]
            [(1, 64, 8, 8), (1, 128, 4, 4), (1, 256, 2, 2), (1, 100)]
        """
        return self._run(images) if self.composes else self._record(images)

    def run_from(self, place: int, features: torch.Tensor) -> torch.Tensor:
        """Return what the model gives for the features before one of its blocks.

        Example:
            >>> from utilities.resnet import resnet18
            >>> blocks(resnet18().eval()).run_from(8, torch.zeros(1, 512, 2, 2)).shape
            torch.Size([1, 100])
        """
        for block in self.blocks[place:]:
            features = block(features)
        return features

    def check(self, images: torch.Tensor) -> None:
        """Check that the blocks, run one after the other, reproduce the model's logits to 1e-5 of their magnitude.

        Args:
            images: A few images. Named layers need no check.

        Raises:
            ValueError: If the blocks do not reproduce the logits.

        Example:
            >>> from utilities.resnet import resnet18
            >>> sequence, images = blocks(resnet18().eval()), torch.ones(1, 3, 8, 8)
            >>> sequence.check(images)
            >>> BlockSequence(sequence.model, sequence[:-1]).check(images)
            Traceback (most recent call last):
            ValueError: the blocks of ResNet give (1, 512, 1, 1), the model gives (1, 100); ...
        """
        if images.ndim != 4:
            single = f"; {SINGLE}" if images.ndim == 3 else ""
            raise ValueError(f"images should be (batch, channels, height, width), got {tuple(images.shape)}{single}")
        if not self.composes:
            return
        with torch.no_grad(), own_inputs(self.model):
            logits = self.model(as_input(images, self.model))  # first, so that an error names its own layers
            *_, (_, composed) = self.features(images)
        _compare(type(self.model).__name__, composed, logits)

    def _run(self, images: torch.Tensor) -> BlockFeatures:
        x = as_input(images, self.model)
        for block in self.blocks:
            x = block(x)
            yield block, x

    def _record(self, images: torch.Tensor) -> BlockFeatures:
        recorder = self.recorder  # one for all batches, so it looks only once where the images are
        with recorder:
            recorder.run(images)
        found, recorder.activations = recorder.activations, {}
        by_name = {block.name: block for block in self.blocks}
        for name, x in found.items():
            if name in by_name:  # of a module that ran twice, the first call counts
                yield self.with_layout(by_name[name], x), x

    def with_layout(self, block: Block, features: torch.Tensor) -> Block:
        """Find out which axis holds the channels in the maps of a named block."""
        if block.layout != "auto" or features.ndim != 4:
            return block
        last = channels_last(self.model, features.shape, block.module)
        return replace(block, layout="unknown" if last is None else "NHWC" if last else "NCHW")


def blocks(
    model: nn.Module, layers: Mapping[str, str] | Layers | None = None, forward: Forward | None = None
) -> BlockSequence:
    """List the blocks of a model in the order in which they run.

    Known models are this package's ResNets, Lambda ResNets, AlterNets, plain CNNs and ViTs without skips, VGG and
    AlexNet of this package and torchvision, the ResNets of timm and torchvision, and timm's VisionTransformer (any
    prefix tokens, pooling and LayerScale), PiT, Swin, MLP-Mixer, ConvNeXt, ByobNet, EfficientNet and MobileNetV3;
    torchvision's VisionTransformer; and Hugging Face's ViT, DeiT, DINOv2, CLIP and SigLIP, see
    `utilities.hooks.vit_parts`.

    Args:
        model: Any module.
        layers: For any other model, or in place of its blocks, names or globs of submodules (see
            `utilities.hooks.select_layers`). What they hold tells their kinds, which names with kinds state instead,
            such as ``{"features.3": "conv", "stages.?": "conv"}``. Hooks record their outputs, so they need not form
            a sequence. Whether maps have their channels last is read off their shape where possible;
            ``"conv:NHWC"`` or ``"conv:NCHW"`` states it.
        forward: How to run a model whose layers are named, see `utilities.hooks.Recorder`.

    Returns:
        The blocks. Those of a known model, run one after the other, are the model; `BlockSequence.check` verifies that.

    Raises:
        ValueError: For a model that is not known, or a layer or kind that does not exist.
        TypeError: If layers are neither names nor globs, nor map them to kinds.

    Example:
        >>> from utilities.resnet import resnet18
        >>> [(block.name, block.kind, block.stage) for block in blocks(resnet18())][:4]
        [('stem', 'stem', 0), ('layer1.0', 'conv', 1), ('layer1.1', 'conv', 1), ('layer2.0', 'pool', 2)]
    """
    if layers is not None:
        return _named_blocks(model, layers, forward)
    if forward is not None:
        raise ValueError("forward= goes with layers=: a model whose blocks are known is run block by block")
    return BlockSequence(model, family_blocks(model))


def _compare(name: str, composed: torch.Tensor, logits: torch.Tensor) -> None:
    """Refuse blocks of a model that give other logits than the model itself."""
    remedy = "name its layers with their kinds: layers={'NAME': 'conv'}"
    if composed.shape != logits.shape:
        raise ValueError(
            f"the blocks of {name} give {tuple(composed.shape)}, the model gives {tuple(logits.shape)}; {remedy}"
        )
    if not logits.isfinite().all():
        raise ValueError(f"{name} gives logits that are not finite: its weights hold NaN or infinity, or it overflows")
    error = (composed - logits).abs().max().item()
    if not error <= TOLERANCE * max(1.0, logits.abs().max().item()):
        raise ValueError(f"the blocks of {name} give logits that are {error:.1e} from the model's own; {remedy}")


def _named_blocks(model: nn.Module, layers: Mapping[str, str] | Layers, forward: Forward | None) -> BlockSequence:
    if not isinstance(layers, (Mapping, str, type, Iterable)) and not callable(layers):
        raise TypeError(
            "layers should be names or globs, such as ['NAME', 'stages.*'], or map them to kinds, such as "
            f"{{'NAME': 'conv'}}, got {type(layers).__name__}"
        )
    prefix, found = prefix_tokens(model), []
    kinds = _kinds_by_name(model, layers) if isinstance(layers, Mapping) else _told_kinds(model, layers)
    recorder = Recorder(model, list(kinds), forward=forward)
    for name in recorder.layers:
        kind, _, layout = kinds[name].partition(":")
        found.append(Block(name, kind, 0, model.get_submodule(name), layout or "auto", prefix))
    return BlockSequence(model, found, recorder)


def _told_kinds(model: nn.Module, layers: Layers) -> dict[str, str]:
    """Return the kinds of the layers that are chosen: those of the model's own blocks, else what they hold tells."""
    try:
        known = {block.name: block.kind for block in family_blocks(model)}
    except ValueError:  # a model of an unknown family
        known = {}
    return {name: known.get(name) or told_kind(model, name) for name in select_layers(model, layers)}


def _kinds_by_name(model: nn.Module, layers: Mapping[str, str]) -> dict[str, str]:
    """Return the kind of each layer that a name or glob chooses; a plain name takes precedence over a glob."""
    kinds, chosen_by = {}, {}
    for pattern, kind in layers.items():
        base, _, layout = str(kind).partition(":")
        if base not in BLOCK_KINDS or layout not in ("", "NCHW", "NHWC"):
            raise ValueError(f"kind {kind!r} is not known; kinds: {', '.join(BLOCK_KINDS)}, with :NHWC or :NCHW")
        for name in select_layers(model, [pattern]):
            if name in layers and name != pattern:
                continue
            if kinds.get(name, kind) != kind:
                raise ValueError(
                    f"layer {name!r} is {kinds[name]!r} by {chosen_by[name]!r} and {kind!r} by {pattern!r}; give its "
                    "own name too, which goes before a pattern"
                )
            kinds[name], chosen_by[name] = kind, pattern
    return kinds
