"""Find the residual branches of a model, z + f(z): where its skip z and its branch f(z) can be read.

A branch holds all that is added to the skip: norms, LayerScale and stochastic depth count as part of it. In a
post-activation ResNet the skip is the block's input, or what ``downsample`` makes of it, and the branch is what is
added to it before the block's last activation.

Blocks are told by the names of their parts, as torchvision, timm and this package give them. That alone would be a
guess, so `check_residuals` runs the model once and compares each z + f(z) with what the model goes on with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from timm.models.vision_transformer import ResPostBlock
from torch import nn
from torchvision.models.swin_transformer import SwinTransformerBlockV2

from utilities.hooks.block_families import attends
from utilities.hooks.calls.evaluating import evaluating
from utilities.hooks.trial import first_tensor, numbered

POST_NORM = (ResPostBlock, SwinTransformerV2Block, SwinTransformerBlockV2)
ROUNDING = 16  # roundings of the model's own type that z + f(z) may differ by
KNOWN = (
    "timm's and torchvision's transformers, ResNets, ConvNeXts, EfficientNets and MobileNets, and this package's own"
)


@dataclass(frozen=True)
class Read:
    """A place where a tensor is read: what a module takes or gives.

    Attributes:
        module: The module.
        side: ``"input"`` or ``"output"``.
        call: Which of its calls in one run of the block, from 0.
        of: How often it runs in one run of the block.
    """

    module: nn.Module
    side: str
    call: int = 0
    of: int = 1


@dataclass(frozen=True)
class ResidualBranch:
    """A residual branch f of z + f(z).

    Attributes:
        name: Name of the block, with ``.attn`` or ``.mlp`` where it has two branches.
        kind: ``msa`` (attention, lambda layers included), ``mlp`` or ``conv``.
        skip: Where z is read.
        branch: Where f(z) is read.
        totals: Places of which one holds z + f(z).
        layout: ``NCHW``, ``NHWC``, or ``auto`` where shape and model have to tell it.
    """

    name: str
    kind: str
    skip: Read
    branch: Read
    totals: tuple[Read, ...]
    layout: str = "auto"


def find_residuals(model: nn.Module) -> list[ResidualBranch]:
    """List the residual branches of a model, in the order in which their blocks are registered.

    Args:
        model: Any module.

    Raises:
        ValueError: If none is known.

    Example:
        >>> from utilities.resnet import resnet18
        >>> [branch.name for branch in find_residuals(resnet18())][:2]
        ['layer1.0', 'layer1.1']
        >>> find_residuals(nn.Sequential(nn.Linear(2, 2)))
        Traceback (most recent call last):
        ValueError: Sequential has no residual branches that are known: its layers are not added to a shortcut, or ...
    """
    found = []
    for name, module in model.named_modules():
        rule = next((rule for rule in RULES if (branches := rule(name or type(module).__name__, module))), None)
        found += branches if rule else []
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no residual branches that are known: its layers are not added to a shortcut, "
            f"or its blocks have other parts than those of {KNOWN}"
        )
    return found


def _has(module: nn.Module, *names: str) -> bool:
    return all(isinstance(getattr(module, name, None), nn.Module) for name in names)


def _transformer(name: str, m: nn.Module) -> list[ResidualBranch]:
    """Read timm's blocks of attention and MLP, with the norm before or after each."""
    if not _has(m, "norm1", "attn", "drop_path1", "norm2", "mlp", "drop_path2"):
        return []
    post = isinstance(m, POST_NORM)
    start, between = (m, m.mlp) if post else (m.norm1, m.norm2)
    return _pair(name, start, Read(m.drop_path1, "output"), between, Read(m.drop_path2, "output"), m)


def _torchvision_vit(name: str, m: nn.Module) -> list[ResidualBranch]:
    if not _has(m, "ln_1", "self_attention", "dropout", "ln_2", "mlp"):
        return []
    return _pair(name, m.ln_1, Read(m.dropout, "output"), m.ln_2, Read(m.mlp, "output"), m)


def _torchvision_swin(name: str, m: nn.Module) -> list[ResidualBranch]:
    if not _has(m, "norm1", "attn", "stochastic_depth", "norm2", "mlp"):
        return []
    post, (one, two) = isinstance(m, POST_NORM), (Read(m.stochastic_depth, "output", i, 2) for i in (0, 1))
    start, between = (m.attn, m.mlp) if post else (m.norm1, m.norm2)
    return _pair(name, start, one, between, two, m, "NHWC")


