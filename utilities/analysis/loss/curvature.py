"""The Hessian of a loss over images, as an operator, and the mini-batches that it is computed on."""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from curvlinops import HessianLinearOperator
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from utilities.datasets.loaders import seeded_generator
from utilities.hooks.calls.batch_parts import check_loader
from utilities.hooks.calls.copies import own_inputs
from utilities.hooks.calls.inputs import check_gradients, explaining
from utilities.hooks.calls.labels import BatchCheck, as_labels, check_logits, check_loss_targets, widened
from utilities.hooks.calls.memory import keeping_freed_memory
from utilities.hooks.precision import choose_precision, without_autocast
from utilities.utils import evaluating, resolve_device, split_batch

MODES = ("eval", "train")
DTYPES = ("float32", "float64")
LOSSES = ("cross_entropy", "mse")
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Mix = Callable[[torch.Tensor, torch.Tensor, torch.Generator], tuple[torch.Tensor, torch.Tensor]]
Data = Iterable[tuple[torch.Tensor, torch.Tensor]]


@dataclasses.dataclass(frozen=True)
class Objective:
    """The function that is differentiated twice: loss, L2 penalty, parameters and behaviour of batch norms.

    Attributes:
        loss: ``"cross_entropy"``, ``"mse"`` (classes are one-hot coded), or a function of outputs and targets that
            returns the mean over the images.
        label_smoothing: Label smoothing of the cross-entropy.
        weight_decay: The lambda in the penalty lambda/2 |w|^2. It adds lambda to every eigenvalue, in closed form.
            Decoupled weight decay, as in AdamW, is not part of the loss; the paper counts it as if it were.
        mode: In ``"eval"`` batch norms use their running statistics. In ``"train"`` they use the statistics of the
            current batch, and the derivative includes these. Dropout and stochastic depth are off in both.
        block: Glob or globs over parameter names. The Hessian covers these parameters alone; all others are fixed.
        dtype: ``"float32"`` or ``"float64"``.

    Example:
        >>> Objective(weight_decay=0.05).mode
        'eval'
    """

    loss: str | Loss = "cross_entropy"
    label_smoothing: float = 0.0
    weight_decay: float = 0.0
    mode: str = "eval"
    block: str | Sequence[str] | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name, known in {"mode": MODES, "dtype": DTYPES}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} is not known; choose from {', '.join(known)}")
        if not callable(self.loss) and self.loss not in LOSSES:
            raise ValueError(f"loss {self.loss!r} is not known; choose from {', '.join(LOSSES)} or give a function")
        if not 0 <= self.label_smoothing <= 1 or (self.label_smoothing and self.loss != "cross_entropy"):
            raise ValueError(f"label_smoothing={self.label_smoothing} should be in 0..1, and 0 without cross_entropy")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay={self.weight_decay} should be 0 or more")

    @property
    def type(self) -> torch.dtype:
        """Type of parameters, images and eigenvectors."""
        return getattr(torch, self.dtype)

    def facts(self) -> dict[str, Any]:
        """Return the choices, for a result's provenance."""
        known = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if callable(self.loss):
            known["loss"] = getattr(self.loss, "__name__", type(self.loss).__name__)
        return known | {"block": None if self.block is None else list(np.atleast_1d(self.block))}

    @contextmanager
    def of(self, model: nn.Module, device: str | torch.device = "auto") -> Iterator[Callable[[Data, int], Hessian]]:
        """Make Hessians of a copy of a model; the model itself is not touched.

        Inside the context attention runs as plain matrix products, because fused kernels cannot be differentiated
        twice. TF32 is off.

        Yields:
            A function that makes the operator. It takes (images, targets) pairs and the number of images. The operator
            reads the pairs again for each product, unless they are a list of one pair.
        """
        check_gradients("a Hessian")
        parameters = self._names(model)
        target = resolve_device(device)
        twin = copy.deepcopy(model).to(target, self.type).eval().requires_grad_(False)
        for module in twin.modules():
            if self.mode == "train" and isinstance(module, _BatchNorm):
                module.training, module.track_running_stats = True, False  # normalises by the batch, updates nothing
        chosen = [p.requires_grad_(True) for name, p in twin.named_parameters() if name in parameters]
        loss = _Loss(self.loss, self.label_smoothing)

        def operator(data: Data, n: int) -> Hessian:
            return Hessian(twin, loss, chosen, data, check_deterministic=False, num_data=n)

        exact = choose_precision("exact", twin, target).running(target)
        plain = sdpa_kernel(SDPBackend.MATH)
        with (
            keeping_freed_memory(),
            torch.enable_grad(),
            plain,
            exact,
            own_inputs(twin),
            explaining(),
            without_autocast(),
        ):
            yield operator

    def _names(self, model: nn.Module) -> set[str]:
        """Name the trained parameters that are in the block."""
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        if not names:
            raise ValueError(f"{type(model).__name__} has no parameter that requires gradients: there is no Hessian")
        if self.block is None:
            return set(names)
        chosen: set[str] = set()
        for pattern in np.atleast_1d(self.block):
            matches = fnmatch.filter(names, pattern)
            if not matches:
                raise ValueError(
                    f"block {str(pattern)!r} names no trained parameter of {type(model).__name__}; "
                    f"there are {names[0]}, ..., {names[-1]}"
                )
            chosen |= set(matches)
        return chosen


