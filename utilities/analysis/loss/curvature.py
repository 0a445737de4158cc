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

from utilities.hooks.calls.copies import own_inputs
from utilities.hooks.calls.inputs import check_gradients, explaining
from utilities.hooks.calls.memory import keeping_freed_memory
from utilities.hooks.calls.options import check_number
from utilities.hooks.precision import choose_precision, without_autocast
from utilities.utils import resolve_device

MODES = ("eval", "train")
DTYPES = ("float32", "float64")
LOSSES = ("cross_entropy", "mse")
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
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
        check_number("label_smoothing", self.label_smoothing, least=0, most=1)
        if self.label_smoothing and self.loss != "cross_entropy":
            raise ValueError(f"label_smoothing={self.label_smoothing} should be 0 without cross_entropy")
        check_number("weight_decay", self.weight_decay, least=0)

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
    def of(self, model: nn.Module, device: str | torch.device = "auto") -> Iterator[Callable[..., Hessian]]:
        """Make Hessians of a copy of a model; the model itself is not touched.

        Inside the context attention runs as plain matrix products, because fused kernels cannot be differentiated
        twice. TF32 is off.

        Yields:
            A function that makes the operator. It takes (images, targets) pairs, the number of images and, for a block
            on the diagonal, the names of its parameters. The operator reads the pairs again for each product, unless
            they are a list of one pair.
        """
        check_gradients("a Hessian")
        parameters = self.names(model)
        target = resolve_device(device)
        twin = copy.deepcopy(model).to(target, self.type).eval().requires_grad_(False)
        for module in twin.modules():
            if self.mode == "train" and isinstance(module, _BatchNorm):
                module.training, module.track_running_stats = True, False  # normalises by the batch, updates nothing
        chosen = {name: p.requires_grad_(True) for name, p in twin.named_parameters() if name in parameters}
        loss = _Loss(self.loss, self.label_smoothing)

        def operator(data: Data, n: int, only: Iterable[str] | None = None) -> Hessian:
            own = [chosen[name] for name in (chosen if only is None else only)]
            return Hessian(twin, loss, own, data, check_deterministic=False, num_data=n)

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

    def names(self, model: nn.Module) -> list[str]:
        """Name the trained parameters that are in the block, in the order of the Hessian's rows.

        Raises:
            ValueError: If there is none, or a glob of the block names none.
        """
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        if not names:
            raise ValueError(
                f"{type(model).__name__} has no parameter that requires gradients, so no Hessian; "
                "model.requires_grad_() lets all have them"
            )
        if self.block is None:
            return names
        chosen: set[str] = set()
        for pattern in np.atleast_1d(self.block):
            matches = fnmatch.filter(names, pattern)
            if not matches:
                raise ValueError(
                    f"block {str(pattern)!r} names no trained parameter of {type(model).__name__}; "
                    f"there are {names[0]}, ..., {names[-1]}"
                )
            chosen |= set(matches)
        return [name for name in names if name in chosen]


def has_batch_norm(model: nn.Module) -> bool:
    """Tell whether a model has batch norms, which in mode ``"train"`` let the images of a batch count together.

    Example:
        >>> has_batch_norm(nn.Sequential(nn.BatchNorm1d(2)))
        True
    """
    return any(isinstance(module, _BatchNorm) for module in model.modules())


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
