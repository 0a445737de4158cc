"""Seeds, devices, evaluation and provenance: helpers that all other modules need."""

from __future__ import annotations

import platform
import random
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from utilities.hooks.calls.batch_parts import check_loader
from utilities.hooks.calls.batch_parts import split_batch as split_batch
from utilities.hooks.calls.evaluating import evaluating as evaluating
from utilities.hooks.calls.evaluating import has_fast_bfloat16 as has_fast_bfloat16
from utilities.hooks.calls.evaluating import resolve_device as resolve_device
from utilities.hooks.calls.labels import BatchCheck, hits, need_labels
from utilities.hooks.calls.memory import keeping_freed_memory
from utilities.hooks.calls.merging import Total
from utilities.hooks.calls.seeding import keeping_generators as keeping_generators
from utilities.hooks.calls.seeding import seeded_torch as seeded_torch
from utilities.hooks.calls.sharing import shared_pass
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


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    device: str | torch.device = "auto",
    topk: tuple[int, ...] = (1, 5),
    autocast: torch.dtype | None = None,
    mirrored: bool = False,
) -> dict[str, float]:
    """Measure cross-entropy and top-k accuracy of a classifier over all batches of a loader.

    Args:
        model: Maps images (batch, channels, height, width) to logits (batch, classes).
        loader: Yields batches that `split_batch` understands, with labels.
        device: See `resolve_device`.
        topk: Values of k to report the accuracy for. A k above the number of classes counts every image as right.
            `utilities.hooks.calls.labels.hits` defines how equal logits count.
        autocast: Type of mixed precision, such as ``torch.bfloat16``; None computes in the model's own.
        mirrored: Whether logits are the mean of those of an image and of its mirror image.

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
    loss, count, right, check = Total(0.0), Total(), {k: Total(0.0) for k in topk}, BatchCheck(loader, model)
    sums = loss, count, right, check
    with (
        keeping_freed_memory(),
        evaluating(model, device) as target,
        shared_pass(loader, sums, "evaluate", model=model, device=target) as batches,
    ):
        for batch in batches:
            images, labels = split_batch(batch)
            need_labels(labels, "evaluate needs labels:")
            images = images.to(target)
            with torch.autocast(target.type, autocast) if autocast else nullcontext():
                logits = model(images)
                if mirrored:
                    logits = (logits + model(images.flip(-1))) / 2
            labels = check(logits, labels).to(target)
            loss.add(nn.functional.cross_entropy(logits.float(), labels, reduction="sum").item())
            count.add(len(labels))
            for k in topk:
                right[k].add(hits(logits, labels, k).sum().item())
    if count.value == 0:
        raise ValueError("evaluate got no images: the loader is empty")
    check.finish(stacklevel=4)  # above the frame of inference_mode
    shares = {f"top{k}": right[k].value / count.value for k in topk}
    return {"loss": loss.value / count.value, **shares, "n": count.value}


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
