"""Split a model into the sequence of its blocks, which the companion analyses walk through.

Park & Kim 2022 (https://arxiv.org/abs/2202.06709) follow the features of a network from block to block. A residual
block of a CNN is one block. In a transformer each residual branch is one block, attention and MLP apart, and the
features are the residual stream after it. Blocks run the model's own modules: nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from utilities.hooks.block import KINDS, Block, Residual, Step
from utilities.hooks.block_families import BUILDERS, stages_of_resnet
from utilities.hooks.calls.copies import own_inputs
from utilities.hooks.calls.input_type import as_input
from utilities.hooks.calls.inputs import SINGLE
from utilities.hooks.recorder import Forward, Recorder, select_layers
from utilities.hooks.views import channels_last, prefix_tokens

__all__ = [
    "KINDS",
    "Block",
    "Residual",
    "Step",
    "blocks",
    "check_sequence",
    "refuse_without_positions",
    "run_blocks",
    "to_maps",
]

TOLERANCE = 1e-5  # difference between a model and its blocks, relative to the logits' largest magnitude


def blocks(model: nn.Module, layers: Mapping[str, str] | None = None, forward: Forward | None = None) -> list[Block]:
    """List the blocks of a model in the order in which they run.

    Known models are this package's ResNets, Lambda ResNets and AlterNets, the ResNets of timm and torchvision, and
    timm's VisionTransformer (any prefix tokens, pooling and LayerScale), PiT, Swin, MLP-Mixer, ConvNeXt and ByobNet.

    Args:
        model: Any module.
        layers: For any other model, names or globs of submodules (see `utilities.hooks.select_layers`) and their kinds,
            such as ``{"features.3": "conv", "stages.?": "conv"}``. Hooks record their outputs, so they need not form
            a sequence. Whether maps have their channels last is read off their shape where possible;
            ``"conv:NHWC"`` or ``"conv:NCHW"`` states it.
        forward: How to run a model whose layers are named, see `utilities.hooks.Recorder`.

    Returns:
        The blocks. Those of a known model, run one after the other, are the model; `check_sequence` verifies that.

    Raises:
        ValueError: For a model that is not known, or a layer or kind that does not exist.
        TypeError: If layers do not map names to kinds.

    Example:
        >>> from utilities.resnet import resnet18
        >>> [(block.name, block.kind, block.stage) for block in blocks(resnet18())][:4]
        [('stem', 'stem', 0), ('layer1.0', 'conv', 1), ('layer1.1', 'conv', 1), ('layer2.0', 'pool', 2)]
    """
    if layers is None and forward is not None:
        raise ValueError("forward= goes with layers=: a model whose blocks are known is run block by block")
    if layers is not None:
        return _by_hooks(model, layers, forward)
    builder = next((build for kind, build in BUILDERS.items() if isinstance(model, kind)), None)
    if builder is None and all(hasattr(model, name) for name in ("layer1", "layer2", "layer3", "layer4", "fc")):
        builder = stages_of_resnet
    if builder is None:
        names = ", ".join(select_layers(model, depth=1)[:6])
        raise ValueError(
            f"the blocks of a {type(model).__name__} are not known; name them with their kinds, such as "
            f"layers={{'NAME': 'conv'}}; kinds: {', '.join(KINDS)}; some of its layers: {names}"
        )
    return builder(model)


def run_blocks(model: nn.Module, sequence: list[Block], images: torch.Tensor) -> Iterator[tuple[Block, torch.Tensor]]:
    """Yield each block with the features after it, in order.

    Args:
        model: The model the blocks belong to; used only where hooks record them.
        sequence: See `blocks`.
        images: Batch of images, (batch, channels, height, width).

    Example:
        >>> from utilities.resnet import resnet18
        >>> model = resnet18().eval()
        >>> [tuple(x.shape) for _, x in run_blocks(model, blocks(model), torch.zeros(1, 3, 8, 8))][::3]
        [(1, 64, 8, 8), (1, 128, 4, 4), (1, 256, 2, 2), (1, 100)]
    """
    if all(block.in_sequence for block in sequence):
        x = as_input(images, model)
        for block in sequence:
            x = block(x)
            yield block, x
        return
    recorder = sequence[0].recorder  # one for all batches, so it looks only once where the images are
    with recorder:
        recorder.run(images)
    found, recorder.activations = recorder.activations, {}
    by_name = {block.name: block for block in sequence}
    for name, x in found.items():
        if name in by_name:  # of a module that ran twice, the first call counts
            yield _with_layout(model, by_name[name], x), x


def check_sequence(model: nn.Module, sequence: list[Block], images: torch.Tensor) -> None:
    """Check that the blocks, run one after the other, reproduce the model's logits to 1e-5 of their magnitude.

    Args:
        model: The model, in eval mode.
        sequence: See `blocks`; blocks recorded by hooks need no check.
        images: A few images.

    Raises:
        ValueError: If the blocks do not reproduce the logits.

    Example:
        >>> from utilities.resnet import resnet18
        >>> model = resnet18().eval()
        >>> check_sequence(model, blocks(model), torch.ones(1, 3, 8, 8))
        >>> check_sequence(model, blocks(model)[:-1], torch.ones(1, 3, 8, 8))
        Traceback (most recent call last):
        ValueError: the blocks of ResNet give (1, 512, 1, 1), the model gives (1, 100); ...
    """
    if images.ndim != 4:
        single = f"; {SINGLE}" if images.ndim == 3 else ""
        raise ValueError(f"images should be (batch, channels, height, width), got {tuple(images.shape)}{single}")
    if not all(block.in_sequence for block in sequence):
        return
    with torch.no_grad(), own_inputs(model):
        logits = model(as_input(images, model))  # first, so that an error about the images names the model's own layers
        *_, (_, composed) = run_blocks(model, sequence, images)
    remedy = "name its layers with their kinds: layers={'NAME': 'conv'}"
    name = type(model).__name__
    if composed.shape != logits.shape:
        raise ValueError(
            f"the blocks of {name} give {tuple(composed.shape)}, the model gives {tuple(logits.shape)}; {remedy}"
        )
    if not logits.isfinite().all():
        raise ValueError(f"{name} gives logits that are not finite: its weights hold NaN or infinity, or it overflows")
    error = (composed - logits).abs().max().item()
    if not error <= TOLERANCE * max(1.0, logits.abs().max().item()):
        raise ValueError(f"the blocks of {name} give logits that are {error:.1e} from the model's own; {remedy}")


def to_maps(block: Block, features: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Arrange the features after a block as maps (batch, channels, height, width), without prefix tokens.

    Args:
        block: The block, which states the layout.
        features: The block's output.
        images: The model's input. At another size than the model's own, the grid has the images' proportions.

    Raises:
        ValueError: If the features have no positions, or their grid cannot be told.

    Example:
        >>> block = Block("blocks.0", "msa", 1, nn.Identity(), "tokens", prefix=1, grid=(2, 3))
        >>> to_maps(block, torch.arange(7.0).view(1, 7, 1), torch.zeros(1, 3, 4, 6))
        tensor([[[[1., 2., 3.],
                  [4., 5., 6.]]]])
    """
    if features.ndim == 4 and block.layout == "unknown":
        raise ValueError(
            f"block {block.name!r} gives {tuple(features.shape)}, and it cannot be told where its channels are; say it "
            f"with the kind: '{block.kind}:NHWC' or '{block.kind}:NCHW'"
        )
    if features.ndim == 4:
        return features.movedim(-1, 1) if block.layout == "NHWC" else features
    if features.ndim != 3:
        raise ValueError(f"block {block.name!r} gives {tuple(features.shape)}, which has no positions; leave it out")
    tokens = features[:, block.prefix :]
    rows, columns = _grid(block, tokens.shape[1], images.shape[-2:])
    return tokens.transpose(1, 2).unflatten(2, (rows, columns))


