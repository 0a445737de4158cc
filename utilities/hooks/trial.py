"""Run trial passes of a model to see which layers have a row for each image, and which are layers of their own."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from utilities.hooks.calls.nested import map_tensors, tensors_in
from utilities.hooks.calls.seeding import seeded_torch
from utilities.hooks.centred_products import without_centred_products
from utilities.hooks.placement import Evidence, Placement

ENOUGH = 3  # fewest images that tell an order from its reverse
# Number of images -> those shown again, in another order and another number.
SECOND_ORDER = {1: [0, 0], 2: [1, 0, 1], 3: [1, 0]}
MORE = 16  # images taken from all over the batch where three are alike
SEARCHED = 32  # images to search for three that differ


def first_tensor(output: Any) -> torch.Tensor | None:
    """Find the tensor that represents a module's output: itself, ``last_hidden_state``, or the first inside.

    Args:
        output: A tensor, or a tuple, list, mapping, dataclass or model output of them. A quantised tensor is
            dequantised.

    Returns:
        The tensor, or None if there is none.

    Example:
        >>> first_tensor((None, {"features": torch.zeros(3)})).shape
        torch.Size([3])
    """
    if isinstance(output, torch.Tensor):
        return output.dequantize() if output.is_quantized else output
    if dataclasses.is_dataclass(output) and not isinstance(output, (type, Mapping)):
        output = {part.name: getattr(output, part.name) for part in dataclasses.fields(output)}
    if isinstance(output, Mapping):
        if "last_hidden_state" in output:
            return first_tensor(output["last_hidden_state"])
        output = output.values()
    elif not isinstance(output, (tuple, list)):
        return None
    return next((found for found in map(first_tensor, output) if found is not None), None)


def numbered(name: str, calls: Counter[str]) -> str:
    """Name a call of a module: the second one in a pass is ``name#2``.

    Example:
        >>> calls = Counter()
        >>> numbered("relu", calls), numbered("relu", calls)
        ('relu', 'relu#2')
    """
    calls[name] += 1
    return name if calls[name] == 1 else f"{name}#{calls[name]}"


class Trial:
    """Run a model on a few images in several ways, and observe its layers' outputs.

    Args:
        model: Any module; its layers' hooks call `see`.
        names: Names of the layers.
        axes: Mapping from layer to the dimension that counts images, where the user states it.
        test: Function called with the name, the module and the values of each layer that has a row for each image.
            A ValueError leaves the layer out.

    Attributes:
        placements: Mapping from each call of a layer that has a row for each image to where the images are.
        left_out: Mapping from each other call to the reason against it, worded to follow the name.
        ran: The layers that ran.
        unchanged: The layers that return their input unchanged: dropout in eval mode, identities.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        axes: Mapping[str, int],
        test: Callable[[str, nn.Module, torch.Tensor], Any],
    ) -> None:
        self.model, self.names, self.axes, self.test = model, names, axes, test
        self.placements: dict[str, Placement] = {}
        self.left_out: dict[str, str] = {}
        self.ran: set[str] = set()
        self.unchanged: set[str] = set()
        self._evidence: dict[str, Evidence] = {}
        self._astray: set[str] = set()  # calls of layers whose values did not follow the images
        self._unsure: set[str] = set()  # calls of layers whose values were alike for all images
        self._only: set[str] | None = None  # calls still looked at; None is all
        self._given: dict[str, tuple[torch.Tensor, Any]] = {}

    def run(self, call: Callable[..., Any], args: tuple, kwargs: Mapping[str, Any], n: int) -> None:
        """Run the model on three images, and on two of them in another order.

        Some layers do not follow the images, since they mix the images of a batch or draw at random. These are looked
        at once more, with all three images in another order. Layers that are alike for all three, such as blank images
        behind a ReLU, are looked at with more images. A model that cannot take a few images, since it needs whole
        batches, is shown all of them in two orders.

        Args:
            call: Function that runs the model.
            args: Positional arguments of the call; they are not changed.
            kwargs: Keyword arguments of the call; they are not changed.
            n: Number of images in the arguments.
        """
        few = _differing(next(t for t in tensors_in((args, kwargs)) if t.ndim and len(t) == n))

        def show(step: Callable[..., None], images: list[int]) -> None:
            def cut(tensor: torch.Tensor) -> torch.Tensor:
                return _rows(tensor, images) if tensor.ndim and len(tensor) == n else tensor.clone()

            self._step, self._calls = step, Counter()
            # Layers that draw at random draw the same each time.
            with seeded_torch(0), without_centred_products():
                call(*map_tensors(cut, args), **map_tensors(cut, dict(kwargs)))

        def show_again(chosen: list[int], order: list[int]) -> None:
            self._order = order
            show(self._see_again, [chosen[i] for i in order])

        def show_twice(chosen: list[int], order: list[int]) -> None:
            self._n = len(chosen)
            show(self._see_first, chosen)
            show_again(chosen, order)

        try:
            with ExitStack() as stack:
                for name in self.names:
                    stack.callback(self._watch_versions(name).remove)
                show_twice(few, SECOND_ORDER[len(few)])
            if self._look_on(self._astray):
                show_again(few, _turned(len(few)))
            for count in (MORE, n):
                if ENOUGH < count <= n and self._look_on(self._unsure):
                    show_twice([k * n // count for k in range(count)], _turned(count))
        except Exception:
            if n <= ENOUGH:
                raise
            self._evidence, self.left_out, self.placements, self._only = {}, {}, {}, None
            show_twice(list(range(n)), _turned(n))
        for key in self._evidence.keys() - self.placements.keys() - self.left_out.keys():
            self.left_out[key] = " runs on some images only; leave it out"

    def see(self, name: str, module: nn.Module, output: Any) -> None:
        """Look at a layer's output; the layer's forward hook calls this method."""
        self.ran.add(name)
        key, tensor = numbered(name, self._calls), first_tensor(output)
        if tensor is None or tensor.is_nested:
            what = type(output).__name__ if tensor is None else "tensors of several sizes"
            self.left_out[key] = f" returned no tensor but {what}; leave it out"
        else:
            self._step(key, name, module, tensor.detach())

    def _see_first(self, key: str, name: str, module: nn.Module, tensor: torch.Tensor) -> None:
        if self._only is None or key in self._only:
            self._evidence.setdefault(key, Evidence()).see(self._n, tensor)
        if self._only is not None:
            return
        given, before = self._given.pop(name, (None, None))
        same = given is not None and tensor.shape == given.shape and _same_memory(tensor, given)
        if same:
            same = torch.equal(before, tensor) if given.is_inference() else before == given._version
        if not same:
            self.unchanged.discard(name)
        elif key == name:  # the first call; a later one may still change something
            self.unchanged.add(name)

    def _see_again(self, key: str, name: str, module: nn.Module, tensor: torch.Tensor) -> None:
        if self._only is not None and key not in self._only:
            return
        if key not in self._evidence:
            self.left_out[key] = " runs on some images only; leave it out"
            return
        found = self._evidence[key].place(self._n, tensor, self._order, self.axes.get(name))
        if isinstance(found, str):
            self.placements.pop(key, None)
            self.left_out[key] = (
                f" has no row for each image: {found}. Leave this layer out, or say which dimension counts images with "
                "batch_axis="
            )
        else:
            self._place(key, module, tensor, found)
        if isinstance(found, Placement) and not found.sure:
            self._unsure.add(key)
        elif name not in self.axes and self._evidence[key].counts(self._n) and not getattr(found, "follows", False):
            self._astray.add(key)

    def _look_on(self, keys: set[str]) -> bool:
        """Restrict attention to some calls of layers from now on; tell whether there are any."""
        self._only = set(keys)
        keys.clear()
        return bool(self._only)

    def _place(self, key: str, module: nn.Module, tensor: torch.Tensor, found: Placement) -> None:
        self.left_out.pop(key, None)
        try:
            self.test(key, module, found.arrange(tensor, len(self._order)))
        except ValueError as error:
            self.left_out[key] = f": {error}"
        else:
            self.placements[key] = found

    def _watch_versions(self, name: str) -> torch.utils.hooks.RemovableHandle:
        """Record a layer's input, and how often it had been written to before."""

        def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
            given = next(tensors_in((args, kwargs)), None)
            if given is not None:
                # Inference tensors do not count writes.
                self._given[name] = given, given.clone() if given.is_inference() else given._version

        return self.model.get_submodule(name).register_forward_pre_hook(note, with_kwargs=True)

    def innermost(self) -> list[str]:
        """List the layers of their own: they have a row for each image, change something, and contain no such layer.

        A module with weights of its own that calls others without weights (softmax) is listed beside them. If nothing
        in the model changes anything, all layers are listed.
        """
        good = self.placements.keys() - self.unchanged
        chosen, outer = [], set()
        for name in reversed(self.names):
            if name not in good:
                continue
            # A module with weights of its own is a layer, whatever softmax or activation it calls inside.
            module = self.model.get_submodule(name)
            if name not in outer or (
                len(module._parameters) and not _parameters_below(module) and self._own_output(name)
            ):
                chosen.append(name)
            parts = name.split(".")
            outer |= {".".join(parts[:depth]) for depth in range(1, len(parts))}
        return chosen[::-1] or [name for name in self.names if name in self.placements]

    def _own_output(self, name: str) -> bool:
        """Tell whether a layer returns something other than what a layer inside it has returned."""
        mine = self._evidence[name]
        inside = (self._evidence[key] for key in self.placements if key.startswith(f"{name}."))
        return not any(
            mine.shapes == other.shapes and all(torch.equal(rows, other.rows[axis]) for axis, rows in mine.rows.items())
            for other in inside
        )

    def missing(self, kept: Iterable[str]) -> dict[str, str]:
        """Map each left-out layer to its reason, unless it contains a kept layer or another left-out one."""
        below = {*kept, *(key.partition("#")[0] for key in self.left_out)}
        return {
            key: reason
            for key, reason in self.left_out.items()
            if key.partition("#")[0] not in self.unchanged
            and not any(name.startswith(f"{key.partition('#')[0]}.") for name in below)
        }


def _parameters_below(module: nn.Module) -> bool:
    return any(True for child in module.children() for _ in child.parameters())


def _turned(n: int) -> list[int]:
    return [*range(1, n), 0]


def _differing(images: torch.Tensor) -> list[int]:
    """Choose three of the first images that differ, if there are any; equal images would show no order."""
    chosen = [0]
    for i in range(1, min(len(images), SEARCHED)):
        if len(chosen) < ENOUGH and not any(torch.equal(images[i], images[j]) for j in chosen):
            chosen.append(i)
    others = [i for i in range(min(len(images), ENOUGH)) if i not in chosen]
    return [*chosen, *others][: min(len(images), ENOUGH)]


def _rows(tensor: torch.Tensor, images: list[int]) -> torch.Tensor:
    """Copy some rows, in the memory layout of the whole."""
    last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return tensor[images].contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _same_memory(one: torch.Tensor, two: torch.Tensor) -> bool:
    return one.data_ptr() == two.data_ptr() and one.stride() == two.stride() and one.dtype == two.dtype