def _pair(
    name: str, start: nn.Module, one: Read, between: nn.Module, two: Read, block: nn.Module, layout: str = "auto"
) -> list[ResidualBranch]:
    """Make the branches of attention and MLP: ``start`` takes the first skip, ``between`` the second."""
    middle = Read(between, "input")
    return [
        ResidualBranch(f"{name}.attn", "msa", Read(start, "input"), one, (middle,), layout),
        ResidualBranch(f"{name}.mlp", "mlp", middle, two, (Read(block, "output"),), layout),
    ]


def _mixer(name: str, m: nn.Module) -> list[ResidualBranch]:
    if not _has(m, "norm1", "mlp_tokens", "norm2", "mlp_channels", "drop_path"):
        return []
    one, two = (Read(m.drop_path, "output", i, 2) for i in (0, 1))
    middle = Read(m.norm2, "input")
    return [
        ResidualBranch(f"{name}.mlp_tokens", "mlp", Read(m.norm1, "input"), one, (middle,)),
        ResidualBranch(f"{name}.mlp_channels", "mlp", middle, two, (Read(m, "output"),)),
    ]


def _resnet(name: str, m: nn.Module) -> list[ResidualBranch]:
    """Read blocks with ``conv1`` and ``downsample``: activation before the convolutions, or after the sum."""
    if not _has(m, "conv1") or not hasattr(m, "downsample") or not (_has(m, "bn2") or _has(m, "drop_path")):
        return []
    last = next(part for part in ("drop_path", "se", "bn3", "bn2") if _has(m, part))
    skip = Read(m, "input") if m.downsample is None else Read(m.downsample, "output")
    return [_conv(name, m, skip, Read(getattr(m, last), "output"))]


def _shortcut(name: str, m: nn.Module) -> list[ResidualBranch]:
    """Read blocks with ``shortcut`` and ``drop_path``: timm's ByobNet, ConvNeXt, MaxViT's convolutions."""
    if not _has(m, "shortcut", "drop_path"):
        return []
    return [_conv(name, m, Read(m.shortcut, "output"), Read(m.drop_path, "output"))]


def _with_flag(name: str, m: nn.Module) -> list[ResidualBranch]:
    """Read blocks that say whether they have a skip: EfficientNets and MobileNets of timm and torchvision."""
    last = next((part for part in ("stochastic_depth", "drop_path", "block", "conv") if _has(m, part)), None)
    if last is None or not (getattr(m, "has_skip", False) or getattr(m, "use_res_connect", False)):
        return []
    return [_conv(name, m, Read(m, "input"), Read(getattr(m, last), "output"))]


def _torchvision_others(name: str, m: nn.Module) -> list[ResidualBranch]:
    """Read torchvision's ConvNeXt and RegNet."""
    if _has(m, "block", "stochastic_depth") and hasattr(m, "layer_scale"):
        return [_conv(name, m, Read(m, "input"), Read(m.stochastic_depth, "output"))]
    if _has(m, "f", "activation") and hasattr(m, "proj"):
        skip = Read(m, "input") if m.proj is None else Read(m.proj, "output")
        return [_conv(name, m, skip, Read(m.f, "output"))]
    return []


def _conv(name: str, m: nn.Module, skip: Read, branch: Read) -> ResidualBranch:
    """Make the one branch of a block on maps; the sum is its output, or the input of one of its activations."""
    names = ("act", "act3", "act2", "relu3", "relu2", "relu", "activation")
    activations = [getattr(m, part) for part in names if _has(m, part)]
    totals = (Read(m, "output"), *(Read(part, "input") for part in activations))
    return ResidualBranch(name, "msa" if attends(m) else "conv", skip, branch, totals, "NCHW")


RULES: tuple[Callable[[str, nn.Module], list[ResidualBranch]], ...] = (
    _transformer, _torchvision_vit, _torchvision_swin, _mixer, _with_flag, _shortcut, _resnet, _torchvision_others,
)  # fmt: skip