def refuse_without_positions(found: Mapping[str, Any], sequence: list[Block]) -> None:
    """Refuse a sequence in which no block has returned maps or tokens.

    Raises:
        ValueError: If there is none; the message names the blocks.

    Example:
        >>> refuse_without_positions({}, [Block("fc", "mlp", 0, nn.Identity())])
        Traceback (most recent call last):
        ValueError: none of the layers fc gives maps or tokens, so there are no positions; name others
    """
    if not found:
        names = ", ".join(block.name for block in sequence[:5])
        raise ValueError(f"none of the layers {names} gives maps or tokens, so there are no positions; name others")


def _grid(block: Block, count: int, size: torch.Size) -> tuple[int, int]:
    """Find rows and columns for a number of tokens: the model's own grid, or one with the images' proportions."""
    rows = round((count * size[0] / size[1]) ** 0.5)
    for grid in (block.grid, (rows, count // max(rows, 1))):
        if grid is not None and grid[0] * grid[1] == count:
            return grid
    raise ValueError(
        f"block {block.name!r} gives {count} tokens for images of {size[0]}x{size[1]} pixels, which are no grid of "
        f"these proportions; it has {block.prefix} prefix tokens"
    )


def _by_hooks(model: nn.Module, layers: Mapping[str, str], forward: Forward | None) -> list[Block]:
    if not isinstance(layers, Mapping):
        raise TypeError(f"layers should map names to kinds, such as {{'NAME': 'conv'}}, got {type(layers).__name__}")
    prefix, found, kinds = prefix_tokens(model), [], _kinds_by_name(model, layers)
    recorder = Recorder(model, list(kinds), forward=forward)
    for name in recorder.layers:
        kind, _, layout = kinds[name].partition(":")
        found.append(Block(name, kind, 0, model.get_submodule(name), layout or "auto", prefix, recorder=recorder))
    return found


def _kinds_by_name(model: nn.Module, layers: Mapping[str, str]) -> dict[str, str]:
    """Return the kind of each layer that a name or glob chooses; a plain name takes precedence over a glob."""
    kinds, chosen_by = {}, {}
    for pattern, kind in layers.items():
        base, _, layout = str(kind).partition(":")
        if base not in KINDS or layout not in ("", "NCHW", "NHWC"):
            raise ValueError(f"kind {kind!r} is not known; kinds: {', '.join(KINDS)}, with :NHWC or :NCHW")
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


def _with_layout(model: nn.Module, block: Block, features: torch.Tensor) -> Block:
    """Find out which axis holds the channels in the maps of a named block."""
    if block.layout != "auto" or features.ndim != 4:
        return block
    last = channels_last(model, features.shape, block.module)
    return replace(block, layout="unknown" if last is None else "NHWC" if last else "NCHW")
