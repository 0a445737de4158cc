"""Split each family of models into blocks, without copying any of their modules."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from timm.models.byobnet import ByobNet
from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import EfficientNet
from timm.models.mlp_mixer import MixerBlock, MlpMixer
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.pit import PoolingVisionTransformer
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import Block as PreNormBlock
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch import nn

from utilities.hooks.block import BLOCK_KINDS, Block, Residual, Step
from utilities.hooks.calls.weights import check_module
from utilities.hooks.layer_kind import attends, halves
from utilities.hooks.plain_steps import plain_steps
from utilities.hooks.selection import select_layers
from utilities.hooks.vit_parts import ViTParts, vit_parts


def _stage_block(name: str, stage: int, module: nn.Module) -> Block:
    kind = "pool" if halves(module) else "msa" if attends(module) else "conv"
    if type(module).__name__ == "SpatialSmoothing":  # a layer of the zoo, which hooks do not know
        kind = "blur"
    return Block(name, kind, stage, module)


class _Head(nn.Sequential):
    """Run modules in order, with the flattening that models do in between."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self:
            x = part(x.flatten(1) if isinstance(part, nn.Linear) and x.ndim > 2 else x)
        return x


def _resnet(model: nn.Module) -> list[Block]:
    """List the blocks of a model with layer1, layer2, ...: what comes before is the stem, what comes after the head."""
    children = dict(model.named_children())
    stages = [name for name in children if re.fullmatch(r"layer[0-9]+", name)]
    names = list(children)
    before, after = names[: names.index(stages[0])], names[names.index(stages[-1]) + 1 :]
    found = [Block("stem", "stem", 0, nn.Sequential(*(children[name] for name in before)))]
    for number, stage in enumerate(stages, 1):
        found += [_stage_block(f"{stage}.{i}", number, module) for i, module in children[stage].named_children()]
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


def _efficientnet(model: EfficientNet | MobileNetV3) -> list[Block]:
    """List the blocks of an EfficientNet or MobileNet; the first ends with a convolution."""
    found = [Block("stem", "stem", 0, nn.Sequential(model.conv_stem, model.bn1))]
    for number, stage in enumerate(model.blocks, 1):
        found += [_stage_block(f"blocks.{number - 1}.{i}", number, module) for i, module in enumerate(stage)]
    if isinstance(model, MobileNetV3):
        return [*found, Block("classifier", "classifier", number, Step(model.forward_head, model))]
    head = Step(lambda x: model.forward_head(model.bn2(model.conv_head(x))), model.conv_head, model.bn2)
    return [*found, Block("classifier", "classifier", number, head)]


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
    if hasattr(module, "attend") and hasattr(
        module, "mix"
    ):  # a block of the zoo without skips, which hooks do not know
        return [("attn", "msa", Step(module.attend, module)), ("mlp", "mlp", Step(module.mix, module))]
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


def _parts(model: nn.Module, parts: ViTParts) -> list[Block]:
    """List the blocks of a Vision Transformer of Hugging Face or torchvision."""
    where = {"layout": "tokens", "prefix": parts.prefix, "grid": parts.grid()}
    found = [Block("stem", "stem", 0, Step(parts.embed, parts.patches), **where)]
    for block in parts.blocks:
        found.append(Block(f"{block.name}.attn", "msa", 1, Residual(block.attend, block.module), **where))
        found.append(Block(f"{block.name}.mlp", "mlp", 1, Residual(block.mix, block.module), **where))
    if parts.finish is None:
        raise ValueError(f"how a {type(model).__name__} makes one vector of its last block's tokens is not known")
    return [*found, Block("classifier", "classifier", 1, Step(parts.finish, *parts.heads))]


def _plain(steps: list[tuple[str, nn.Module]], head: nn.Module) -> list[Block]:
    """List the blocks of a plain network; a stage ends at a pool."""
    (name, stem), *rest = steps
    found, stage, ended = [Block(name, "stem", 0, stem)], 1, False
    for name, part in rest:
        block = _stage_block(name, stage, part)
        if block.kind == "pool" and ended:
            stage, block = stage + 1, replace(block, stage=stage + 1)
        ended = ended or block.kind in ("conv", "msa", "pool")
        found.append(block)
    return [*found, Block("classifier", "classifier", stage, head)]


BUILDERS: dict[type[nn.Module], Callable[..., list[Block]]] = {
    VisionTransformer: _vit,
    SwinTransformer: _swin,
    PoolingVisionTransformer: _pit,
    MlpMixer: _mixer,
    ConvNeXt: _convnext,
    ByobNet: _byobnet,
    EfficientNet: _efficientnet,
    MobileNetV3: _efficientnet,
}


def family_blocks(model: nn.Module) -> list[Block]:
    """List the blocks of a model of a known family, in the order in which they run.

    Raises:
        ValueError: For another model, naming some of its layers.

    Example:
        >>> from utilities.resnet import resnet18
        >>> len(family_blocks(resnet18()))
        10
    """
    if (parts := vit_parts(model)) is not None:
        return _parts(model, parts)
    if (plain := plain_steps(model)) is not None:
        return _plain(*plain)
    builder = next((build for kind, build in BUILDERS.items() if isinstance(model, kind)), None)
    if builder is None and all(hasattr(model, name) for name in ("layer1", "layer2", "layer3", "layer4", "fc")):
        builder = _resnet
    if builder is None:
        names = ", ".join(select_layers(model, depth=1)[:6])
        raise ValueError(
            f"the blocks of a {type(model).__name__} are not known; name them with their kinds, such as "
            f"layers={{'NAME': 'conv'}}; kinds: {', '.join(BLOCK_KINDS)}; some of its layers: {names}"
        )
    return builder(model)


def block_outputs(model: nn.Module) -> list[str]:
    """Name the modules that put out the features after each block, in the order in which they run.

    A transformer's block is one module here, attention and MLP together. The stem is named where it is one module.

    Args:
        model: A model of a known family, see `family_blocks`.

    Raises:
        ValueError: For another model.

    Example:
        >>> from utilities.resnet import resnet18
        >>> block_outputs(resnet18())[:3]
        ['layer1.0', 'layer1.1', 'layer2.0']
    """
    return list(block_modules(model))


def block_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return what each block consists of, by the name of the module that puts out its features; see `block_outputs`.

    Example:
        >>> from utilities.zoo import create_model
        >>> [len(list(module.parameters())) for module in block_modules(create_model("vgg11")).values()][:3]
        [4, 0, 4]
    """
    check_module(model)
    modules, found = dict(model.named_modules()), {}
    for block in family_blocks(model):
        name = block.name.rpartition(".")[0] if block.is_branch else block.name
        if block.kind != "classifier" and name in modules and name not in found:
            found[name] = block.module
    return found
