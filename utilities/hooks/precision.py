"""Choose the precision and memory layout of a comparison, and compute a layer's Gram matrix in it.

On a CPU with native bfloat16 (AVX-512 BF16, AMX), a bfloat16 product takes about a quarter of the time of float32.
Features are centred in their own precision first, so that their spread is rounded to 8 bits and not their mean.
Roundings of the many entries are independent: the CKA moves by some 1e-4.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from utilities.hooks.calls.evaluating import has_fast_bfloat16
from utilities.hooks.calls.tf32 import choosing_tf32
from utilities.hooks.centred_products import CentredProducts
from utilities.hooks.grams import scaled_gram

PRECISIONS = ("exact", "fast", "centred", "half")
CENTRED = "bfloat16 around the mean"


@dataclass(frozen=True)
class Precision:
    """State how one model runs on one device.

    Attributes:
        name: ``exact``, ``fast``, ``centred`` or ``half``.
        forward: Type of the forward pass: ``native`` (the model's own), ``tf32``, ``bfloat16``, ``bfloat16 around the
            mean`` (see `CentredProducts`), or the type of the autocast that the caller has entered, such as ``float16
            (autocast of the caller)``.
        gram: Type of the factors of the Gram matrices: ``native`` or ``bfloat16``; sums are float32 or wider.
        channels_last: Whether images are passed with channels last, which convolutions then keep.
    """

    name: str
    forward: str
    gram: str
    channels_last: bool

    def facts(self) -> dict[str, Any]:
        """Return the choice for a result's provenance."""
        return asdict(self)

    @contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        """Set autocast and TF32 as chosen, and restore them on exit; an autocast of the caller stays in force."""
        with ExitStack() as stack:
            stack.enter_context(choosing_tf32(device, allowed=self.forward == "tf32"))
            if self.forward == "bfloat16":
                stack.enter_context(torch.autocast(device.type, torch.bfloat16))
            elif self.forward == CENTRED:
                stack.enter_context(CentredProducts())
            yield

    def prepare(self, images: torch.Tensor, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Bring a batch to the device, in the chosen layout and type; the caller's tensor is not changed."""
        dtype = dtype if images.is_floating_point() else None
        layout = torch.channels_last if self.channels_last and images.ndim == 4 else torch.preserve_format
        return images.to(device, dtype, memory_format=layout, non_blocking=True)

    def gram_of(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the centred Gram matrix of features (n, p) and its exponent, see `scaled_gram`."""
        return scaled_gram(x, bfloat16=self.gram == "bfloat16")


def autocast_type(device: torch.device) -> torch.dtype | None:
    """Return the type of the autocast that is in force on a device, or None.

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     autocast_type(torch.device("cpu"))
        torch.bfloat16
    """
    there = torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if there else None


@contextmanager
def without_autocast() -> Iterator[None]:
    """Switch autocast off outside of forward passes, so that sums and products of features keep their precision.

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16), without_autocast():
        ...     (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
        torch.float32
    """
    with ExitStack() as stack:
        for kind in ("cpu", "cuda", "mps", "xpu"):
            if autocast_type(torch.device(kind)) is not None:
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def choose_precision(precision: str, model: nn.Module, device: torch.device) -> Precision:
    """Choose types and layout for a model on a device.

    Args:
        precision: One of the following; inside an autocast of the caller, the forward pass runs under that.
            ``"exact"``: the model's own type throughout, no TF32. ``"fast"``: Gram matrices in bfloat16 where the
            device has it, the forward pass in the model's own type (TF32 on CUDA); CKA within 1e-3. ``"half"``: the
            forward pass in bfloat16 too; within some 1e-2. ``"centred"``: as ``fast``, and on a CPU linear layers in
            bfloat16 around the mean of the batch, if the model has no convolutions to speak of; within some 1e-3, for
            a sixth more time than ``half``. A float64 model is always compared exactly.
            `utilities.compare.measured_precision` looks which of them is close enough.
        model: Model to run. Channels come last if it has two or more spatial 2-D convolutions: then the copy of the
            images pays off, and no weight needs another layout.
        device: Device to run on.

    Raises:
        ValueError: For an unknown precision.

    Example:
        >>> choose_precision("exact", nn.Linear(2, 2), torch.device("cpu"))
        Precision(name='exact', forward='native', gram='native', channels_last=False)
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is not known; choose from {', '.join(PRECISIONS)}")
    double = any(p.dtype == torch.float64 for p in model.parameters())
    native = has_fast_bfloat16(device)
    precision = "exact" if double else precision
    caller = autocast_type(device)
    spatial = [m for m in model.modules() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
    forward = {"exact": "native", "half": "bfloat16"}.get(precision, "tf32" if device.type == "cuda" else "native")
    if precision == "centred" and native and device.type == "cpu" and len(spatial) < 2:
        forward = CENTRED  # around a mean, a convolution takes as long as in float32
    forward = forward if caller is None else f"{caller} (autocast of the caller)".removeprefix("torch.")
    gram = "bfloat16" if precision != "exact" and native else "native"
    return Precision(precision, forward, gram, channels_last=len(spatial) > 1 and device.type in ("cpu", "cuda"))
