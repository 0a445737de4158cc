"""A model as the sequence of its blocks, which the companion analyses walk through.

Park & Kim 2022 (https://arxiv.org/abs/2202.06709) follow the features of a network from block to block: a residual
block of a CNN is one block; of a transformer each residual branch is one, attention and MLP apart, and the features
are the residual stream after it. Blocks run the model's own modules: nothing is copied.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from timm.models.byobnet import ByobNet
from timm.models.convnext import ConvNeXt
from timm.models.mlp_mixer import MixerBlock, MlpMixer
from timm.models.pit import PoolingVisionTransformer
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import Block as PreNormBlock
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch import nn

from utilities.hooks import Recorder, select_layers
from utilities.views import prefix_tokens

KINDS = ("stem", "conv", "msa", "mlp", "pool", "classifier")
TOLERANCE = 1e-5  # of the logits' largest magnitude, between a model and its sequence of blocks
_ATTENTION = re.compile("Attention|Attn|LambdaLayer")


@dataclass(frozen=True)
class Block:
    """One step from features to features.

    Attributes:
        name: Of the module or branch it runs, as in ``model.named_modules()``; stem and classifier join several.
        kind: ``stem``, ``conv``, ``msa`` (attention, lambda layers included), ``mlp``, ``pool`` (a block that lowers
            the resolution) or ``classifier``.
        stage: 0 for the stem, then counted from 1.
        module: Maps the features before to those after.
        layout: Of the features after it: ``NCHW``, ``NHWC`` or ``tokens``, where they are not logits.
        prefix: Number of class and register tokens in front of those of positions.
        grid: Rows and columns of the tokens at the model's own image size, or None where they are not known.
        in_sequence: Whether features can be passed from block to block; if not, they are recorded by hooks.
    """

    name: str
    kind: str
    stage: int
    module: nn.Module
    layout: str = "NCHW"
    prefix: int = 0
    grid: tuple[int, int] | None = None
    in_sequence: bool = True


class Step(nn.Module):
    """A function of some of the model's modules, as one module.

    Args:
        function: Maps features to features.
        *parts: The modules it runs.
    """

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the function."""
        return self.function(x)


class Residual(Step):
    """A shortcut around a branch: x + branch(x).

    Example:
        >>> Residual(lambda x: 2 * x)(torch.ones(2))
        tensor([3., 3.])
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the branch to its input."""
        return x + self.function(x)


def blocks(model: nn.Module, layers: Mapping[str, str] | None = None) -> list[Block]:
    """List the blocks of a model in the order in which they run.

    Known are this package's ResNets, Lambda ResNets and AlterNets, the ResNets of timm and torchvision, and timm's
    VisionTransformer (any prefix tokens, pooling and LayerScale), PiT, Swin, MLP-Mixer, ConvNeXt and ByobNet.

    Args:
        model: Any module.
        layers: Of any other model, names of submodules and their kinds, such as ``{"features.3": "conv"}``. Their
            outputs are recorded by hooks, so that they need not form a sequence.

    Returns:
        The blocks; those of a known model, run one after the other, are the model: `check_sequence` sees to that.

    Raises:
        ValueError: For a model that is not known, or a layer or kind that does not exist.

    Example:
        >>> from utilities.resnet import resnet18
        >>> [(block.name, block.kind, block.stage) for block in blocks(resnet18())][:4]
        [('stem', 'stem', 0), ('layer1.0', 'conv', 1), ('layer1.1', 'conv', 1), ('layer2.0', 'pool', 2)]
    """
    if layers is not None:
        return _by_hooks(model, layers)
    builder = next((build for kind, build in _BUILDERS.items() if isinstance(model, kind)), None)
    if builder is None and all(hasattr(model, name) for name in ("layer1", "layer2", "layer3", "layer4", "fc")):
        builder = _resnet
    if builder is None:
        names = ", ".join(select_layers(model, depth=1)[:6])
        raise ValueError(
            f"the blocks of a {type(model).__name__} are not known; name them with their kinds, such as "
            f"layers={{'NAME': 'conv'}}; kinds: {', '.join(KINDS)}; some of its layers: {names}"
        )
    return builder(model)


