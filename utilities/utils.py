"""Seeds, devices, evaluation and provenance: the few things that every other module needs."""

from __future__ import annotations

import json
import os
import platform
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from utilities.input_type import casting_inputs
from utilities.memory import keeping_freed_memory

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
        device: ``"auto"`` or anything that ``torch.device`` takes.

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


def split_batch(batch: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Take images and labels out of what a loader yields: a tensor, a tuple, or a dictionary.

    Args:
        batch: ``images``, ``(images, labels, ...)`` or a dictionary with ``pixel_values``, ``images`` or
            ``image`` and perhaps ``labels`` or ``label``.

    Returns:
        Images of shape (batch, ...) and labels of shape (batch,), or None where there are none.

    Raises:
        TypeError: If no image tensor can be found.

    Example:
        >>> images, labels = split_batch({"pixel_values": torch.zeros(2, 3, 8, 8)})
        >>> images.shape, labels
        (torch.Size([2, 3, 8, 8]), None)
    """
    if isinstance(batch, torch.Tensor):
        return batch, None
    if isinstance(batch, dict):
        images = next((batch[key] for key in ("pixel_values", "images", "image") if key in batch), None)
        labels = next((batch[key] for key in ("labels", "label") if key in batch), None)
    elif isinstance(batch, (tuple, list)) and batch:
        images, labels = batch[0], batch[1] if len(batch) > 1 else None
    else:
        images = labels = None
    if not isinstance(images, torch.Tensor):
        raise TypeError(
            f"cannot find images in a batch of type {type(batch).__name__}; a loader should yield images, "
            "(images, labels), or a dictionary with 'pixel_values', 'images' or 'image'"
        )
    return images, labels


@contextmanager
def evaluating(model: nn.Module, device: str | torch.device | None = None) -> Iterator[torch.device]:
    """Put a model in eval mode on a device, and put every module's mode and place back on exit.

    Inside, every call of the model brings its images to the type that it takes.

    Args:
        model: The model; each submodule's own ``training`` flag is restored.
        device: Where to run, see `resolve_device`; None leaves the model where it is.

    Yields:
        The device the model is on.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
        >>> with evaluating(model) as device:
        ...     device, model.training
        (device(type='cpu'), False)
        >>> model[1].training
        True
    """
    modes = [(module, module.training) for module in model.modules()]
    tensor = next((t for group in (model.parameters(), model.buffers()) for t in group), None)
    home = tensor.device if tensor is not None else torch.device("cpu")
    target = home if device is None else resolve_device(device)
    try:
        model.eval()
        if target != home:
            model.to(target)
        with casting_inputs(model):
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
    """Measure cross-entropy and top-k accuracy of a classifier over all of a loader.

    Args:
        model: Maps images (batch, channels, height, width) to logits (batch, classes).
        loader: Yields batches that `split_batch` understands, with labels.
        device: See `resolve_device`.
        topk: Which accuracies to report; a k above the number of classes counts every image as right.

    Returns:
        ``{"loss": nats, "top1": fraction, ..., "n": images}``.

    Raises:
        ValueError: If the loader yields no image or no labels.

    Example:
        >>> model = nn.Flatten()
        >>> evaluate(model, [(torch.eye(3), torch.tensor([0, 1, 0]))], device="cpu", topk=(1,))["top1"]
        0.6666666666666666
    """
    loss, count, hits = 0.0, 0, dict.fromkeys(topk, 0)
    with keeping_freed_memory(), evaluating(model, device) as target:
        for batch in loader:
            images, labels = split_batch(batch)
            if labels is None:
                raise ValueError("evaluate needs labels: the loader should yield (images, labels)")
            logits, labels = model(images.to(target)).float(), labels.to(target)
            loss += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
            count += len(labels)
            best = logits.topk(min(max(topk), logits.shape[1]), dim=1).indices
            for k in topk:
                hits[k] += (best[:, :k] == labels[:, None]).any(dim=1).sum().item()
    if count == 0:
        raise ValueError("evaluate got no images: the loader is empty")
    return {"loss": loss / count, **{f"top{k}": hits[k] / count for k in topk}, "n": count}


def versions() -> dict[str, str]:
    """Name the versions and the machine a result was made with.

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


def check_writable(path: str | Path) -> None:
    """Make a file's folder and see that files can be made in it, before long work whose result goes there.

    Raises:
        OSError: Naming the folder.

    Example:
        >>> check_writable(Path(tempfile.mkdtemp()) / "deep" / "a.txt")
    """
    folder = Path(path).absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"nothing can be written to {folder}: {error.strerror or error}") from error


def write_whole(path: str | Path, write: Callable[[Path], Any]) -> Path:
    """Write a file under a temporary name beside its place and rename it: it is there whole or not at all.

    Args:
        path: Where the file goes; its folder is made.
        write: Called with the temporary path, which has the same suffix.

    Returns:
        The path.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_whole(folder / "a.txt", lambda p: p.write_text("hello")).read_text()
        'hello'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files that only their owner may read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_json(path: str | Path, content: Any) -> Path:
    """Write JSON, whole or not at all, with the keys in the order given.

    Example:
        >>> path = write_json(Path(tempfile.mkdtemp()) / "a.json", {"n": 3})
        >>> json.loads(path.read_text())
        {'n': 3}
    """
    return write_whole(path, lambda p: p.write_text(json.dumps(content, indent=2) + "\n"))
