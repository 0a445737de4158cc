"""Choose a model's layers by glob, type or function."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Mapping

from torch import nn

from utilities.hooks.calls.weights import check_module

Layers = str | type[nn.Module] | Iterable[str | type[nn.Module]] | Callable[[str, nn.Module], bool]
BatchAxis = int | Mapping[str, int]


def select_layers(model: nn.Module, layers: Layers = "*", *, depth: int | None = None) -> list[str]:
    """List the names of a model's submodules that will be recorded.

    Modules that compute a weight (spectral norm and other parametrisations) are no layers.

    Args:
        model: Any module.
        layers: A glob over dotted names (``*`` also crosses dots: ``"layer*.relu?"``,
            ``"blocks.*.attn.proj"``), a class of modules (including subclasses), several of these, or a function
            ``(name, module) -> bool``. A glob that begins with ``!`` excludes layers; exclusions alone start from all.
        depth: Number of parts in the names of the layers to keep: 1 for the model's own children, 2 for the blocks
            of most models (``layer1.0``, ``blocks.0``).

    Returns:
        The names, each once, in the order in which modules are registered.

    Raises:
        ValueError: If a name, glob or class matches nothing (the message names the closest ones that exist), or if no
            chosen layer is at that depth.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> select_layers(model, nn.Linear), select_layers(model, "!1"), select_layers(model, ["*", "!0"])
        (['0', '2'], ['0', '2'], ['1', '2'])
        >>> select_layers(model, "3")
        Traceback (most recent call last):
        ValueError: layer '3' is not in Sequential; close: 0, 1, 2
    """
    check_module(model)
    modules = {name: module for name, module in model.named_modules() if _is_layer(name)}
    if not modules:
        raise ValueError(f"{kind_of(model)} is a layer without submodules; nn.Sequential(model) makes a model of it")
    if callable(layers) and not isinstance(layers, type):
        chosen = {name for name, module in modules.items() if layers(name, module)}
        if not chosen:
            raise ValueError(f"the layers function chose none of the {len(modules)} layers of {kind_of(model)}")
    else:
        chosen = _by_patterns([layers] if isinstance(layers, (str, type)) else list(layers), modules, model)
    if depth is not None:
        depths = sorted({_depth(name) for name in chosen})
        chosen = {name for name in chosen if _depth(name) == depth}
        if not chosen:
            raise ValueError(f"no chosen layer of {kind_of(model)} is at depth {depth}; there are {depths}")
    return [name for name, _ in model.named_modules(remove_duplicate=False) if name in chosen]


def only_excludes(layers: object) -> bool:
    """Tell whether layers are given by exclusions alone.

    Example:
        >>> only_excludes("!*.drop"), only_excludes(["*", "!*.drop"]), only_excludes(None)
        (True, False, False)
    """
    patterns = [layers] if isinstance(layers, str) else layers
    return isinstance(patterns, (list, tuple)) and bool(patterns) and all(map(_excludes, patterns))


def axes_by_name(batch_axis: BatchAxis | None, names: Iterable[str]) -> dict[str, int]:
    """Spread the user's batch dimensions over the layers they are meant for.

    Raises:
        ValueError: If a glob matches no layer, or a dimension is not a whole number.

    Example:
        >>> axes_by_name({"encoder.*": 1}, ["stem", "encoder.0"])
        {'encoder.0': 1}
    """
    names = list(names)
    given = batch_axis if isinstance(batch_axis, Mapping) else {} if batch_axis is None else {"*": batch_axis}
    axes: dict[str, int] = {}
    for pattern, axis in given.items():
        matches = fnmatch.filter(names, pattern)
        if not isinstance(axis, int) or isinstance(axis, bool) or not matches:
            raise ValueError(
                "batch_axis should be a dimension, or map recorded layers to dimensions, such as {'encoder.*': 1}, not "
                f"{pattern!r}: {axis!r}, which fits {len(matches)} layers; close: {close_names(pattern, names)}"
            )
        axes |= dict.fromkeys(matches, axis)
    return axes


def _by_patterns(patterns: list[str | type], modules: Mapping[str, nn.Module], model: nn.Module) -> set[str]:
    if not patterns:
        raise ValueError(f"no layer of {kind_of(model)} was asked for: layers is empty")
    aliases = {name for name, _ in model.named_modules(remove_duplicate=False) if _is_layer(name)}
    chosen = set(modules) if all(map(_excludes, patterns)) else set()
    for pattern in sorted(patterns, key=_excludes):  # exclusions come last
        if isinstance(pattern, type):
            chosen |= _of_type(pattern, modules, model)
            continue
        glob = pattern.removeprefix("!")
        # A module that is registered twice has two names: a glob finds it once, and its second name finds it too.
        matches = ({glob} if glob in modules else set(fnmatch.filter(modules, glob))) or aliases & {glob}
        if not matches:
            raise ValueError(f"layer {glob!r} is not in {kind_of(model)}; close: {close_names(glob, aliases)}")
        chosen = chosen - matches if _excludes(pattern) else chosen | matches
    if not chosen:
        raise ValueError(f"no layer of {kind_of(model)} is left: those asked for are all taken away again")
    return chosen


def _excludes(pattern: str | type) -> bool:
    return isinstance(pattern, str) and pattern.startswith("!")


def _is_layer(name: str) -> bool:
    return bool(name) and "parametrizations" not in name.split(".")


def _of_type(kind: type, modules: Mapping[str, nn.Module], model: nn.Module) -> set[str]:
    matches = {name for name, module in modules.items() if isinstance(module, kind)}
    if not matches:
        close = close_names(kind.__name__, {kind_of(module) for module in modules.values()})
        raise ValueError(f"no layer of {kind_of(model)} is a {kind.__name__}; close: {close}")
    return matches


def _depth(name: str) -> int:
    return name.count(".") + 1


def kind_of(model: nn.Module) -> str:
    """Return the name of a module's class."""
    return type(model).__name__


def close_names(name: str, names: Iterable[str]) -> str:
    """List existing names that resemble one that does not exist.

    Example:
        >>> close_names("heat", ["head", "stem"])
        'head'
    """
    names = sorted(names)
    return ", ".join(difflib.get_close_matches(name, names, n=4, cutoff=0.5) or names[:4]) or "it has no layers"