class _Loss(nn.Module):
    """The loss as curvlinops wants it: a module that declares itself a mean over images."""

    reduction = "mean"

    def __init__(self, loss: str | Loss, label_smoothing: float) -> None:
        super().__init__()
        self.loss, self.label_smoothing = loss, label_smoothing

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if callable(self.loss):
            return self.loss(outputs, targets.clone())  # it may write into them
        classes = not targets.is_floating_point()
        targets = targets.long() if classes else targets
        if self.loss == "mse":
            if classes:
                targets = F.one_hot(targets, outputs.shape[1]).to(outputs.dtype)
            return F.mse_loss(outputs, targets)
        return F.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)


class Hessian(HessianLinearOperator):
    """curvlinops' operator, with products by a backward pass through the graph of the gradient.

    The base class computes products under `torch.vmap`. Its rule for the backward pass of layer norm is wrong
    (https://github.com/pytorch/functorch/issues/534), and so is that of batch norm on the statistics of the batch. The
    products are then off by a few per cent, and not even symmetric. For a single batch of data the graph is made once
    and kept.
    """

    @cached_property
    def _kept(self) -> list[torch.Tensor]:
        ((images, targets),) = self._loop_over_data()
        return self._gradient(images, targets)

    def _gradient(self, images: torch.Tensor, targets: torch.Tensor) -> list[torch.Tensor]:
        with torch.enable_grad():
            loss = self._loss_func(self._model_func(images), targets)
            return list(torch.autograd.grad(loss, self._params, create_graph=True, materialize_grads=True))

    def _matmat_batch(self, X: torch.Tensor, y: torch.Tensor, M: list[torch.Tensor]) -> list[torch.Tensor]:
        single = isinstance(self._data, list) and len(self._data) == 1
        gradient = self._kept if single else self._gradient(X, y)
        columns = [[part[..., column] for part in M] for column in range(M[0].shape[-1])]
        products = [self._product(gradient, column) for column in columns]
        return [torch.stack(parts, -1) for parts in zip(*products, strict=True)]

    def _product(self, gradient: Sequence[torch.Tensor], vector: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        pairs = [(g, v) for g, v in zip(gradient, vector, strict=True) if g.requires_grad]
        if not pairs:  # the loss is linear in the parameters
            return [torch.zeros_like(v) for v in vector]
        outputs, weights = zip(*pairs, strict=True)
        return torch.autograd.grad(outputs, self._params, weights, retain_graph=True, materialize_grads=True)


def mini_batches(
    loader: Iterable[Any],
    batch_size: int,
    n_batches: int | None = None,
    *,
    mix: Mix | None = None,
    seed: int = 0,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Cut the images of a loader into mini-batches of one size, keeping the loader's order and augmentation.

    Args:
        loader: Yields images with labels in batches of any size. A loader made by `utilities.datasets.make_loader` is
            reset to its epoch afterwards, so that a second call gets the same images.
        batch_size: Images in a mini-batch. A smaller remainder is left out, because eigenvalues depend on the size.
        n_batches: Number of mini-batches; None is all.
        mix: Called as (images, labels, generator); returns images and probabilities. See `hessian_spectra`.
        seed: Seed for ``mix``.

    Raises:
        ValueError: If there are too few images or no labels.

    Example:
        >>> loader = [(torch.zeros(5, 1, 2, 2), torch.arange(5)), (torch.zeros(2, 1, 2, 2), torch.arange(2))]
        >>> [labels.tolist() for _, labels in mini_batches(loader, 3)]
        [[0, 1, 2], [3, 4, 0]]
    """
    if batch_size < 1 or (n_batches is not None and n_batches < 1):
        raise ValueError(f"batch_size={batch_size} and n_batches={n_batches} should be 1 or more")
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    images: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    count = 0
    for batch in reading(loader):
        images, labels = [*images, batch[0]], [*labels, batch[1]]
        count += len(batch[0])
        full = sum(map(len, images)) // batch_size * batch_size
        if full:
            parts = [torch.cat(part) for part in (images, labels)]
            found += zip(*(part[:full].split(batch_size) for part in parts), strict=True)
            images, labels = ([part[full:]] for part in parts)
        if n_batches is not None and len(found) >= n_batches:
            break
    if len(found) < (n_batches or 1):
        raise ValueError(
            f"{n_batches or 1} mini-batches of {batch_size} images were asked for, but the loader has {count} images; "
            "ask for fewer, or smaller ones"
        )
    return [mixed(*batch, mix, seed, number) for number, batch in enumerate(found[:n_batches])]


def check_targets(
    model: nn.Module,
    images: torch.Tensor,
    targets: Iterable[torch.Tensor],
    goal: Objective,
    device: str | torch.device,
    loader: Iterable[Any] = (),
) -> None:
    """Refuse unsuitable targets before the long work starts.

    Targets must be classes of the model or, for cross-entropy, probabilities. If the model has more classes than the
    data set, this is a warning only, see `utilities.hooks.calls.labels.BatchCheck`.

    Args:
        model: The model. It runs on one image, to find its number of classes.
        images: One image or more.
        targets: Targets of the mini-batches.
        goal: The objective whose loss is used. Targets are not checked if its loss is a user's function.
        device: Where the model runs.
        loader: Loader of the images. The classes come from its data set, where that knows them.

    Raises:
        TypeError: If the model does not return a tensor.
        ValueError: If a target does not fit; the message names the label or the shape.
    """
    parameter = next(model.parameters(), None)
    targets = [] if callable(goal.loss) else list(targets)
    if goal.loss == "mse":
        targets = [one for one in targets if not one.is_floating_point()]
    if parameter is None or not targets:
        return  # a model without parameters is refused when the operator is made
    with evaluating(model, device) as target, torch.no_grad():
        outputs = model(images[:1].to(target, parameter.dtype))
    check_logits(outputs)
    check = BatchCheck(loader)
    for one in targets:
        check.note(outputs.shape[1], check_loss_targets(one, outputs.shape[1], len(one)))
    check.finish(stacklevel=4)


def reading(loader: Iterable[Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Read (images, labels), then reset a loader of this package to the epoch it was at.

    Raises:
        ValueError: If there are no labels.
    """
    check_loader(loader)
    epoch = getattr(loader, "epoch", None)
    try:
        for batch in loader:
            images, labels = split_batch(batch)
            if labels is None:
                raise ValueError("a Hessian needs a loss: the loader should yield (images, labels)")
            yield images, widened(as_labels(labels))
    finally:
        if epoch is not None:
            loader.epoch = epoch


def mixed(
    images: torch.Tensor, targets: torch.Tensor, mix: Mix | None, seed: int, number: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix the images and labels of a batch. The result depends on the seed and the batch number alone."""
    if mix is None:
        return images, targets
    return mix(images.clone(), targets.clone(), seeded_generator(seed, number))  # mix may write into its arguments


def said_of_images(loader: Iterable[Any], mix: Mix | None) -> dict[str, str | None]:
    """Describe how images are mixed, and augmented if the loader knows it, for a result's provenance."""
    augment = getattr(loader, "augment", "as the caller's loader does")
    mix_name = None if mix is None else getattr(mix, "__name__", repr(mix))
    return {"augmentation": augment if augment is None or isinstance(augment, str) else repr(augment), "mix": mix_name}


def as_type(images: torch.Tensor, targets: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Convert images to a type, and likewise targets that are not classes."""
    return images.to(dtype), targets.to(dtype) if targets.is_floating_point() else targets
