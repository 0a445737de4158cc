"""The units of a lesion study: the parts that can be removed from a model, and the model without them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from utilities.analysis.stream import stream
from utilities.hooks.block import Block
from utilities.hooks.block_sequence import BlockSequence
from utilities.hooks.calls.copies import copied
from utilities.hooks.calls.input_type import as_input
from utilities.hooks.calls.nested import map_tensors, tensors_in
from utilities.hooks.recorder import first_tensor
from utilities.lambda_layer import LambdaLayer
from utilities.results.moments import Moments

UNIT_KINDS = ("conv", "msa", "mlp")


@dataclass(frozen=True)
class Unit:
    """A unit to remove from a model.

    Attributes:
        name: Name of the layer, branch or block.
        kind: ``conv``, ``msa`` or ``mlp``.
        block: Index of its block in the sequence of blocks.
        part: The layer inside the block; None if the branch or the whole block is removed.
        depth: Relative depth, from 0 for units of the first block to 1 for those of the last.
    """

    name: str
    kind: str
    block: int
    part: nn.Module | None = None
    depth: float = 0.0


def find_units(sequence: BlockSequence, images: torch.Tensor, *, whole: bool = False) -> list[Unit]:
    """List the units that can be removed, which are those whose input and output have the same shape.

    Args:
        sequence: The blocks of a model in eval mode.
        images: One image or more, to find the shapes.
        whole: Whether to remove residual blocks as a whole, rather than layers inside them.

    Raises:
        ValueError: If there is no such unit, or the blocks do not form a sequence.

    Example:
        >>> from utilities.hooks import blocks
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> model = vit_tiny_patch2_16().eval()
        >>> [unit.name for unit in find_units(blocks(model), torch.zeros(1, 3, 16, 16))][:2]
        ['blocks.0.attn', 'blocks.0.mlp']
    """
    if not sequence.composes:
        raise ValueError("units can only be removed from a model whose blocks form a sequence")
    found, x, last = [], images, max(1, len(sequence) - 2)
    names = {part: name for name, part in sequence.model.named_modules()}
    for place, block in enumerate(sequence):
        before = x
        inside, x = _same_shape(block, before)
        if block.kind in ("stem", "blur", "classifier"):
            continue
        depth = place / last
        if not whole and not block.is_branch and inside:
            found += [Unit(names[part], _kind(part), place, part, depth) for part in inside]
        elif before.shape == x.shape:
            found.append(Unit(block.name, block.kind, place, None, depth))
    if not found:
        raise ValueError(
            "no unit of this model has the same shape before and after, so none can be left out; name layers to leave "
            "out: layers=['NAME']"
        )
    return found


def named_units(named: BlockSequence, images: torch.Tensor) -> list[Unit]:
    """List the named layers of any model that can be removed, in the order in which they run.

    Args:
        named: The named layers of a model in eval mode, from `utilities.hooks.blocks` with ``layers``.
        images: One image or more, to find the shapes.

    Returns:
        Units of the whole model, which counts as one block. A warning names the layers that cannot be removed, because
        no input has the shape of their output.

    Raises:
        ValueError: If no layer can be removed, a layer does not run, or its kind is not that of a unit.

    Example:
        >>> from utilities.hooks import blocks
        >>> model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
        >>> [unit.name for unit in named_units(blocks(model, {"[01]": "conv"}), torch.zeros(1, 3, 4, 4))]
        ['0', '1']
    """
    wrong = next((block for block in named if block.kind not in UNIT_KINDS), None)
    if wrong is not None:
        raise ValueError(
            f"layer {wrong.name!r} of kind {wrong.kind!r} is no unit; units are {', '.join(UNIT_KINDS)}: leave it out, "
            f"as '!{wrong.name}' does among globs"
        )
    ran: dict[str, bool] = {}
    with ExitStack() as stack:
        for block in named:

            def look(part: nn.Module, args: Any, kwargs: Any, output: Any, name: str = block.name) -> None:
                ran[name] = ran.get(name, True) and _input_like(output, (args, kwargs)) is not None

            stack.callback(block.module.register_forward_hook(look, with_kwargs=True).remove)
        with torch.no_grad():
            named.model(copied(images))
    silent = [block.name for block in named if block.name not in ran]
    if silent:
        raise ValueError(f"layers that did not run: {', '.join(silent[:5])}; leave them out")
    fixed, kept = ([name for name, same in ran.items() if same == kind] for kind in (False, True))
    if not kept:
        raise ValueError(
            f"{', '.join(fixed[:5])}: none has an input of the shape of its output, so none can be left out"
        )
    if fixed:
        warnings.warn(f"not removed, as no input has the shape of the output: {', '.join(fixed)}", stacklevel=4)
    by_name, last = {block.name: block for block in named}, max(1, len(kept) - 1)
    return [Unit(name, by_name[name].kind, 0, by_name[name].module, i / last) for i, name in enumerate(kept)]


def _kind(part: nn.Module) -> str:
    return "msa" if isinstance(part, LambdaLayer) else "conv"


def _same_shape(block: Block, x: torch.Tensor) -> tuple[list[nn.Module], torch.Tensor]:
    """Run a block, and return its spatial layers whose output has the shape of their input, and its output."""
    found: list[nn.Module] = []
    with ExitStack() as stack:
        for name, part in block.module.named_modules():
            wide = isinstance(part, nn.Conv2d) and max(part.kernel_size) > 1
            if name and (wide or isinstance(part, LambdaLayer)):

                def look(part: nn.Module, args: tuple, output: torch.Tensor) -> None:
                    if args[0].shape == output.shape and part not in found:
                        found.append(part)

                stack.callback(part.register_forward_hook(look).remove)
        with torch.no_grad():
            return found, block(x)


def run_without(
    unit: Unit, sequence: BlockSequence, before: torch.Tensor, ablation: str, mean: torch.Tensor | None
) -> torch.Tensor:
    """Return the logits of the model without a unit.

    Args:
        unit: See `find_units` and `named_units`.
        sequence: The blocks.
        before: The features before the unit's block.
        ablation: See `utilities.analysis.blocks.lesion.lesions`.
        mean: Mean output of the unit, from `mean_outputs`, to put in its place.
    """
    block = sequence[unit.block]
    if unit.part is not None:
        with _replacing(unit.part, ablation, mean):
            x = block(before)
    elif block.is_branch and mean is not None:
        x = before + mean
    else:
        x = _instead(before, ablation, mean, block.is_branch)
    return sequence.run_from(unit.block + 1, x)


@contextmanager
def _replacing(part: nn.Module, ablation: str, mean: torch.Tensor | None) -> Iterator[None]:
    """Replace a layer's output. The input is copied before the layer runs, because the layer may write into it."""
    given: list[Any] = []

    def look(part: nn.Module, args: Any, kwargs: Any) -> None:
        given.append(copied((args, kwargs)))

    def put(part: nn.Module, args: Any, output: Any) -> Any:
        found, x = first_tensor(output), _input_like(output, given.pop())
        instead = _instead(x, ablation, mean, False)
        return map_tensors(lambda tensor: instead if tensor is found else tensor, output)

    with ExitStack() as stack:
        stack.callback(part.register_forward_pre_hook(look, with_kwargs=True).remove)
        stack.callback(part.register_forward_hook(put).remove)
        yield