def run_blocks(model: nn.Module, sequence: list[Block], images: torch.Tensor) -> Iterator[tuple[Block, torch.Tensor]]:
    """Give each block with the features after it, in order.

    Args:
        model: Whose blocks they are; only used where they are recorded by hooks.
        sequence: See `blocks`.
        images: Of shape (batch, channels, height, width).

    Example:
        >>> from utilities.resnet import resnet18
        >>> model = resnet18().eval()
        >>> [tuple(x.shape) for _, x in run_blocks(model, blocks(model), torch.zeros(1, 3, 8, 8))][::3]
        [(1, 64, 8, 8), (1, 128, 4, 4), (1, 256, 2, 2), (1, 100)]
    """
    if all(block.in_sequence for block in sequence):
        x = images
        for block in sequence:
            x = block.module(x)
            yield block, x
        return
    with Recorder(model, [block.name for block in sequence]) as recorder:
        model(images)
    by_name = {block.name: block for block in sequence}
    for name, x in recorder.activations.items():
        if name in by_name:  # a module that ran twice is taken the first time
            yield by_name[name], x


def check_sequence(model: nn.Module, sequence: list[Block], images: torch.Tensor) -> None:
    """See that the blocks, run one after the other, give the model's logits to 1e-5 of their magnitude.

    Args:
        model: In eval mode.
        sequence: See `blocks`; those recorded by hooks have nothing to check.
        images: A few images.

    Raises:
        ValueError: If they do not.

    Example:
        >>> from utilities.resnet import resnet18
        >>> model = resnet18().eval()
        >>> check_sequence(model, blocks(model), torch.ones(1, 3, 8, 8))
        >>> check_sequence(model, blocks(model)[:-1], torch.ones(1, 3, 8, 8))
        Traceback (most recent call last):
        ValueError: the blocks of ResNet give (1, 512, 1, 1), the model gives (1, 100); ...
    """
    if not all(block.in_sequence for block in sequence):
        return
    with torch.no_grad():
        *_, (_, composed) = run_blocks(model, sequence, images)
        logits = model(images)
    remedy = "name its layers with their kinds: layers={'NAME': 'conv'}"
    name = type(model).__name__
    if composed.shape != logits.shape:
        raise ValueError(
            f"the blocks of {name} give {tuple(composed.shape)}, the model gives {tuple(logits.shape)}; {remedy}"
        )
    error = (composed - logits).abs().max().item()
    if not error <= TOLERANCE * max(1.0, logits.abs().max().item()):
        raise ValueError(f"the blocks of {name} give logits that are {error:.1e} from the model's own; {remedy}")