@contextmanager
def reading(
    branches: Iterable[ResidualBranch], take: Callable[[str, ResidualBranch, torch.Tensor, torch.Tensor], None]
) -> Iterator[Callable[[], None]]:
    """Hand over the skip and the branch of every residual branch while a model runs.

    Both are copies, through which gradients flow: a model that adds in place does not change them.

    Args:
        branches: See `find_residuals`.
        take: Called with the name (``name#2`` where a block runs again in a pass), the branch, z and f(z).

    Yields:
        A function to call before each pass.

    Example:
        >>> from utilities.resnet import resnet18
        >>> model, seen = resnet18().eval(), []
        >>> with reading(find_residuals(model), lambda name, *_: seen.append(name)) as begin:
        ...     begin()
        ...     _ = model(torch.zeros(1, 3, 8, 8))
        >>> seen[:2]
        ['layer1.0', 'layer1.1']
    """
    held: dict[tuple[int, str], torch.Tensor] = {}
    calls: Counter[str] = Counter()

    def begin() -> None:
        held.clear()
        calls.clear()

    def see(index: int, one: ResidualBranch, which: str, tensor: torch.Tensor) -> None:
        held[index, which] = tensor.clone()
        if (index, "skip") in held and (index, "branch") in held:
            take(numbered(one.name, calls), one, *(held.pop((index, part)) for part in ("skip", "branch")))

    with ExitStack() as stack:
        for index, one in enumerate(branches):
            for which in ("skip", "branch"):
                where = getattr(one, which)
                stack.callback(_watch(where, lambda x, i=index, o=one, w=which: see(i, o, w, x)).remove)
        yield begin


def _watch(where: Read, see: Callable[[torch.Tensor], None]) -> torch.utils.hooks.RemovableHandle:
    """Call a function with what a module takes or gives, in the call that is meant."""
    count = 0

    def meant() -> bool:
        nonlocal count
        count += 1
        return (count - 1) % where.of == where.call

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if meant():
            see(first_tensor((*args, *kwargs.values())))

    def after(module: nn.Module, args: Any, output: Any) -> None:
        if meant():
            see(first_tensor(output))

    if where.side == "input":
        return where.module.register_forward_pre_hook(before, with_kwargs=True)
    return where.module.register_forward_hook(after)


@torch.no_grad()
def check_residuals(model: nn.Module, branches: Sequence[ResidualBranch], images: torch.Tensor) -> None:
    """Check on a few images that the model goes on with z + f(z) of every branch.

    Args:
        model: The model.
        branches: See `find_residuals`.
        images: A few images.

    Raises:
        ValueError: If a branch does not run, or the model goes on with something else.

    Example:
        >>> from utilities.resnet import resnet18
        >>> model = resnet18()
        >>> check_residuals(model, find_residuals(model), torch.rand(2, 3, 8, 8))
    """
    sums: dict[str, tuple[torch.Tensor, float]] = {}
    closest: dict[str, float] = {}

    def take(name: str, one: ResidualBranch, skip: torch.Tensor, branch: torch.Tensor) -> None:
        if skip.numel() == branch.numel():
            sums[one.name] = (
                skip.reshape(branch.shape) + branch,
                max(float(skip.abs().max()), float(branch.abs().max())),
            )

    def compare(one: ResidualBranch, total: torch.Tensor) -> None:
        expected, size = sums.get(one.name, (None, 0.0))
        if expected is not None and expected.numel() == total.numel():
            error = float((total.reshape(expected.shape) - expected).abs().max()) / max(size, 1e-30)
            closest[one.name] = min(error, closest.get(one.name, error))

    with ExitStack() as stack, evaluating(model):
        begin = stack.enter_context(reading(branches, take))
        for one in branches:
            for where in one.totals:
                stack.callback(_watch(where, lambda x, one=one: compare(one, x)).remove)
        begin()
        model(images)
    for one in branches:
        if one.name not in sums:
            raise ValueError(f"residual branch {one.name!r} was not seen: skip and branch did not run, or do not fit")
        dtype = sums[one.name][0].dtype
        error = closest.get(one.name, float("inf"))
        if not error <= ROUNDING * torch.finfo(dtype).eps:
            raise ValueError(
                f"what {type(model).__name__} goes on with after {one.name!r} is not skip plus branch, by "
                f"{error:.1e} of their size: its parts have the names of a residual block, but another meaning"
            )
