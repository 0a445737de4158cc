"""Record the activations of any model while it runs, safe from what the model does to them afterwards."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from utilities.hooks.calls.batch_parts import images_in
from utilities.hooks.calls.copies import copied
from utilities.hooks.calls.evaluating import evaluating
from utilities.hooks.calls.nested import tensors_in
from utilities.hooks.left_out import refuse_left_out, refuse_silent, warn_of_left_out
from utilities.hooks.placement import Placement
from utilities.hooks.selection import (
    BatchAxis,
    Layers,
    axes_by_name,
    close_names,
    kind_of,
    only_excludes,
    select_layers,
)
from utilities.hooks.trial import ENOUGH, Trial, first_tensor, numbered

__all__ = ["BatchAxis", "Forward", "Layers", "Recorder", "check_forward", "select_layers"]

Forward = str | Callable[[nn.Module, Any], Any]


class Recorder:
    """Record the outputs of layers during a forward pass, as a context manager.

    Inside, the model is in eval mode and no gradients are recorded. On exit, hooks, modes and the gradient state are
    restored, also after an exception. A value is taken inside the hook, so an in-place operation that follows
    (``ReLU(inplace=True)``, ``out += identity``) does not change it. Names are in the order of execution. A module
    that is called again in the same pass makes another entry, ``name#2``.

    Before the first pass, the recorder finds out which dimension of each output counts images, and how. It runs the
    model on three of the images, and on two of them in another order (see `utilities.hooks.placement`). After that,
    values have a row for each image. A model that only takes whole batches is run on all of the images, twice.

    Args:
        model: Any module. The size of the batch is read off its first tensor argument.
        layers: See `select_layers`. None, or exclusions alone, takes all layers that run and have a row for each
            image. One warning names the layers that were left out, and why.
        transform: Function applied to each value inside the hook, from (batch, ...) to anything, so that a large
            activation need not be kept. By default it copies the activation.
        strict: Whether a layer that did not run, or that belongs to no image, is an error. If False, such a layer is
            left out; a warning names those that belong to no image. The default is True where ``layers`` are given.
        forward: How to run the model where that is not ``model(images)``: the name of a method, such as
            ``"forward_features"`` or ``"encode_image"``, or a function of the model and a batch, called by `run`.
        batch_axis: The dimension that counts images, where it cannot be found out: one number for all layers, or a
            mapping from names and globs, ``{"encoder.*": 1}``.
        innermost: Whether to leave out, where no ``layers`` are given, those that contain other recorded layers and
            those that change nothing, such as dropout and identities.

    Attributes:
        layers: Names of the recorded layers.
        default: Whether no layers were named.
        left_out: Mapping from name to the reason why the layer belongs to no image; known after the first pass.

    Raises:
        ValueError: For a layer that does not exist. Before the first pass, if ``strict``, for a layer that belongs
            to no image or did not run. On exit, if the recorder saw no pass of the model.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(inplace=True))
        >>> with Recorder(model) as recorder:
        ...     _ = model(torch.ones(5, 2))
        >>> {name: tuple(value.shape) for name, value in recorder.activations.items()}
        {'0': (5, 3), '1': (5, 3)}
    """

    _quiet = False  # whether to stay silent about layers that are left out

    def __init__(
        self,
        model: nn.Module,
        layers: Layers | None = None,
        *,
        transform: Callable[[torch.Tensor], Any] | None = None,
        strict: bool | None = None,
        forward: Forward | None = None,
        batch_axis: BatchAxis | None = None,
        innermost: bool = False,
    ) -> None:
        if isinstance(model, torch.jit.ScriptModule) and not isinstance(model, torch.jit.TopLevelTracedModule):
            raise ValueError("a scripted model runs without calling its modules: record the one that was scripted")
        check_forward(model, forward)
        self.model, self.forward = model, forward
        self.layers = select_layers(model, "*" if layers is None else layers)
        self._wanted = set(self.layers)
        self.transform = transform or torch.clone
        self.default = layers is None or only_excludes(layers)
        if self.default and innermost:
            self.layers = select_layers(model)  # an excluded layer still lies inside another one
        self.strict = not self.default if strict is None else strict
        self.batch_axis = axes_by_name(batch_axis, self.layers)
        self._activations: dict[str, Any] = {}
        self.left_out: dict[str, str] = {}
        self._innermost = innermost and self.default
        self._placements: dict[str, Placement] = {}
        self._settled: tuple[int, Any] = (0, None)  # number of images examined so far, and their shape
        self._passes = 0
        self._late: dict[str, str] = {}  # layers left out because of the first whole batch
        self._looking: Trial | None = None
        self._batch: int | None = None
        self._unseen = False  # whether layers ran outside a pass
        self._exit = ExitStack()

    def __enter__(self) -> Recorder:
        with ExitStack() as stack:
            stack.enter_context(evaluating(self.model))
            # Not inference_mode: tensors that a model keeps between passes must remain usable in training.
            stack.enter_context(torch.no_grad())
            if self.forward is None:
                start = self.model.register_forward_pre_hook(self._start, with_kwargs=True)
                end = self.model.register_forward_hook(self._end)
                for handle in (start, end):
                    stack.callback(handle.remove)
            elif isinstance(self.forward, str):
                stack.enter_context(_replaced(self.model, self.forward, self._watched))
            self._handles = {name: self._attach(name) for name in self.layers}
            stack.callback(lambda: [handle.remove() for handle in self._handles.values()])
            self._exit = stack.pop_all()
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        self._batch = self._looking = None
        self._exit.close()
        if kind is None:
            self._refuse_no_pass()

    @property
    def activations(self) -> dict[str, Any]:
        """Map each name to its value in the last forward pass, in the order of execution.

        Raises:
            ValueError: If layers ran, but in no pass that the recorder saw.
        """
        if self._unseen:
            self._refuse_no_pass()
        return self._activations

    @activations.setter
    def activations(self, values: dict[str, Any]) -> None:
        self._activations = values

    def _refuse_no_pass(self) -> None:
        if not self._passes:
            what = "layers ran, but in no pass that the recorder saw" if self._unseen else "the recorder saw no pass"
            raise ValueError(
                f"{what} of {kind_of(self.model)}; say how the model is run: forward='forward_features' or another "
                "method's name, or forward=FUNCTION and recorder.run(batch)"
            )

    def run(self, batch: Any) -> Any:
        """Run the model on a batch as ``forward`` says, and return its output.

        Args:
            batch: Images, or the argument that the function ``forward`` takes. It is left unchanged.
        """
        if not callable(self.forward):
            return getattr(self.model, self.forward or "__call__")(batch)
        self._start(self.model, (batch,), {})
        output = self._call(copied(batch))
        self._end()
        return output

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model as ``forward`` says, without recording it."""
        if callable(self.forward):
            return self.forward(self.model, *args, **kwargs)
        return getattr(self.model, self.forward or "__call__")(*args, **kwargs)

    def _watched(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap the model's method so that the recorder sees its calls."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            if self._looking is not None or self._batch is not None:
                return method(*args, **kwargs)
            self._start(self.model, args, kwargs)
            output = method(*copied(args), **copied(kwargs))
            self._end()
            return output

        return watched

    def _attach(self, name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if self._looking is not None:
                self._looking.see(name, module, output)
            elif self._batch is None:  # called from outside this model's own forward pass
                self._unseen = True
            else:
                key = numbered(name, self._calls)
                if key not in self.left_out:
                    self._record(key, module, output)

        return self.model.get_submodule(name).register_forward_hook(hook)

    def _record(self, key: str, module: nn.Module, output: Any) -> None:
        placement = self._placements.get(key)
        try:
            if placement is None:
                raise ValueError("it runs more often on some batches than on others; leave it out")
            self._activations[key] = self.keep(placement.arrange(first_tensor(output), self._batch), module)
        except ValueError as error:
            if self.strict or self._passes:
                raise ValueError(f"layer {key!r}: {error}") from error
            self._late[key] = f": {error}"  # what held for three images does not hold for the batch

    def keep(self, value: torch.Tensor, module: nn.Module) -> Any:
        """Compute what to keep of a layer's output, (batch, ...)."""
        return self.transform(value)

    def _start(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if self._looking is not None:
            return
        images = next((tensor for tensor in tensors_in((args, kwargs)) if tensor.ndim), None)
        if images is None:
            raise ValueError(f"{kind_of(module)} was called without a tensor, so the size of the batch is not known")
        n = images_in(args[0]) if callable(self.forward) else len(images)
        seen = min(n, ENOUGH), images.shape[1:]
        if self._settled[0] < seen[0] or self._settled[1] != seen[1]:
            self._settle(args, kwargs, n)
            self._settled = seen
        self._activations, self._calls, self._late, self._batch = {}, Counter(), {}, n

    def _settle(self, args: tuple, kwargs: dict, n: int) -> None:
        """Find out which layers have a row for each image, and where."""

        def test(key: str, module: nn.Module, value: torch.Tensor) -> None:
            self.keep(value, module)

        self._looking = look = Trial(self.model, self.layers, self.batch_axis, test)
        try:
            look.run(self._call, args, kwargs, n)
        finally:
            self._looking = None
        self._placements, self.left_out = look.placements, look.left_out
        if self.strict:
            refuse_left_out(self.left_out)
            refuse_silent(self.model, [name for name in self.layers if name not in look.ran])
        else:
            self._keep_what_can_be_compared(look)
        astray = [name for name in self.layers if (place := self._placements.get(name)) and not place.follows]
        if astray:
            warnings.warn(
                f"values of {kind_of(self.model)} do not follow their images when these change places, for it draws at "
                f"random or mixes the images of a batch: {', '.join(astray)}",
                stacklevel=2,
            )

    def _keep_what_can_be_compared(self, look: Trial) -> None:
        """Record only layers that have a row for each image, and of nested ones the inner ones, if asked to."""
        keep = look.innermost() if self._innermost else [name for name in self.layers if name in look.placements]
        gone = {key: why for key, why in look.missing(keep).items() if key.partition("#")[0] in self._wanted}
        keep = [name for name in keep if name in self._wanted]
        if look.ran and not keep and not self._quiet:
            refuse_left_out(gone)
        for name in set(self.layers) - set(keep):
            self._handles.pop(name).remove()
        self.layers = keep
        if not self._quiet:
            warn_of_left_out(self.model, gone)

    def _end(self, *_: Any) -> None:
        if self._looking is not None:
            return
        self._batch, self._passes = None, self._passes + 1
        self.left_out |= self._late
        if self._late and not self._quiet:
            warn_of_left_out(self.model, self._late)
        if self.strict:
            recorded = {key.partition("#")[0] for key in self._activations}
            refuse_silent(self.model, [name for name in self.layers if name not in recorded])


@contextmanager
def _replaced(model: nn.Module, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Replace a method on this instance of the model only."""
    own = model.__dict__.get(name)
    model.__dict__[name] = wrap(getattr(model, name))
    try:
        yield
    finally:
        del model.__dict__[name]
        if own is not None:
            model.__dict__[name] = own


def check_forward(model: nn.Module, forward: Forward | None) -> None:
    """Refuse a way to run the model that does not exist.

    Raises:
        ValueError: If the model has no method of that name.
        TypeError: If it is neither a name nor a function.

    Example:
        >>> check_forward(nn.Flatten(), "forward_feature")
        Traceback (most recent call last):
        ValueError: Flatten has no method 'forward_feature'; close: forward
    """
    if isinstance(forward, str):
        if not callable(getattr(model, forward, None)):
            methods = ["forward", *(name for name in dir(type(model)) if name not in dir(nn.Module) and name[0] != "_")]
            raise ValueError(f"{kind_of(model)} has no method {forward!r}; close: {close_names(forward, methods)}")
    elif forward is not None and not callable(forward):
        raise TypeError(f"forward should be a method's name or a function of model and batch, not {forward!r}")