def to_maps(block: Block, features: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Arrange the features after a block as maps (batch, channels, height, width), prefix tokens left out.

    Args:
        block: Says the layout.
        features: What the block gave.
        images: The model's input; at another size than the model's own, the grid has its proportions.

    Raises:
        ValueError: If the features have no positions, or their grid cannot be told.

    Example:
        >>> block = Block("blocks.0", "msa", 1, nn.Identity(), "tokens", prefix=1, grid=(2, 3))
        >>> to_maps(block, torch.arange(7.0).view(1, 7, 1), torch.zeros(1, 3, 4, 6))
        tensor([[[[1., 2., 3.],
                  [4., 5., 6.]]]])
    """
    if features.ndim == 4:
        return features.movedim(-1, 1) if block.layout == "NHWC" else features
    if features.ndim != 3:
        raise ValueError(f"block {block.name!r} gives {tuple(features.shape)}, which has no positions; leave it out")
    tokens = features[:, block.prefix :]
    rows, columns = _grid(block, tokens.shape[1], images.shape[-2:])
    return tokens.transpose(1, 2).unflatten(2, (rows, columns))


def _grid(block: Block, count: int, size: torch.Size) -> tuple[int, int]:
    """Find rows and columns of a number of tokens: the model's own, or such as have the images' proportions."""
    rows = round((count * size[0] / size[1]) ** 0.5)
    for grid in (block.grid, (rows, count // max(rows, 1))):
        if grid is not None and grid[0] * grid[1] == count:
            return grid
    raise ValueError(
        f"block {block.name!r} gives {count} tokens for images of {size[0]}x{size[1]} pixels, which are no grid of "
        f"these proportions; it has {block.prefix} prefix tokens"
    )


def _by_hooks(model: nn.Module, layers: Mapping[str, str]) -> list[Block]:
    unknown = {kind for kind in layers.values() if kind not in KINDS}
    if unknown:
        raise ValueError(f"kind {unknown.pop()!r} is not known; kinds: {', '.join(KINDS)}")
    layout = "NHWC" if getattr(model, "output_fmt", None) == "NHWC" else "NCHW"
    prefix = prefix_tokens(model)
    return [
        Block(name, layers[name], 0, model.get_submodule(name), layout, prefix, in_sequence=False)
        for name in select_layers(model, list(layers))
    ]


def _attends(module: nn.Module) -> bool:
    return any(_ATTENTION.search(type(part).__name__) for part in module.modules())


def _halves(module: nn.Module) -> bool:
    """Tell whether a block lowers the resolution."""
    return any(getattr(part, "stride", 1) in (2, (2, 2)) for part in module.modules())


def _stage_block(name: str, stage: int, module: nn.Module) -> Block:
    kind = "pool" if _halves(module) else "msa" if _attends(module) else "conv"
    return Block(name, kind, stage, module)


class _Head(nn.Sequential):
    """Modules in order, with the flattening that models do in between."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self:
            x = part(x.flatten(1) if isinstance(part, nn.Linear) and x.ndim > 2 else x)
        return x


def _resnet(model: nn.Module) -> list[Block]:
    children = dict(model.named_children())
    stages = [name for name in children if re.fullmatch(r"layer[0-9]+", name)]
    names = list(children)
    before, after = names[: names.index(stages[0])], names[names.index(stages[-1]) + 1 :]
    found = [Block("stem", "stem", 0, nn.Sequential(*(children[name] for name in before)))]
    for number, stage in enumerate(stages, 1):
        found += [_stage_block(f"{stage}.{i}", number, module) for i, module in enumerate(children[stage])]
    return [*found, Block("classifier", "classifier", len(stages), _Head(*(children[name] for name in after)))]


def _byobnet(model: ByobNet) -> list[Block]:
    found = [Block("stem", "stem", 0, model.stem)]
    for number, stage in enumerate(model.stages, 1):
        found += [_stage_block(f"stages.{number - 1}.{i}", number, module) for i, module in enumerate(stage)]
    return [*found, Block("classifier", "classifier", number, nn.Sequential(model.final_conv, model.head))]


def _convnext(model: ConvNeXt) -> list[Block]:
    found = [Block("stem", "stem", 0, model.stem)]
    for number, stage in enumerate(model.stages, 1):
        name = f"stages.{number - 1}"
        if not isinstance(stage.downsample, nn.Identity):
            found.append(Block(f"{name}.downsample", "pool", number, stage.downsample))
        found += [Block(f"{name}.blocks.{i}", "conv", number, module) for i, module in enumerate(stage.blocks)]
    return [*found, Block("classifier", "classifier", number, nn.Sequential(model.norm_pre, model.head))]


def _branches(module: nn.Module) -> list[tuple[str, str, nn.Module]]:
    """Split a block of timm's transformers into its branches: (name, kind, module)."""
    if isinstance(module, PreNormBlock):
        first = Residual(lambda x: module.drop_path1(module.ls1(module.attn(module.norm1(x)))), module)
        second = Residual(lambda x: module.drop_path2(module.ls2(module.mlp(module.norm2(x)))), module)
        return [("attn", "msa", first), ("mlp", "mlp", second)]
    if isinstance(module, ResPostBlock):
        first = Residual(lambda x: module.drop_path1(module.norm1(module.attn(x))), module)
        second = Residual(lambda x: module.drop_path2(module.norm2(module.mlp(x))), module)
        return [("attn", "msa", first), ("mlp", "mlp", second)]
    if isinstance(module, MixerBlock):
        first = Residual(lambda x: module.drop_path(module.mlp_tokens(module.norm1(x).mT).mT), module)
        second = Residual(lambda x: module.drop_path(module.mlp_channels(module.norm2(x))), module)
        return [("mlp_tokens", "mlp", first), ("mlp_channels", "mlp", second)]
    raise ValueError(
        f"the branches of a {type(module).__name__} are not known; name the model's layers with their kinds: "
        "layers={'NAME': 'msa'}"
    )


def _vit(model: VisionTransformer) -> list[Block]:
    where = {"layout": "tokens", "prefix": model.num_prefix_tokens, "grid": tuple(model.patch_embed.grid_size)}

    def embed(images: torch.Tensor) -> torch.Tensor:
        return model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))

    found = [Block("stem", "stem", 0, Step(embed, model.patch_embed, model.norm_pre), **where)]
    for i, module in enumerate(model.blocks):
        found += [Block(f"blocks.{i}.{name}", kind, 1, part, **where) for name, kind, part in _branches(module)]
    head = Step(lambda x: model.forward_head(model.norm(x)), model.norm, model.fc_norm, model.head)
    return [*found, Block("classifier", "classifier", 1, head)]


