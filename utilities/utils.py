"""Seeds, devices, evaluation and provenance: helpers that all other modules need."""

from __future__ import annotations

import platform
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from utilities.hooks.calls.batch_parts import check_loader
from utilities.hooks.calls.batch_parts import split_batch as split_batch
from utilities.hooks.calls.copies import has_own_inputs, own_inputs
from utilities.hooks.calls.input_type import casting_inputs
from utilities.hooks.calls.inputs import check_model, explaining
from utilities.hooks.calls.labels import BatchCheck, hits
from utilities.hooks.calls.memory import keeping_freed_memory
from utilities.hooks.calls.weights import check_weights
from utilities.results.writing import check_writable as check_writable
from utilities.results.writing import write_json as write_json
from utilities.results.writing import write_whole as write_whole

PROJECT_ROOT = Path(__file__).resolve().parent.parent


def set_seed(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators.

    Args:
        seed: Any non-negative integer below 2**32.

    Example:
        >>> set_seed(0); a = torch.rand(2); set_seed(0); bool((a == torch.rand(2)).all())
        True
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - augmentations of other libraries draw from the global generator
    torch.manual_seed(seed)


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Turn a device name into a device; ``"auto"`` means cuda, then mps, then cpu.

    Args:
        device: ``"auto"`` or anything that ``torch.device`` accepts.

    Returns:
        The device.

    Raises:
        ValueError: If the named device is not present on this machine.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if str(device) == "auto":
        return torch.device(next(name for name, here in present.items() if here))
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device {str(device)!r} is not known; use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'"
        ) from error
    if not present.get(resolved.type, True):
        raise ValueError(f"device {str(device)!r} is not available here; use device='auto' or 'cpu'")
    return resolved


def has_fast_bfloat16(device: torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 matrices in hardware.

    Example:
        >>> has_fast_bfloat16(torch.device("mps"))
        False
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.9 or newer
    return device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@contextmanager
def evaluating(model: nn.Module, device: str | torch.device | None = None) -> Iterator[torch.device]:
    """Put a model in eval mode on a device, and restore every module's mode and place on exit.

    Inside the context, every call of the model works on its own copy of the input tensors, because it may write into
    them. The copy has the type that the model takes. If the model cannot take the images, an error explains in one
    sentence what is wrong with them.

    Args:
        model: The model. Each submodule's own ``training`` flag is restored.
        device: Device to run on, see `resolve_device`; None leaves the model where it is.

    Yields:
        The device the model is on.

    Raises:
        ValueError: If weights have no values, or for a problem that `utilities.hooks.calls.inputs.explain` recognises.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
        >>> with evaluating(model) as device:
        ...     device, model.training
        (device(type='cpu'), False)
        >>> model[1].training
        True
    """
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]  # or frozen
    tensor = next((t for group in (model.parameters(), model.buffers()) for t in group), None)
    home = tensor.device if tensor is not None else torch.device("cpu")
    if device is None and has_own_inputs(model) and not any(training for _, training in modes):
        yield home  # inside another such context; a recorder enters one for each batch of a comparison
        return
    check_model(model)
    target = home if device is None else resolve_device(device)
    try:
        model.eval()
        if target != home:
            model.to(target)
        with own_inputs(model), casting_inputs(model), explaining():
            yield target
    finally:
        if target != home:
            model.to(home)
        for module, training in modes:
            module.training = training


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    device: str | torch.device = "auto",
    topk: tuple[int, ...] = (1, 5),
) -> dict[str, float]:
    """Measure cross-entropy and top-k accuracy of a classifier over all batches of a loader.

    Args:
        model: Maps images (batch, channels, height, width) to logits (batch, classes).
        loader: Yields batches that `split_batch` understands, with labels.
        device: See `resolve_device`.
        topk: Values of k to report the accuracy for. A k above the number of classes counts every image as right.
            `utilities.hooks.calls.labels.hits` defines how equal logits count.

    Returns:
        ``{"loss": nats, "top1": fraction, ..., "n": images}``.

    Raises:
        TypeError: If the model does not return a tensor of logits.
        ValueError: If the loader yields no images or no labels, labels are not classes of the model, weights or logits
            are not numbers, or there is only one class.

    Example:
        >>> model = nn.Flatten()
        >>> evaluate(model, [(torch.eye(3), torch.tensor([0, 1, 0]))], device="cpu", topk=(1,))["top1"]
        0.6666666666666666
    """
    check_loader(loader)
    check_weights(model)
    loss, count, right, check = 0.0, 0, dict.fromkeys(topk, 0.0), BatchCheck(loader)
    with keeping_freed_memory(), evaluating(model, device) as target:
        for batch in loader:
            images, labels = split_batch(batch)
            if labels is None:
                raise ValueError("evaluate needs labels: the loader should yield (images, labels)")
            logits = model(images.to(target))
            labels = check(logits, labels).to(target)
            loss += nn.functional.cross_entropy(logits.float(), labels, reduction="sum").item()
            count += len(labels)
            for k in topk:
                right[k] += hits(logits, labels, k).sum().item()
    if count == 0:
        raise ValueError("evaluate got no images: the loader is empty")
    check.finish(stacklevel=4)  # above the frame of inference_mode
    return {"loss": loss / count, **{f"top{k}": right[k] / count for k in topk}, "n": count}


def versions() -> dict[str, str]:
    """Return the versions and the machine that a result was made with.

    Example:
        >>> sorted(versions())
        ['machine', 'numpy', 'python', 'timm', 'torch', 'torchvision', 'utilities']
    """
    from importlib.metadata import version

    from utilities import __version__

    return {
        "utilities": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "timm", "numpy")},
        "machine": f"{platform.machine()} {platform.system()}",
    }
