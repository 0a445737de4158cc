"""Evaluate a model in training: its batch norms' statistics, and images shared among processes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from utilities.datasets.loaders import Loader
from utilities.hooks.calls.copies import own_inputs
from utilities.hooks.calls.input_type import as_input
from utilities.hooks.calls.memory import keeping_freed_memory
from utilities.hooks.calls.processes import Processes
from utilities.hooks.calls.weights import STATISTICS
from utilities.utils import evaluate, evaluating, resolve_device, split_batch


def estimate_batch_norm(model: nn.Module, loader: Loader, device: str | torch.device = "auto") -> nn.Module:
    """Estimate the statistics of all batch norms of a model in one pass, without training anything.

    Only batch norms are in training mode, so nothing is dropped, and chance plays no part. With the statistics of a
    fresh layer, mean 0 and variance 1, an untrained deep network is not normalised at all in eval mode: some Lambda
    ResNets overflow.

    Args:
        model: Model to change in place: running means and variances become averages over the batches.
        loader: Training images, best in one batch of as many as memory allows: each layer is then normalised by
            the values that it really receives. Averages over many small batches miss that, a little more with each
            layer.
        device: See `utilities.utils.resolve_device`; the model stays there.

    Returns:
        The model.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> estimate_batch_norm(norm, [torch.tensor([[1.0], [3.0]])], "cpu").running_mean
        tensor([2.])
    """
    target = resolve_device(device)

    def batches() -> Iterator[torch.Tensor]:
        for module in model.modules():  # update_bn has just put all of them in training mode
            module.training = isinstance(module, _BatchNorm)
        for batch in loader:
            yield as_input(split_batch(batch)[0], model, target)

    with keeping_freed_memory(), own_inputs(model):
        model.to(target)
        update_bn(batches(), model)
    return model


def evaluate_or_nan(
    model: nn.Module, loader: Loader, device: str | torch.device = "auto", **options: Any
) -> dict[str, float]:
    """Evaluate a model in training, where an overflow is no error yet: its loss and accuracies are then NaN.

    Before the end, running averages may not normalise a deep network on all images, see `estimate_batch_norm`.

    Args:
        model: The model.
        loader: Held-out images.
        device: See `utilities.utils.resolve_device`.
        options: ``autocast`` and ``mirrored`` of `utilities.utils.evaluate`.

    Example:
        >>> batch = [(torch.full((1, 2), float("inf")), torch.tensor([0]))]
        >>> evaluate_or_nan(nn.Flatten(), batch, "cpu")["loss"]
        nan
    """
    try:
        return evaluate(model, loader, device=device, **options)
    except ValueError:
        if not _overflows(model, loader, device, options.get("autocast")):
            raise
        return {"loss": math.nan, "top1": math.nan, "top5": math.nan, "n": len(getattr(loader, "dataset", loader))}


def _overflows(
    model: nn.Module, loader: Loader, device: str | torch.device, autocast: torch.dtype | None = None
) -> bool:
    """Tell whether statistics of norms, or logits of some images, are not finite."""
    statistics = (buffer for name, buffer in model.named_buffers() if name.endswith(STATISTICS))
    if not all(buffer.isfinite().all() for buffer in statistics):
        return True
    with (
        evaluating(model, device) as target,
        torch.inference_mode(),
        torch.autocast(target.type, autocast) if autocast else nullcontext(),
    ):
        return any(not model(split_batch(batch)[0].to(target)).isfinite().all() for batch in loader)


class _Share:
    """Serve this process's rows of a loader's batches, in fixed order."""

    def __init__(self, loader: Loader, processes: Processes) -> None:
        self.dataset, self.loader, self.processes = loader.dataset, loader, processes

    def __iter__(self) -> Iterator[Any]:
        for batch, whole in self.loader.served(0, self.processes.share):
            if self.processes.share(whole):
                yield batch


def evaluate_shared(
    model: nn.Module,
    loader: Loader,
    device: str | torch.device = "auto",
    processes: Processes | None = None,
    **options: Any,
) -> dict[str, float]:
    """Evaluate as `evaluate_or_nan` does, each process on its share of the images; all get the result for all images.

    Args:
        model: The model, the same in all processes but for its buffers, which become those of the first.
        loader: Held-out images; every process has the same.
        device: See `utilities.utils.resolve_device`.
        processes: This process's place; None is that in the group it has joined.
        options: See `evaluate_or_nan`.

    Example:
        >>> from utilities.datasets import load_dataset, make_loader
        >>> loader = make_loader(load_dataset("digits", n_images=10), 5)
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
        >>> evaluate_shared(model, loader, "cpu") == evaluate_or_nan(model, loader, "cpu")
        True
    """
    processes = processes or Processes.now()
    if processes.count == 1:
        return evaluate_or_nan(model, loader, device, **options)
    processes.same_buffers(model)
    names, count = ("loss", "top1", "top5"), sum(len(processes.share(len(one))) for one in loader.batch_sampler)
    found = evaluate_or_nan(model, _Share(loader, processes), device, **options) if count else dict.fromkeys(names, 0.0)
    own = torch.tensor([*(found[name] * count for name in names), count], dtype=torch.float64)
    *sums, count = processes.total(own).tolist()
    return {name: value / count for name, value in zip(names, sums, strict=True)} | {"n": int(count)}
