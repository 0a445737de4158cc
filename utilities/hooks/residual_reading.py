"""Read skip and branch of residual branches while a model runs, and check that they are what the model adds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from utilities.hooks.calls.evaluating import evaluating
from utilities.hooks.residuals import KNOWN, REMEDY, Read, ResidualBranch
from utilities.hooks.trial import first_tensor, numbered

ROUNDING = 16  # roundings of the model's own type that z + f(z) may differ by


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
        >>> from utilities.hooks.residuals import find_residuals
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
        >>> from utilities.hooks.residuals import find_residuals
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
    remedy = f". What is read are {KNOWN}: {REMEDY}"
    for one in branches:
        if one.name not in sums:
            raise ValueError(
                f"residual branch {one.name!r} was not seen: skip and branch did not run, or do not fit{remedy}"
            )
        dtype = sums[one.name][0].dtype
        error = closest.get(one.name, float("inf"))
        if not error <= ROUNDING * torch.finfo(dtype).eps:
            raise ValueError(
                f"what {type(model).__name__} goes on with after {one.name!r} is not skip plus branch, by "
                f"{error:.1e} of their size: its parts have the names of a residual block, but another meaning{remedy}"
            )