def _input_like(output: Any, given: Any) -> torch.Tensor | None:
    """Find an input that has the shape of the output; None if there is none, or the output cannot be replaced."""
    found = first_tensor(output)
    if not any(tensor is found for tensor in tensors_in(output)):
        return None  # for a quantised layer, what was found is a copy
    return next((x for x in tensors_in(given) if x.shape == found.shape), None)


def _instead(x: torch.Tensor, ablation: str, mean: torch.Tensor | None, branch: bool) -> torch.Tensor:
    """Return the replacement for a unit's output, given its input x. The result may be written into."""
    if ablation == "mean":
        return mean.to(x.dtype).expand_as(x).clone()
    return torch.zeros_like(x) if ablation == "zero" and not branch else x.clone()


def mean_outputs(
    sequence: BlockSequence, units: list[Unit], loader: Iterable[Any], run: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Average each unit's output over all images.

    For a layer or a block this is its own output, for a branch what it adds to the shortcut.

    Args:
        sequence: The blocks.
        units: See `find_units` and `named_units`.
        loader: Yields images.
        run: Options of `utilities.analysis.stream.stream`.
    """
    sums = {unit.name: Moments() for unit in units}
    whole = {unit.block: unit.name for unit in units if unit.part is None}
    with ExitStack() as stack:
        for unit in units:
            if unit.part is not None:

                def look(part: nn.Module, args: Any, output: Any, name: str = unit.name) -> None:
                    sums[name].add(first_tensor(output))

                stack.callback(unit.part.register_forward_hook(look).remove)
        with stream(sequence.model, loader, description="means", sums=sums, **run) as batches:
            for images, _ in batches:
                before = as_input(images, sequence.model)
                for place, (block, x) in enumerate(sequence.features(images)):
                    if place in whole:
                        sums[whole[place]].add(x - before if block.is_branch else x)
                    before = x
    means = {name: torch.from_numpy(moments.mean).to(before.dtype) for name, moments in sums.items()}
    return {name: mean.to(before.device) for name, mean in means.items()}
