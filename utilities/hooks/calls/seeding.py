"""Seed global generators for a while: torch's alone, or the CPU's of Python, NumPy and torch together."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded_torch(seed: int, device: str | torch.device = "cpu") -> Iterator[None]:
    """Seed torch's generators of the CPU and of a device, and put those of CPU and CUDA back on exit.

    This serves layers and initialisations. They draw the same whatever was drawn before, and disturb nobody.

    Args:
        seed: Seed of the generators.
        device: Device whose generator is seeded as well. That of an MPS device is not put back.

    Example:
        >>> with seeded_torch(0):
        ...     first = torch.rand(2)
        >>> with seeded_torch(0):
        ...     bool((torch.rand(2) == first).all())
        True
    """
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)
        yield


@contextmanager
def keeping_generators(seed: int | None = None) -> Iterator[None]:
    """Put the CPU's global generators of Python, NumPy and torch back on exit, and seed them first if asked.

    This serves samplers and transforms of libraries, which draw from any of the three.

    Args:
        seed: Seed of all three; None leaves them as they are.

    Example:
        >>> before = random.getstate()
        >>> with keeping_generators(seed=0):
        ...     number = random.random()
        >>> random.getstate() == before
        True
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - libraries draw from the global generator
    try:
        with torch.random.fork_rng(devices=[]):
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed)  # noqa: NPY002
                torch.default_generator.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
