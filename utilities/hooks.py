"""Activations of any model, taken while it runs and safe from what the model does to them afterwards."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from math import prod
from typing import Any

import pandas as pd
import torch
from torch import nn

from utilities.utils import evaluating

Layers = str | type[nn.Module] | Iterable[str | type[nn.Module]] | Callable[[str, nn.Module], bool]


def select_layers(model: nn.Module, layers: Layers = "*", *, depth: int | None = None) -> list[str]:
    """List the names of a model's submodules, so that one can see what will be recorded.

    Args:
        model: Any module.
        layers: A glob over dotted names (``*`` also crosses dots: ``"layer*.relu?"``,
            ``"blocks.*.attn.proj"``), a class of modules, subclasses included, several of these, or a function
            ``(name, module) -> bool``.
        depth: Of the chosen layers, keep those whose names have so many parts: 1 for the model's own children,
            2 for the blocks of most models (``layer1.0``, ``blocks.0``).

    Returns:
        The names, each once, in the order in which the modules are registered.

    Raises:
        ValueError: If a name, glob or class matches nothing, naming the closest ones there are, or if no chosen
            layer is at that depth.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> select_layers(model, nn.Linear)
        ['0', '2']
        >>> select_layers(model, "3")
        Traceback (most recent call last):
        ValueError: layer '3' is not in Sequential; close: 0, 1, 2
    """
    modules = {name: module for name, module in model.named_modules() if name}
    if not modules:
        raise ValueError(f"{_kind(model)} is a layer without submodules; nn.Sequential(model) makes a model of it")
    if callable(layers) and not isinstance(layers, type):
        chosen = {name for name, module in modules.items() if layers(name, module)}
        if not chosen:
            raise ValueError(f"the layers function chose none of the {len(modules)} layers of {_kind(model)}")
    else:
        aliases = {name for name, _ in model.named_modules(remove_duplicate=False) if name}
        chosen = set()
        for pattern in [layers] if isinstance(layers, (str, type)) else layers:
            if isinstance(pattern, type):
                chosen |= _of_type(pattern, modules, model)
                continue
            # A module that is registered twice has two names: a glob finds it once, its second name finds it too.
            matches = set(fnmatch.filter(modules, pattern)) or aliases & {pattern}
            if not matches:
                raise ValueError(f"layer {pattern!r} is not in {_kind(model)}; close: {_close(pattern, aliases)}")
            chosen |= matches
        if not chosen:
            raise ValueError(f"no layer of {_kind(model)} was asked for: layers is empty")
    if depth is not None:
        depths = sorted({_depth(name) for name in chosen})
        chosen = {name for name in chosen if _depth(name) == depth}
        if not chosen:
            raise ValueError(f"no chosen layer of {_kind(model)} is at depth {depth}; there are {depths}")
    return [name for name, _ in model.named_modules(remove_duplicate=False) if name in chosen]


def _of_type(kind: type, modules: Mapping[str, nn.Module], model: nn.Module) -> set[str]:
    matches = {name for name, module in modules.items() if isinstance(module, kind)}
    if not matches:
        close = _close(kind.__name__, {_kind(module) for module in modules.values()})
        raise ValueError(f"no layer of {_kind(model)} is a {kind.__name__}; close: {close}")
    return matches


def _depth(name: str) -> int:
    return name.count(".") + 1


def _kind(model: nn.Module) -> str:
    return type(model).__name__


def _close(name: str, names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(difflib.get_close_matches(name, names, n=4, cutoff=0.5) or names[:4]) or "it has no layers"


def first_tensor(output: Any) -> torch.Tensor | None:
    """Find the tensor that stands for a module's output: itself, ``last_hidden_state``, or the first inside.

    Args:
        output: A tensor, or a tuple, list, mapping or model output of them.

    Returns:
        The tensor, or None if there is none.

    Example:
        >>> first_tensor((None, {"features": torch.zeros(3)})).shape
        torch.Size([3])
    """
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, Mapping):
        if "last_hidden_state" in output:
            return first_tensor(output["last_hidden_state"])
        output = output.values()
    elif not isinstance(output, (tuple, list)):
        return None
    return next((found for found in map(first_tensor, output) if found is not None), None)


def one_row_per_image(output: Any, batch: int, name: str) -> torch.Tensor:
    """Give a layer's output as a tensor whose first dimension counts images.

    Windows and flattened tokens (Swin, LeViT: batch times something, the image varying slowest) are folded
    back to one row for each image.

    Args:
        output: What the module returned.
        batch: Number of images in the model's input.
        name: The layer's name, for messages.

    Returns:
        The tensor, (batch, ...).

    Raises:
        ValueError: If it cannot be told which rows belong to which image.

    Example:
        >>> one_row_per_image(torch.zeros(8, 49, 3), 2, "stages.0").shape  # four windows an image
        torch.Size([2, 4, 49, 3])
    """
    tensor = first_tensor(output)
    if tensor is None:
        raise ValueError(f"layer {name!r} returned no tensor but {type(output).__name__}; leave it out")
    rows = tensor.shape[0] if tensor.ndim else 0
    if rows == batch:
        return tensor
    if rows == 0 or rows % batch or (tensor.ndim > 1 and tensor.shape[1] == batch):
        raise ValueError(
            f"layer {name!r} has no row for each image: its output is {tuple(tensor.shape)} for a batch of {batch}. "
            "Its first dimension should be the batch or a multiple of it; leave this layer out"
        )
    return tensor.reshape(batch, rows // batch, *tensor.shape[1:])


class Recorder:
    """Record what layers return during a forward pass, as a context manager.

    Inside, the model is in eval mode and nothing is differentiated; on exit hooks, modes and gradient state
    are as they were, also after an exception. A value is taken inside the hook, so that an in-place operation
    that follows (``ReLU(inplace=True)``, ``out += identity``) does not change it. Names are in the order of
    execution; a module that is called again in the same pass gives another entry, ``name#2``.

    Args:
        model: Any module; the size of the batch is read off its first tensor argument.
        layers: See `select_layers`.
        transform: Applied to each value inside the hook, (batch, ...) to anything, so that a large activation
            need not be kept; by default a copy of the activation.
        strict: Whether a layer that did not run is an error; if not, it is simply not among the activations.

    Attributes:
        activations: Name to value of the last forward pass, in the order of execution.

    Raises:
        ValueError: For a layer that does not exist, that has no row for each image (during the pass), or, if
            ``strict``, that did not run (at the end of the pass).

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(inplace=True))
        >>> with Recorder(model) as recorder:
        ...     _ = model(torch.ones(5, 2))
        >>> {name: tuple(value.shape) for name, value in recorder.activations.items()}
        {'0': (5, 3), '1': (5, 3)}
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = "*",
        *,
        transform: Callable[[torch.Tensor], Any] | None = None,
        strict: bool = True,
    ) -> None:
        self.model = model
        self.layers = select_layers(model, layers)
        self.transform = transform or torch.clone
        self.strict = strict
        self.activations: dict[str, Any] = {}
        self._batch: int | None = None
        self._exit = ExitStack()

    def __enter__(self) -> Recorder:
        with ExitStack() as stack:
            stack.enter_context(evaluating(self.model))
            # Not inference_mode: what a model keeps from one pass to the next has to be of use in training.
            stack.enter_context(torch.no_grad())
            start = self.model.register_forward_pre_hook(self._start, with_kwargs=True)
            end = self.model.register_forward_hook(self._end)
            handles = [start, end, *(self._attach(name) for name in self.layers)]
            for handle in handles:
                stack.callback(handle.remove)
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._batch = None
        self._exit.close()

    def _attach(self, name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if self._batch is None:  # called from outside this model's own forward pass
                return
            key, call = name, 1
            while key in self.activations:
                call += 1
                key = f"{name}#{call}"
            self.activations[key] = self._value(output, name, key)

        return self.model.get_submodule(name).register_forward_hook(hook)

    def _value(self, output: Any, name: str, key: str) -> Any:
        """Make what is kept of a layer's output."""
        value = one_row_per_image(output, self._batch, name)
        try:
            return self.transform(value)
        except ValueError as error:
            raise ValueError(f"layer {key!r}: {error}") from error

    def _start(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        images = first_tensor((*args, kwargs))
        if images is None or images.ndim == 0:
            raise ValueError(f"{_kind(module)} was called without a tensor, so the size of the batch is not known")
        self.activations, self._batch = {}, images.shape[0]

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        self._batch = None
        silent = [name for name in self.layers if name not in self.activations]
        if silent and self.strict:
            more = f" and {len(silent) - 5} more" if len(silent) > 5 else ""
            raise ValueError(
                f"layers that did not run in the forward pass of {_kind(module)}: {', '.join(silent[:5])}{more}; "
                "leave them out"
            )


class _Shapes(Recorder):
    """Records shapes; an output without a row for each image has none, so that a table can list it with the rest."""

    def _value(self, output: Any, name: str, key: str) -> tuple[int, ...] | None:
        try:
            return tuple(one_row_per_image(output, self._batch, name).shape[1:])
        except ValueError:
            return None


def describe(model: nn.Module, images: torch.Tensor | None = None, layers: Layers = "*") -> pd.DataFrame:
    """Tabulate a model's layers, to choose from.

    Args:
        model: Any module.
        images: A batch to run the model on, (batch, ...), two or more images; None runs nothing.
        layers: See `select_layers`.

    Returns:
        A row for each layer, by name: ``type``, ``shape`` (of the output for one image), ``width`` (number of
        values in it) and ``parameters`` (those of its submodules included). The rows are in the order of execution
        and a repeated call has another, ``name#2``; without images they are in the order of registration. Shape and
        width are None for a layer that did not run, which comes last, or that has no row for each image.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> describe(model, torch.zeros(4, 2))
             type  shape  width  parameters
        name
        0  Linear   (3,)      3           9
        1    ReLU   (3,)      3           0
    """
    shapes: dict[str, tuple[int, ...] | None] = {}
    if images is not None:
        with _Shapes(model, layers, strict=False) as recorder:
            model(images)
        shapes = recorder.activations
    shapes = shapes | {name: None for name in select_layers(model, layers) if name not in shapes}
    modules = [model.get_submodule(name.partition("#")[0]) for name in shapes]
    return pd.DataFrame(
        {
            "type": [_kind(module) for module in modules],
            "shape": pd.Series(list(shapes.values()), dtype=object),
            "width": pd.Series([None if shape is None else prod(shape) for shape in shapes.values()], dtype="Int64"),
            "parameters": [sum(parameter.numel() for parameter in module.parameters()) for module in modules],
        }
    ).set_axis(pd.Index(shapes, name="name"))