def _mixer(model: MlpMixer) -> list[Block]:
    where = {"layout": "tokens", "grid": tuple(model.stem.grid_size)}
    found = [Block("stem", "stem", 0, model.stem, **where)]
    for i, module in enumerate(model.blocks):
        found += [Block(f"blocks.{i}.{name}", kind, 1, part, **where) for name, kind, part in _branches(module)]
    head = Step(lambda x: model.forward_head(model.norm(x)), model.norm, model.head)
    return [*found, Block("classifier", "classifier", 1, head)]


def _swin(model: SwinTransformer) -> list[Block]:
    found = [Block("stem", "stem", 0, model.patch_embed, "NHWC")]
    for number, stage in enumerate(model.layers, 1):
        name = f"layers.{number - 1}"
        if not isinstance(stage.downsample, nn.Identity):
            found.append(Block(f"{name}.downsample", "pool", number, stage.downsample, "NHWC"))
        for i, module in enumerate(stage.blocks):
            attention = Residual(partial(_swin_attention, module), module)
            mlp = Residual(partial(_swin_mlp, module), module)
            found.append(Block(f"{name}.blocks.{i}.attn", "msa", number, attention, "NHWC"))
            found.append(Block(f"{name}.blocks.{i}.mlp", "mlp", number, mlp, "NHWC"))
    head = Step(lambda x: model.forward_head(model.norm(x)), model.norm, model.head)
    return [*found, Block("classifier", "classifier", number, head)]


def _swin_attention(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return module.drop_path1(module._attn(module.norm1(x)))


def _swin_mlp(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return module.drop_path2(module.mlp(module.norm2(x)))


def _pit(model: PoolingVisionTransformer) -> list[Block]:
    grid = (model.patch_embed.height, model.patch_embed.width)
    prefix, first = model.num_tokens, model.transformers[0]

    def embed(images: torch.Tensor) -> torch.Tensor:
        maps = model.pos_drop(model.patch_embed(images) + model.pos_embed)
        return first.norm(torch.cat([model.cls_token.expand(len(maps), -1, -1), maps.flatten(2).mT], 1))

    found = [Block("stem", "stem", 0, Step(embed, model.patch_embed, first.norm), "tokens", prefix, grid)]
    for number, stage in enumerate(model.transformers, 1):
        name = f"transformers.{number - 1}"
        if stage.pool is not None:
            pool = Step(partial(_pit_pool, stage, prefix, grid), stage.pool, stage.norm)
            # The depthwise convolution that pools: (size + 2 * padding - kernel) // stride + 1.
            conv = stage.pool.conv
            sizes = zip(grid, conv.padding, conv.kernel_size, conv.stride, strict=True)
            grid = tuple((size + 2 * pad - kernel) // stride + 1 for size, pad, kernel, stride in sizes)
            found.append(Block(f"{name}.pool", "pool", number, pool, "tokens", prefix, grid))
        for i, module in enumerate(stage.blocks):
            parts = _branches(module)
            found += [Block(f"{name}.blocks.{i}.{n}", k, number, p, "tokens", prefix, grid) for n, k, p in parts]
    head = Step(lambda x: model.forward_head(model.norm(x[:, :prefix])), model.norm, model.head)
    return [*found, Block("classifier", "classifier", number, head)]


def _pit_pool(stage: nn.Module, prefix: int, grid: tuple[int, int], x: torch.Tensor) -> torch.Tensor:
    """Pool the tokens as maps, and project the class token, as PiT does between its stages."""
    maps, classes = stage.pool(x[:, prefix:].mT.unflatten(2, grid), x[:, :prefix])
    return stage.norm(torch.cat([classes, maps.flatten(2).mT], 1))


_BUILDERS: dict[type[nn.Module], Callable[..., list[Block]]] = {
    VisionTransformer: _vit,
    SwinTransformer: _swin,
    PoolingVisionTransformer: _pit,
    MlpMixer: _mixer,
    ConvNeXt: _convnext,
    ByobNet: _byobnet,
}
