"""Keep freed memory at hand while a comparison runs on a CPU.

The C library returns large blocks to the system as soon as they are freed, and the system clears each page of the
next block on first touch. Activations of a convolutional network are such blocks: clearing pages takes a third of the
time of a forward pass of ResNet-18 on 256 images.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Constants of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
# What glibc itself arrives at in a process that has freed a block of 32 MiB, the most it adapts to.
ADAPTED = {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 2**25, M_TRIM_THRESHOLD: 2**26}


_LOCK = threading.Lock()
_users = 0


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Let freed blocks be reused inside, and return them to the system on leaving the outermost context.

    Does nothing without glibc.

    Example:
        >>> with keeping_freed_memory():
        ...     block = bytearray(2**26)
    """
    try:
        libc = ctypes.CDLL(None)
        settings, trim = libc.mallopt, libc.malloc_trim
    except (AttributeError, OSError, TypeError):
        yield
        return
    with _LOCK:
        if _count(+1) == 1:
            settings(M_MMAP_MAX, 0)
            settings(M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        with _LOCK:
            if _count(-1) == 0:
                for name, value in ADAPTED.items():
                    settings(name, value)
                trim(0)


def _count(change: int) -> int:
    global _users
    _users += change
    return _users
