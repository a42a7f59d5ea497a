"""Memory settings for a process that allocates tensors of the same sizes again and again."""

from __future__ import annotations

import ctypes
import os

_MALLOPT = {-1: 1 << 30, -2: 1 << 26, -3: 1 << 25}
"""Of glibc, malloc.h: M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD (which can be no greater), in bytes."""


def keep_memory() -> None:
    """Let what is freed stay with this process, for the next round, which needs as much again.

    By default glibc gives large tensors back to the kernel, and each new one pays for fresh pages: often more than for
    its arithmetic. The process stays as large as it has been at its largest. Variables of glibc (MALLOC_...) win.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not any(name.startswith("MALLOC_") for name in os.environ):
        for option, value in _MALLOPT.items():
            mallopt(option, value)
